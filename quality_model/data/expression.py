"""What ``source.dataset`` may say: one source, or several joined by `` + ``, each with its ``*NUMBER``."""

import re
from typing import Final

JOINT: Final = " + "
"""Joins the sources of an expression like ``sample-photos*250 + ./images``."""

REPOSITORY: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
"""``owner/name`` of the Hugging Face hub."""

_COUNTED: Final = re.compile(r"(?P<name>.*\S)\*(?P<count>\d+)")
_SEPARATORS: Final = re.compile(r"[/\\]+")


def split_expression(dataset: str) -> list[tuple[str, int | None]]:
    """The sources that an expression joins, each with its number of images; None if it shares the rest."""
    found: list[tuple[str, int | None]] = []
    for part in dataset.split(JOINT):
        counted = _COUNTED.fullmatch(part.strip())
        found.append((counted["name"], int(counted["count"])) if counted else (part.strip(), None))
    return found


def without_folders(dataset: str) -> str:
    """The expression without paths of this machine: of a folder's path, its last name alone."""
    parts = []
    for name, count in split_expression(dataset):
        shown = name if REPOSITORY.fullmatch(name) else _SEPARATORS.split(name.rstrip("/\\"))[-1]
        parts.append(shown if count is None else f"{shown}*{count}")
    return JOINT.join(parts)
