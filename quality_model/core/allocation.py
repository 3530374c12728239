"""What the system gives this process: its cores, and memory kept for the large arrays of each step."""

import math
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_KEEP_BYTES: Final = 2**30


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

    They know the affinity but not the quota. Call it before they are imported; worker processes inherit
    it. What OMP_NUM_THREADS says already stays.
    """
    if num_cores() < _num_allowed():
        os.environ.setdefault("OMP_NUM_THREADS", str(num_cores()))


def keep_freed_memory() -> bool:
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
