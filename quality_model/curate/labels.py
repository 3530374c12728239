"""Labels that a person gave to images: good or bad, per head."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, cast, get_args

from quality_model.errors import UsageError
from quality_model.records import HEADS, Head

Label = Literal["good", "bad"]
COLUMNS: Final = ("key", "head", "label")

Labels = Mapping[Head, Mapping[str, bool]]
"""By head and key: whether the image is bad."""

_DELIMITERS: Final = (",", ";", "\t")
_HEADER: Final = "Its first line is key,head,label; labels are good and bad."


def read_labels(path: Path) -> Labels:
    """Read a CSV file with the columns key, head and label (good or bad); others are ignored.

    Commas, semicolons or tabs part the columns. Case does not matter but in keys, nor do spaces around
    cells. The text is UTF-8, or UTF-16 with a byte order mark. A label that is given twice counts once.

    Raises:
        UsageError: There is no such file, it is empty, or a column or the header is missing; a head or label
            is unknown; one image is both good and bad; or nothing is labelled.
    """
    found: dict[Head, dict[str, bool]] = {}
    try:
        text = _text(path)
        if not text.strip():
            raise UsageError(f"{path} is empty.", _HEADER)
        delimiter = max(_DELIMITERS, key=text.partition("\n")[0].count)
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        names = [name.strip().lower() for name in next(rows)]
        _require_header(names, path)
        places = [names.index(name) for name in COLUMNS]
        for row in filter(None, rows):
            cells = [cell.strip() for cell in row] + [""] * len(names)
            key, head, label = (cells[place] for place in places)
            head, label = head.lower(), label.lower()
            _check(head, HEADS, "head", f"{path}, line {rows.line_num}")
            _check(label, get_args(Label), "label", f"{path}, line {rows.line_num}")
            of_head = found.setdefault(cast(Head, head), {})
            if of_head.setdefault(key, label == "bad") != (label == "bad"):
                raise UsageError(
                    f"{path} says of {key} both good and bad for {head}.", "Remove one of the lines."
                )
    except (OSError, UnicodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read: {error}.", "Name a CSV file with key,head,label.") from None
    if not found:
        raise UsageError(f"{path} has no labels.", "Label images as good and as bad.")
    return {head: found[head] for head in HEADS if head in found}


def _text(path: Path) -> str:
    data = path.read_bytes()
    is_utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    return data.decode("utf-16" if is_utf16 else "utf-8-sig")


def _require_header(names: list[str], path: Path) -> None:
    missing = [name for name in COLUMNS if name not in names]
    if not missing:
        return
    if {*HEADS, *get_args(Label)} & {*names}:
        raise UsageError(f"{path} has no header: its first line is a label.", f"Add it. {_HEADER}")
    raise UsageError(f"{path} has no column {', '.join(missing)}.", _HEADER)


def _check(value: str, allowed: tuple[str, ...], name: str, place: str) -> None:
    if value not in allowed:
        raise UsageError(f"{place}: the {name} is {value!r}.", f"A {name} is one of {', '.join(allowed)}.")
