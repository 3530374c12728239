"""Killed at any moment, the same command ends with the bytes of an undisturbed run."""

import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from quality_model.storage import MARKER_NAME

from .conftest import KILLED, RESULTS, Job
from .processes import STEPS, signal_at

NORMAL_SEEDS = 2
ALL_SEEDS = 20


SEEDS = [
    pytest.param(seed, marks=[pytest.mark.torture] if seed >= NORMAL_SEEDS else [])
    for seed in range(ALL_SEEDS)
]


def completes(job: Job, project: Path) -> bool:
    """Run the job's command in peace; whether it leaves the bytes of an undisturbed run."""
    ended = job.run(project)
    assert ended.code == 0, ended.output
    return job.result_in(project) == job.result


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", KILLED)
def test_a_kill_at_a_named_point_changes_nothing_in_the_end(
    jobs: Callable[[str], Job], tmp_path: Path, name: str, step: str
) -> None:
    job = jobs(name)
    project = job.project(tmp_path)
    middle = (job.count(step) + 1) // 2
    assert job.run(project, signal_at(step, middle)).code == -signal.SIGKILL
    assert not (project / RESULTS[name][0] / MARKER_NAME).exists()
    assert completes(job, project)


@pytest.mark.torture
@pytest.mark.parametrize("name", KILLED)
def test_a_kill_at_every_single_step_changes_nothing_in_the_end(
    jobs: Callable[[str], Job], tmp_path: Path, name: str
) -> None:
    job = jobs(name)
    for step in STEPS:
        for number in range(1, job.count(step) + 1):
            project = job.project(tmp_path / f"{step}-{number}")
            assert job.run(project, signal_at(step, number)).code == -signal.SIGKILL
            assert completes(job, project), (step, number)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", KILLED)
def test_a_kill_at_a_random_time_changes_nothing_in_the_end(
    jobs: Callable[[str], Job], tmp_path: Path, name: str, seed: int
) -> None:
    job = jobs(name)
    project = job.project(tmp_path)
    moment_s = random.Random(f"{name} {seed}").uniform(0.0, job.elapsed_s)
    ended = job.run(project, killed_after_s=moment_s)
    assert ended.code in (0, -signal.SIGKILL), ended.output
    assert completes(job, project)


@pytest.mark.parametrize(
    ("which", "said"), [(signal.SIGTERM, "Terminated."), (signal.SIGINT, "Interrupted.")]
)
@pytest.mark.parametrize("name", KILLED)
def test_a_command_that_is_asked_to_end_says_so_and_goes_on_later(
    jobs: Callable[[str], Job], tmp_path: Path, name: str, which: signal.Signals, said: str
) -> None:
    job = jobs(name)
    project = job.project(tmp_path)
    ended = job.run(project, signal_at("written", 1, which))
    assert ended.code == 128 + which
    assert said in ended.output
    assert "Traceback" not in ended.output
    assert not (project / RESULTS[name][0] / MARKER_NAME).exists()
    assert not list(project.rglob(".partial-*"))
    assert completes(job, project)
