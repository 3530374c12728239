"""What ``source.dataset`` may say: one source, or several joined by `` + ``, each with its ``*NUMBER``."""

import re
from typing import Final, NamedTuple

JOINT: Final = " + "
"""Joins the sources of an expression like ``sample-photos*250 + ./images``."""

REPOSITORY: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
"""``owner/name`` of the Hugging Face hub."""

_COUNTED: Final = re.compile(r"(?P<name>.*\S)\*(?P<count>\d+)")
_SEPARATORS: Final = re.compile(r"[/\\]+")


class Part(NamedTuple):
    """One source of an expression; ``num_images`` is None if it shares the rest with others."""

    name: str
    num_images: int | None


def split_expression(dataset: str) -> list[Part]:
    """The sources that an expression joins."""
    names = [name.strip() for name in dataset.split(JOINT)]
    found = [(_COUNTED.fullmatch(name), name) for name in names]
    return [Part(match["name"], int(match["count"])) if match else Part(name, None) for match, name in found]


def without_folders(dataset: str) -> str:
    """The expression without paths of this machine: of a folder's path, its last name alone."""
    return JOINT.join(
        _last_name(part.name) if part.num_images is None else f"{_last_name(part.name)}*{part.num_images}"
        for part in split_expression(dataset)
    )


def _last_name(source: str) -> str:
    if REPOSITORY.fullmatch(source):
        return source
    return _SEPARATORS.split(source.rstrip("/\\"))[-1]
