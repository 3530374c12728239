"""What the system gives this process: its cores, and memory kept for the large arrays of each step."""

import os
import sys
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_KEEP_BYTES: Final = 2**30


def num_cores() -> int:
    """Cores that this process may run on; where the system does not say, those of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
