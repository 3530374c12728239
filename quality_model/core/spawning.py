"""Starting processes: spawned, bound to this one, and safe from scripts that start themselves again.

A spawned process imports the script that is running again, as Python's multiprocessing does.
"""

import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Final

from quality_model.errors import UsageError

NO_MAIN_GUARD: Final = 113
"""Exit code of a process that met, while it imported the script, the call that starts processes."""

_one_at_a_time: Final = threading.Lock()


def start(function: Callable[..., None], *arguments: Any) -> SpawnProcess:
    """Start a process that calls an importable function, and that ends with this one.

    It never sees Ctrl-C: this process decides what follows from it. Keep ``arguments`` below the
    64 kB of a pipe: with more this waits until the process has imported what it needs to read them.

    Raises:
        UsageError: This process is one that may start none.
        OSError: The system has no process to give.
    """
    if multiprocessing.current_process().daemon:
        raise UsageError(
            "This is a daemon process of Python's multiprocessing, which may not start worker processes.",
            "Call it from a process that is none, such as one of concurrent.futures.ProcessPoolExecutor.",
        )
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments, daemon=True)
    with _one_at_a_time, only_scripts_that_exist():
        resource_tracker.ensure_running()  # starting it unblocks the signal
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


def exit_code(process: SpawnProcess) -> int | None:
    """The exit code of a process that has ended or is about to; None if it does not end."""
    process.join(timeout=1.0)
    with _one_at_a_time:  # starting another process collects exit codes too
        return process.exitcode


def end_if_imported_again() -> None:
    """End this process if it only imports the script: the call for processes is not under its main guard.

    Call it before what starts processes, and before what takes long.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(NO_MAIN_GUARD)


def no_main_guard() -> UsageError:
    """The error for a script whose processes ended with `NO_MAIN_GUARD`."""
    script = getattr(sys.modules["__main__"], "__file__", None) or "The script"
    return UsageError(
        f'{script} has no `if __name__ == "__main__":` around the call that starts worker processes,'
        " and each worker process imports the script again.",
        'Put what the script does below `if __name__ == "__main__":`; imports and functions stay above it.',
    )


@contextmanager
def only_scripts_that_exist() -> Iterator[None]:
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
