"""The standard streams: usable where they are closed, able to write any name, and left in order."""

import io
import os
import select
import sys
from contextlib import suppress
from typing import Final

from quality_model.redaction import redacted

_STANDARD: Final = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


class _Ascii(io.TextIOWrapper):
    """Writes ASCII. To a stream that says so click would write UTF-8."""

    encoding = "latin-1"


def prepare() -> None:
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
