"""Processes that outlive the command that started them: recognised later by a record, and ended in order.

A record has the process's id and its start, for an id alone may be given to another process. Each process
leads a session, so that what it leaves behind when it is killed is found by its id.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import psutil

from quality_model.core import storage

PRIVATE: Final = 0o077
"""The umask of what nobody else may read."""

_START_TOLERANCE_S: Final = 2.0
"""Linux reports its boot time, and so the start of a process, in whole seconds."""

_POLL_S: Final = 0.1
_LEFT_S: Final = 5.0
"""What others of its session get to end."""


@contextmanager
def opened(folder: Path | None, command: Sequence[str]) -> Iterator[tuple[list[str], tuple[int, ...]]]:
    """A command in which ``{fd}`` is an open descriptor of a folder, and what the process has to inherit.

    It reaches the folder as ``/proc/self/fd/{fd}``, though its user may not enter the folders above it.
    """
    if folder is None:
        yield list(command), ()
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield [word.replace("{fd}", str(descriptor)) for word in command], (descriptor,)
    finally:
        os.close(descriptor)


class Daemon:
    """One process, with its record ``run/NAME.json`` and its log ``log/NAME.log`` below a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self.record = folder / "run" / f"{name}.json"
        self.log = folder / "log" / f"{name}.log"

    @property
    def is_running(self) -> bool:
        """Whether the recorded process runs, and not another one with its id."""
        return self._leader() is not None

    def start(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        umask: int = PRIVATE,
        folder: Path | None = None,
    ) -> None:
        """Start it, and before that end what an earlier one left behind; see `opened` for ``folder``."""
        self.end()
        for path in (self.record, self.log):
            path.parent.mkdir(exist_ok=True)
        with self.log.open("ab") as log, opened(folder, command) as (words, inherited):
            process = subprocess.Popen(
                words,
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=inherited,
                start_new_session=True,
                umask=umask,
            )
        started_s = psutil.Process(process.pid).create_time()
        storage.write_json(self.record, {"pid": process.pid, "started_s": started_s})

    def end(self, by: signal.Signals = signal.SIGTERM, *, within_s: float = _LEFT_S) -> None:
        """End it in order, and what is left of its session after that; nothing where it does not run."""
        leader = self._leader()
        if leader is not None:
            _send(leader, by)
            deadline = time.monotonic() + within_s
            while self.is_running and time.monotonic() < deadline:
                time.sleep(_POLL_S)
        for number in (signal.SIGTERM, signal.SIGKILL):
            left = list(self._session())
            for process in left:
                _send(process, number)
            psutil.wait_procs(left, timeout=_LEFT_S)
        self.record.unlink(missing_ok=True)

    def last_words(self, num_lines: int = 8) -> str:
        """The end of its log."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n  ".join([f"{self.log}:", *lines[-num_lines:]])

    def _recorded(self) -> tuple[int, float]:
        if not self.record.exists():
            raise psutil.NoSuchProcess(0)
        found = storage.read_json(self.record)
        return int(found["pid"]), float(found["started_s"])

    def _leader(self) -> psutil.Process | None:
        """The recorded process, while it runs."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._recorded()[0])
            if self._is_recorded(process) and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None

    def _is_recorded(self, process: psutil.Process) -> bool:
        return bool(abs(process.create_time() - self._recorded()[1]) < _START_TOLERANCE_S)

    def _session(self) -> Iterator[psutil.Process]:
        """What runs in its session. While any of it does, its id is given to no other process."""
        if not self.record.exists():
            return
        pid, started_s = self._recorded()
        with suppress(psutil.NoSuchProcess):
            if not self._is_recorded(psutil.Process(pid)):
                return  # another process has the id
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess):
                is_later = process.create_time() > started_s - _START_TOLERANCE_S
                if is_later and _sid(process.pid) == pid and process.status() != psutil.STATUS_ZOMBIE:
                    yield process


def _sid(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)
