"""Worker processes that survive the death or the hanging of any of them, in order and bounded.

Each worker is served by a thread that hands it one item at a time, so that it is known
which item a dead worker had. That item is tried once more in a fresh process; then it is
given up, and the caller says what stands in its place.
"""

import logging
import multiprocessing
import os
import pickle
import signal
import socket
import struct
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import Any, Final, Generic, Literal, Self, TypeVar

from quality_model.core import spawning
from quality_model.core.allocation import num_cores
from quality_model.errors import QualityModelError

_START_WITHIN_S: Final = 120.0
_ATTEMPTS: Final = 2

Item = TypeVar("Item")
Result = TypeVar("Result")
Fate = Literal["worker_died", "too_slow"]

WHY: Final[dict[Fate, str]] = {
    "worker_died": "two worker processes ended while reading it (out of memory?)",
    "too_slow": "reading it took longer than limits.max_seconds, twice",
}
"""Details of the error codes of items that were given up."""

logger = logging.getLogger(__name__)


def num_workers(asked: int, num_items: int) -> int:
    """Processes to use: as many as asked for, but one an item at most; for 0 as many as pay off.

    A process takes about as long to start as it takes to read 32 images.
    """
    if asked:
        return min(asked, max(1, num_items))
    return max(1, min(num_cores(), num_items // 32))


class Workers(Generic[Item, Result]):
    """Apply a function to items in ``count`` processes, never in this one.

    As a context manager it starts them at once, and ends them; otherwise `map` does.

    Args:
        function: Importable and picklable; runs in the workers.
        given_up: Says what stands in the place of an item that cost two workers.
        count: Processes.
        window: Most items between being taken and being given back.
        hung_after_s: Silence after which a worker counts as hung.
    """

    def __init__(
        self,
        function: Callable[[Item], Result],
        *,
        given_up: Callable[[Fate], Result],
        count: int,
        window: int,
        hung_after_s: float,
    ) -> None:
        self._function = _pickled(function)
        self._given_up = given_up
        self._count = count
        self._room = threading.Semaphore(max(window, count))
        self._hung_after_s = hung_after_s
        self._changed = threading.Condition()
        self._results: dict[int, Result] = {}
        self._failure: BaseException | None = None
        self._num_items: int | None = None
        self._taken = 0
        self._stopping = False
        self._processes: set[Any] = set()
        self._items: Iterator[Item] | None = None
        self._taking = threading.Lock()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        spawning.end_if_imported_again()
        self._threads = [
            threading.Thread(target=self._serve, name=f"worker-{number}", daemon=True)
            for number in range(self._count)
        ]
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._stopping = True
            for process in self._processes:
                process.kill()
            self._changed.notify_all()
        for _thread in self._threads:
            self._room.release()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def map(self, items: Iterator[Item]) -> Generator[Result, None, None]:
        """Give the results in the order of the items. Works once.

        Raises:
            QualityModelError: No worker could be started.
            UsageError: The script lacks a main guard, so that its workers would run it again.
        """
        if not self._threads:
            with self:
                yield from self.map(items)
            return
        assert self._items is None
        with self._changed:
            self._items = items
            self._changed.notify_all()
        number = 0
        while (result := self._await(number)) is not _END:
            yield result
            number += 1
            self._room.release()

    def _await(self, number: int) -> Any:
        with self._changed:
            while True:
                if isinstance(self._failure, _Raised) and self._failure.__cause__ is not None:
                    raise self._failure.__cause__
                if self._failure is not None:
                    raise self._failure
                if number in self._results:
                    return self._results.pop(number)
                if self._num_items is not None and number >= self._num_items:
                    return _END
                self._changed.wait()

    def _serve(self) -> None:
        """One thread: take an item, have it worked on, put the result where it belongs."""
        worker: _Worker | None = None
        try:
            worker = self._start()
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._items is not None)
            while True:
                self._room.acquire()
                with self._taking:
                    if self._stopping or self._num_items is not None:
                        return
                    assert self._items is not None
                    number = self._taken
                    try:
                        item = next(self._items)
                    except StopIteration:
                        with self._changed:
                            self._num_items = number
                            self._changed.notify_all()
                        return
                    self._taken = number + 1
                result, worker = self._work(worker, item)
                with self._changed:
                    self._results[number] = result
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits for results
            with self._changed:
                if not self._stopping:
                    self._failure = self._failure or error
                self._changed.notify_all()
        finally:
            if worker is not None:
                self._end(worker)

    def _work(self, worker: "_Worker", item: Item) -> tuple[Result, "_Worker"]:
        fate: Fate = "worker_died"
        for attempt in range(_ATTEMPTS):
            try:
                succeeded, result = worker.ask(item, self._hung_after_s)
                if not succeeded:
                    raise _Raised from result
                return result, worker
            except TimeoutError:
                fate = "too_slow"
            except (EOFError, OSError):
                fate = "worker_died"
            self._end(worker)
            if self._stopping:
                raise EOFError
            event = "was too slow" if fate == "too_slow" else "died"
            logger.warning("A worker process %s; attempt %d of %d.", event, attempt + 1, _ATTEMPTS)
            worker = self._start()
        return self._given_up(fate), worker

    def _start(self) -> "_Worker":
        code = None
        for attempt in range(_ATTEMPTS):
            worker = _Worker()  # outside the lock, which results wait for
            with self._changed:
                stopping = self._stopping
                if not stopping:
                    self._processes.add(worker.process)
            if stopping:
                worker.end()
                raise EOFError
            try:
                succeeded, error = worker.begin(self._function)
            except (EOFError, OSError):
                code = spawning.exit_code(worker.process)
                self._end(worker)
                if code == spawning.NO_MAIN_GUARD:
                    raise spawning.no_main_guard() from None
                logger.warning("A worker process did not begin; attempt %d of %d.", attempt + 1, _ATTEMPTS)
                if code is not None and code > 0:
                    break  # nothing killed it: it would end like this again
                continue
            if not succeeded:
                self._end(worker)
                raise _Raised from error
            return worker
        raise QualityModelError(
            f"A worker process ended before it could begin (exit code {code}).",
            "Is there enough memory? Use fewer workers. A script of your own needs"
            ' `if __name__ == "__main__":` around what it does, as each worker process imports it.',
        )

    def _end(self, worker: "_Worker") -> None:
        worker.end()
        with self._changed:
            self._processes.discard(worker.process)


class _Worker:
    """A process and the connection to it."""

    def __init__(self) -> None:
        self._connection, theirs = multiprocessing.Pipe()
        self.process = spawning.start(_run, theirs)
        theirs.close()
        _limit_sending(self._connection, _START_WITHIN_S)

    def begin(self, function: bytes) -> tuple[bool, Any]:
        """Hand it the pickled function; gives whether that could be loaded, and what was raised."""
        return self._answer(self._connection.send_bytes, function, _START_WITHIN_S)

    def ask(self, item: Any, within_s: float) -> tuple[bool, Any]:
        """Give whether the function returned, and what it returned or raised.

        Raises TimeoutError if the process is silent, EOFError or OSError if it is dead.
        """
        return self._answer(self._connection.send, item, within_s)

    def _answer(self, send: Callable[[Any], None], message: Any, within_s: float) -> tuple[bool, Any]:
        try:
            send(message)
        except BlockingIOError:
            raise TimeoutError from None
        if not self._connection.poll(within_s):
            raise TimeoutError
        answer: tuple[bool, Any] = self._connection.recv()
        return answer

    def end(self) -> None:
        self._connection.close()
        self.process.kill()
        self.process.join()


class _Raised(Exception):
    """Carries, as its cause, what the function raised in a worker."""


_END: Final = object()


def _run(connection: Any) -> None:
    """Load the function, then serve items until the other side is gone. Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError, OSError, MemoryError):  # a fresh process may have the room
        pickled = connection.recv_bytes()
        succeeded, function = _outcome(pickle.loads, pickled)
        connection.send((succeeded, None if succeeded else function))
        while succeeded:
            connection.send(_outcome(function, connection.recv()))


def _outcome(function: Callable[[Any], Any], argument: Any) -> tuple[bool, Any]:
    """Whether a function returned, and what it returned or raised: raised again where results are awaited."""
    try:
        return True, function(argument)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001
        return False, error


def _pickled(function: Callable[[Any], Any]) -> bytes:
    """Plain bytes: multiprocessing's pickles of PyTorch's tensors need room in /dev/shm."""
    return pickle.dumps(function)


def _limit_sending(connection: Any, within_s: float) -> None:
    """Let sending to a process that no longer reads fail instead of blocking for ever."""
    with socket.socket(fileno=os.dup(connection.fileno())) as channel:
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(within_s), 0))
