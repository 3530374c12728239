from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quality_model.core.row_groups import RowGroupWriter

SCHEMA = pa.schema([pa.field("name", pa.string(), nullable=False), pa.field("size", pa.int32())])


def row_groups(path: Path) -> list[int]:
    metadata = pq.ParquetFile(path).metadata
    return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]


def test_a_row_group_ends_at_its_number_of_rows_or_of_bytes(tmp_path: Path) -> None:
    with RowGroupWriter(tmp_path / "table", SCHEMA, max_rows=3, max_bytes=100) as writer:
        for number, num_bytes in enumerate([1, 1, 1, 100, 60, 60, 1]):
            writer.add({"name": str(number), "size": num_bytes}, num_bytes=num_bytes)
    assert row_groups(tmp_path / "table") == [3, 1, 2, 1]
    assert pq.read_table(tmp_path / "table")["name"].to_pylist() == list("0123456")


def test_a_column_that_a_row_lacks_is_null(tmp_path: Path) -> None:
    with RowGroupWriter(tmp_path / "table", SCHEMA, max_rows=3) as writer:
        writer.add({"name": "a"})
    assert pq.read_table(tmp_path / "table").to_pylist() == [{"name": "a", "size": None}]


def test_without_rows_there_is_a_table_with_its_columns(tmp_path: Path) -> None:
    with RowGroupWriter(tmp_path / "table", SCHEMA, max_rows=3):
        pass
    table = pq.read_table(tmp_path / "table")
    assert (table.num_rows, table.column_names) == (0, ["name", "size"])


def test_after_an_error_what_is_left_is_not_written(tmp_path: Path) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        RowGroupWriter(tmp_path / "table", SCHEMA, max_rows=3) as writer,
    ):
        writer.add({"name": "a"})
        raise ZeroDivisionError
    assert pq.read_table(tmp_path / "table").num_rows == 0
