"""The whole way on the servers: retrainings, promotion, triggered scoring, rollback, and faults between."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks.project import change_params
from quality_model.params_file import load_params
from quality_model.release.decisions import read_decisions
from quality_model.release.registry import Registry
from tests.flows.conftest import TINY, small_project
from tests.server_stack import NAMES, RunningStack, is_alive, missing, running_stack
from tests.servers import wait_for

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(bool(missing()), reason=missing()),
    pytest.mark.timeout(1500),
]

WITHIN_S = 900.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A stack, and the first of two clones, with images to score."""
    project = small_project(tmp_path_factory.mktemp("way") / "first", TINY)
    pixels = np.random.default_rng(0)
    (project / "examples").mkdir()
    for number in range(3):
        image = Image.fromarray(pixels.integers(0, 256, (64, 64, 3), np.uint8))
        image.save(project / "examples" / f"{number}.png")
    with running_stack(project) as stack:
        yield stack


@pytest.fixture(scope="module")
def second(stack: RunningStack) -> Path:
    """Another clone, which trains with another seed."""
    left_out = shutil.ignore_patterns("state", "config.local")
    project = shutil.copytree(stack.project, stack.project.with_name("second"), ignore=left_out)
    (project / "state" / "prefect").mkdir(parents=True)
    change_params(project, train={"seed": 7})
    return Path(project)


@pytest.fixture
def pointed(stack: RunningStack, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in stack.settings.client.items():
        monkeypatch.setenv(name, value)


def start(
    stack: RunningStack, project: Path, *words: str, log: str = "output.txt"
) -> subprocess.Popen[bytes]:
    """Begin ``python -m ...`` in a project, as from a shell that read env.sh."""
    with (project / log).open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=project,
            env=stack.environment(project),
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def run(stack: RunningStack, project: Path, *words: str, code: int = 0) -> str:
    process = start(stack, project, *words)
    assert process.wait(WITHIN_S) == code, (project / "output.txt").read_text()
    return (project / "output.txt").read_text()


def run_of_model(said: str) -> str:
    """The run of the candidate, as ``publish`` names it."""
    (line,) = [line for line in said.splitlines() if line.startswith("models/candidate: ")]
    return line.split()[-1]


def schedule(stack: RunningStack) -> str:
    """Ask Prefect for a retraining by the worker now; its id."""
    run(stack, stack.project, "prefect", "deployment", "run", "retrain/weekly")
    return str(runs(stack, "retrain")[0]["id"])


def runs(stack: RunningStack, flow: str) -> list[dict[str, Any]]:
    """Runs of a flow that were asked for, the newest first; those of a later time left out."""
    import httpx

    client = stack.settings.client
    user, _, password = client["PREFECT_API_AUTH_STRING"].partition(":")
    asked = {"flows": {"name": {"any_": [flow]}}, "sort": "EXPECTED_START_TIME_DESC"}
    url = f"{client['PREFECT_API_URL']}/flow_runs/filter"
    answer = httpx.post(url, json=asked, auth=(user, password), timeout=30).raise_for_status()
    return [one for one in answer.json() if not one["auto_scheduled"] or one["state_type"] != "SCHEDULED"]


def ended(stack: RunningStack, run_id: str) -> str | None:
    """How a run ended; None while it runs, or while the server does not answer."""
    import httpx

    try:
        (state,) = [one["state_type"] for one in runs(stack, "retrain") if one["id"] == run_id]
    except httpx.HTTPError:
        return None
    return state if state in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None


def test_of_two_clones_that_retrain_at_once_while_the_database_is_killed_nothing_is_lost(
    stack: RunningStack, second: Path, pointed: None
) -> None:
    run_id = schedule(stack)
    by_hand = start(stack, second, "flows.retrain")
    for project in (stack.project, second):
        trained = project / "data" / "training" / "_complete.json"
        wait_for(f"{project.name} trains", trained.exists, within_s=WITHIN_S)
    stack.kill("postgres")
    time.sleep(5)
    assert "PostgreSQL" in stack.up()
    by_hand.wait(WITHIN_S)
    state = wait_for("the scheduled one ends", lambda: ended(stack, run_id), within_s=WITHIN_S)
    # What the fault ended ends well when it is run again, and does not begin anew.
    if by_hand.returncode != 0:
        run(stack, second, "flows.retrain")
    if state != "COMPLETED":
        run_id = schedule(stack)
        assert wait_for("it ends", lambda: ended(stack, run_id), within_s=WITHIN_S) == "COMPLETED"

    section = load_params(second / "params.yaml").registry
    decided = read_decisions(second, section)
    assert [one.time for one in decided] == [one.time for one in read_decisions(stack.project, section)]
    catalogue = Registry(second, section)
    champion = catalogue.champion()
    promoted = [one for one in decided if one.action == "promoted"]
    assert champion is not None and champion.version == promoted[-1].model.version
    assert {one.model.version for one in promoted} <= {one.version for one in catalogue.versions()}
    before = [one.champion and one.champion.version for one in promoted]
    assert before == [None, *[one.model.version for one in promoted[:-1]]]
    candidates = {project / "models" / "candidate" for project in (stack.project, second)}
    judged = {one.model_sha256 for one in decided if one.action in ("passed", "refused")}
    assert len(judged) == len(candidates)
    for version in catalogue.versions():
        assert catalogue.fetch(version).path.is_dir()  # downloaded from the store, its hash checked
    assert not [key for key in catalogue.tags() if key.startswith("changing.")]


def test_the_promotion_triggered_a_scoring_by_the_worker_and_a_rollback_is_obeyed_by_all_clones(
    stack: RunningStack, second: Path
) -> None:
    def scored() -> list[dict[str, Any]]:
        return [one for one in runs(stack, "score") if one["state_type"] == "COMPLETED"]

    first = wait_for("a scoring completes", scored, within_s=WITHIN_S)[-1]
    assert first["created_by"]["type"] == "AUTOMATION"
    assert list((stack.project / "scores").glob("*/job.json"))
    said = run(stack, second, "quality_model", "history")
    if said.count("promoted: version") < 2:  # the later one was refused: there is nothing to go back to
        pytest.skip("one of two models of chance was promoted")
    again = run(stack, second, "quality_model", "rollback").split("version ")[1].split()[0].rstrip(",.")
    run(stack, stack.project, "quality_model", "score", "examples", "--output", "scores/after")
    rows = pd.read_parquet(stack.project / "scores" / "after" / "data")
    assert set(rows["model_version"]) == {again}


def test_while_the_store_is_gone_a_model_waits_and_one_that_is_here_scores(
    stack: RunningStack, second: Path
) -> None:
    run(stack, second, "quality_model", "score", "examples", "--output", "scores/before")
    published = run_of_model(run(stack, second, "quality_model", "publish"))
    section = load_params(second / "params.yaml").registry
    change_params(second, registry={"experiment": "another", "model_name": "another-model"})
    stack.kill("s3")
    said = run(stack, second, "quality_model", "publish", code=9)
    assert "Error: " in said and "Traceback" not in said
    change_params(second, registry={"experiment": section.experiment, "model_name": section.model_name})
    run(stack, second, "quality_model", "score", "examples", "--output", "scores/meanwhile")
    shutil.rmtree(second / "state" / "models")
    said = run(stack, second, "quality_model", "score", "examples", "--output", "scores/later", code=9)
    assert "Error: " in said and "Traceback" not in said
    assert "S3" in stack.up()
    run(stack, second, "quality_model", "score", "examples", "--output", "scores/later")
    change_params(second, registry={"experiment": "another", "model_name": "another-model"})
    assert run_of_model(run(stack, second, "quality_model", "publish")) != published
    for name in ("before", "meanwhile", "later"):
        assert len(pd.read_parquet(second / "scores" / name / "data")) == 3


def test_after_all_were_killed_and_after_an_orderly_end_everything_is_there(
    stack: RunningStack, pointed: None
) -> None:
    section = load_params(stack.project / "params.yaml").registry

    def kept() -> tuple[object, ...]:
        catalogue = Registry(stack.project, section)
        found = stack.settings.ask("prefect", "/api/deployments/filter", post=True).json()
        return catalogue.versions(), catalogue.tags(), sorted(one["name"] for one in found)

    before = kept()
    for name in NAMES:
        stack.kill(name)
    stack.up()
    assert kept() == before
    processes = stack.processes()
    assert stack.down().count("ended") == len(NAMES)
    assert not [one for one in processes if is_alive(one.pid)]
    assert stack.down() == ""
    stack.up()
    assert kept() == before
    for version in Registry(stack.project, section).versions():
        shutil.rmtree(stack.project / "state" / "models", ignore_errors=True)
        assert Registry(stack.project, section).fetch(version).path.is_dir()
