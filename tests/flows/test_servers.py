"""The servers of a project: `make prefect-ui`, `make mlflow-ui`, and `make service` with a real worker."""

import base64
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.project import change_params, environment
from tasks.local_server import is_ours
from tests.flows.conftest import PROJECT, command, outcomes, replace_champion_by_a_poor_one
from tests.servers import free_port, make_command, page, started, wait_for

RETRAINED_WITHIN_S = 420


@pytest.fixture(scope="module")
def project(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a poor champion, another seed to train with, and a weekly schedule due every minute."""
    place = tmp_path_factory.mktemp("served") / "project"
    project = Path(shutil.copytree(trained, place, symlinks=True))
    shutil.rmtree(project / "scores")  # the service has to make its own
    shutil.rmtree(project / "state" / "prefect")
    replace_champion_by_a_poor_one(project)
    change_params(project, train={"seed": 7})
    deployments = project / "prefect.yaml"
    text = deployments.read_text()
    assert "0 3 * * 1" in text
    deployments.write_text(text.replace("0 3 * * 1", "* * * * *"))
    return project


@pytest.fixture(scope="module")
def port(project: Path) -> Iterator[int]:
    """The port at which `make prefect-ui` runs in the project."""
    port, log = free_port(), project / "prefect-ui.log"
    env = environment(project) | {"PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5"}
    command = make_command("prefect-ui", PREFECT_PORT=port)
    with started(*command, cwd=project, env=env, log=log) as server:
        health = f"http://127.0.0.1:{port}/api/health"
        wait_for("the server answers", lambda: page(health), process=server, log=log)
        yield port


def test_the_page_of_prefect_opens_and_asks_the_port_that_was_chosen(port: int) -> None:
    address = f"http://127.0.0.1:{port}"
    opened, settings = page(address), page(f"{address}/ui-settings")
    assert opened and settings
    assert "<html" in opened.text
    assert settings.json()["api_url"] == f"{address}/api"


def test_the_page_of_mlflow_opens(project: Path) -> None:
    port, log = free_port(), project / "mlflow-ui.log"
    command = make_command("mlflow-ui", MLFLOW_PORT=port)
    with started(*command, cwd=project, env=environment(project), log=log) as server:
        address = f"http://127.0.0.1:{port}"
        opened = wait_for("the page opens", lambda: page(address), process=server, log=log)
    assert "<html" in opened.text


def refusal_of_the_service(folder: Path, port: int) -> str:
    """What `make service` says in another project; it has to refuse."""
    done = subprocess.run(
        make_command("service", PREFECT_PORT=port),
        cwd=folder,
        env=environment(folder) | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    line, _ = done.stderr.splitlines()  # make adds a line that names the target
    return line


def test_the_service_refuses_another_projects_server_and_a_port_without_one(
    project: Path, port: int, tmp_path: Path
) -> None:
    line = refusal_of_the_service(tmp_path, port)
    assert f"belongs to another project: its state is in {project}/state/prefect." in line
    assert "make prefect-ui PREFECT_PORT=N" in line
    free = free_port()
    line = refusal_of_the_service(tmp_path, free)
    assert line.startswith(f"Error: No Prefect server answers at http://127.0.0.1:{free}/api.")
    assert "make prefect-ui PREFECT_PORT=N" in line


@contextmanager
def guarded(home: Path, password: str) -> Iterator[str]:
    """The port of a server that answers 401 unless this user and password are sent."""

    class Guard(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent = self.headers.get("Authorization", "").removeprefix("Basic ")
            self.send_response(200 if base64.b64decode(sent).decode() == password else 401)
            self.end_headers()
            self.wfile.write(json.dumps({"home": str(home)}).encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Guard) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield str(server.server_port)
        finally:
            server.shutdown()
            thread.join()


def test_the_service_sends_the_password_of_prefects_settings_and_asks_no_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with guarded(tmp_path, "trainer:pässword") as port:
        monkeypatch.setenv("PREFECT_API_AUTH_STRING", "trainer:pässword")
        assert is_ours(port, tmp_path) is None
        for other in ("", "trainer:wrong"):
            monkeypatch.setenv("PREFECT_API_AUTH_STRING", other)
            assert "refuses access (HTTP 401)" in str(is_ours(port, tmp_path))
            assert "set PREFECT_API_AUTH_STRING" in str(is_ours(port, tmp_path))


@pytest.mark.timeout(900)
def test_a_scheduled_retraining_triggers_a_scoring_and_its_champion_can_be_rolled_back(
    project: Path, port: int
) -> None:
    api = f"http://127.0.0.1:{port}/api"

    def ask(what: str, **filters: Any) -> list[dict[str, Any]]:
        return list(httpx.post(f"{api}/{what}/filter", json=filters, timeout=30).json())

    def completed(flow: str) -> list[dict[str, Any]]:
        states = {"state": {"type": {"any_": ["COMPLETED"]}}}
        return ask("flow_runs", flows={"name": {"any_": [flow]}}, flow_runs=states)

    log = project / "service.log"
    env = environment(project) | {"PREFECT_WORKER_QUERY_SECONDS": "3", "PWD": str(project)}
    service = make_command("service", PREFECT_PORT=port)
    with started(*service, cwd=project, env=env, log=log) as worker:
        within = {"process": worker, "log": log, "within_s": RETRAINED_WITHIN_S}
        retraining = wait_for("a retraining completes", lambda: completed("retrain"), **within)[0]
        scoring = wait_for("the scoring completes", lambda: completed("score"), **within)[0]
    assert retraining["auto_scheduled"] is True
    assert scoring["created_by"]["type"] == "AUTOMATION", scoring["created_by"]
    promoted = [version for outcome, version in outcomes(project) if outcome == "promoted"]
    assert promoted[:3] == ["1", "2", "3"]
    compared = json.loads((project / "reports" / "comparison" / "comparison.json").read_text())
    assert (compared["old"]["version"], compared["new"]["version"]) == ("2", "3")
    (scores,) = (project / "scores").iterdir()
    assert (scores / "job.json").exists()
    tasks = ask("task_runs", flow_runs={"id": {"any_": [retraining["id"]]}})
    assert {"download", "generate", "train", "evaluate"} <= {task["name"] for task in tasks}

    assert "version 2 again" in command(project, "rollback")
    assert "rolled back: version 2" in command(project, "history")
