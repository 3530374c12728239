"""The system around a process: streams, home and current folder made usable, its cores and its memory.

Only programs (commands and flows) change their process with this; the library does not.
"""

import atexit
import io
import math
import os
import select
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final, NoReturn

from quality_model import errors
from quality_model.errors import StorageError, redacted

NO_TELEMETRY: Final = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    "GX_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Nothing that we start phones home."""

_STANDARD: Final = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_KEEP_BYTES: Final = 2**30


class _Ascii(io.TextIOWrapper):
    """Writes ASCII. To a stream that says so click would write UTF-8."""

    encoding = "latin-1"


def prepare() -> None:
    """Make this process one that can be started from anywhere; for programs, not for the library."""
    _open_streams()
    errors.guard_logs()
    sys.excepthook = errors.show_bug
    settle_home()
    silence_telemetry()


def silence_telemetry() -> None:
    """Switch the telemetry of our dependencies off for this process and its children."""
    os.environ.update(NO_TELEMETRY)


def settle_home() -> None:
    """Give a user without a home a temporary one: libraries keep caches and settings there."""
    try:
        if Path.home().is_dir():
            return
    except (OSError, RuntimeError):  # a user id without an entry, and no HOME
        pass
    with suppress(OSError):
        home = tempfile.mkdtemp(prefix="home-")
        atexit.register(shutil.rmtree, home, ignore_errors=True)
        os.environ["HOME"] = home


def require_current_folder() -> None:
    """Check that the current folder was not deleted.

    Raises:
        StorageError: It was.
    """
    try:
        Path.cwd()
    except OSError:
        raise StorageError("The current folder was deleted.", "Change to one that exists.") from None


def _open_streams() -> None:
    """Open what is closed to nowhere, and let what an encoding does not have be escaped."""
    # A file that is opened later would get the number, and everything that is printed.
    while (number := os.open(os.devnull, os.O_RDWR)) < len(_STANDARD):
        os.set_inheritable(number, True)
    os.close(number)
    for number, (name, mode) in enumerate(_STANDARD):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False, encoding="utf-8"))  # noqa: SIM115
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper):
            continue
        stream.reconfigure(errors="backslashreplace")
        if stream.encoding.lower() in ("ascii", "us-ascii", "ansi_x3.4-1968", "646"):
            buffering = stream.line_buffering
            wrapped = _Ascii(stream.detach(), "ascii", "backslashreplace", line_buffering=buffering)
            setattr(sys, name, wrapped)


def say(message: str) -> None:
    """Write a line without credentials to stderr; that it cannot be written changes nothing."""
    with suppress(OSError, ValueError, RuntimeError):  # RuntimeError: a signal came while it was written to
        sys.stderr.write(f"{redacted(message)}\n")
        sys.stderr.flush()


def reader_is_gone() -> bool:
    """Whether nobody reads what is written to stdout or stderr, as behind ``| head -1``."""
    if not hasattr(select, "poll"):  # Windows: the write has failed, and nothing else says why
        return True
    poll = select.poll()
    for number in (1, 2):
        poll.register(number, select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def finish() -> None:
    """Write out what waits; what cannot be written is dropped, or Python would end with a code of its own."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def leave(code: int) -> NoReturn:
    """End the process with an exit code, also while an object store owes it an answer."""
    if (requests := sys.modules.get("quality_model.core.store_requests")) is not None:
        requests.exit_code = code  # type: ignore[attr-defined]
    sys.exit(code)


def num_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use: by its affinity and, on Linux, by the CPU quota of its cgroups.

    Args:
        root: Where the system's ``proc`` and ``sys`` are.

    Returns:
        At least 1; a quota of 1.5 CPUs counts as 2.
    """
    return max(1, min([_num_allowed(), *map(math.ceil, _quotas(root))]))


def limit_threads() -> None:
    """Let numeric libraries start no more threads than a CPU quota pays for.

    They know the affinity but not the quota. NumPy's OpenBLAS gets one thread: our matrices are small, and
    beside other work its threads wait for each other longer than they compute (docs/install.md). Call it
    before they are imported; worker processes inherit it. What the environment says already stays.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if num_cores() < _num_allowed():
        os.environ.setdefault("OMP_NUM_THREADS", str(num_cores()))


def retain_heap() -> bool:
    """Tell glibc to keep large freed blocks for reuse rather than hand them back at once.

    The blocks of one step are those of the next; handing them back costs a page fault for
    each page of each step. Holds for the whole process: call it where a job starts. A no-op
    on systems without glibc.

    Returns:
        Whether the settings took hold.
    """
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl has none
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def _num_allowed() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quotas(root: Path) -> Iterator[float]:
    """CPUs that the process's cgroups and their parents allow: ``cpu.max`` (v2), ``cpu.cfs_quota_us`` (v1).

    See the kernel's Documentation/admin-guide/cgroup-v2.rst and Documentation/scheduler/sched-bwc.rst.
    """
    groups = dict(_own_groups(_text(root / "proc" / "self" / "cgroup")))
    for line in _text(root / "proc" / "self" / "mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        is_v2 = kind[0] == "cgroup2"
        if not is_v2 and not (kind[0] == "cgroup" and "cpu" in kind[-1].split(",")):
            continue
        mounted, place = PurePosixPath(fields[3]), root / fields[4].lstrip("/")
        group = PurePosixPath(groups.get("" if is_v2 else "cpu", "/"))
        # In a container the group is often seen from outside while its own folder is what is mounted.
        inner = group.relative_to(mounted) if group.is_relative_to(mounted) else PurePosixPath()
        folders = [place] if ".." in inner.parts else [place / part for part in (inner, *inner.parents)]
        for folder in folders:
            with suppress(ValueError, ZeroDivisionError):
                if is_v2:
                    quota, period = _text(folder / "cpu.max").split()
                else:
                    quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
                if (cores := float(quota) / float(period)) > 0:  # no quota is "max" or -1
                    yield cores


def _own_groups(text: str) -> Iterator[tuple[str, str]]:
    """The path of the process's group by controller; that of cgroup v2 by an empty name."""
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            yield controller, path


def _text(path: Path) -> str:
    """The content of a file of the kernel; nothing where there is none."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
