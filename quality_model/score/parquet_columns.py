"""Which columns of Parquet files hold images and keys."""

import logging
import os
import stat
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from quality_model.errors import CorruptError, ImageError, UsageError
from quality_model.records import IMAGE_COLUMNS

PATH_COLUMNS: Final = (
    "image", "img", "photo", "picture", "file", "bytes", "data", "path", "images", "image_path", "file_path",
    "filepath", "file_name", "filename", "url", "image_url",
)  # fmt: skip
"""Names of columns that name images, used where no file holds the images themselves; case does not count."""

KEY_COLUMNS: Final = ("id", "key", "path", "picture_id", "image_id", "sample_id", "__key__")

NO_IMAGES: Final = "Parquet files without images"
UNREADABLE: Final = "unreadable Parquet files"
"""How metadata beside the inputs is counted, and what may be metadata."""

_MAGIC: Final = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*",
)  # fmt: skip
_SAMPLE_ROWS: Final = 16

Holds = Literal["bytes", "path", "nothing"]
"""Encoded images, alone or in a record; names of images; or nothing at all (type null)."""

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


def open_parquet(path: Path, name: str) -> Any:
    """Open a file as a `pyarrow.parquet.ParquetFile`.

    Raises:
        CorruptError: It is no Parquet file, or its footer is cut; the message names it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its writer
            raise OSError("it is a folder, a pipe or a device")
        source: Any = path
        try:
            str(path).encode()
        except UnicodeEncodeError:  # PyArrow takes such a name as bytes
            source = pa.OSFile(os.fsencode(path))
        return pq.ParquetFile(source, buffer_size=1 << 20, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise CorruptError(
            f"{name} cannot be read as Parquet: {first_line(error)}", "Replace it or move it away."
        ) from None


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
    problems: dict[str, str] = {}
    schemas: dict[str, dict[str, Any]] = {}
    shared: dict[Any, dict[str, Any]] = {}  # files of a collection have few different schemas
    images: dict[str, tuple[str, ...]] = {}
    for name, path in files.items():
        try:
            opened = open_parquet(path, name)
        except CorruptError as error:
            if alone and len(files) == len(problems) + 1:
                raise
            problems[name] = error.problem
            continue
        with opened as file:
            schema = file.schema_arrow.remove_metadata()
            schemas[name] = shared.setdefault(schema, dict(zip(schema.names, schema.types, strict=True)))
            if image_column is None and (found := _columns_of_bytes(file, schemas[name], name)):
                if found[0].lower() not in IMAGE_COLUMNS and found not in images.values():
                    _log.info("Images are in the column %r of %s, by the first bytes there.", found[0], name)
                images[name] = found
    if image_column is not None:
        images = {name: (image_column,) for name, types in schemas.items() if _type_of(types, image_column)}
    elif images:
        known = list(dict.fromkeys(column for found in images.values() for column in found))
        for name, types in schemas.items():
            same = [column for column in known if column in types and _holds(types[column])]
            if name not in images and same:
                images[name] = (same[0],)
    elif alone:
        for name, types in schemas.items():
            if column := _column_of_names(types):
                images[name] = (column,)
    if alone and not images:
        name, types = next(iter(schemas.items()))
        missing = "has no column of images" if image_column is None else f"has no column {image_column!r}"
        raise UsageError(
            f"{name} {missing}; its columns are {', '.join(types) or '(none)'}.",
            "Name the column with --image-column: bytes, a record of bytes and path, or paths.",
        )
    for name, found in images.items():
        kind = _type_of(schemas[name], found[0])
        if not _holds(kind):
            raise UsageError(
                f"The column {found[0]!r} of {name} holds {kind}, no images.",
                "Choose another --image-column.",
            )
    for problem in problems.values():
        _log.warning("%s%s", "" if alone else "Skipped: ", problem)
    if not alone and problems:
        skipped[UNREADABLE] += len(problems)
    if len(images) < len(schemas):
        skipped[NO_IMAGES] += len(schemas) - len(images)
    chosen = {
        name: Columns(found, _key_column(schemas[name], found[0], key_column, name))
        for name, found in images.items()
    }
    if alone:
        chosen |= {name: Columns(problem=problem) for name, problem in problems.items()}
    return dict(sorted(chosen.items()))


def content_of(value: Any, fields: Sequence[str] = ()) -> bytes | str | None:
    """The bytes or the name in an Arrow scalar: either, a record of both, or a list of one of these.

    Values of other fields are not converted: a time that Python cannot hold costs no image.

    Raises:
        ImageError: ``several_images``.
        ValueError, OverflowError: The value is none of its type, such as a text that is not UTF-8.
    """
    value = leaf_of(value, fields)
    if value is None:
        return None
    if _is_record(value):
        data = content_of(leaf_of(value, ["bytes"]))
        return data if isinstance(data, bytes) else content_of(leaf_of(value, ["path"]))
    content = value.as_py()
    return content if isinstance(content, bytes | str) else None


def _is_record(value: Any) -> bool:
    import pyarrow as pa

    return isinstance(value, pa.StructScalar)


def leaf_of(value: Any, fields: Sequence[str]) -> Any:
    """The scalar that fields lead to, out of dictionaries, extensions and lists of one; None for null.

    Raises:
        ImageError: ``several_images``.
    """
    import pyarrow as pa

    while True:
        if value is None or not value.is_valid:
            return None
        if isinstance(value, pa.DictionaryScalar | pa.ExtensionScalar):
            value = value.value
        elif isinstance(value, pa.ListScalar):  # of every kind of list
            if len(value) > 1:
                raise ImageError("several_images", f"the row holds {len(value)} images instead of one")
            value = value[0] if len(value) else None
        elif fields:
            is_there = _is_record(value) and value.type.get_field_index(fields[0]) >= 0
            value, fields = (value[fields[0]] if is_there else None), fields[1:]
        else:
            return value


def _columns_of_bytes(file: Any, types: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The columns that hold encoded images: by their names, else by the first bytes of their first rows.

    Of several with usual names, those that begin as images come first, those that are null there
    next, and what begins as something else is none.

    Raises:
        UsageError: Several columns without a usual name hold images.
    """
    holding = [column for column in types if _holds(types[column]) == "bytes"]
    named = _by_name(IMAGE_COLUMNS, holding)
    if len(named) == 1 or not holding:
        return tuple(named)
    begins = {column: _begins_as_image(file, column) for column in named or holding}
    sure = [column for column in begins if begins[column]]
    if named:
        return (*sure, *(column for column in named if begins[column] is None)) or (named[0],)
    if len(sure) < 2:
        return tuple(sure)
    raise UsageError(
        f"{name} has several columns of images: {', '.join(sure)}.", "Choose with --image-column."
    )


def _column_of_names(types: Mapping[str, Any]) -> str | None:
    """The column that names images, else one that should hold them and is null throughout."""
    found = _by_name(PATH_COLUMNS, [column for column in types if _holds(types[column]) == "path"])
    empty = _by_name(IMAGE_COLUMNS, [column for column in types if _holds(types[column]) == "nothing"])
    return next(iter([*found, *empty]), None)


def _by_name(names: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Those columns that are called by one of the names, in the order of the names."""
    rank = {name: number for number, name in enumerate(names)}
    known = [column for column in columns if column.lower() in rank]
    return sorted(known, key=lambda column: rank[column.lower()])


def _key_column(types: Mapping[str, Any], image: str, wanted: str | None, name: str) -> str | None:
    from pyarrow import types as kinds

    if wanted is not None:
        kind = _type_of(types, wanted)
        if kind is None or kinds.is_nested(kind):
            problem = f"has no column {wanted!r}" if kind is None else f"has no single values in {wanted!r}"
            raise UsageError(
                f"{name} {problem}; its columns are {', '.join(types)}.", "Choose another --key-column."
            )
        return wanted
    keys = [
        key for key in KEY_COLUMNS if key in types and (_is_text(types[key]) or kinds.is_integer(types[key]))
    ]
    own = image if image in types and _is_text(types[image]) else None
    return keys[0] if keys else own


def split_column(names: Sequence[str], column: str) -> tuple[str, list[str]] | None:
    """A column of the file and the fields inside it that a name with dots leads to."""
    if column in names:
        return column, []
    tops = [name for name in names if column.startswith(f"{name}.")]
    if not tops:
        return None
    top = max(tops, key=len)
    return top, column[len(top) + 1 :].split(".")


def _type_of(types: Mapping[str, Any], column: str) -> Any:
    """The type of a column, or of a field that dots lead to; None if there is no such."""
    from pyarrow import types as kinds

    place = split_column(list(types), column)
    if place is None:
        return None
    kind = types[place[0]]
    for field in place[1]:
        kind = _unwrapped(kind)
        if not kinds.is_struct(kind) or kind.get_field_index(field) < 0:
            return None
        kind = kind.field(field).type
    return kind


def _holds(kind: Any) -> Holds | None:
    from pyarrow import types as kinds

    kind = _unwrapped(kind)
    if kinds.is_struct(kind):
        fields = {field.name: _holds(field.type) for field in kind}
        if fields.get("bytes") == "bytes":
            return "bytes"
        return "path" if fields.get("path") == "path" else fields.get("bytes", fields.get("path"))
    tests: tuple[Callable[[Any], bool], ...] = (
        kinds.is_binary, kinds.is_large_binary, kinds.is_fixed_size_binary, kinds.is_binary_view,
    )  # fmt: skip
    if any(test(kind) for test in tests):
        return "bytes"
    if kinds.is_null(kind):
        return "nothing"
    return "path" if _is_text(kind) else None


def _unwrapped(kind: Any) -> Any:
    """The type of the values: what a dictionary, a list or an extension is made of."""
    import pyarrow as pa
    from pyarrow import types as kinds

    tests: tuple[Callable[[Any], bool], ...] = (
        kinds.is_dictionary, kinds.is_list, kinds.is_large_list, kinds.is_fixed_size_list,
        kinds.is_list_view, kinds.is_large_list_view,
    )  # fmt: skip
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif any(test(kind) for test in tests):
            kind = kind.value_type
        else:
            return kind


def _is_text(kind: Any) -> bool:
    from pyarrow import types as kinds

    if kinds.is_dictionary(kind):
        kind = kind.value_type
    return bool(kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind))


def _begins_as_image(file: Any, column: str) -> bool | None:
    """Whether one of the first values is an encoded image, by its first bytes; None if all are null."""
    import pyarrow as pa

    has_bytes = None
    try:
        batch = next(file.iter_batches(batch_size=_SAMPLE_ROWS, columns=[column]), None)
        for value in () if batch is None else batch.column(0):
            try:
                data = content_of(value)
            except (ImageError, ValueError, OverflowError):
                continue
            if isinstance(data, bytes):
                if data.startswith(_MAGIC) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP"):
                    return True
                has_bytes = has_bytes if not data else False
    except (pa.ArrowException, OSError):
        return False
    return has_bytes


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
