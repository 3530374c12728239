"""The scheduled service with a real Prefect server and a real worker."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from quality_model.params import load_params
from quality_model.release.decisions import read_decisions
from tests.flows.conftest import PROJECT, Run, environment, replace_champion_by_a_poor_one

DEADLINE_S = 420


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def project(trained: Path, tmp_path: Path) -> Path:
    """A project with a champion, another seed to train with, and a weekly schedule due every minute."""
    project = Path(shutil.copytree(trained, tmp_path / "project", symlinks=True))
    for folder in ("scores", "state/prefect"):  # what an earlier run left would be taken for the service's
        shutil.rmtree(project / folder)
    replace_champion_by_a_poor_one(project)
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["train"]["seed"] = 7
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    deployments = project / "prefect.yaml"
    text = deployments.read_text()
    assert "0 3 * * 1" in text
    deployments.write_text(text.replace("0 3 * * 1", "* * * * *"))
    return project


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that a test started; ended with it, the last one first."""
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in reversed(processes):
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def wait_for(what: str, check: Any, deadline_s: float, process: subprocess.Popen[bytes], log: Path) -> Any:
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        if found := check():
            return found
        assert process.poll() is None, f"{what}: the process ended\n{log.read_text()[-3000:]}"
        time.sleep(2)
    raise AssertionError(f"{what} within {deadline_s} s\n{log.read_text()[-6000:]}")


@pytest.mark.timeout(900)
def test_a_scheduled_retraining_triggers_a_scoring_and_its_champion_can_be_rolled_back(
    project: Path, run: Run, started: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    env = environment(project) | {
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
        "PREFECT_WORKER_QUERY_SECONDS": "3",
        "PWD": str(project),
    }

    def start(name: str, *command: str) -> tuple[subprocess.Popen[bytes], Path]:
        log = tmp_path / f"{name}.log"
        with log.open("wb") as handle:
            process = subprocess.Popen(
                command,
                cwd=project,
                env=env,
                stdout=handle,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        started.append(process)
        return process, log

    def healthy() -> bool:
        try:
            return httpx.get(f"{api}/health", timeout=5).json() is True
        except (httpx.HTTPError, ValueError):
            return False

    def completed(flow: str) -> list[dict[str, Any]]:
        query = {
            "flows": {"name": {"any_": [flow]}},
            "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
        }
        return list(httpx.post(f"{api}/flow_runs/filter", json=query, timeout=30).json())

    server, server_log = start(
        "server", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)
    )
    wait_for("the server answers", healthy, 240, server, server_log)
    venv = Path(sys.prefix)
    worker, worker_log = start(
        "service", "make", "service", "-f", str(PROJECT / "Makefile"), f"PREFECT_PORT={port}",
        f"VENV={venv}", "-o", f"{venv}/.installed",
    )  # fmt: skip

    (retraining, *_) = wait_for(
        "a scheduled retraining completes", lambda: completed("retrain"), DEADLINE_S, worker, worker_log
    )
    assert retraining["auto_scheduled"] is True
    (scoring, *_) = wait_for(
        "the scoring completes", lambda: completed("score"), DEADLINE_S, worker, worker_log
    )
    assert scoring["created_by"]["type"] == "AUTOMATION", scoring["created_by"]
    decided = read_decisions(project, load_params(project / "params.yaml").registry)
    promoted = [decision.model.version for decision in decided if decision.action == "promoted"]
    assert promoted[:3] == ["1", "2", "3"]
    compared = json.loads((project / "reports" / "comparison" / "comparison.json").read_text())
    assert (compared["old"]["version"], compared["new"]["version"]) == ("2", "3")
    (scores,) = (project / "scores").iterdir()
    assert (scores / "job.json").exists()
    tasks = httpx.post(
        f"{api}/task_runs/filter",
        json={"flow_runs": {"id": {"any_": [retraining["id"]]}}},
        timeout=30,
    ).json()
    names = {task["name"] for task in tasks}
    assert {"download", "generate", "train", "evaluate"} <= names

    told = run(project, sys.executable, "-m", "quality_model", "rollback").stdout
    assert "version 2 again" in told
    told = run(project, sys.executable, "-m", "quality_model", "history").stdout
    assert "rolled back: version 2" in told
