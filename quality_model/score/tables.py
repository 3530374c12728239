"""Tables of images, Parquet or Arrow files: their rows one after the other, as keys and as images."""

import logging
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from quality_model.core import folders, objects
from quality_model.core.folders import ListedFile, printable
from quality_model.core.stores import is_in_store, is_store_address
from quality_model.errors import CorruptError, ImageError
from quality_model.score.reading import (
    PlannedInput,
    Source,
    Stored,
    Url,
    hashes_of,
    image_at,
    repeated_hashes,
)

_IMAGES_AT_ONCE, _KEYS_AT_ONCE = 64, 10_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Columns:
    """Where a file keeps its images and keys; dots lead into records, and no key column is None.

    A row's image is in the first of the columns ``images`` that is not null there. ``problem`` says
    why the file cannot be read; then it has no columns.
    """

    images: tuple[str, ...] = ()
    key: str | None = None
    problem: str | None = None


class TableFile:
    """An open file with rows in groups; a reader begins at the start of a group."""

    schema: pa.Schema
    rows_of_groups: Sequence[int]

    def batches(self, group: int, columns: Sequence[str], num_rows: int) -> Iterator[pa.RecordBatch]:
        """The rows of a group, at most so many at once.

        Raises:
            pa.ArrowException, OSError: The file is damaged there.
        """
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _ParquetFile(TableFile):
    def __init__(self, source: Any, *, use_threads: bool = True) -> None:
        self._use_threads = use_threads
        self._file = pq.ParquetFile(source, buffer_size=1 << 20, pre_buffer=False)
        self.schema = self._file.schema_arrow
        metadata = self._file.metadata
        self.rows_of_groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]

    def batches(self, group: int, columns: Sequence[str], num_rows: int) -> Iterator[pa.RecordBatch]:
        yield from self._file.iter_batches(
            num_rows, row_groups=[group], columns=columns, use_threads=self._use_threads
        )

    def close(self) -> None:
        self._file.close()


class _ArrowFile(TableFile):
    """Record batches, as `datasets` saves them (a stream) or as an IPC file; one batch is a group.

    They are read through a memory map: what is not asked for is not read. An object is copied first.
    """

    def __init__(self, source: Any) -> None:
        self._source = source
        try:
            opened = pa.ipc.open_file(source)
            batches = [opened.get_batch(number) for number in range(opened.num_record_batches)]
        except pa.ArrowInvalid:
            source.seek(0)
            opened = pa.ipc.open_stream(source)
            batches = list(opened)
        self.schema = opened.schema
        self._batches = batches
        self.rows_of_groups = [batch.num_rows for batch in batches]

    def batches(self, group: int, columns: Sequence[str], num_rows: int) -> Iterator[pa.RecordBatch]:
        batch = self._batches[group].select(list(columns))
        for first in range(0, batch.num_rows, num_rows):
            yield batch.slice(first, num_rows)

    def close(self) -> None:
        self._batches = []
        self._source.close()


def open_table(path: Path, name: str) -> TableFile:
    """Open a Parquet file, or an Arrow file if its name ends in ``.arrow``.

    Raises:
        CorruptError: It is no such file, or is cut; the message names it.
    """
    is_arrow = path.name.lower().endswith(".arrow")
    try:
        if is_in_store(path):
            if is_arrow:
                return _ArrowFile(_mapped(path))
            # A thread of PyArrow that holds a Python file when the interpreter ends aborts the process.
            return _ParquetFile(objects.open_file(path), use_threads=False)
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its writer
            raise OSError("it is a folder, a pipe or a device")
        if is_arrow:
            return _ArrowFile(pa.memory_map(os.fsencode(path)))
        source: Any = path
        try:
            str(path).encode()
        except UnicodeEncodeError:  # PyArrow takes such a name as bytes
            source = pa.OSFile(os.fsencode(path))
        return _ParquetFile(source)
    except (pa.ArrowException, OSError) as error:
        kind = "Arrow" if is_arrow else "Parquet"
        raise CorruptError(
            f"{name} cannot be read as {kind}: {first_line(error)}", "Replace it or move it away."
        ) from None


def _mapped(path: Path) -> Any:
    with objects.copied(path) as copy:
        return pa.memory_map(str(copy))


def first_line(error: BaseException) -> str:
    """The first line of what an error says."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def list_rows(files: Sequence[tuple[ListedFile, Path, Columns]]) -> Iterator[PlannedInput]:
    """List the rows of Parquet files; no two keys are the same.

    A row's key is its value in the key column, or ``file#row`` where there is none, it cannot be read, or it
    is the image itself as base64 text. Where a key occurs twice in the collection, every key gets its file in
    front, ``file#key``; one that occurs twice in one file then gets its number behind, ``file#key#2``.
    Memory holds eight bytes for each row, and the keys that occur twice in one file.
    """
    damaged: set[str] = set()

    def rows(in_front: bool) -> Iterator[PlannedInput]:
        for file, path, columns in files:
            name = printable(file.name)
            for row, key in enumerate(_keys(path, name, columns.key, damaged)):
                if key is None:
                    key = f"{name}#{row}"
                elif in_front:
                    key = f"{name}#{key}"
                yield PlannedInput(
                    key, name, row, file.num_bytes, columns=columns.images, mtime_ns=file.mtime_ns
                )

    has_keys = any(columns.key is not None for _, _, columns in files)
    if not has_keys or not repeated_hashes(hashes_of(row.key for row in rows(False)))[0]:
        yield from rows(False)
        return
    _log.warning("Keys occur twice: each gets the name of its file in front, as in file.parquet#key.")
    repeated, taken = repeated_hashes(hashes_of(row.key for row in rows(True)))

    def is_taken(key: str) -> bool:
        place = int(np.searchsorted(taken, hash(key)))
        return place < len(taken) and int(taken[place]) == hash(key)

    times_seen: Counter[str] = Counter()
    for row in rows(True):
        unique = key = row.key
        if hash(key) in repeated:
            times_seen[key] += 1
            while times_seen[key] > 1 and is_taken(unique := f"{key}#{times_seen[key]}"):
                times_seen[key] += 1
        yield replace(row, key=unique)


def _keys(path: Path, name: str, column: str | None, damaged: set[str]) -> Iterator[str | None]:
    """Each row's value in the key column; None where it has none, none that can be read, or base64 text.

    ``damaged`` collects the files whose column cannot be read: each is logged once.

    Raises:
        CorruptError: See `open_table`.
    """
    with open_table(path, name) as file:
        place = None if column is None else place_of(file.schema.names, column)
        if place is None:
            yield from (None for _ in range(sum(file.rows_of_groups)))
            return
        for row, values in enumerate(rows_of(file, [place[0]], 0, _KEYS_AT_ONCE)):
            if not isinstance(values, Exception):
                yield _key(values[0], place[1])
                continue
            if name not in damaged:
                problem = f"its column {column} cannot be read from row {row} on ({first_line(values)})"
                _log.warning("%s: %s: these rows get their numbers as keys.", name, problem)
            damaged.add(name)
            yield None


class RowReader:
    """Reads rows one after the other; a row group is begun again only when rows are skipped."""

    def __init__(self) -> None:
        self._at: tuple[Path, Sequence[str], int] | None = None
        self._rows: Iterator[Source | Url | Stored] = iter(())

    def read(self, path: Path, name: str, row: int, columns: Sequence[str]) -> Source | Url | Stored:
        """Give a row's encoded bytes, the path of its image, or why it has neither."""
        if self._at != (path, columns, row):
            self._rows = _images(path, name, row, columns)
        self._at = (path, columns, row + 1)
        return next(self._rows, ImageError("unreadable_rows", f"{name} no longer has this row"))


def _images(path: Path, name: str, first: int, columns: Sequence[str]) -> Iterator[Source | Url | Stored]:
    """The image of each row from ``first`` on: in the first of the columns that is not null there."""
    try:
        file = open_table(path, name)
    except CorruptError as error:
        while True:
            yield ImageError("unreadable_rows", error.problem)
    with file:
        places = [place for column in columns if (place := place_of(file.schema.names, column))]
        if len(places) < len(columns):
            return
        for values in rows_of(file, [top for top, _ in places], first, _IMAGES_AT_ONCE):
            if isinstance(values, Exception):
                yield ImageError("unreadable_rows", first_line(values))
            else:
                yield _image(values, [fields for _, fields in places], path.parent)


def _image(values: Sequence[Any], places: Sequence[Sequence[str]], folder: Path) -> Source | Url | Stored:
    try:
        for value, fields in zip(values, places, strict=True):
            content = content_of(value, fields)
            if isinstance(content, bytes):
                return content
            if content and (folders.is_url(content) or is_store_address(content)):
                return Url(content)
            if content:
                return image_at(folders.inside(folder, content))
    except ImageError as error:
        return error
    except (ValueError, OverflowError) as error:
        return ImageError("unreadable_rows", f"the value cannot be read: {first_line(error)}")
    return ImageError("missing", "the row holds neither bytes nor a path")


def _key(value: Any, fields: Sequence[str]) -> str | None:
    try:
        value = _leaf(value, fields)
        key = None if value is None else value.as_py()
    except ImageError:
        return None
    except (ValueError, OverflowError):
        key = value.as_buffer().to_pybytes() if hasattr(value, "as_buffer") else None
    if isinstance(key, bytes):
        key = key.decode("utf-8", "backslashreplace")
    return None if key is None or folders.is_base64_image(str(key)) else str(key)


def rows_of(
    file: TableFile, columns: Sequence[str], first: int, batch_size: int
) -> Iterator[tuple[Any, ...] | Exception]:
    """Each row's scalars in some columns, from row ``first`` on; what went wrong for one that is damaged."""
    begin = 0
    for group, num_rows in enumerate(file.rows_of_groups):
        end = begin + num_rows
        row = begin
        try:
            if end > first:
                for batch in file.batches(group, columns, batch_size):
                    at = [batch.schema.get_all_field_indices(column)[0] for column in columns]
                    for values in zip(*(batch.column(number) for number in at), strict=True):
                        if row >= first:
                            yield values
                        row += 1
        except (pa.ArrowException, OSError) as error:
            yield from [error] * (end - max(row, first))
        begin = end


def content_of(value: Any, fields: Sequence[str] = ()) -> bytes | str | None:
    """The bytes or the name in an Arrow scalar: either, a record of both, or a list of one of these.

    Values of other fields are not converted: a time that Python cannot hold costs no image.

    Raises:
        ImageError: ``several_images``.
        ValueError, OverflowError: The value is none of its type, such as a text that is not UTF-8.
    """
    value = _leaf(value, fields)
    if isinstance(value, pa.StructScalar):
        data = content_of(value, ["bytes"])
        return data if isinstance(data, bytes) else content_of(value, ["path"])
    content = None if value is None else value.as_py()
    return content if isinstance(content, bytes | str) else None


def _leaf(value: Any, fields: Sequence[str]) -> Any:
    """The scalar that fields lead to, out of dictionaries, extensions and lists of one; None for null.

    Raises:
        ImageError: ``several_images``.
    """
    while value is not None and value.is_valid:
        if isinstance(value, pa.DictionaryScalar | pa.ExtensionScalar):
            value = value.value
        elif isinstance(value, pa.ListScalar):  # of every kind of list
            if len(value) > 1:
                raise ImageError("several_images", f"the row holds {len(value)} images instead of one")
            value = value[0] if len(value) else None
        elif fields:
            value = value.get(fields[0]) if isinstance(value, pa.StructScalar) else None
            fields = fields[1:]
        else:
            return value
    return None


def place_of(names: Sequence[str], column: str) -> tuple[str, list[str]] | None:
    """A column of the file and the fields inside it that a name with dots leads to."""
    if column in names:
        return column, []
    top = max((name for name in names if column.startswith(f"{name}.")), key=len, default=None)
    return None if top is None else (top, column[len(top) + 1 :].split("."))
