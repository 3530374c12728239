"""Workers that crash, hang or raise: every task gets its result, in order, and nothing waits for ever."""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Any

import psutil
import pytest

from quality_model.core.processes import Executor, Failure, InThisProcess, WorkerProcesses, num_workers
from quality_model.errors import QualityModelError

TROUBLE = """
import os, resource, signal, sys, time
from pathlib import Path

def run_out_of_memory():
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + 2**26
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    bytearray(2**30)

def work(notes, item):
    number, behaviour = item
    seen = Path(notes) / str(number)
    again = seen.exists()
    seen.touch()
    if behaviour == "die" or (behaviour == "die once" and not again):
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if behaviour.startswith("meet "):
        other = Path(notes) / behaviour.removeprefix("meet ")
        while not other.exists():
            time.sleep(0.01)
    if behaviour == "no memory" or (behaviour == "no memory once" and not again):
        run_out_of_memory()
    if behaviour == "raise":
        raise LookupError(f"item {number}")
    return number, os.getpid()
"""


SLOW_TO_START = """
import os, sys, time
from pathlib import Path

class Payload:
    def __init__(self, notes, count):
        self.notes, self.count, self.weights = notes, count, bytes(10**7)

    def __setstate__(self, state):
        self.__dict__ = state
        notes = Path(self.notes)
        (notes / f"begun-{os.getpid()}").touch()
        for _ in range(500):
            if len(list(notes.glob("begun-*"))) >= self.count:
                (notes / f"ready-{os.getpid()}").touch()
                return
            time.sleep(0.02)
        raise SystemExit(4)

    def __call__(self, item):
        return item
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """A function that workers can import and that does what its item says."""
    (tmp_path / "trouble.py").write_text(dedent(TROUBLE))
    monkeypatch.syspath_prepend(tmp_path)
    import trouble  # type: ignore[import-not-found]

    notes = tmp_path / "notes"
    notes.mkdir()
    yield partial(trouble.work, str(notes))
    sys.modules.pop("trouble", None)


def results(work: Callable[..., Any], items: Iterable[Any], **changes: Any) -> list[Any]:
    """Numbers of the items whose results came, in order, and the kind of failure of the others."""
    pool = WorkerProcesses(**{"count": 2, "window": 6, "timeout_s": 60.0, **changes})
    return [outcome.kind if isinstance(outcome, Failure) else outcome[0] for outcome in pool.run(work, items)]


def behaving(num_items: int, **behaviours: str) -> list[tuple[int, str]]:
    """Items of which some misbehave: ``behaving(3, item_1="die")``."""
    return [(number, behaviours.get(f"item_{number}", "")) for number in range(num_items)]


@pytest.fixture
def slow_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Any]]:
    """A function with weights that fill no pipe; it loads when so many workers have begun to load it."""
    (tmp_path / "slow_to_start.py").write_text(dedent(SLOW_TO_START))
    monkeypatch.syspath_prepend(tmp_path)
    import slow_to_start  # type: ignore[import-not-found]

    (tmp_path / "notes").mkdir()
    yield partial(slow_to_start.Payload, str(tmp_path / "notes"))
    sys.modules.pop("slow_to_start", None)


def test_every_worker_begins_before_any_is_ready(slow_to_start: Callable[[int], Any], tmp_path: Path) -> None:
    pool = WorkerProcesses(count=5, window=6, timeout_s=60.0)
    assert list(pool.run(slow_to_start(5), range(20))) == list(range(20))
    assert len(list((tmp_path / "notes").glob("begun-*"))) == 5


def test_workers_that_are_stopped_while_they_begin_end(
    slow_to_start: Callable[[int], Any], tmp_path: Path
) -> None:
    def tasks() -> Iterator[int]:
        yield from range(3)
        while not list((tmp_path / "notes").glob("begun-*")):
            time.sleep(0.01)
        raise KeyboardInterrupt

    pool = WorkerProcesses(count=3, window=9, timeout_s=60.0)
    with pytest.raises(KeyboardInterrupt):
        list(pool.run(slow_to_start(99), tasks()))
    begun = [int(path.name.partition("-")[2]) for path in (tmp_path / "notes").glob("begun-*")]
    assert begun and not any(map(psutil.pid_exists, begun))
    assert not multiprocessing.active_children()


def test_a_function_that_does_not_load_in_a_worker_raises_what_its_loading_raised(
    work: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "trouble.py").write_text("raise OSError(27, 'File too large')")
    with pytest.raises(OSError, match="File too large"):
        results(work, behaving(1))


def test_one_worker_is_a_process_of_its_own(work: Callable[..., Any]) -> None:
    pool = WorkerProcesses(count=1, window=1, timeout_s=60.0)
    outcomes = list(pool.run(work, behaving(4, item_1="die")))
    assert outcomes.pop(1) == Failure("worker_died")
    assert os.getpid() not in {process for _, process in outcomes}  # type: ignore[misc]


def test_results_come_in_the_order_of_the_tasks_from_several_processes(work: Callable[..., Any]) -> None:
    """The first two wait for each other: one process alone would never end."""
    assert results(work, behaving(50, item_0="meet 1", item_1="meet 0")) == list(range(50))


def test_a_task_is_tried_twice_and_its_neighbours_have_results(work: Callable[..., Any]) -> None:
    items = behaving(12, item_0="die", item_3="die once", item_5="no memory once", item_7="no memory")
    assert results(work, items) == ["worker_died", *range(1, 7), "worker_died", *range(8, 12)]


def test_a_worker_that_hangs_is_replaced(work: Callable[..., Any]) -> None:
    assert results(work, behaving(4, item_1="stop"), timeout_s=0.5) == [0, "too_slow", 2, 3]


@pytest.mark.parametrize("pool", [WorkerProcesses(2, 6, 60.0), InThisProcess()])
def test_what_the_function_or_the_tasks_raise_is_raised_where_results_are_awaited(
    work: Callable[..., Any], pool: Executor
) -> None:
    with pytest.raises(LookupError, match="item 2"):
        list(pool.run(work, behaving(4, item_2="raise")))

    def tasks() -> Iterator[Any]:
        yield 0, ""
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        list(pool.run(work, tasks()))


def test_no_more_tasks_are_taken_ahead_than_the_window_allows(work: Callable[..., Any]) -> None:
    taken = 0

    def tasks() -> Iterator[Any]:
        nonlocal taken
        for number in range(40):
            taken = number + 1
            yield number, ""

    for given, _ in enumerate(WorkerProcesses(2, 5, 60.0).run(work, tasks())):
        assert taken <= given + 5
    assert taken == 40


def test_workers_that_cannot_start_are_an_error_and_no_hang(work: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "trouble.py").write_text("raise SystemExit(3)")
    with pytest.raises(QualityModelError, match=r"before it could begin \(exit code 3\)"):
        results(work, behaving(1))


@pytest.mark.parametrize(
    ("asked", "num_tasks", "used"),
    [(1, 10**6, 1), (3, 5, 3), (8, 1, 1), (8, 0, 1), (0, 0, 1), (0, 40, 1), (0, 64, 2), (0, 10**6, 8)],
)
def test_processes_are_as_many_as_asked_for_or_as_pay_off_and_never_more_than_tasks(
    asked: int, num_tasks: int, used: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quality_model.core.processes.num_cores", lambda: 8)
    assert num_workers(asked, num_tasks) == used
