"""Parquet files of this machine and of object stores, where only the ranges that are needed are read."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from quality_model.core.stores import is_in_store


class _ObjectFile(pq.ParquetFile):  # type: ignore[misc]
    """An object, read in the thread that asks.

    A thread of PyArrow's pool that releases a Python file while the interpreter ends aborts the process.
    """

    def read(self, *arguments: Any, **named: Any) -> pa.Table:
        return super().read(*arguments, **{**named, "use_threads": False})

    def read_row_group(self, *arguments: Any, **named: Any) -> pa.Table:
        return super().read_row_group(*arguments, **{**named, "use_threads": False})

    def iter_batches(self, *arguments: Any, **named: Any) -> Iterator[pa.RecordBatch]:
        yield from super().iter_batches(*arguments, **{**named, "use_threads": False})


def open_parquet(path: Path, metadata: pq.FileMetaData | None = None) -> pq.ParquetFile:
    """Open a Parquet file; it is a context manager.

    Args:
        metadata: What its footer says, if it was read before.

    Raises:
        OSError: It cannot be read.
        pyarrow.ArrowException: It is no Parquet file.
    """
    if not is_in_store(path):
        return pq.ParquetFile(path, metadata=metadata)
    return parquet_of(path.open("rb"), metadata)


def parquet_of(handle: IO[bytes], metadata: pq.FileMetaData | None = None) -> pq.ParquetFile:
    """`open_parquet` for an open object; it is closed with the file."""
    return _ObjectFile(handle, metadata=metadata)


def read_columns(path: Path, columns: Collection[str] | None = None) -> pa.Table:
    """Some columns of all rows, by default all; errors as `open_parquet`."""
    with open_parquet(path) as file:
        return file.read(None if columns is None else list(columns))
