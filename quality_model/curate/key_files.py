"""Files that name images of a result by their keys."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from quality_model.errors import UsageError
from quality_model.score.tables import first_line


def read_keys(path: Path) -> pa.Array:
    """The keys in a file, text: CSV or Parquet with a column ``key``, else a key a line or NUL bytes between.

    Raises:
        UsageError: It cannot be read, or has no such column.
    """
    if path.suffix.lower() in (".csv", ".parquet"):
        return read_with_key(path, "key")["key"].combine_chunks()
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}.", "It has a key a line.") from None
    return pa.array(text.split("\0") if "\0" in text else re.split(r"\r?\n", text), pa.string())


def read_with_key(path: Path, column: str) -> pa.Table:
    """The columns ``key`` (text) and ``column`` of a CSV or Parquet file.

    Raises:
        UsageError: It cannot be read, or lacks one of them.
    """
    try:
        if path.suffix.lower() == ".parquet":
            with pq.ParquetFile(path) as file:  # that may hold images too
                names = file.schema_arrow.names
                table = file.read([name for name in {"key", column} if name in names])
        else:
            as_text = pa.csv.ConvertOptions(column_types={"key": pa.string()})
            table = pa.csv.read_csv(path, convert_options=as_text)
            names = table.column_names
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{path} cannot be read: {first_line(error)}", "It is CSV or Parquet.") from None
    for name in ("key", column):
        if name not in names:
            raise UsageError(
                f"{path} has no column {name!r}; it has {', '.join(names)}.",
                "It needs a column key, with the keys of the result"
                + (f", and the column {column}." if column != "key" else "."),
            )
    return pa.table({column: table[column], "key": table["key"].cast(pa.string())})
