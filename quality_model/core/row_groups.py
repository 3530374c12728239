"""Parquet written row by row, in row groups that do not depend on how the rows arrive."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq


class RowGroupWriter:
    """Writes rows in bounded row groups, so that memory does not grow with their number.

    A context: what is left is written at its end, unless an error ends it.
    """

    def __init__(
        self, path: Path, schema: pa.Schema, *, max_rows: int, max_bytes: int | None = None, **options: Any
    ) -> None:
        """Open the file.

        Args:
            path: A new file; see `storage.staged`.
            schema: Columns.
            max_rows: A row group ends when it has so many rows.
            max_bytes: It ends, too, when its rows count so many bytes (see `add`).
            options: Of ``pyarrow.parquet.ParquetWriter``, which decide about the file's bytes.
        """
        self._schema = schema
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._writer = pq.ParquetWriter(path, schema, **options)
        self._rows: list[Mapping[str, Any]] = []
        self._num_bytes = 0

    def add(self, row: Mapping[str, Any], *, num_bytes: int = 0) -> None:
        """Add a row by column name; a column that it lacks is null. ``num_bytes`` is what it counts."""
        self._rows.append(row)
        self._num_bytes += num_bytes
        is_heavy = self._max_bytes is not None and self._num_bytes >= self._max_bytes
        if len(self._rows) >= self._max_rows or is_heavy:
            self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._num_bytes = [], 0
