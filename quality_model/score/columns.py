"""Which columns of tables hold images and keys."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from pyarrow import types as kinds

from quality_model.errors import CorruptError, ImageError, UsageError
from quality_model.records import IMAGE_COLUMNS
from quality_model.score.tables import Columns, TableFile, content_of, open_table, place_of, rows_of

PATH_COLUMNS: Final = (
    "image", "img", "photo", "picture", "file", "bytes", "data", "path", "images", "image_path", "file_path",
    "filepath", "file_name", "filename", "url", "image_url",
)  # fmt: skip
"""Names of columns that name images, used where no file holds the images themselves; case does not count."""

KEY_COLUMNS: Final = ("id", "key", "path", "picture_id", "image_id", "sample_id", "__key__")

_MAGIC: Final = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
_SAMPLE_ROWS: Final = 16

_log = logging.getLogger(__name__)


def choose_columns(
    files: Mapping[str, Path],
    image_column: str | None,
    key_column: str | None,
    *,
    alone: bool,
    skipped: Counter[str],
) -> dict[str, Columns]:
    """Find the columns of images and keys of each file that has images; the others are metadata.

    A column named on the command line is taken. Otherwise columns that hold images win over
    columns that name them: if a file holds images, those files without that column are metadata.

    Args:
        files: By printable name.
        image_column: The column of images, with dots into records; by default it is found.
        key_column: The column of keys.
        alone: Nothing else can be scored: then names of images count, having none is an error, and a
            file that cannot be read is an input with a problem.
        skipped: Counts the files that are not in the answer.

    Raises:
        UsageError: No column holds images, or there is no such column; names those that exist.
        CorruptError: Not one file can be read.
    """
    problems: dict[str, CorruptError] = {}
    schemas: dict[str, dict[str, Any]] = {}
    shared: dict[Any, dict[str, Any]] = {}  # files of a collection have few different schemas
    images: dict[str, tuple[str, ...]] = {}
    for name, path in files.items():
        try:
            opened = open_table(path, name)
        except CorruptError as unreadable:
            problems[name] = unreadable
            continue
        with opened as file:
            schema = file.schema.remove_metadata()
            types = schemas[name] = shared.setdefault(schema, {field.name: field.type for field in schema})
            if image_column is None and (found := _columns_of_bytes(file, types, name)):
                if found[0].lower() not in IMAGE_COLUMNS and found not in images.values():
                    _log.info("Images are in the column %r of %s, by the first bytes there.", found[0], name)
                images[name] = found
    if alone and not schemas:
        raise list(problems.values())[-1]
    known = list(dict.fromkeys(column for found in images.values() for column in found))
    for name, types in schemas.items():
        if image_column is not None:
            column = image_column if _type_of(types, image_column) is not None else None
        elif known:
            column = next((column for column in known if column in types and _holds(types[column])), None)
        else:
            column = _column_of_names(types) if alone else None
        if column is not None:
            images.setdefault(name, (column,))
    if alone and not images:
        name, types = next(iter(schemas.items()))
        missing = "has no column of images" if image_column is None else f"has no column {image_column!r}"
        raise UsageError(
            f"{name} {missing}; its columns are {', '.join(types) or '(none)'}.",
            "Name the column with --image-column: bytes, a record of bytes and path, or paths.",
        )
    for error in problems.values():
        _log.warning("%s%s", "" if alone else "Skipped: ", error.problem)
    skipped += Counter({"Parquet files without images": len(schemas) - len(images)})  # unless it is 0
    skipped += Counter({"unreadable Parquet files": 0 if alone else len(problems)})
    chosen = {}
    for name, found in images.items():
        kind = _type_of(schemas[name], found[0])
        if not _holds(kind):
            problem = f"The column {found[0]!r} of {name} holds {kind}, no images."
            raise UsageError(problem, "Choose another --image-column.")
        chosen[name] = Columns(found, _key_column(schemas[name], found[0], key_column, name))
    if alone:
        chosen |= {name: Columns(problem=error.problem) for name, error in problems.items()}
    return dict(sorted(chosen.items()))


def _columns_of_bytes(file: TableFile, types: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The columns that hold encoded images: by their names, else by the first bytes of their first rows.

    Of several with usual names, those that begin as images come first, those that are null there
    next, and what begins as something else is none.

    Raises:
        UsageError: Several columns without a usual name hold images.
    """
    holding = [column for column in types if _holds(types[column]) == "bytes"]
    named = named_columns(IMAGE_COLUMNS, holding)
    if len(named) == 1 or not holding:
        return tuple(named)
    begins = {column: _begins_as_image(file, column) for column in named or holding}
    sure = [column for column in begins if begins[column]]
    if named:
        return (*sure, *(column for column in named if begins[column] is None)) or (named[0],)
    if len(sure) > 1:
        problem = f"{name} has several columns of images: {', '.join(sure)}."
        raise UsageError(problem, "Choose with --image-column.")
    return tuple(sure)


def _column_of_names(types: Mapping[str, Any]) -> str | None:
    """The column that names images, else one that should hold them and is null throughout."""
    found = named_columns(PATH_COLUMNS, [column for column in types if _holds(types[column]) == "path"])
    empty = named_columns(IMAGE_COLUMNS, [column for column in types if _holds(types[column]) == "nothing"])
    return next(iter([*found, *empty]), None)


def named_columns(names: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Those columns that are called by one of the names, in the order of the names."""
    known = [column for column in columns if column.lower() in names]
    return sorted(known, key=lambda column: names.index(column.lower()))


def _key_column(types: Mapping[str, Any], image: str, wanted: str | None, name: str) -> str | None:
    if wanted is not None:
        kind = _type_of(types, wanted)
        if kind is None or kinds.is_nested(kind):
            problem = f"has no column {wanted!r}" if kind is None else f"has no single values in {wanted!r}"
            raise UsageError(
                f"{name} {problem}; its columns are {', '.join(types)}.", "Choose another --key-column."
            )
        return wanted
    texts = [column for column, kind in types.items() if _holds(kind) == "path" and not kinds.is_nested(kind)]
    keys = [key for key in KEY_COLUMNS if key in texts or kinds.is_integer(types.get(key, pa.null()))]
    return keys[0] if keys else image if image in texts else None


def _type_of(types: Mapping[str, Any], column: str) -> Any:
    """The type of a column, or of a field that dots lead to; None if there is no such."""
    place = place_of(list(types), column)
    kind, fields = (types[place[0]], place[1]) if place else (None, [])
    for field in fields:
        kind = _unwrapped(kind)
        if not kinds.is_struct(kind) or kind.get_field_index(field) < 0:
            return None
        kind = kind.field(field).type
    return kind


def _holds(kind: pa.DataType) -> str | None:
    """``bytes`` (encoded images, alone or in a record), ``path`` (text), ``nothing`` (type null), or None."""
    kind = _unwrapped(kind)
    if kinds.is_struct(kind):
        fields = {_holds(field.type) for field in kind if field.name in ("bytes", "path")}
        return next((found for found in ("bytes", "path", "nothing") if found in fields), None)
    if kind in (pa.binary(), pa.large_binary(), pa.binary_view()) or kinds.is_fixed_size_binary(kind):
        return "bytes"
    if kind in (pa.string(), pa.large_string(), pa.string_view()):
        return "path"
    return "nothing" if kinds.is_null(kind) else None


def _unwrapped(kind: Any) -> Any:
    """The type of the values: what a dictionary, a list or an extension is made of."""
    while inner := getattr(kind, "storage_type", None) or getattr(kind, "value_type", None):
        kind = inner
    return kind


def _begins_as_image(file: TableFile, column: str) -> bool | None:
    """Whether one of the first values is an encoded image, by its first bytes; None if all are null."""
    has_bytes = None
    for values in islice(rows_of(file, [column], 0, _SAMPLE_ROWS), _SAMPLE_ROWS):
        if isinstance(values, Exception):
            return False
        try:
            data = content_of(values[0])
        except (ImageError, ValueError, OverflowError):
            continue
        if isinstance(data, bytes):
            if data.startswith(_MAGIC) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP"):
                return True
            has_bytes = has_bytes if not data else False
    return has_bytes
