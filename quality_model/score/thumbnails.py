"""Small images that a job kept of some inputs, so that looking at its result needs no second read."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from quality_model.records import HEADS, Head

_TABLE_NAME = "report/thumbnails.parquet"


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small JPEG image; ``boxes`` are of the view that decided a head's score.

    A box is left, top, right and bottom as fractions of the upright image; None: the whole view decided.
    """

    key: str
    jpeg: bytes
    boxes: Mapping[Head, tuple[float, float, float, float] | None]


def read_thumbnails(output: Path) -> dict[str, Thumbnail]:
    """The thumbnails of a result by key; none for a result without them."""
    path = output / _TABLE_NAME
    if not path.exists():
        return {}
    found = {}
    for row in pq.read_table(path).to_pylist():
        boxes = {head: None if (box := row[f"box_{head}"]) is None else tuple(box) for head in HEADS}
        found[row["key"]] = Thumbnail(row["key"], row["jpeg"], boxes)
    return found
