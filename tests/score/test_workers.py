"""Workers that die, hang or raise: every item gets its result, in order, and nothing waits for ever."""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Any

import psutil
import pytest

from quality_model.core.workers import Workers, num_workers
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


def workers(work: Callable[..., Any], **more: Any) -> Workers[Any, Any]:
    settings = {"count": 2, "window": 6, "given_up": lambda fate: (fate, None), "hung_after_s": 60.0, **more}
    return Workers(work, **settings)


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
    results = workers(slow_to_start(5), count=5).map(iter(range(20)))
    assert list(results) == list(range(20))
    assert len(list((tmp_path / "notes").glob("begun-*"))) == 5


def test_workers_that_are_stopped_while_they_begin_end(
    slow_to_start: Callable[[int], Any], tmp_path: Path
) -> None:
    with workers(slow_to_start(99), count=3):
        while not (begun := list((tmp_path / "notes").glob("begun-*"))):
            time.sleep(0.01)
    assert not any(psutil.pid_exists(int(path.name.partition("-")[2])) for path in begun)
    assert not multiprocessing.active_children()


def test_a_function_that_does_not_load_in_a_worker_raises_what_its_loading_raised(
    work: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "trouble.py").write_text("raise OSError(27, 'File too large')")
    with pytest.raises(OSError, match="File too large"):
        list(workers(work).map(iter([(0, "")])))


def test_workers_that_are_left_before_there_are_items_end(work: Callable[..., Any]) -> None:
    with workers(work) as started:
        pass
    assert not [thread for thread in started._threads if thread.is_alive()]


def test_one_worker_is_a_process_of_its_own(work: Callable[..., Any]) -> None:
    items = [(number, "die" if number == 1 else "") for number in range(4)]
    results = list(workers(work, count=1).map(iter(items)))
    assert [number for number, _ in results] == [0, "worker_died", 2, 3]
    assert os.getpid() not in {process for _, process in results}


def test_results_come_in_the_order_of_the_items_from_several_processes(work: Callable[..., Any]) -> None:
    """The first two items wait for each other: one process alone would never end."""
    items = [(0, "meet 1"), (1, "meet 0"), *((number, "") for number in range(2, 50))]
    results = list(workers(work).map(iter(items)))
    assert [number for number, _ in results] == list(range(50))
    assert results[0][1] != results[1][1]


def test_an_item_whose_worker_died_is_tried_once_more(work: Callable[..., Any]) -> None:
    items = [(number, "die once" if number == 3 else "") for number in range(12)]
    assert [number for number, _ in workers(work).map(iter(items))] == list(range(12))


def test_an_item_that_costs_two_workers_is_given_up_and_the_others_are_not(work: Callable[..., Any]) -> None:
    items = [(number, "die" if number in (0, 7) else "") for number in range(12)]
    results = [number for number, _ in workers(work).map(iter(items))]
    assert results == ["worker_died", 1, 2, 3, 4, 5, 6, "worker_died", 8, 9, 10, 11]


def test_an_item_for_which_a_worker_has_no_memory_is_tried_in_a_fresh_one_and_then_given_up(
    work: Callable[..., Any],
) -> None:
    items = [(0, "no memory once"), (1, ""), (2, "no memory"), (3, "")]
    assert [number for number, _ in workers(work).map(iter(items))] == [0, 1, "worker_died", 3]


def test_a_worker_that_hangs_is_noticed_and_given_up(work: Callable[..., Any]) -> None:
    items = [(number, "stop" if number == 1 else "") for number in range(4)]
    results = workers(work, hung_after_s=0.5).map(iter(items))
    assert [number for number, _ in results] == [0, "too_slow", 2, 3]


def test_what_the_function_raises_is_raised_where_the_results_are_awaited(work: Callable[..., Any]) -> None:
    with pytest.raises(LookupError, match="item 2"):
        list(workers(work).map(iter([(0, ""), (1, ""), (2, "raise"), (3, "")])))


def test_what_the_items_raise_is_raised_where_the_results_are_awaited(work: Callable[..., Any]) -> None:
    def items() -> Iterator[Any]:
        yield 0, ""
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        list(workers(work).map(items()))


def test_no_more_items_are_taken_ahead_than_the_window_allows(work: Callable[..., Any]) -> None:
    taken = 0

    def items() -> Iterator[Any]:
        nonlocal taken
        for number in range(40):
            taken = number + 1
            yield number, ""

    for given, _ in enumerate(workers(work, window=5).map(items())):
        assert taken <= given + 6
    assert taken == 40


def test_workers_that_cannot_start_are_an_error_and_no_hang(work: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "trouble.py").write_text("raise SystemExit(3)")
    with pytest.raises(QualityModelError, match=r"before it could begin \(exit code 3\)"):
        list(workers(work).map(iter([(0, "")])))


@pytest.mark.parametrize(
    ("asked", "num_items", "used"),
    [(1, 10**6, 1), (3, 5, 3), (8, 1, 1), (8, 0, 1), (0, 0, 1), (0, 40, 1), (0, 64, 2), (0, 10**6, 8)],
)
def test_processes_are_as_many_as_asked_for_or_as_pay_off_and_never_more_than_items(
    asked: int, num_items: int, used: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quality_model.core.workers.num_cores", lambda: 8)
    assert num_workers(asked, num_items) == used
