"""Thumbnails that are kept while a job scores: a gallery of its result needs no second read of the images.

Kept are, of each head, the worst images and those nearest to its threshold, and a random sample of all. Which
these are, depends on keys and scores alone: not on parts, workers or interruptions. A thumbnail is made where
scores and pixels meet, and only if the image is among the chosen of those scored so far: of n images about
k ln(n / k) for a selection of k. At most `MOST` are in memory.

Each part leaves those of its own in ``thumbnails/``, written before the part is complete; a job that resumes
finds them there. The chosen ones of all parts are in ``report/thumbnails.parquet`` when the job is complete.
An update starts with these, and a thumbnail is a row's if key and SHA-256 of the image are. Places in the
selections that dropped or changed images leave are taken by the images that are next; of those which were
scored before there is no thumbnail until they are scored again.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from quality_model.core import storage
from quality_model.core.jobs import THUMBNAILS_FOLDER, part_name
from quality_model.records import HEADS, Head
from quality_model.score.reading import Reading
from quality_model.score.sketches import Rank, Thumbnail, Wanted, order_of, values_of
from quality_model.score.summary import REPORT_NAME

THUMBNAILS_NAME: Final = f"{REPORT_NAME}/thumbnails.parquet"

NUM_WORST: Final = 60
"""Images with the highest score, of each head."""

NUM_NEAREST: Final = 40
"""Images with the score nearest to the threshold, of each head that has one."""

NUM_RANDOM: Final = 120
"""Images of the random sample: those with the lowest first eight bytes of the SHA-256 of their key."""

SIZES: Final = (*[NUM_WORST] * len(HEADS), *[NUM_NEAREST] * len(HEADS), NUM_RANDOM)
"""Of the selections."""

MOST: Final = sum(SIZES)
"""Thumbnails of a result; an image that several selections have chosen has one."""

_FIRST_OUTSIDE: Final[Rank] = (float("inf"), 0)

SCHEMA: Final = pa.schema(
    {
        **dict.fromkeys(("key", "sha256"), pa.string()),
        "jpeg": pa.binary(),
        **{f"{head}_box": pa.list_(pa.float64()) for head in HEADS},
    }
)
"""The columns of a file of thumbnails (docs/results-format.md)."""


class _Kept(NamedTuple):
    """A thumbnail and the SHA-256 of the image that it shows."""

    sha256: str
    thumbnail: Thumbnail


class Selections:
    """The chosen of the images that were added so far, and the thumbnails of those that have one.

    Args:
        thresholds: Of the heads that have one.
        sizes: How many each selection has: the worst of each head, the nearest of each, the random ones.
    """

    def __init__(self, thresholds: Mapping[Head, float] | None, sizes: Sequence[int] = SIZES) -> None:
        self.thumbnails: dict[str, _Kept] = {}
        known = thresholds or {}
        self._thresholds = np.array([known.get(head, np.inf) for head in HEADS], np.float64)
        self._sizes = sizes
        self._heaps: list[list[tuple[float, int, str]]] = [[] for _ in sizes]  # the last rank first
        self._cutoffs: list[Rank] = [_FIRST_OUTSIDE] * len(sizes)
        self._uses: Counter[str] = Counter()

    def wanted(self, key: str) -> Wanted:
        """Which scores would make an image of this key one of the chosen."""
        return Wanted(key, self._thresholds, tuple(self._cutoffs))

    def add(self, key: str, scores: npt.NDArray[np.float32], kept: _Kept | None) -> None:
        """Add an image by its key, which is new, and its scores, float32 (4,)."""
        order = order_of(key)
        for number, value in enumerate(values_of(scores, self._thresholds).tolist()):
            if (value, order) >= self._cutoffs[number]:
                continue
            heap = self._heaps[number]
            heapq.heappush(heap, (-value, -order, key))
            self._uses[key] += 1
            if len(heap) > self._sizes[number]:
                self._release(heapq.heappop(heap)[-1])
            if len(heap) == self._sizes[number]:
                self._cutoffs[number] = (-heap[0][0], -heap[0][1])
        if kept is not None and key in self._uses:
            self.thumbnails[key] = kept

    def _release(self, key: str) -> None:
        self._uses[key] -= 1
        if not self._uses[key]:
            del self._uses[key]
            self.thumbnails.pop(key, None)

    def add_rows(self, table: pa.Table, kept: Mapping[str, _Kept]) -> None:
        """Add the rows of a part that have scores, and the thumbnails that are of their images."""
        keys, hashes = table["key"].to_pylist(), table["sha256"]
        scores = np.column_stack([table[head].to_numpy() for head in HEADS]).astype(np.float32)
        values = values_of(scores, self._thresholds)
        values[:, -1] = [order_of(key) for key in keys]  # to within rounding
        cutoffs = np.array([value for value, _ in self._cutoffs])
        if np.isfinite(cutoffs[-1]):
            cutoffs[-1] = self._cutoffs[-1][1]
        may_enter = ((values <= cutoffs) & np.isfinite(values)).any(axis=1) & np.isfinite(scores).all(axis=1)
        for row in np.flatnonzero(may_enter).tolist():
            known = kept.get(keys[row])
            is_same = known is not None and known.sha256 == hashes[row].as_py()
            self.add(keys[row], scores[row], known if is_same else None)


class ThumbnailKeeper:
    """The thumbnails of a job, from what it left before to the file of the complete result.

    Args:
        output: The job's folder.
        thresholds: Of its model.
        is_on: Without it none are made, and those that the folder has are removed.
    """

    def __init__(self, output: Path, thresholds: Mapping[Head, float] | None, *, is_on: bool) -> None:
        self._output, self._is_on = output, is_on
        self._selections = Selections(thresholds)
        self._before = _read(output / THUMBNAILS_NAME) if is_on else {}

    def add_part(self, number: int, table: pa.Table) -> None:
        """Add the rows of a finished part, with the thumbnails that there are."""
        if self._is_on:
            self._selections.add_rows(table, self._before | _read(self._path(number)))

    def wanted(self, key: str) -> Wanted | None:
        """What makes a thumbnail of the input of this key wanted; None: nothing."""
        return self._selections.wanted(key) if self._is_on else None

    def add(self, key: str, reading: Reading) -> None:
        """Add an input that was read and, unless it has an error, scored."""
        if self._is_on and reading.scores is not None and reading.sha256 is not None:
            made = reading.thumbnail
            kept = None if made is None else _Kept(reading.sha256, made)
            self._selections.add(key, reading.scores, kept)

    def write_part(self, number: int, table: pa.Table) -> None:
        """Write the chosen ones of a part's rows; call it before the part is written."""
        chosen = self._selections.thumbnails
        if rows := [chosen[key] for key in table["key"].to_pylist() if key in chosen]:
            _write(self._path(number), rows)

    def write(self) -> tuple[str, ...]:
        """Write the chosen ones of all parts, and give the name of the file in the job's folder."""
        if not self._is_on:
            storage.remove(self._output / THUMBNAILS_NAME)
            return ()
        _write(self._output / THUMBNAILS_NAME, self._selections.thumbnails.values())
        return (THUMBNAILS_NAME,)

    def must_remove(self) -> bool:
        """Whether the result has thumbnails that are not to be there."""
        return not self._is_on and (self._output / THUMBNAILS_NAME).exists()

    def remove_parts(self) -> None:
        """Remove those of the parts: the job is complete."""
        folder = self._output / THUMBNAILS_FOLDER
        for path in folder.glob("part-*.parquet"):
            path.unlink()
        with suppress(OSError):
            folder.rmdir()

    def _path(self, number: int) -> Path:
        return self._output / THUMBNAILS_FOLDER / Path(part_name(number)).name


def read_thumbnails(output: Path) -> dict[str, Thumbnail]:
    """The thumbnails of a complete result by key; none of one that was made without them."""
    return {key: kept.thumbnail for key, kept in _read(output / THUMBNAILS_NAME).items()}


def _read(path: Path) -> dict[str, _Kept]:
    """The thumbnails of a file by key; none where there is no such file, or it is damaged."""
    try:
        rows = pq.read_table(path, schema=SCHEMA).to_pylist()
    except (OSError, pa.ArrowException):
        return {}
    return {row["key"]: _Kept(row["sha256"], _thumbnail(row)) for row in rows}


def _thumbnail(row: Mapping[str, Any]) -> Thumbnail:
    boxes = {head: row[f"{head}_box"] for head in HEADS}
    return Thumbnail(row["key"], row["jpeg"], {head: box and tuple(box) for head, box in boxes.items()})


def _write(path: Path, chosen: Iterable[_Kept]) -> None:
    rows = [
        {
            "key": one.thumbnail.key,
            "sha256": one.sha256,
            "jpeg": one.thumbnail.jpeg,
            **{f"{head}_box": box for head, box in one.thumbnail.boxes.items()},
        }
        for one in sorted(chosen, key=lambda one: one.thumbnail.key)
    ]
    with storage.staged(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), temporary, compression="none")
