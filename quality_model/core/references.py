"""How a version is named: ``champion``, ``candidate``, ``3``, ``models:/name@alias``, ``models:/name/3``."""

import re
from typing import Final

from quality_model.errors import ModelNotFoundError

_REFERENCE: Final = re.compile(
    r"""(?: models:/ (?P<name>[^/@]+) (?: @ (?P<at>[A-Za-z0-9_.-]+) | / (?P<slash>[1-9][0-9]*) )
        | (?P<number>[1-9][0-9]*)
        | (?P<alias>[A-Za-z][A-Za-z0-9_-]*) )""",
    re.VERBOSE,
)


def is_reference(text: str) -> bool:
    """Whether a text has the form of a reference to a version."""
    return _REFERENCE.fullmatch(text.strip()) is not None


def parse_reference(reference: str) -> tuple[str | None, str | None, str | None]:
    """Split a reference into (name, alias, version); the name is None if left out, as is alias or version.

    Raises:
        ModelNotFoundError: It has none of the forms above.
    """
    match = _REFERENCE.fullmatch(reference.strip())
    if match is None:
        raise ModelNotFoundError(
            f"{reference!r} is not a registry reference.",
            "Use champion, candidate, a version number, models:/name@alias, models:/name/3, "
            "or a checkpoint file.",
        )
    return match["name"], match["at"] or match["alias"], match["slash"] or match["number"]
