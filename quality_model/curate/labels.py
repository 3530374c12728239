"""Labels that a person gave to images: good or bad, per head."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, cast, get_args

from quality_model.errors import UsageError
from quality_model.records import HEADS, Head

Label = Literal["good", "bad"]
COLUMNS: Final = ("key", "head", "label")

Labels = Mapping[Head, Mapping[str, bool]]
"""By head and key: whether the image is bad."""


def read_labels(path: Path) -> Labels:
    """Read a CSV file with the columns key, head and label (good or bad); others are ignored.

    A label that is given twice counts once.

    Raises:
        UsageError: There is no such file, or a column is missing; a head or label is unknown; one image
            is both good and bad; or nothing is labelled.
    """
    found: dict[Head, dict[str, bool]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if missing := [name for name in COLUMNS if name not in (rows.fieldnames or ())]:
                raise UsageError(
                    f"{path} has no column {', '.join(missing)}.",
                    "Its first line is key,head,label; labels are good and bad.",
                )
            for row in rows:
                key, head, label = (row[name] or "" for name in COLUMNS)
                _check(head, HEADS, "head", f"{path}, line {rows.line_num}")
                _check(label, get_args(Label), "label", f"{path}, line {rows.line_num}")
                of_head = found.setdefault(cast(Head, head), {})
                if of_head.setdefault(key, label == "bad") != (label == "bad"):
                    raise UsageError(
                        f"{path} says of {key} both good and bad for {head}.", "Remove one of the lines."
                    )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read: {error}.", "Name a CSV file with key,head,label.") from None
    if not found:
        raise UsageError(f"{path} has no labels.", "Label images as good and as bad.")
    return {head: found[head] for head in HEADS if head in found}


def _check(value: str, allowed: tuple[str, ...], name: str, place: str) -> None:
    if value not in allowed:
        raise UsageError(f"{place}: the {name} is {value!r}.", f"A {name} is one of {', '.join(allowed)}.")
