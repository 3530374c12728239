"""Images whose decoding ends or hangs the process that decodes them, as faults of decoders do.

Worker processes are new Python processes: a ``sitecustomize`` on their path replaces Pillow's
open by one that obeys a word in the bytes. The process of the tests is not changed.
"""

import os
from pathlib import Path
from typing import Final, Literal

import pytest

Behaviour = Literal["crash", "hang", "exit", "raise", "no memory", "slow", "fatal"]

_MARK: Final = "hostile image: "

_SITECUSTOMIZE: Final = f"""
import os, signal, time
from PIL import Image

opened = Image.open

def obey(file, *arguments, **options):
    if hasattr(file, "read"):
        data = file.read()
        file.seek(0)
        behaviour = data.rpartition({_MARK.encode()!r})[2] if {_MARK.encode()!r} in data else b""
        if behaviour == b"crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if behaviour == b"hang":
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            time.sleep(600)
        if behaviour == b"exit":
            os._exit(0)
        if behaviour == b"raise":
            raise LookupError("unforeseen")
        if behaviour == b"no memory":
            raise MemoryError
        if behaviour == b"slow":
            time.sleep(1.0)
        if behaviour == b"fatal":
            os.kill(os.getppid(), signal.SIGKILL)
    return opened(file, *arguments, **options)

Image.open = obey
"""


def decoders_obey_images(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Give every Python process that starts from now on a decoder that images can harm."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(_SITECUSTOMIZE)
    patch.setenv("PYTHONPATH", str(folder), prepend=":")


def hostile(image: bytes, behaviour: Behaviour) -> bytes:
    """The encoded image with a word after its end that such a decoder obeys."""
    return image + _MARK.encode() + behaviour.encode()


class Canary:
    """What a hostile pickle holds: loading it would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)
