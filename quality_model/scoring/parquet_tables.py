"""Parquet files of pictures: which column holds them, how rows are called, and their values."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from quality_model.errors import CorruptError, PictureError, UsageError

PICTURE_COLUMNS: Final = ("image", "img", "photo", "picture", "file", "bytes", "data", "path")
KEY_COLUMNS: Final = ("id", "key", "path", "picture_id", "sample_id", "__key__")
_ROWS_AT_ONCE: Final = 64


@dataclass(frozen=True, slots=True)
class Columns:
    """Where a file keeps its pictures (bytes, a record of bytes and path, or a path) and keys."""

    picture: str
    holds: Literal["bytes", "record", "path"]
    key: str | None


def open_parquet(path: Path, name: str) -> Any:
    """Open a file as a `pyarrow.parquet.ParquetFile`.

    Raises:
        CorruptError: It is no Parquet file, or its footer is cut; the message names it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise CorruptError(
            f"{name} cannot be read as Parquet: {_first_line(error)}", "Replace it or move it away."
        ) from None


def columns_of(file: Any, name: str) -> Columns:
    """Find the columns of pictures and keys.

    Raises:
        UsageError: No column holds pictures; the message names the file and its columns.
    """
    schema = file.schema_arrow
    for column in PICTURE_COLUMNS:
        if column in schema.names and (holds := _holds(schema.field(column).type)):
            keys = [key for key in KEY_COLUMNS if key in schema.names and _is_key(schema.field(key).type)]
            own = column if holds == "path" else None
            return Columns(column, holds, keys[0] if keys else own)
    raise UsageError(
        f"{name} has no column of pictures; its columns are {', '.join(schema.names) or '(none)'}.",
        f"Name it {', '.join(PICTURE_COLUMNS[:-1])} or {PICTURE_COLUMNS[-1]}: bytes, a record of bytes and"
        " path, or paths.",
    )


def list_keys(path: Path, name: str) -> Iterator[str]:
    """Give each row's key: its value in the key column, or ``file#row`` where there is none.

    Raises:
        CorruptError, UsageError: See `open_parquet` and `columns_of`.
    """
    import pyarrow as pa

    with open_parquet(path, name) as file:
        columns = columns_of(file, name)
        row = 0
        if columns.key is not None:
            try:
                for batch in file.iter_batches(batch_size=10_000, columns=[columns.key]):
                    for key in batch.column(0).to_pylist():
                        yield f"{name}#{row}" if key is None else str(key)
                        row += 1
            except (pa.ArrowException, OSError) as error:
                raise CorruptError(
                    f"{name}: its column {columns.key} cannot be read after row {row}: {_first_line(error)}",
                    "Replace it or move it away.",
                ) from None
        yield from (f"{name}#{number}" for number in range(row, file.metadata.num_rows))


class RowReader:
    """Reads rows one after the other; a row group is begun again only when rows are skipped."""

    def __init__(self) -> None:
        self._at: tuple[Path, int] | None = None
        self._rows: Iterator[bytes | Path | PictureError] = iter(())

    def read(self, path: Path, name: str, row: int) -> bytes | Path | PictureError:
        """Give a row's encoded bytes, the path of its picture, or why it has neither."""
        if self._at != (path, row):
            self._rows = _rows(path, name, row)
        self._at = (path, row + 1)
        lost = PictureError("unreadable_rows", f"{name} no longer has this row")
        return next(self._rows, lost)


def _rows(path: Path, name: str, first: int) -> Iterator[bytes | Path | PictureError]:
    import pyarrow as pa

    try:
        file = open_parquet(path, name)
        columns = columns_of(file, name)
    except (CorruptError, UsageError) as error:
        while True:
            yield PictureError("unreadable_rows", error.problem)
    with file:
        begin = 0
        for group in range(file.num_row_groups):
            end = begin + file.metadata.row_group(group).num_rows
            row = begin
            try:
                if end > first:
                    batches = file.iter_batches(
                        batch_size=_ROWS_AT_ONCE, row_groups=[group], columns=[columns.picture]
                    )
                    for batch in batches:
                        for value in batch.column(0):
                            if row >= first:
                                yield _picture(value.as_py(), path.parent)
                            row += 1
            except (pa.ArrowException, OSError) as error:
                lost = PictureError("unreadable_rows", _first_line(error))
                yield from (lost for _ in range(max(row, first), end))
            begin = end


def _picture(value: Any, folder: Path) -> bytes | Path | PictureError:
    data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
    if isinstance(data, bytes):
        return data
    place = data if isinstance(data, str) else path
    if isinstance(place, str) and place:
        return folder / place
    return PictureError("missing", "the row holds neither bytes nor a path")


def _holds(kind: Any) -> Literal["bytes", "record", "path"] | None:
    from pyarrow import types

    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind):
        return "bytes"
    if types.is_struct(kind) and {field.name for field in kind} & {"bytes", "path"}:
        return "record"
    return "path" if _is_text(kind) else None


def _is_key(kind: Any) -> bool:
    from pyarrow import types

    return _is_text(kind) or bool(types.is_integer(kind))


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
