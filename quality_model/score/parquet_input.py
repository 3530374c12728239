"""Parquet files of images: how rows are called, and their values."""

import logging
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from quality_model.core import folders
from quality_model.errors import CorruptError, ImageError
from quality_model.score.parquet_columns import (
    Columns,
    content_of,
    first_line,
    leaf_of,
    open_parquet,
    split_column,
)

_ROWS_AT_ONCE: Final = 64
_log = logging.getLogger(__name__)


Row = tuple[str, str, int, tuple[str, ...]]
"""Key, file name, row and columns of images."""


def list_keys(files: Sequence[tuple[str, Path, Columns]]) -> Iterator[Row]:
    """List the rows; no two keys are the same.

    A row's key is its value in the key column, or ``file#row`` where there is none, it cannot be
    read, or it is the image itself as base64 text. Where a key
    occurs twice in the collection, every key gets its file in front, ``file#key``; one that
    occurs twice in one file then gets its number behind, ``file#key#2``.
    Memory holds eight bytes for each row, and the keys that occur twice in one file.

    Raises:
        CorruptError: See `open_parquet`.
    """

    damaged: set[str] = set()

    def rows(in_front: bool) -> Iterator[Row]:
        for name, path, columns in files:
            for row, key in enumerate(_keys(path, name, columns.key, damaged)):
                if key is None:
                    yield f"{name}#{row}", name, row, columns.images
                else:
                    yield (f"{name}#{key}" if in_front else key), name, row, columns.images

    if all(columns.key is None for _, _, columns in files) or not _repeated(rows(False))[0]:
        yield from rows(False)
        return
    _log.warning("Keys occur twice: each gets the name of its file in front, as in file.parquet#key.")
    repeated, taken = _repeated(rows(True))
    times_seen: Counter[str] = Counter()
    for key, *rest in rows(True):
        unique = key
        if hash(key) in repeated:
            times_seen[key] += 1
            while times_seen[key] > 1 and _is_in(taken, hash(unique := f"{key}#{times_seen[key]}")):
                times_seen[key] += 1
        yield unique, *rest  # type: ignore[misc]


class RowReader:
    """Reads rows one after the other; a row group is begun again only when rows are skipped."""

    def __init__(self) -> None:
        self._at: tuple[Path, Sequence[str], int] | None = None
        self._rows: Iterator[bytes | Path | ImageError] = iter(())

    def read(self, path: Path, name: str, row: int, columns: Sequence[str]) -> bytes | Path | ImageError:
        """Give a row's encoded bytes, the path of its image, or why it has neither."""
        if self._at != (path, columns, row):
            self._rows = _rows(path, name, row, columns)
        self._at = (path, columns, row + 1)
        lost = ImageError("unreadable_rows", f"{name} no longer has this row")
        return next(self._rows, lost)


def _rows(path: Path, name: str, first: int, columns: Sequence[str]) -> Iterator[bytes | Path | ImageError]:
    import pyarrow as pa

    try:
        file = open_parquet(path, name)
    except CorruptError as error:
        while True:
            yield ImageError("unreadable_rows", error.problem)
    with file:
        places = [place for column in columns if (place := split_column(file.schema_arrow.names, column))]
        if len(places) < len(columns):
            return
        tops = [top for top, _ in places]
        begin = 0
        for group in range(file.num_row_groups):
            end = begin + file.metadata.row_group(group).num_rows
            row = begin
            try:
                if end > first:
                    batches = file.iter_batches(batch_size=_ROWS_AT_ONCE, row_groups=[group], columns=tops)
                    for batch in batches:
                        at = [batch.schema.get_all_field_indices(top)[0] for top in tops]
                        for values in zip(*(batch.column(number) for number in at), strict=True):
                            if row >= first:
                                yield _image(values, [fields for _, fields in places], path.parent)
                            row += 1
            except (pa.ArrowException, OSError) as error:
                lost = ImageError("unreadable_rows", first_line(error))
                yield from (lost for _ in range(max(row, first), end))
            begin = end


def _image(values: Sequence[Any], places: Sequence[Sequence[str]], folder: Path) -> bytes | Path | ImageError:
    """The image in the first of a row's values that is not null; ``places`` are the fields inside each."""
    try:
        for value, fields in zip(values, places, strict=True):
            content = content_of(value, fields)
            if isinstance(content, bytes):
                return content
            if content:
                return folders.inside(folder, content)
    except ImageError as error:
        return error
    except (ValueError, OverflowError) as error:
        return ImageError("unreadable_rows", f"the value cannot be read: {first_line(error)}")
    return ImageError("missing", "the row holds neither bytes nor a path")


def _keys(path: Path, name: str, column: str | None, damaged: set[str]) -> Iterator[str | None]:
    """Each row's value in the key column; None where it has none, or none that can be read."""
    import pyarrow as pa

    with open_parquet(path, name) as file:
        place = None if column is None else split_column(file.schema_arrow.names, column)
        row = end = 0
        for group in range(file.num_row_groups):
            end += file.metadata.row_group(group).num_rows
            try:
                if place is not None:
                    for batch in file.iter_batches(10_000, row_groups=[group], columns=[place[0]]):
                        for value in batch.column(0):
                            yield _key(value, place[1])
                            row += 1
            except (pa.ArrowException, OSError) as error:
                if name not in damaged:
                    _log.warning(
                        "%s: its column %s cannot be read from row %d on (%s): these rows get their numbers"
                        " as keys.",
                        *(name, column, row, first_line(error)),
                    )
                damaged.add(name)
            yield from (None for _ in range(row, end))
            row = end


def _key(value: Any, fields: Sequence[str]) -> str | None:
    try:
        value = leaf_of(value, fields)
        key = None if value is None else value.as_py()
    except ImageError:
        return None
    except (ValueError, OverflowError):
        key = value.as_buffer().to_pybytes() if hasattr(value, "as_buffer") else None
    if isinstance(key, bytes):
        key = key.decode("utf-8", "backslashreplace")
    return None if key is None or folders.is_base64_image(str(key)) else str(key)


def _repeated(rows: Iterator[Row]) -> tuple[set[int], npt.NDArray[np.int64]]:
    """The hashes of keys that occur more than once, and those of all keys, sorted."""
    hashes = array("q", (hash(key) for key, *_ in rows))
    values, counts = np.unique(np.frombuffer(hashes, dtype=np.int64), return_counts=True)
    return set(values[counts > 1].tolist()), values


def _is_in(values: npt.NDArray[np.int64], value: int) -> bool:
    place = int(np.searchsorted(values, value))
    return place < len(values) and int(values[place]) == value
