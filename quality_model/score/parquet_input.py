"""Tables of images: which columns hold images and keys, how rows are called, and their values."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from pyarrow import types as kinds

from quality_model.core import folders
from quality_model.errors import CorruptError, ImageError, UsageError
from quality_model.records import IMAGE_COLUMNS
from quality_model.score.reading import Source, Url
from quality_model.score.table_files import TableFile, first_line, open_table

PATH_COLUMNS: Final = (
    "image", "img", "photo", "picture", "file", "bytes", "data", "path", "images", "image_path", "file_path",
    "filepath", "file_name", "filename", "url", "image_url",
)  # fmt: skip
"""Names of columns that name images, used where no file holds the images themselves; case does not count."""

KEY_COLUMNS: Final = ("id", "key", "path", "picture_id", "image_id", "sample_id", "__key__")

_MAGIC: Final = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
_SAMPLE_ROWS: Final = 16
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


def list_keys(path: Path, name: str, column: str | None, damaged: set[str]) -> Iterator[str | None]:
    """Each row's value in the key column; None where it has none, none that can be read, or base64 text.

    ``damaged`` collects the files whose column cannot be read: each is logged once.

    Raises:
        CorruptError: See `table_files.open_table`.
    """
    with open_table(path, name) as file:
        place = None if column is None else _place(file.schema.names, column)
        if place is None:
            yield from (None for _ in range(sum(file.rows_of_groups)))
            return
        for row, values in enumerate(_rows(file, [place[0]], 0, _KEYS_AT_ONCE)):
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
        self._rows: Iterator[Source | Url] = iter(())

    def read(self, path: Path, name: str, row: int, columns: Sequence[str]) -> Source | Url:
        """Give a row's encoded bytes, the path of its image, or why it has neither."""
        if self._at != (path, columns, row):
            self._rows = _images(path, name, row, columns)
        self._at = (path, columns, row + 1)
        return next(self._rows, ImageError("unreadable_rows", f"{name} no longer has this row"))


def _images(path: Path, name: str, first: int, columns: Sequence[str]) -> Iterator[Source | Url]:
    """The image of each row from ``first`` on: in the first of the columns that is not null there."""
    try:
        file = open_table(path, name)
    except CorruptError as error:
        while True:
            yield ImageError("unreadable_rows", error.problem)
    with file:
        places = [place for column in columns if (place := _place(file.schema.names, column))]
        if len(places) < len(columns):
            return
        for values in _rows(file, [top for top, _ in places], first, _IMAGES_AT_ONCE):
            if isinstance(values, Exception):
                yield ImageError("unreadable_rows", first_line(values))
            else:
                yield _image(values, [fields for _, fields in places], path.parent)


def _image(values: Sequence[Any], places: Sequence[Sequence[str]], folder: Path) -> Source | Url:
    try:
        for value, fields in zip(values, places, strict=True):
            content = content_of(value, fields)
            if isinstance(content, bytes):
                return content
            if content and folders.is_url(content):
                return Url(content)
            if content:
                return folders.inside(folder, content)
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


def _rows(
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


def _place(names: Sequence[str], column: str) -> tuple[str, list[str]] | None:
    """A column of the file and the fields inside it that a name with dots leads to."""
    if column in names:
        return column, []
    top = max((name for name in names if column.startswith(f"{name}.")), key=len, default=None)
    return None if top is None else (top, column[len(top) + 1 :].split("."))


def _type_of(types: Mapping[str, Any], column: str) -> Any:
    """The type of a column, or of a field that dots lead to; None if there is no such."""
    place = _place(list(types), column)
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
    for values in islice(_rows(file, [column], 0, _SAMPLE_ROWS), _SAMPLE_ROWS):
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
