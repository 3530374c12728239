"""A real Prefect server: restarted in mid-run, asked twice for the same, and told how a flow ended."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.flows.conftest import PROJECT, environment
from tests.flows.test_service import free_port

pytestmark = [pytest.mark.torture, pytest.mark.timeout(900)]

WITHIN_S = 240.0

FLOW = """
import sys, time
from pathlib import Path
from prefect import flow, task
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from tasks.ending import exit_on_sigterm

@task(retries=2, retry_delay_seconds=1)
def step(number):
    Path(f"step-{number}").write_text("yes")
    return number

@flow
def waiting():
    step(1)
    while not Path("go").exists():
        time.sleep(0.2)
    return step(2)

if __name__ == "__main__":
    exit_on_sigterm()
    if "serve" in sys.argv:
        once = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
        waiting.serve("schedule", global_limit=once)
    else:
        waiting()
"""


def wait_for(what: str, check: Callable[[], Any]) -> Any:
    end = time.monotonic() + WITHIN_S
    while not (found := check()):
        assert time.monotonic() < end, what
        time.sleep(0.3)
    return found


class Service:
    """A project folder with a flow, and Prefect's server on a port of loopback."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.api = f"http://127.0.0.1:{self.port}/api"
        (folder / "state" / "prefect").mkdir(parents=True)
        (folder / "waiting.py").write_text(FLOW)

    @contextmanager
    def started(self, name: str, *command: str) -> Iterator[subprocess.Popen[bytes]]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=environment(self.folder) | {"PYTHONPATH": str(PROJECT), "PREFECT_API_URL": self.api},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    @contextmanager
    def server(self) -> Iterator[None]:
        address = ["--host", "127.0.0.1", "--port", str(self.port)]
        with self.started("server", "prefect", "server", "start", *address):
            wait_for("the server answers", self._answers)
            yield

    def flow(self, *arguments: str) -> Any:
        return self.started("flow", sys.executable, "waiting.py", *arguments)

    def runs(self) -> list[dict[str, Any]]:
        found = httpx.post(f"{self.api}/flow_runs/filter", json={"sort": "START_TIME_ASC"}, timeout=30).json()
        return list(found)

    def reached(self, step: int) -> bool:
        return (self.folder / f"step-{step}").exists()

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.api}/health", timeout=5).json() is True
        except (httpx.HTTPError, ValueError):
            return False


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(tmp_path)


def test_a_flow_completes_though_the_server_was_killed_and_started_again_in_mid_run(service: Service) -> None:
    with ExitStack() as running:
        with service.server():
            flow = running.enter_context(service.flow())
            wait_for("the flow begins", lambda: service.reached(1))
        with service.server():
            (service.folder / "go").touch()
            assert flow.wait(WITHIN_S) == 0, (service.folder / "flow.log").read_text()
            (run,) = service.runs()
            assert run["state_type"] == "COMPLETED"
            assert service.reached(2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_flow_that_is_asked_to_end_is_not_running_any_more_for_prefect(
    service: Service, number: signal.Signals
) -> None:
    with service.server(), service.flow() as flow:
        wait_for("the flow begins", lambda: service.reached(1))
        flow.send_signal(number)
        assert flow.wait(WITHIN_S) in (128 + number, -number)
        wait_for("its state arrives", lambda: service.runs()[0]["state_type"] != "RUNNING")
        (run,) = service.runs()
        assert run["state_type"] == "CRASHED", run["state"]


def test_of_two_identical_schedules_that_fire_at_once_one_runs_and_one_is_cancelled(service: Service) -> None:
    with service.server(), service.flow("serve"):
        name = f"{service.api}/deployments/name/waiting/schedule"
        wait_for("the deployment is there", lambda: httpx.get(name, timeout=30).status_code == 200)
        deployment = httpx.get(name, timeout=30).json()["id"]
        for _ in range(2):
            url = f"{service.api}/deployments/{deployment}/create_flow_run"
            assert httpx.post(url, json={"state": {"type": "SCHEDULED"}}, timeout=30).status_code == 201
        wait_for("one is cancelled", lambda: "CANCELLED" in [run["state_type"] for run in service.runs()])
        (service.folder / "go").touch()
        wait_for("the other completes", lambda: "COMPLETED" in [run["state_type"] for run in service.runs()])
        assert sorted(run["state_type"] for run in service.runs()) == ["CANCELLED", "COMPLETED"]
