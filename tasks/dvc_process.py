"""One DVC command in a process group of its own, which does not outlive the flow.

The flow holds a pipe open while it waits for the command. When the pipe closes, because the flow was
interrupted or killed, the group gets SIGINT: the stage ends and DVC releases its locks. After a grace
period the rest of the group gets SIGKILL. The next reproduction removes locks of killed processes.
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
# Linux reports its boot time, and so the start of a process, in whole seconds.
_START_TOLERANCE_S: Final = 2.0
# The end of DVC's message about a stage that failed (dvc.stage.exceptions.StageCmdFailedError).
_STAGE_STATUS: Final = re.compile(r"^ERROR: failed to reproduce .*, exited with (-?\d+)$")


def repro(
    project: Path,
    *arguments: str,
    environment: Mapping[str, str],
    log: Callable[[str], object],
    grace_s: float = GRACE_S,
) -> None:
    """Run ``dvc repro`` in ``project`` with ``arguments``.

    However the caller ends, DVC and the stage end within ``grace_s``.

    Args:
        project: Folder of dvc.yaml.
        arguments: Names of stages, and options of ``dvc repro``.
        environment: Of DVC and the stages.
        log: Gets each line that they print, DVC's errors included.
        grace_s: The time that an interrupted stage has to end.

    Raises:
        subprocess.CalledProcessError: The stage failed, with its exit status if DVC reports it; or DVC
            failed, with DVC's.
    """
    statuses: list[int] = []

    def listen(line: str) -> None:
        if match := _STAGE_STATUS.search(line):
            statuses.append(int(match[1]))
        log(line)

    command = ["repro", *arguments]  # not --quiet, which hides errors
    if (returncode := _run(project, command, environment, listen, grace_s)) != 0:
        raise subprocess.CalledProcessError(statuses[-1] if statuses else returncode, ["dvc", *command])


def is_up_to_date(project: Path, *, environment: Mapping[str, str], log: Callable[[str], object]) -> bool:
    """Whether ``dvc status`` finds every stage as recorded; arguments as for `repro`.

    Also False if DVC fails: its exit status is the same, and `repro` reports what is wrong.
    """
    return _run(project, ["status", "--quiet"], environment, log, GRACE_S) == 0


def _run(
    project: Path,
    command: list[str],
    environment: Mapping[str, str],
    log: Callable[[str], object],
    grace_s: float,
) -> int:
    lifeline, held_end = os.pipe()
    with os.fdopen(lifeline), os.fdopen(held_end, "wb") as held:
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
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.strip():
                    log(line.rstrip())
            return process.wait()
        finally:
            held.close()
            try:
                process.communicate(timeout=grace_s + 5.0)
            except subprocess.TimeoutExpired:  # it could not end its group by itself
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()


def main() -> int:
    """The process itself: ``python -m tasks.dvc_process LIFELINE GRACE_S COMMAND...``."""
    from dvc.exceptions import NotDvcRepoError

    lifeline, grace_s, *command = sys.argv[1:]
    # A flow in the background of a shell ignores SIGINT, and its children inherit that.
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
            os.killpg(0, signal.SIGKILL)  # this process, and the rest of its stage


def _end_with_the_flow(lifeline: int, grace_s: float, abandoned: threading.Event) -> None:
    os.read(lifeline, 1)  # returns when the flow's end is closed: nothing is ever written
    abandoned.set()
    # DVC ignores it while a stage runs, and sees the stage fail.
    os.killpg(0, signal.SIGINT)
    time.sleep(grace_s)
    os.killpg(0, signal.SIGKILL)


def _dvc(command: list[str], grace_s: float) -> int:
    from dvc.cli import main as dvc
    from dvc.logger import set_loggers_level
    from dvc.repo import Repo

    locks = Path(Repo.find_dvc_dir()) / "tmp"
    # An abandoned one may still be ending.
    with storage.locked(locks / "reproduction.lock", timeout_s=grace_s + 5.0):
        drop_locks_of_the_dead(locks)
        with set_loggers_level(logging.WARNING):
            return int(dvc(command))


def drop_locks_of_the_dead(folder: Path) -> None:
    """Remove the entries of processes that ended from DVC's lock file.

    DVC does so if no process has the id. But it takes a zombie for alive (in a container whose first
    process does not reap orphans), and another process that got the id since.

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

        def living(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return [entry for entry in entries if _is_alive(entry["pid"], written_s)]

        writers, readers = held.get("write", {}), held.get("read", {})
        kept = {
            "write": {name: entry for name, entry in writers.items() if living([entry])},
            "read": {name: left for name, entries in readers.items() if (left := living(entries))},
        }
        storage.write_json(path, kept)


def _is_alive(pid: int, written_s: float) -> bool:
    """Whether the process that wrote its id by ``written_s`` (seconds since the epoch) still runs."""
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
