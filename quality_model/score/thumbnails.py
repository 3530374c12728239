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
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from quality_model.core import storage
from quality_model.core.jobs import THUMBNAILS_FOLDER, part_name
from quality_model.core.parquet import read_columns
from quality_model.core.stores import is_in_store
from quality_model.records import HEADS, Head
from quality_model.score.reading import Reading
from quality_model.score.sketches import Rank, Wanted, order_of, values_of
from quality_model.score.sketches import Thumbnail as Thumbnail
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


_Id = tuple[str, str]
"""Key and SHA-256 of an image."""


class Selections:
    """The chosen of the images that were added so far, and the thumbnails of those that have one.

    Args:
        thresholds: Of the heads that have one.
        sizes: How many each selection has: the worst of each head, the nearest of each, the random ones.
    """

    def __init__(self, thresholds: Mapping[Head, float] | None, sizes: Sequence[int] = SIZES) -> None:
        self.thumbnails: dict[_Id, Thumbnail] = {}
        known = thresholds or {}
        self._thresholds = np.array([known.get(head, np.inf) for head in HEADS], np.float64)
        self._sizes = sizes
        self._heaps: list[list[tuple[float, int, _Id]]] = [[] for _ in sizes]  # the last rank first
        self._cutoffs: list[Rank] = [_FIRST_OUTSIDE] * len(sizes)
        self._uses: Counter[_Id] = Counter()

    def wanted(self, key: str) -> Wanted:
        """Which scores would make an image of this key one of the chosen."""
        return Wanted(key, self._thresholds, tuple(self._cutoffs))

    @property
    def chosen(self) -> set[str]:
        """Their keys."""
        return {key for key, _ in self._uses}

    def add(
        self, key: str, sha256: str, scores: npt.NDArray[np.float32], thumbnail: Thumbnail | None
    ) -> None:
        """Add an image by its key, which is new, and its scores, float32 (4,)."""
        order, one = order_of(key), (key, sha256)
        for number, value in enumerate(values_of(scores, self._thresholds).tolist()):
            if (value, order) >= self._cutoffs[number]:
                continue
            heap = self._heaps[number]
            heapq.heappush(heap, (-value, -order, one))
            self._uses[one] += 1
            if len(heap) > self._sizes[number]:
                self._release(heapq.heappop(heap)[-1])
            if len(heap) == self._sizes[number]:
                self._cutoffs[number] = (-heap[0][0], -heap[0][1])
        if thumbnail is not None and one in self._uses:
            self.thumbnails[one] = thumbnail

    def _release(self, one: _Id) -> None:
        self._uses[one] -= 1
        if not self._uses[one]:
            del self._uses[one]
            self.thumbnails.pop(one, None)

    def add_rows(self, table: pa.Table, known: Mapping[_Id, Thumbnail]) -> None:
        """Add the rows of a part that have scores, and what is known of the thumbnails of their images."""
        keys, hashes = table["key"].to_pylist(), table["sha256"]
        scores = np.column_stack([table[head].to_numpy() for head in HEADS]).astype(np.float32)
        values = values_of(scores, self._thresholds)
        values[:, -1] = [order_of(key) for key in keys]  # to within rounding
        cutoffs = np.array([value for value, _ in self._cutoffs])
        if np.isfinite(cutoffs[-1]):
            cutoffs[-1] = self._cutoffs[-1][1]
        may_enter = ((values <= cutoffs) & np.isfinite(values)).any(axis=1) & np.isfinite(scores).all(axis=1)
        for row in np.flatnonzero(may_enter).tolist():
            key, sha256 = keys[row], hashes[row].as_py()
            self.add(key, sha256, scores[row], known.get((key, sha256)))


class ThumbnailKeeper:
    """The thumbnails of a job, from what it left before to the file of the complete result.

    Args:
        output: The job's folder.
        thresholds: Of its model.
        parts: Of the job. Their thumbnails are read with them; those of all others, at once.
        is_on: Without it none are made, and those that the folder has are removed.
    """

    def __init__(
        self,
        output: Path,
        thresholds: Mapping[Head, float] | None,
        parts: Collection[int],
        *,
        is_on: bool,
    ) -> None:
        self._output, self._is_on = output, is_on
        self._selections = Selections(thresholds)
        of_parts = {self._path(number) for number in parts}
        others = [path for path in self._parts() if path not in of_parts]
        paths = [output / THUMBNAILS_NAME, *others] if is_on else []
        self._before = {one: thumbnail for path in paths for one, thumbnail in _read(path).items()}

    def add_part(self, number: int, table: pa.Table) -> None:
        """Add the rows of a finished part, with the thumbnails that there are."""
        if self._is_on:
            self._selections.add_rows(table, {**self._before, **_read(self._path(number))})

    def wanted(self, key: str) -> Wanted | None:
        """What makes a thumbnail of the input of this key wanted; None: nothing."""
        return self._selections.wanted(key) if self._is_on else None

    def add(self, key: str, reading: Reading) -> None:
        """Add an input that was read and, unless it has an error, scored."""
        if self._is_on and reading.scores is not None and reading.sha256 is not None:
            self._selections.add(key, reading.sha256, reading.scores, reading.thumbnail)

    def write_part(self, number: int, table: pa.Table) -> None:
        """Write the chosen ones of a part's rows; call it before the part is written."""
        keys = {*table["key"].to_pylist()}
        chosen = {one: made for one, made in self._selections.thumbnails.items() if one[0] in keys}
        if chosen:
            _write(self._path(number), chosen)

    def write(self) -> tuple[str, ...]:
        """Write the chosen ones of all parts to the file of the result, remove those of the parts, and give
        the file's name."""
        path = self._output / THUMBNAILS_NAME
        if self._is_on:
            _write(path, self._selections.thumbnails)
        else:
            storage.remove(path)
        for part in self._parts():
            part.unlink(missing_ok=True)
        with suppress(OSError):  # what a user put there stays
            (self._output / THUMBNAILS_FOLDER).rmdir()
        return (THUMBNAILS_NAME,) if self._is_on else ()

    def must_remove(self) -> bool:
        """Whether the result has thumbnails that are not to be there."""
        return not self._is_on and (self._output / THUMBNAILS_NAME).is_file()

    def _path(self, number: int) -> Path:
        return self._output / THUMBNAILS_FOLDER / Path(part_name(number)).name

    def _parts(self) -> list[Path]:
        return [*(self._output / THUMBNAILS_FOLDER).glob("part-*.parquet")]


def read_thumbnails(output: Path) -> dict[str, Thumbnail]:
    """The thumbnails of a complete result by key; none of one that was made without them."""
    return {key: thumbnail for (key, _), thumbnail in _read(output / THUMBNAILS_NAME).items()}


def _read(path: Path) -> dict[_Id, Thumbnail]:
    """The thumbnails of a file; none where there is no such file, or it is damaged.

    Raises:
        StorageError: The object store does not give it.
    """
    try:
        rows = read_columns(path).cast(SCHEMA).to_pylist()
    except (OSError, pa.ArrowException) as error:
        if is_in_store(path) and not isinstance(error, FileNotFoundError | pa.ArrowException):
            raise storage.explain(error, path) from error
        return {}
    return {(row["key"], row["sha256"]): _thumbnail(row) for row in rows}


def _thumbnail(row: Mapping[str, Any]) -> Thumbnail:
    boxes = {head: row[f"{head}_box"] for head in HEADS}
    return Thumbnail(row["key"], row["jpeg"], {head: box and tuple(box) for head, box in boxes.items()})


def _write(path: Path, thumbnails: Mapping[_Id, Thumbnail]) -> None:
    rows = [
        {
            **{"key": key, "sha256": sha256, "jpeg": one.jpeg},
            **{f"{head}_box": box for head, box in one.boxes.items()},
        }
        for (key, sha256), one in sorted(thumbnails.items(), key=lambda item: item[0])
    ]
    with storage.staged(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), temporary, compression="none")
