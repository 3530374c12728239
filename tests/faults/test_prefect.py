"""A real Prefect server: restarted in mid-run, asked twice for the same, and informed how a flow ended."""

import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

import httpx
import pytest

from tests.flows.conftest import PROJECT, environment
from tests.servers import WITHIN_S, free_port, page, started, wait_for

pytestmark = [pytest.mark.torture, pytest.mark.timeout(900)]

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


class Service:
    """A project folder with a flow, and Prefect's server on a port of loopback."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.api = f"http://127.0.0.1:{self.port}/api"
        (folder / "state" / "prefect").mkdir(parents=True)
        (folder / "waiting.py").write_text(FLOW)

    def start(self, name: str, *command: str) -> AbstractContextManager[Popen[bytes]]:
        env = environment(self.folder) | {"PYTHONPATH": str(PROJECT), "PREFECT_API_URL": self.api}
        log = self.folder / f"{name}.log"
        return started(*command, cwd=self.folder, env=env, log=log, end=signal.SIGKILL)

    @contextmanager
    def server(self) -> Iterator[None]:
        address = ["--host", "127.0.0.1", "--port", str(self.port)]
        with self.start("server", "prefect", "server", "start", *address):
            wait_for("the server answers", lambda: page(f"{self.api}/health"))
            yield

    def flow(self, *arguments: str) -> AbstractContextManager[Popen[bytes]]:
        return self.start("flow", sys.executable, "waiting.py", *arguments)

    def runs(self) -> list[dict[str, Any]]:
        found = httpx.post(f"{self.api}/flow_runs/filter", json={"sort": "START_TIME_ASC"}, timeout=30).json()
        return list(found)

    def states(self) -> list[str]:
        return sorted(run["state_type"] for run in self.runs())

    def reached(self, step: int) -> bool:
        return (self.folder / f"step-{step}").exists()


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
            assert service.states() == ["COMPLETED"]
            assert service.reached(2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_prefect_knows_that_a_flow_ended_by_a_signal_is_not_running(
    service: Service, number: signal.Signals
) -> None:
    with service.server(), service.flow() as flow:
        wait_for("the flow begins", lambda: service.reached(1))
        flow.send_signal(number)
        assert flow.wait(WITHIN_S) in (128 + number, -number)
        wait_for("its state arrives", lambda: service.states() != ["RUNNING"])
        assert service.states() == ["CRASHED"], service.runs()


def test_of_two_identical_schedules_that_fire_at_once_one_runs_and_one_is_cancelled(service: Service) -> None:
    with service.server(), service.flow("serve"):
        name = f"{service.api}/deployments/name/waiting/schedule"
        wait_for("the deployment is there", lambda: httpx.get(name, timeout=30).status_code == 200)
        deployment = httpx.get(name, timeout=30).json()["id"]
        for _ in range(2):
            url = f"{service.api}/deployments/{deployment}/create_flow_run"
            assert httpx.post(url, json={"state": {"type": "SCHEDULED"}}, timeout=30).status_code == 201
        wait_for("one is cancelled", lambda: "CANCELLED" in service.states())
        (service.folder / "go").touch()
        wait_for("the other completes", lambda: "COMPLETED" in service.states())
        assert service.states() == ["CANCELLED", "COMPLETED"]
