"""The hash of code that a result hangs on."""

import hashlib
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def code_sha256(parts: Iterable[str], packages: Iterable[str]) -> str:
    """Hash parts of this library, and the versions of packages under it; 64 hex digits.

    Args:
        parts: Modules and folders, relative to this package, such as ``images.py`` or ``degradations``.
        packages: Names of installed distributions. A local version (what follows a +) does not count.
    """
    places = [_PACKAGE / part for part in parts]
    files = [f for place in places for f in (sorted(place.rglob("*.py")) if place.is_dir() else [place])]
    known = [f"{name} {version(name).partition('+')[0]}".encode() for name in packages]
    return hashlib.sha256(b"\n".join([*known, *(f.read_bytes() for f in files)])).hexdigest()
