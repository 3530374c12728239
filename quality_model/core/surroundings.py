"""What a process finds around it: streams, a home, a current folder; made usable where they are not."""

import atexit
import io
import os
import select
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from quality_model import errors
from quality_model.core import telemetry
from quality_model.errors import StorageError, redacted

_STANDARD: Final = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


class _Ascii(io.TextIOWrapper):
    """Writes ASCII. To a stream that says so click would write UTF-8."""

    encoding = "latin-1"


def prepare() -> None:
    """Make this process one that can be started from anywhere; for programs, not for the library."""
    _open_streams()
    errors.guard_logs()
    sys.excepthook = errors.show_bug
    settle_home()
    telemetry.silence()


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
