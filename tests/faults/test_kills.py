"""Killed at any moment, the same command ends with the bytes of an undisturbed run."""

import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Job
from .processes import STEPS, signal_at

NORMAL_SEEDS = 2
ALL_SEEDS = 20
SEEDS = [
    pytest.param(seed, marks=[pytest.mark.torture] if seed >= NORMAL_SEEDS else [])
    for seed in range(ALL_SEEDS)
]


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_a_named_point_changes_nothing_in_the_end(job: Job, tmp_path: Path, step: str) -> None:
    project = job.project(tmp_path)
    middle = (job.count(step) + 1) // 2
    assert job.run(project, signal_at(step, middle)).code == -signal.SIGKILL
    assert not job.is_sealed(project)
    job.assert_completes(project, f"a kill at {step} {middle}")


def test_a_kill_at_any_write_leaves_nothing_but_whole_parts_among_the_score_rows(
    jobs: Callable[[str], Job], tmp_path: Path
) -> None:
    job = jobs("score")
    writes = [step for step in job.steps if step == "written"]
    seen = set()
    for number in range(1, len(writes) + 1):
        project = job.project(tmp_path / str(number))
        assert job.run(project, signal_at("written", number)).code == -signal.SIGKILL
        data = project / "scores" / "data"
        found = {path.name: path.read_bytes() for path in data.iterdir()} if data.exists() else {}
        assert all(bytes_ == job.result[f"scores/data/{name}"] for name, bytes_ in found.items())
        assert not job.is_sealed(project)
        seen.add(len(found))
        job.assert_completes(project, f"a kill at write {number}")
    assert seen == {0, 1, 2, 3}


@pytest.mark.torture
def test_a_kill_at_every_single_step_changes_nothing_in_the_end(
    job: Job, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("said", f"{job.name}: {len(job.steps)} steps")
    for step in STEPS:
        for number in range(1, job.count(step) + 1):
            project = job.project(tmp_path / f"{step}-{number}")
            ended = job.run(project, signal_at(step, number))
            assert ended.code == -signal.SIGKILL, f"{step} {number}:\n{ended.output}"
            job.assert_completes(project, f"a kill at {step} {number}")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_kill_at_a_random_time_changes_nothing_in_the_end(job: Job, tmp_path: Path, seed: int) -> None:
    project = job.project(tmp_path)
    moment_s = random.Random(f"{job.name} {seed}").uniform(0.0, job.elapsed_s)
    ended = job.run(project, killed_after_s=moment_s)
    assert ended.code in (0, -signal.SIGKILL), ended.output
    job.assert_completes(project, f"a kill after {moment_s:.3f} s, seed {seed}")


@pytest.mark.parametrize(
    ("which", "said"), [(signal.SIGTERM, "Terminated."), (signal.SIGINT, "Interrupted.")]
)
def test_a_command_that_is_asked_to_end_says_so_and_goes_on_later(
    job: Job, tmp_path: Path, which: signal.Signals, said: str
) -> None:
    project = job.project(tmp_path)
    ended = job.run(project, signal_at("written", 1, which))
    assert ended.code == 128 + which
    assert said in ended.output
    assert "Traceback" not in ended.output
    assert not job.is_sealed(project)
    assert not list(project.rglob(".partial-*"))
    job.assert_completes(project, which.name)
