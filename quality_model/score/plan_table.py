"""The table of a plan: a row for each input, in the order of the job; read by the numbers of its rows.

The rows of a part are read wherever they are. A row group has many parts: each process that reads one needs
what the file says of all its row groups, which is 8 kB for each in memory.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from quality_model.core.parquet import open_parquet
from quality_model.errors import UsageError
from quality_model.score.reading import PlannedInput
from quality_model.score.repeats import Hashes, KeyHashes, with_suspicion

GROUP_ROWS: Final = 1 << 16
"""Rows of a row group: some 7 MB in memory; 10^8 inputs have 1,526 groups."""

_AT_ONCE: Final = 4096
_SUSPECTS_AT_ONCE: Final = 1000

SCHEMA: Final = pa.schema(
    {
        **dict.fromkeys(("key", "file"), pa.string()),
        **dict.fromkeys(("at", "num_bytes"), pa.int64()),
        **dict.fromkeys(("error_code", "error_detail"), pa.string()),
        **{"columns": pa.list_(pa.string()), "mtime_ns": pa.int64()},
    }
)
"""The columns of the plan, which are the fields of `PlannedInput`."""


class TableWriter:
    """Writes tables of `SCHEMA` one after the other, in row groups of one size."""

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, SCHEMA, compression="zstd")
        self._waiting: list[pa.Table] = []
        self._num_waiting = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._num_waiting:
            self._write_group()
        self._writer.close()

    def write(self, table: pa.Table) -> None:
        """Add rows."""
        self._waiting.append(table)
        self._num_waiting += len(table)
        while self._num_waiting >= GROUP_ROWS:
            self._write_group()

    def _write_group(self) -> None:
        table = pa.concat_tables(self._waiting)
        self._writer.write_table(table.slice(0, GROUP_ROWS), row_group_size=GROUP_ROWS)
        self._waiting = [table.slice(GROUP_ROWS)]
        self._num_waiting = len(self._waiting[0])


def write_inputs(path: Path, planned: Iterator[PlannedInput]) -> int:
    """Write the table of a plan, and give the number of inputs.

    Raises:
        UsageError: Two inputs have the same key: found first by hash, then, of the suspects, by the keys.
        StorageError: There is no room for the hashes.
    """
    num_inputs = 0
    with KeyHashes() as hashes:
        with TableWriter(path) as writer:
            while rows := list(islice(planned, _AT_ONCE)):
                columns = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
                hashes.add(columns["key"])
                writer.write(pa.table(columns, schema=SCHEMA))
                num_inputs += len(rows)
        suspects = hashes.repeated()
    for start in range(0, len(suspects), _SUSPECTS_AT_ONCE):
        _require_different(path, suspects[start : start + _SUSPECTS_AT_ONCE])
    return num_inputs


def _require_different(path: Path, suspects: Hashes) -> None:
    """Refuse a table that has a key with one of these hashes twice."""
    first: dict[str, str | None] = {}
    with open_parquet(path) as file:
        rows = (
            row
            for batch in file.iter_batches(columns=["key", "file"])
            for row in zip(*batch.to_pydict().values(), strict=True)
        )
        for (key, name), is_suspect in with_suspicion(rows, lambda row: row[0], suspects):
            if is_suspect and key in first:
                raise UsageError(
                    f"Two inputs are called {key!r}: one in {first[key]}, one in {name}.",
                    "A duplicated file? Move one away, give the rows unique keys, or score the files"
                    " one by one.",
                )
            if is_suspect:
                first[key] = name


def inputs_from(table: pa.Table) -> list[PlannedInput]:
    """The inputs that rows of a plan describe."""
    return [PlannedInput(**{**row, "columns": tuple(row["columns"])}) for row in table.to_pylist()]


def read_rows(path: Path, sha256: str, first: int, count: int) -> pa.Table:
    """Some rows of a table that has this SHA-256; of its row groups, those that were read last are kept."""
    starts = _starts(path, sha256)
    groups = range(
        int(np.searchsorted(starts, first, side="right")) - 1, int(np.searchsorted(starts, first + count))
    )
    tables = [_group(path, sha256, number) for number in groups]
    return pa.concat_tables([*tables, SCHEMA.empty_table()]).slice(first - int(starts[groups.start]), count)


@lru_cache(maxsize=2)
def _footer(path: Path, _: str) -> pq.FileMetaData:
    with open_parquet(path) as file:
        return file.metadata


@lru_cache(maxsize=2)
def _starts(path: Path, sha256: str) -> npt.NDArray[np.int64]:
    """int64 (N + 1,): the number of the first row of each row group, and of all rows."""
    footer = _footer(path, sha256)
    sizes = [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]
    return np.cumsum([0, *sizes])


@lru_cache(maxsize=4)  # a job reads ahead of the part that it writes
def _group(path: Path, sha256: str, number: int) -> pa.Table:
    with open_parquet(path, _footer(path, sha256)) as file:
        return file.read_row_group(number)
