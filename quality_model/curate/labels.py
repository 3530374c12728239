"""Labels that a person gave to images, good or bad; how well scores follow them; what to label next."""

import csv
import io
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, cast, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from quality_model.core.measures import Hashes, near
from quality_model.errors import UsageError
from quality_model.records import HEADS, Head

Floats = npt.NDArray[np.float64]
Label = Literal["good", "bad"]
COLUMNS: Final = ("key", "head", "label")

Labels = Mapping[Head, Mapping[str, bool]]
"""By head and key: whether the image is bad."""

_NEAR: Final = 5
"""So many times the images that are asked for are near the threshold."""

_Z: Final = 1.959964
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


# -- how well scores follow them


@dataclass(frozen=True, slots=True)
class Measured:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float


def area_under_curve(good: Floats, bad: Floats) -> float:
    """The share of (bad, good) pairs in which the bad one scores higher, a tie being half a pair.

    Source: Bamber, The area above the ordinal dominance graph, J. Math. Psychol. 12, 1975.

    Args:
        good, bad: (n,) and (m,), at least one of each.
    """
    ordered = np.sort(good)
    below, not_above = (np.searchsorted(ordered, bad, side=side) for side in ("left", "right"))
    return float((below + not_above).mean() / (2 * len(ordered)))


def auc_interval(area: float, num_good: int, num_bad: int) -> Measured:
    """An area under the ROC curve with its 95 % interval.

    Its ends are the areas t that are 1.96 standard deviations s(t) away from the one that was found, with
    s(t)^2 = t (1 - t) (1 + k (1 - t) / (2 - t) + k t / (1 + t)) / (m n) and k = (m + n) / 2 - 1. This is the
    variance of Hanley and McNeil (Radiology 143, 1982) in the form of method 5 of Newcombe (Statistics in
    Medicine 25, 2006, 559-573, doi:10.1002/sim.2324), the one recommended there: it stays in [0, 1], and an
    area of 1 has an interval. A simulation in the tests shows its coverage at 10 and 20 images of each.
    """
    around = (num_good + num_bad) / 2.0 - 1.0

    def is_compatible(true: float) -> bool:
        spread = 1.0 + around * ((1.0 - true) / (2.0 - true) + true / (1.0 + true))
        variance = true * (1.0 - true) * spread / (num_good * num_bad)
        return abs(true - area) <= _Z * math.sqrt(variance)

    def end(outside: float) -> float:
        inside = area
        for _ in range(50):
            middle = (inside + outside) / 2.0
            inside, outside = (middle, outside) if is_compatible(middle) else (inside, middle)
        return inside

    return Measured(area, end(0.0), end(1.0))


# -- what to label next


def choose_next(
    rows: pa.Table, head: Head, threshold: float, labelled: Collection[str], count: int
) -> list[str]:
    """Keys of the images whose labels would say most about a threshold, the nearest first.

    Labels near the threshold say most (uncertainty sampling: Lewis and Gale, SIGIR 1994), and alike images
    say the same. So: the 5 ``count`` images nearest to it, in order of score, are parted into ``count``
    strata; from each the nearest is taken that is no near duplicate of a labelled or chosen image; what is
    missing then are the nearest of the others.

    Args:
        rows: With the columns ``key``, ``sha256``, the head, and ``phash``; an image without that, or a plain
            one, is like the same file alone.
        threshold: In [0, 1].
        labelled: Keys that have a label of this head.
        count: At most so many are chosen.
    """
    table = rows.filter(pc.is_valid(rows[head]))
    has_label = pc.is_in(table["key"], value_set=pa.array(list(labelled), pa.string()))
    taken = _hashes_of(table.filter(has_label))
    taken_files = {*table.filter(has_label)["sha256"].to_pylist()}
    open_ones = table.filter(pc.invert(has_label))
    distance = np.abs(open_ones[head].to_numpy().astype(np.float64) - threshold)
    nearest = pa.array(np.argsort(distance, kind="stable")[: _NEAR * count])
    close = open_ones.take(nearest).sort_by([(head, "ascending"), ("key", "ascending")])
    keys, files, hashes = close["key"].to_pylist(), close["sha256"].to_pylist(), _hashes_of(close)
    distance = np.abs(close[head].to_numpy().astype(np.float64) - threshold)
    chosen: list[int] = []

    def take(places: npt.NDArray[np.intp], most: int) -> None:
        nonlocal taken
        for place in places[np.argsort(distance[places], kind="stable")].tolist():
            is_new = files[place] not in taken_files and not near(taken, hashes[place]).any()
            if most and place not in chosen and is_new:
                chosen.append(place)
                taken_files.add(files[place])
                taken = np.append(taken, hashes[place])
                most -= 1

    everything = np.arange(len(keys))
    strata = np.array_split(everything, max(1, min(count, len(keys)))) if keys else []
    for stratum in sorted(strata, key=lambda places: float(distance[places].min())):
        take(stratum, 1)
    take(everything, count - len(chosen))
    return [keys[place] for place in sorted(chosen, key=lambda place: (distance[place], place))]


def _hashes_of(rows: pa.Table) -> Hashes:
    """uint64 (N,): the hash of each row; 0, which is like no other, of one without."""
    hashes = rows["phash"] if "phash" in rows.column_names else pa.nulls(len(rows), pa.int64())
    return np.asarray(hashes.fill_null(0).to_numpy(zero_copy_only=False)).view(np.uint64)
