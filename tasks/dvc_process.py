"""One command of DVC, in a process group of its own that does not outlive the flow.

The flow holds a pipe open as long as it wants the command's end. When the pipe closes, because
the flow was interrupted or is gone (by SIGKILL, too), the group gets SIGINT: the stage ends and
DVC gives its locks back. What is left of the group after a while gets SIGKILL. Locks that a
killed process left are dropped before the next reproduction.
"""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from quality_model.core import storage
from quality_model.errors import StorageError, UsageError

# A Prefect worker kills a cancelled flow after 30 s: the reproduction must have ended by then.
GRACE_S: Final = 20.0
# Linux tells when it booted, and so when a process started, in whole seconds.
_START_TOLERANCE_S: Final = 2.0
# How DVC ends the message about a stage that failed (dvc.stage.exceptions.StageCmdFailedError).
_STAGE_STATUS: Final = re.compile(r"^ERROR: failed to reproduce .*, exited with (-?\d+)$")


def repro(
    project: Path,
    *arguments: str,
    environment: Mapping[str, str],
    log: Callable[[str], object],
    grace_s: float = GRACE_S,
) -> None:
    """Run ``dvc repro`` in ``project`` with ``arguments``.

    However the caller ends, neither DVC nor the stage runs on for more than ``grace_s``.

    Args:
        project: Folder of dvc.yaml.
        arguments: Names of stages, and options of ``dvc repro``.
        environment: Of DVC and the stages.
        log: Gets each line that they print, DVC's errors included.
        grace_s: What an interrupted stage has to come to an end.

    Raises:
        subprocess.CalledProcessError: The stage failed, with its exit status where DVC tells
            it; or DVC did, with DVC's.
    """
    # Not --quiet: that hides errors.
    command = ["repro", *arguments]
    statuses: list[int] = []

    def listen(line: str) -> None:
        if told := _STAGE_STATUS.search(line):
            statuses.append(int(told[1]))
        log(line)

    if (returncode := _run(project, command, environment, listen, grace_s)) != 0:
        raise subprocess.CalledProcessError(statuses[-1] if statuses else returncode, ["dvc", *command])


def is_up_to_date(
    project: Path,
    *,
    environment: Mapping[str, str],
    log: Callable[[str], object],
    grace_s: float = GRACE_S,
) -> bool:
    """Whether ``dvc status`` finds every stage as recorded; arguments as for `repro`.

    False, too, where DVC cannot tell: its exit status is the same, and `repro` says what is wrong.
    """
    return _run(project, ["status", "--quiet"], environment, log, grace_s) == 0


def _run(
    project: Path,
    command: list[str],
    environment: Mapping[str, str],
    log: Callable[[str], object],
    grace_s: float,
) -> int:
    lifeline, held_end = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(lifeline), str(grace_s), *command],
            cwd=project,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            pass_fds=[lifeline],
            start_new_session=True,
        )
    except BaseException:
        os.close(held_end)
        raise
    finally:
        os.close(lifeline)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip():
                log(line.rstrip())
        return process.wait()
    finally:
        os.close(held_end)
        _wait_for_end(process, grace_s)


def _wait_for_end(process: subprocess.Popen[str], grace_s: float) -> None:
    """Reap a process that ends by itself within ``grace_s``; if not even that works, kill its group."""
    try:
        process.communicate(timeout=grace_s + 5.0)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def main() -> int:
    """What the process does: ``python -m tasks.dvc_process LIFELINE GRACE_S COMMAND...``."""
    from dvc.exceptions import NotDvcRepoError

    lifeline, grace_s, *command = sys.argv[1:]
    # A flow in the background of a shell hands down that SIGINT is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    abandoned = threading.Event()
    threading.Thread(
        target=_end_with_the_flow, args=(int(lifeline), float(grace_s), abandoned), daemon=True
    ).start()
    try:
        return _dvc(command, float(grace_s))
    except StorageError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except NotDvcRepoError as error:
        sys.stderr.write(f"ERROR: {error}\n")
        return UsageError.exit_code
    finally:
        if abandoned.is_set():
            os.killpg(0, signal.SIGKILL)  # this process, and whatever its stage left behind


def _end_with_the_flow(lifeline: int, grace_s: float, abandoned: threading.Event) -> None:
    os.read(lifeline, 1)  # nothing is ever written: this returns when the flow's end is closed
    abandoned.set()
    # DVC itself ignores it while a stage runs, and sees the stage fail.
    os.killpg(0, signal.SIGINT)
    time.sleep(grace_s)
    os.killpg(0, signal.SIGKILL)


def _dvc(command: list[str], grace_s: float) -> int:
    from dvc.cli import main as dvc
    from dvc.logger import set_loggers_level
    from dvc.repo import Repo

    locks = Path(Repo.find_dvc_dir()) / "tmp"
    # One that was abandoned just now may still be about to end.
    with storage.locked(locks / "reproduction.lock", timeout_s=grace_s + 5.0):
        drop_locks_of_the_dead(locks)
        with set_loggers_level(logging.WARNING):
            return int(dvc(command))


def drop_locks_of_the_dead(folder: Path) -> None:
    """Remove from DVC's lock file the entries of processes that are no more.

    DVC does so where no process has the id. It takes a zombie for alive, as an orphan stays in
    a container whose first process does not reap, and another process that got the id since.

    Args:
        folder: ``.dvc/tmp``.
    """
    from dvc.lock import make_lock
    from dvc.rwlock import RWLOCK_FILE, RWLOCK_LOCK

    path = folder / RWLOCK_FILE
    with make_lock(str(folder / RWLOCK_LOCK)):
        if not path.exists():
            return
        written_s = path.stat().st_mtime
        try:
            held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:  # its writer was killed
            held = {}
        readers = {
            name: [entry for entry in entries if _is_alive(entry["pid"], written_s)]
            for name, entries in held.get("read", {}).items()
        }
        living = {
            "write": {n: e for n, e in held.get("write", {}).items() if _is_alive(e["pid"], written_s)},
            "read": {name: entries for name, entries in readers.items() if entries},
        }
        storage.write_json(path, living)


def _is_alive(pid: int, written_s: float) -> bool:
    """Whether the process that wrote its id at ``written_s`` (seconds since the epoch) or before still is."""
    import psutil

    try:
        process = psutil.Process(pid)
        started_s = float(process.create_time())
        return (
            pid != os.getpid()  # this one holds nothing yet
            and process.status() != psutil.STATUS_ZOMBIE
            and started_s < written_s + _START_TOLERANCE_S
        )
    except psutil.NoSuchProcess:
        return False


if __name__ == "__main__":
    sys.exit(main())
