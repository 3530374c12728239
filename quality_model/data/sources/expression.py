"""What ``source.dataset`` may say: one source, or several joined by `` + ``, each with its ``*NUMBER``."""

import re
from typing import Final, NamedTuple

JOINT: Final = " + "
REPOSITORY: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
"""``owner/name`` of the Hugging Face hub."""

_COUNTED: Final = re.compile(r"(?P<name>.*\S)\*(?P<count>\d+)")
_SEPARATORS: Final = re.compile(r"[/\\]+")


class Part(NamedTuple):
    """One source, and how many images it is to give; None: its share of what the others leave."""

    name: str
    num_images: int | None


def parts(dataset: str) -> list[Part]:
    """The sources that an expression joins."""
    names = [name.strip() for name in dataset.split(JOINT)]
    found = [(_COUNTED.fullmatch(name), name) for name in names]
    return [Part(match["name"], int(match["count"])) if match else Part(name, None) for match, name in found]


def without_folders(dataset: str) -> str:
    """The expression as it may leave this machine: of a folder's path, its last name alone."""
    return JOINT.join(
        _last_name(name) if wanted is None else f"{_last_name(name)}*{wanted}"
        for name, wanted in parts(dataset)
    )


def _last_name(source: str) -> str:
    if REPOSITORY.fullmatch(source):
        return source
    return _SEPARATORS.split(source.rstrip("/\\"))[-1]
