"""`gate.approval: required`: Prefect pauses the run, shows the evidence, and a person decides."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.project import environment
from quality_model.errors import UsageError
from quality_model.params import GateParams
from tasks import approval
from tests.release.gate.evidence import SECTION
from tests.servers import free_port, page, started, wait_for

ASKS = """
import sys
from pathlib import Path
from prefect import flow
from quality_model.paths import ProjectPaths
from quality_model.records import ModelRef
from quality_model.release.decisions import Decision
from tasks import approval
from tests.release.gate.evidence import SECTION

gate = SECTION.model_copy(update={"approval": "required", "approval_within_s": float(sys.argv[1])})
model = ModelRef("quality-model", "7", None, "")
registered = Decision("registered", "2026-11-28T10:00:00.000+00:00", model, "c0de", gate_sha256="9a7e")

@flow
def asks() -> None:
    approval.require_place(gate)
    answer = approval.ask(gate, ProjectPaths(Path("place")), registered)
    print("ANSWER", answer.approve, answer.reason)
    print(approval.ending(registered, answer))

asks()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a run at a Prefect server."""
    home, port = tmp_path_factory.mktemp("prefect"), free_port()
    env = environment(home) | {"PREFECT_HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[2])}
    command = ("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))
    log = home / "server.log"
    with started(sys.executable, "-m", *command, cwd=home, env=env, log=log) as process:
        wait_for("it answers", lambda: page(f"http://127.0.0.1:{port}/api/health"), process=process, log=log)
        yield env | {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}


def asked(env: dict[str, str], folder: Path, answer: dict[str, Any] | None, within_s: float) -> str:
    """What a run prints that asks, and that is answered so."""
    api, log = env["PREFECT_API_URL"], folder / "run.log"

    def paused() -> dict[str, Any] | None:
        states = {"state": {"type": {"any_": ["PAUSED"]}}}
        found = httpx.post(f"{api}/flow_runs/filter", json={"flow_runs": states}, timeout=30).json()
        return dict(found[0]) if found else None

    with started(sys.executable, "-c", ASKS, str(within_s), cwd=folder, env=env, log=log) as process:
        if answer is not None:
            run = wait_for("it pauses", paused, process=process, log=log)
            resume = f"{api}/flow_runs/{run['id']}/resume"
            key = run["state"]["state_details"]["run_input_keyset"]["description"]
            question = wait_for("it asks", lambda: page(f"{api}/flow_runs/{run['id']}/input/{key}"), log=log)
            assert "Version 7 passed the gate" in question.text and "beside_champion.html" in question.text
            nameless = httpx.post(
                resume, json={"run_input": {"approve": True, "who": "", "why": ""}}, timeout=30
            )
            assert nameless.json()["status"] == "REJECT"
            answered = httpx.post(resume, json={"run_input": answer}, timeout=30).json()
            assert answered["status"] == "ACCEPT", answered
        process.wait(timeout=240)
    return log.read_text()


def test_a_person_approves_or_declines_and_the_reason_names_them(
    server: dict[str, str], tmp_path: Path
) -> None:
    said = asked(server, tmp_path, {"approve": True, "who": "Ada", "why": "fewer false alarms"}, 600)
    assert "ANSWER True approved by Ada: fewer false alarms" in said
    said = asked(server, tmp_path, {"approve": False, "who": "Ada", "why": "flags snow"}, 600)
    assert "version 7, which passed the gate, was declined by Ada: flags snow." in said


def test_without_an_answer_in_time_the_champion_stays(server: dict[str, str], tmp_path: Path) -> None:
    assert "ANSWER False declined by nobody: no answer within 2 s" in asked(server, tmp_path, None, 2)


def test_a_run_with_a_temporary_server_is_refused_before_it_begins() -> None:
    approval.require_place(SECTION)
    required: GateParams = SECTION.model_copy(update={"approval": "required"})
    with pytest.raises(UsageError, match="nobody can answer"):
        approval.require_place(required)
