"""Any sequence of kills, then peace: the same manifest, the same bytes."""

import signal
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import Job
from .processes import STEPS, signal_at

MOST_STEPS = 8
KILLS = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(1, MOST_STEPS)), min_size=1, max_size=4)
QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@pytest.mark.parametrize("name", ["generate-hf", "score"])
@settings(max_examples=3, derandomize=True, **QUIET)
@given(kills=KILLS)
def test_any_sequence_of_kills_ends_with_the_bytes_of_an_undisturbed_run(
    jobs: Callable[[str], Job], name: str, kills: list[tuple[str, int]]
) -> None:
    survives(jobs(name), kills)


@pytest.mark.torture
@pytest.mark.parametrize("name", ["generate-hf", "score"])
@settings(max_examples=60, **QUIET)
@given(kills=KILLS)
def test_any_of_many_sequences_of_kills_ends_with_the_bytes_of_an_undisturbed_run(
    jobs: Callable[[str], Job], name: str, kills: list[tuple[str, int]]
) -> None:
    survives(jobs(name), kills)


def survives(job: Job, kills: list[tuple[str, int]]) -> None:
    with TemporaryDirectory() as place:
        project = job.project(Path(place))
        for step, number in kills:
            assert job.run(project, signal_at(step, number)).code in (0, -signal.SIGKILL)
        job.assert_completes(project, f"kills at {kills}")
