"""Worker processes that survive the death or the hanging of any of them, in order and bounded.

Each worker is served by a thread that hands it one item at a time, so that it is known
which item a dead worker had. That item is tried once more in a fresh process; then it is
given up, and the caller says what stands in its place.
"""

import logging
import multiprocessing
import os
import signal
import socket
import struct
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import Any, Final, Generic, Literal, TypeVar

from quality_model.allocation import num_cores
from quality_model.errors import QualityModelError

_START_WITHIN_S: Final = 120.0
_ATTEMPTS: Final = 2

Item = TypeVar("Item")
Result = TypeVar("Result")
Fate = Literal["worker_died", "too_slow"]

logger = logging.getLogger(__name__)


def num_workers(asked: int, num_items: int) -> int:
    """Processes to use: as many as asked for, 0 meaning one per core; no more than pay off.

    A process takes about as long to start as it takes to read 32 pictures.
    """
    if asked:
        return asked
    return max(1, min(num_cores(), num_items // 32))


class Workers(Generic[Item, Result]):
    """Apply a function to items in ``count`` processes; ``count`` 1 stays in this one.

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
        self._function = function
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

    def map(self, items: Iterator[Item]) -> Generator[Result, None, None]:
        """Give the results in the order of the items.

        Raises:
            QualityModelError: No worker could be started.
        """
        if self._count == 1:
            yield from map(self._function, items)
            return
        lock = threading.Lock()
        threads = [
            threading.Thread(target=self._serve, args=(items, lock), name=f"worker-{number}", daemon=True)
            for number in range(self._count)
        ]
        try:
            for thread in threads:
                thread.start()
            number = 0
            while (result := self._await(number)) is not _END:
                yield result
                number += 1
                self._room.release()
        finally:
            self._stop(threads)

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

    def _stop(self, threads: list[threading.Thread]) -> None:
        with self._changed:
            self._stopping = True
            for process in self._processes:
                process.kill()
        for _ in threads:
            self._room.release()
        for thread in threads:
            thread.join()

    def _serve(self, items: Iterator[Item], lock: threading.Lock) -> None:
        """One thread: take an item, have it worked on, put the result where it belongs."""
        worker: _Worker | None = None
        try:
            worker = self._start()
            while True:
                self._room.acquire()
                with lock:
                    if self._stopping or self._num_items is not None:
                        return
                    number = self._taken
                    try:
                        item = next(items)
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
            logger.warning("A worker process %s; attempt %d of %d.", fate, attempt + 1, _ATTEMPTS)
            worker = self._start()
        return self._given_up(fate), worker

    def _start(self) -> "_Worker":
        exit_code = None
        for attempt in range(_ATTEMPTS):
            with self._changed:
                if self._stopping:
                    raise EOFError
                worker = _Worker(self._function)
                self._processes.add(worker.process)
            try:
                worker.wait_until_ready()
                return worker
            except (EOFError, OSError):
                worker.process.join(timeout=1.0)  # for its own exit code
                exit_code = worker.process.exitcode
                self._end(worker)
                logger.warning("A worker process did not begin; attempt %d of %d.", attempt + 1, _ATTEMPTS)
        raise QualityModelError(
            f"A worker process ended before it could begin (exit code {exit_code}).",
            "Is there enough memory? With workers = 1 everything runs in one process.",
        )

    def _end(self, worker: "_Worker") -> None:
        worker.end()
        with self._changed:
            self._processes.discard(worker.process)


class _Worker:
    """A process and the connection to it."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self.process = context.Process(target=_run, args=(theirs, function), daemon=True)
        self.process.start()
        theirs.close()
        _limit_sending(self._connection, _START_WITHIN_S)

    def wait_until_ready(self) -> None:
        self._receive(_START_WITHIN_S)

    def ask(self, item: Any, within_s: float) -> tuple[bool, Any]:
        """Give whether the function returned, and what it returned or raised.

        Raises TimeoutError if the process is silent, EOFError or OSError if it is dead.
        """
        try:
            self._connection.send(item)
        except BlockingIOError:
            raise TimeoutError from None
        answer: tuple[bool, Any] = self._receive(within_s)
        return answer

    def _receive(self, within_s: float) -> Any:
        if not self._connection.poll(within_s):
            raise TimeoutError
        return self._connection.recv()

    def end(self) -> None:
        self._connection.close()
        self.process.kill()
        self.process.join()


class _Raised(Exception):
    """Carries, as its cause, what the function raised in a worker."""


_END: Final = object()


def _run(connection: Any, function: Callable[[Any], Any]) -> None:
    """Serve items until the other side is gone. Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError, OSError):
        connection.send(None)
        while True:
            item = connection.recv()
            try:
                answer = True, function(item)
            except MemoryError:
                return  # a fresh process may have the room
            except Exception as error:  # noqa: BLE001 - raised again where the results are awaited
                answer = False, error
            connection.send(answer)


def _limit_sending(connection: Any, within_s: float) -> None:
    """Let sending to a process that no longer reads fail instead of blocking for ever."""
    with socket.socket(fileno=os.dup(connection.fileno())) as channel:
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(within_s), 0))
