"""Where tasks run: one narrow interface, and worker processes that survive a crash or a hang.

Each worker process gets one task at a time, so that it is known which task a dead worker had. That task is
tried once more in a fresh process. If that is lost too, a `Failure` stands in the place of its result.

Processes are spawned: each imports the running script again, as Python's multiprocessing does.
"""

import logging
import multiprocessing
import os
import pickle
import signal
import socket
import struct
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, Literal, Protocol, TypeVar

from quality_model.core.system import num_cores
from quality_model.errors import QualityModelError, UsageError

THREADS: Final = 16
"""That fetch."""

_START_WITHIN_S: Final = 120.0
_ATTEMPTS: Final = 2
_WORTH_A_PROCESS: Final = 32
"""Images that are read in about the time in which a process starts."""
_NO_MAIN_GUARD: Final = 113
"""Exit code of a process that met, while it imported the script, the call that starts processes."""

Task = TypeVar("Task")
Result = TypeVar("Result")
FailureKind = Literal["worker_died", "too_slow"]
LossKind = FailureKind | Literal["node_lost"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Failure:
    """Stands in the place of the result of a task that cost two worker processes, or three actors of Ray."""

    kind: LossKind

    @property
    def detail(self) -> str:
        """What happened, for people."""
        return {
            "worker_died": "two worker processes crashed while reading it (out of memory?)",
            "too_slow": "reading it took longer than limits.max_seconds, twice",
            "node_lost": "three nodes of the cluster, or processes on them, were lost with it",
        }[self.kind]


class Executor(Protocol):
    """Runs tasks somewhere."""

    def run(
        self, function: Callable[[Task], Result], tasks: Iterable[Task]
    ) -> Generator[Result | Failure, None, None]:
        """Apply ``function`` to each task, and give the results in the order of the tasks.

        Close the generator to stop early; see `contextlib.closing`. What ``function`` or ``tasks`` raise is
        raised where the results are awaited.
        """
        ...


class InThisProcess:
    """Runs each task where its result is awaited. A task that crashes or hangs takes this process along."""

    def run(
        self, function: Callable[[Task], Result], tasks: Iterable[Task]
    ) -> Generator[Result | Failure, None, None]:
        """See `Executor.run`."""
        yield from map(function, tasks)


@dataclass(frozen=True, slots=True)
class WorkerProcesses:
    """Runs tasks in ``count`` processes of this machine, never in this one.

    ``function`` must be importable and picklable; each process unpickles it once. ``tasks`` is iterated
    in the calling thread.

    Attributes:
        count: Processes. They start when there are tasks for them.
        window: Most tasks that are taken ahead of the results; at least ``count``.
        timeout_s: Seconds for one task, after which its process is killed.
    """

    count: int
    window: int
    timeout_s: float

    def run(
        self, function: Callable[[Task], Result], tasks: Iterable[Task]
    ) -> Generator[Result | Failure, None, None]:
        """See `Executor.run`.

        Raises:
            QualityModelError: No worker process could be started.
            UsageError: The script lacks a main guard, so that its workers would run it again.
        """
        end_if_imported_again()
        workers = Workers(function, self.count, self.timeout_s)
        try:
            yield from workers.results(tasks, max(self.window, self.count))
        finally:
            workers.close()


def in_order(items: Iterable[Task | Future[Task]], window: int) -> Iterator[Task]:
    """Items, those that are still made when they are, at most ``window`` taken ahead."""
    pending: deque[Task | Future[Task]] = deque()
    for item in items:
        pending.append(item)
        while pending and (len(pending) >= window or not isinstance(pending[0], Future)):
            first = pending.popleft()
            yield first.result() if isinstance(first, Future) else first
    for first in pending:
        yield first.result() if isinstance(first, Future) else first


def num_workers(asked: int, num_tasks: int) -> int:
    """Processes to use: ``asked``, but at most one a task; for 0 as many as pay off, at least 1."""
    if asked:
        return min(asked, max(1, num_tasks))
    return max(1, min(num_cores(), num_tasks // _WORTH_A_PROCESS))


def end_if_imported_again() -> None:
    """End this process if it only imports the script: the call for processes is not under its main guard.

    Call it before what starts processes, and before what takes long.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(_NO_MAIN_GUARD)


_one_at_a_time: Final = threading.Lock()


def start_process(function: Callable[..., None], *arguments: Any) -> SpawnProcess:
    """Start a process that calls an importable function. It ends with this one and never sees Ctrl-C.

    Keep ``arguments`` below the 64 kB of a pipe: with more this waits until the process has imported what it
    needs to read them.

    Raises:
        UsageError: This process may not start processes.
        OSError: The system has no process to give.
    """
    if multiprocessing.current_process().daemon:
        raise UsageError(
            "This is a daemon process of Python's multiprocessing, which may not start worker processes.",
            "Call it from another kind of process, such as one of concurrent.futures.ProcessPoolExecutor.",
        )
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments, daemon=True)
    with _one_at_a_time, _only_scripts_that_exist():
        if sys.platform == "win32":  # which has neither; _serve ignores Ctrl-C
            process.start()
            return process
        resource_tracker.ensure_running()  # starting it unblocks the signal
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


class Workers:
    """Processes for tasks that come one by one, as to a server; threads each serve one process at a time.

    Args:
        function: As of `Executor.run`; importable and picklable.
        count: Processes. Each of the first ``count`` tasks starts one.
        timeout_s: Seconds for one task, after which its process is killed.
    """

    def __init__(self, function: Callable[[Any], Any], count: int, timeout_s: float) -> None:
        self._function = pickle.dumps(function)
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="worker")
        self._idle: SimpleQueue[_Worker | None] = SimpleQueue()  # None: still to be started
        for _ in range(count):
            self._idle.put(None)
        self._lock = threading.Lock()
        self._started: set[_Worker] = set()
        self._is_closed = False

    def submit(self, task: Any) -> Future[Any]:
        """The result of a task, or its `Failure`; a task that has not begun can be cancelled."""
        return self._threads.submit(self._work, task)

    def results(self, tasks: Iterable[Any], window: int) -> Iterator[Any]:
        """The results in the order of the tasks, of which ``window`` at most are taken ahead."""
        return in_order(map(self.submit, tasks), window)

    def close(self) -> None:
        """Kill the processes and wait for the threads."""
        with self._lock:
            self._is_closed = True
            for worker in self._started:
                worker.process.kill()
        self._threads.shutdown(cancel_futures=True)
        for worker in self._started:
            worker.end()

    def _work(self, task: Any) -> Any:
        worker = self._idle.get()
        kind: FailureKind = "worker_died"
        try:
            for attempt in range(_ATTEMPTS):
                worker = worker or self._start()
                try:
                    succeeded, outcome = worker.ask(pickle.dumps(task), self._timeout_s)
                except TimeoutError:
                    kind = "too_slow"
                except (EOFError, OSError):
                    kind = "worker_died"
                else:
                    if succeeded:
                        return outcome
                    raise outcome
                self._end(worker)
                worker = None
                if self._is_closed:
                    raise CancelledError
                event = "was too slow" if kind == "too_slow" else "died"
                logger.warning("A worker process %s; attempt %d of %d.", event, attempt + 1, _ATTEMPTS)
            return Failure(kind)
        finally:
            self._idle.put(worker)

    def _start(self) -> "_Worker":
        """Start a process and have it load the function."""
        code = None
        for attempt in range(_ATTEMPTS):
            worker = _Worker()
            with self._lock:  # not held while a process starts, or they would start one after another
                self._started.add(worker)
                if self._is_closed:
                    raise CancelledError
            try:
                succeeded, error = worker.ask(self._function, _START_WITHIN_S)
            except (EOFError, OSError):
                code = worker.exit_code()
                self._end(worker)
                if self._is_closed:
                    raise CancelledError from None
                if code == _NO_MAIN_GUARD:
                    raise _no_main_guard() from None
                logger.warning("A worker process did not begin; attempt %d of %d.", attempt + 1, _ATTEMPTS)
                if code is not None and code > 0:
                    break  # nothing killed it: it would end like this again
                continue
            if not succeeded:
                self._end(worker)
                raise error
            return worker
        raise QualityModelError(
            f"A worker process ended before it could begin (exit code {code}).",
            "Is there enough memory? Use fewer workers. A script of your own needs"
            ' `if __name__ == "__main__":` around what it does, as each worker process imports it.',
        )

    def _end(self, worker: "_Worker") -> None:
        worker.end()
        with self._lock:
            self._started.discard(worker)


class _Worker:
    """A process and the connection to it."""

    def __init__(self) -> None:
        self._connection, theirs = multiprocessing.Pipe()
        self.process = start_process(_serve, theirs)
        theirs.close()
        _limit_sending(self._connection, _START_WITHIN_S)

    def ask(self, message: bytes, within_s: float) -> tuple[bool, Any]:
        """Send a pickle, first that of the function, then of each task: see `_outcome`.

        Plain bytes, because multiprocessing's pickles of PyTorch's tensors need room in /dev/shm.

        Raises TimeoutError if the process is silent, EOFError or OSError if it is dead.
        """
        try:
            self._connection.send_bytes(message)
        except BlockingIOError:
            raise TimeoutError from None
        if not self._connection.poll(within_s):
            raise TimeoutError
        answer: tuple[bool, Any] = self._connection.recv()
        return answer

    def exit_code(self) -> int | None:
        """The exit code of a process that is about to end; None if it does not end."""
        self.process.join(timeout=1.0)
        with _one_at_a_time:  # starting another process collects exit codes too
            return self.process.exitcode

    def end(self) -> None:
        self._connection.close()
        self.process.kill()
        self.process.join()


def _serve(connection: Connection) -> None:
    """Load the function, then do tasks until the other side is gone. Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError, OSError, MemoryError):  # a fresh process may have the memory
        succeeded, function = _outcome(pickle.loads, connection.recv_bytes())
        connection.send((succeeded, None if succeeded else function))
        while succeeded:
            connection.send(_outcome(function, pickle.loads(connection.recv_bytes())))


def _outcome(function: Callable[[Any], Any], argument: Any) -> tuple[bool, Any]:
    """Whether a function returned, and what it returned or raised."""
    try:
        return True, function(argument)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - raised again where results are awaited
        return False, error


def _limit_sending(connection: Connection, within_s: float) -> None:
    """Let sending to a process that no longer reads fail instead of blocking; a pipe of Windows cannot."""
    if sys.platform == "win32":
        return
    with socket.socket(fileno=os.dup(connection.fileno())) as channel:
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(within_s), 0))


def _no_main_guard() -> UsageError:
    script = getattr(sys.modules["__main__"], "__file__", None) or "The script"
    return UsageError(
        f'{script} has no `if __name__ == "__main__":` around the call that starts worker processes,'
        " and each worker process imports the script again.",
        'Put what the script does below `if __name__ == "__main__":`; imports and functions stay above it.',
    )


@contextmanager
def _only_scripts_that_exist() -> Iterator[None]:
    """Hide the file of a script from standard input, '<stdin>', which no process could import again."""
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    if file is None or getattr(main, "__spec__", None) is not None or Path(file).is_file():
        yield
        return
    del main.__file__
    try:
        yield
    finally:
        main.__file__ = file
