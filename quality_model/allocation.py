"""How this process's memory is handed out: glibc's allocator, told what large arrays need."""

import sys
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_KEEP_BYTES: Final = 2**30


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
