"""Killed at any moment, the same command ends with the bytes of an undisturbed run."""

import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Job
from .processes import STEPS, signal_at

NORMAL_SEEDS = 1
ALL_SEEDS = 20

PLAN_OR_PART = 4
"""A killed run gets so far: it has written its plan, or one part more than the run before."""

SEEDS = [
    pytest.param(seed, marks=[pytest.mark.torture] if seed >= NORMAL_SEEDS else [])
    for seed in range(ALL_SEEDS)
]


def test_kills_at_each_named_point_in_turn_change_nothing_in_the_end(job: Job, tmp_path: Path) -> None:
    project = job.project(tmp_path)
    for step in STEPS:
        number = (job.count(step) + 1) // 2 if step == STEPS[0] else 1  # in the middle, then of what is left
        ended = job.run(project, signal_at(step, number))
        assert ended.code == -signal.SIGKILL, f"{step} {number}:\n{ended.output}"
        assert not job.is_sealed(project)
    job.assert_completes(project, "a kill at each of the points")


def test_kills_at_a_write_leave_nothing_but_whole_parts_among_the_score_rows(
    jobs: Callable[[str], Job], tmp_path: Path
) -> None:
    job = jobs("score")
    project, found = job.project(tmp_path), dict[str, bytes]()
    for number in (1, *[PLAN_OR_PART] * 4):
        assert job.run(project, signal_at("written", number)).code == -signal.SIGKILL
        assert not job.is_sealed(project)
        data = project / "scores" / "data"
        before, found = found, {path.name: path.read_bytes() for path in data.glob("*")}
        assert len(found) <= len(before) + 1
        assert all(bytes_ == job.result[f"scores/data/{name}"] for name, bytes_ in found.items())
    assert len(found) == 3
    job.assert_completes(project, "kills at a write")


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


def test_a_command_that_is_asked_to_end_says_so_and_resumes_later(job: Job, tmp_path: Path) -> None:
    project = job.project(tmp_path)
    for which, said in ((signal.SIGTERM, "Terminated."), (signal.SIGINT, "Interrupted.")):
        ended = job.run(project, signal_at("written", 1, which))
        assert ended.code == 128 + which
        assert said in ended.output
        assert "Traceback" not in ended.output
        assert not job.is_sealed(project)
        assert not list(project.rglob(".partial-*"))
    job.assert_completes(project, "both signals")
