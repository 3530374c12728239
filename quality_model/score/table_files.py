"""Files of a table, Parquet or Arrow, behind one narrow interface: their columns, and rows in batches."""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import pyarrow as pa
import pyarrow.parquet as pq

from quality_model.errors import CorruptError


class TableFile(Protocol):
    """An open file with rows in groups; a reader begins at the start of a group."""

    schema: pa.Schema
    rows_of_groups: list[int]

    def batches(self, group: int, columns: Sequence[str], num_rows: int) -> Iterator[pa.RecordBatch]:
        """The rows of a group, at most so many at once.

        Raises:
            pa.ArrowException, OSError: The file is damaged there.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class _ParquetFile:
    def __init__(self, source: Any) -> None:
        self._file = pq.ParquetFile(source, buffer_size=1 << 20, pre_buffer=False)
        self.schema = self._file.schema_arrow
        metadata = self._file.metadata
        self.rows_of_groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]

    def batches(self, group: int, columns: Sequence[str], num_rows: int) -> Iterator[pa.RecordBatch]:
        yield from self._file.iter_batches(num_rows, row_groups=[group], columns=columns)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class _ArrowFile:
    """Record batches, as `datasets` saves them (a stream) or as an IPC file; one batch is a group.

    They are read through a memory map: what is not asked for is not read.
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._batches = []
        self._source.close()


def open_table(path: Path, name: str) -> TableFile:
    """Open a Parquet file, or an Arrow file if its name ends in ``.arrow``.

    Raises:
        CorruptError: It is no such file, or is cut; the message names it.
    """
    is_arrow = path.name.lower().endswith(".arrow")
    try:
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


def first_line(error: BaseException) -> str:
    """The first line of what an error says."""
    return (str(error).splitlines() or [type(error).__name__])[0]
