"""What is in a collection: which of its files are inputs, of which kind, and what they are called."""

import errno
import hashlib
import logging
from collections import Counter
from collections.abc import Collection as Names
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from quality_model.core import folders
from quality_model.core.decoding import SUFFIXES
from quality_model.core.folders import ListedFile, file_name, is_url, place_of, printable
from quality_model.errors import ImageError, UsageError
from quality_model.params import LimitsParams
from quality_model.score.archives import ArchiveReader, list_members
from quality_model.score.columns import choose_columns
from quality_model.score.reading import PlannedInput, Source, Stored, Url, image_at
from quality_model.score.selection import (
    TAR_SUFFIXES,
    Collection,
    Kind,
    OnePath,
    Selection,
    has_tables,
    is_selection,
    shown_suffix,
)
from quality_model.score.tables import Columns, RowReader, list_rows

TABLES: Final = ("parquet", "arrow")
"""Kinds whose columns decide whether a file is an input."""

_NAMES: Final[dict[Kind, tuple[str, str]]] = {
    "images": ("image", "images"),
    "tar": ("tar shard", "tar shards"),
    "zip": ("zip archive", "zip archives"),
    "parquet": ("Parquet file", "Parquet files"),
    "arrow": ("Arrow file", "Arrow files"),
}
_FILES: Final[tuple[Kind, ...]] = ("images", "tar", "zip")
_SUFFIXES_NAMED: Final = 5
_SUPPORTED: Final = (
    f"Inputs are image files ({', '.join(sorted(SUFFIXES))}), tar shards ({', '.join(TAR_SUFFIXES)}),"
    " zip archives, and Parquet or Arrow files with a column of images; a folder or several of one of these;"
    " or a list of paths: @list, a CSV file, or - for standard input."
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class InputChoice:
    """What to score where a collection leaves a choice.

    Attributes:
        kind: The kind of inputs of a folder with several; one file is then of this kind whatever its name.
        image_column: The column of images of Parquet files; by default it is found.
        key_column: The column of keys of Parquet files; by default it is found.
    """

    kind: Kind | None = None
    image_column: str | None = None
    key_column: str | None = None


NO_CHOICE: Final = InputChoice()


def named_inputs(
    arguments: Sequence[str], choice: InputChoice = NO_CHOICE
) -> tuple[Path | Selection, InputChoice]:
    """What arguments of the command `score` name, and what to score of it.

    The column of a CSV file is a matter of the list, not of what it lists.

    Raises:
        UsageError: One is a URL and the only one, is empty, or names a list that is not there.
    """
    if not is_selection(arguments):
        return folders.input_path(arguments[0]), choice
    if not has_tables(arguments):
        return Selection(arguments), choice
    return Selection(arguments, choice.image_column), replace(choice, image_column=None)


@dataclass(frozen=True, slots=True)
class Survey:
    """What a look at the collection found.

    ``fingerprint`` covers name, length and time of change of every input file: it is
    the same exactly as long as they are. ``skipped`` counts the others by suffix, or by what
    they are. ``columns`` are those of each Parquet file, by its printable name.
    """

    inputs: Collection
    output: Path | None
    kind: Kind
    num_files: int
    fingerprint: str
    skipped: dict[str, int]
    columns: dict[str, Columns]

    @property
    def chosen_columns(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The columns of images and of keys that were chosen: a job that resumes must choose the same."""
        chosen = self.columns.values()
        images = {column for columns in chosen for column in columns.images}
        keys = {columns.key or "" for columns in chosen if columns.images}
        return tuple(sorted(images)), tuple(sorted(keys))


def survey(inputs: Path | Selection, output: Path | None, choice: InputChoice = NO_CHOICE) -> Survey:
    """Look at the collection and decide what its inputs are.

    Hidden and system files, earlier results and whatever is in ``output`` are no inputs.
    Parquet files that hold no images are metadata: beside images or tar shards those whose
    images are not in the file itself, beside other Parquet files those without a column of images.

    Raises:
        UsageError: No such path, ``inputs`` and ``output`` are one, an earlier result, nothing to
            score in it, several kinds and none was named, or no such column.
        CorruptError: Parquet files are all there is, and not one can be read.
    """
    collection = collection_of(inputs)
    if isinstance(collection, OnePath):
        _require_input(collection.path, output)
    listing = _list(collection, output, choice.kind)
    columns = {}
    if choice.kind in (None, *TABLES) and (tables := listing.tables_of(choice.kind)):
        alone = choice.kind is not None or not any(map(listing.counts, _FILES))
        columns = choose_columns(
            {name: place_of(collection.base, file.name) for name, file in tables.items()},
            choice.image_column,
            choice.key_column,
            alone=alone,
            skipped=listing.skipped,
        )
    kind = choice.kind or _only_kind(collection.title, listing, columns)
    if not listing.counts(kind):
        others = listing.described() or "nothing to score"
        raise UsageError(f"{collection.title} holds no {_NAMES[kind][1]}, but {others}.", _SUPPORTED)
    if kind not in TABLES and (choice.image_column or choice.key_column):
        raise UsageError(
            f"{'--image-column' if choice.image_column else '--key-column'} names a column of Parquet files;"
            f" the inputs are {_NAMES[kind][1]}.",
            "Leave it out, or choose with --kind parquet.",
        )
    for other, suffixes in listing.suffixes.items():
        if other != kind and not (other in TABLES and choice.kind is None):
            listing.skipped.update(suffixes)
    if kind in TABLES:
        for file, _ in listing.tables:
            if file.is_folder or printable(file.name) in columns:
                listing.take(file, kind)
    return Survey(
        inputs=collection,
        output=output,
        kind=kind,
        num_files=listing.num_files[kind],
        fingerprint=listing.hashes[kind].hexdigest(),
        skipped=dict(sorted(listing.skipped.items())),
        columns=columns if kind in TABLES else {},
    )


def list_inputs(found: Survey, limits: LimitsParams, skipped: Counter[str]) -> Iterator[PlannedInput]:
    """The inputs of a collection in the order of a job.

    ``skipped`` counts what in archives is skipped.

    Raises:
        CorruptError: A Parquet file cannot be read.
    """
    tables, kind_in, base = [], found.inputs.kind_in, found.inputs.base
    for file in found.inputs.walk(found.output):
        name = printable(file.name)
        if file.problem is not None:
            yield PlannedInput(name, error_code=file.problem.reason, error_detail=file.problem.detail)
            continue
        if not (name in found.columns if found.columns else kind_in(file.name, found.kind) == found.kind):
            continue
        if found.kind == "images":
            yield PlannedInput(name, num_bytes=file.num_bytes, mtime_ns=file.mtime_ns)
        elif found.kind == "tar" or found.kind == "zip":
            for member in list_members(place_of(base, file.name), name, found.kind, limits, skipped):
                yield replace(member, mtime_ns=file.mtime_ns)
        elif (problem := found.columns[name].problem) is not None:
            yield PlannedInput(name, error_code="unreadable_rows", error_detail=problem)
        else:
            tables.append((file, place_of(base, file.name), found.columns[name]))
    yield from list_rows(tables)


def nothing_to_score(found: Survey, skipped: Mapping[str, int]) -> UsageError:
    """The error of a collection without inputs."""
    counts = ", ".join(f"{count} x {name or 'no suffix'}" for name, count in sorted(skipped.items()))
    return UsageError(
        f"{found.inputs.title} holds nothing to score: "
        + (f"its files hold no image (skipped: {counts})." if counts else "its files are empty."),
        "Name a folder or file with images.",
    )


def sources_of(
    inputs: Iterable[PlannedInput], collection: Path | Collection, kind: Kind
) -> Generator[Source | Url | Stored, None, None]:
    """Give the source of each input of a collection whose files are of one kind, in order."""
    base = collection_of(collection).base
    rows = RowReader()
    with closing(ArchiveReader("zip" if kind == "zip" else "tar")) as members:
        for planned in inputs:
            if planned.error_code is not None:
                yield ImageError(planned.error_code, planned.error_detail or "")
            elif planned.file is None:
                name = file_name(planned.key)
                yield Url(name) if is_url(name) else image_at(place_of(base, name))
            elif planned.columns:
                path = place_of(base, file_name(planned.file))
                yield rows.read(path, planned.file, planned.at, planned.columns)
            else:
                yield members.read(place_of(base, file_name(planned.file)), planned.at, planned.num_bytes)


def collection_of(inputs: Path | Collection) -> Collection:
    """What can be walked for what was named."""
    return inputs if isinstance(inputs, OnePath | Selection) else OnePath(folders.input_path(inputs))


def _require_input(path: Path, output: Path | None) -> None:
    """Refuse a path that is not there, the output itself, and an earlier result."""
    if not folders.is_there(path):
        raise UsageError(f"{path} is not there.", "Name a folder, a Parquet file or a tar shard.")
    if output is not None and str(path.resolve()) == str(output.resolve()):
        raise UsageError(f"{path} is both input and output.", "Choose another output folder.")
    if (result := folders.result_of(path)) is not None:
        raise UsageError(
            f"{path} is an earlier result of this tool, or a part of one ({result}).",
            "Name the images that were scored.",
        )


@dataclass(slots=True)
class _Listing:
    """The files of a walk by kind: counts by suffix, the first of each, and what was skipped.

    ``hashes`` cover name, length and time of change of the files of a kind; the columns of ``tables`` decide
    whether these are inputs.
    """

    hashes: dict[Kind, Any] = field(default_factory=lambda: {kind: hashlib.sha256() for kind in _NAMES})
    num_files: Counter[Kind] = field(default_factory=Counter)
    suffixes: dict[Kind, Counter[str]] = field(default_factory=lambda: {kind: Counter() for kind in _NAMES})
    first: dict[Kind, str] = field(default_factory=dict)
    tables: list[tuple[ListedFile, Kind | None]] = field(default_factory=list)
    num_closed: int = 0
    skipped: Counter[str] = field(default_factory=Counter)

    def add(self, file: ListedFile, kind: Kind | None) -> None:
        if file.is_folder:
            self.num_closed += 1
        elif kind is None:
            self.skipped[shown_suffix(file.name)] += 1
        else:
            self.suffixes[kind][shown_suffix(file.name)] += 1
            self.first.setdefault(kind, printable(file.name))
        if file.is_folder or kind in TABLES:
            self.tables.append((file, kind))
        for one in _FILES:
            if file.is_folder or kind == one:
                self.take(file, one)

    def take(self, file: ListedFile, kind: Kind) -> None:
        """Count a file as an input of a kind."""
        self.hashes[kind].update(f"{printable(file.name)}\0{file.num_bytes}\0{file.mtime_ns}\n".encode())
        self.num_files[kind] += 1

    def tables_of(self, kind: Kind | None) -> dict[str, ListedFile]:
        """Tables of a kind, or all, by printable name."""
        return {
            printable(file.name): file
            for file, its_kind in self.tables
            if its_kind is not None and kind in (None, its_kind) and not file.is_folder
        }

    def counts(self, kind: Kind) -> int:
        return self.suffixes[kind].total()

    def described(self, kinds: Names[Kind] = tuple(_NAMES)) -> str:
        """What there is of these kinds, with an example of each."""
        return ", ".join(
            f"{self.counts(kind)} {_NAMES[kind][self.counts(kind) != 1]} (such as {self.first[kind]})"
            for kind in kinds
            if self.counts(kind)
        )


def _list(collection: Collection, output: Path | None, kind: Kind | None) -> _Listing:
    listing = _Listing()
    if not collection.is_folder and collection.kind_in(next(collection.walk()).name, kind) is None:
        raise UsageError(
            f"{collection.title} is no image, archive or table by its name.",
            f"{_SUPPORTED} Archives of other kinds have to be unpacked; name a list as @list.",
        )
    try:
        for file in collection.walk(output, listing.skipped):
            listing.add(file, collection.kind_in(file.name, kind))
    except OSError as error:
        remedy = "Check its permissions."
        if error.errno == errno.EINVAL:  # of an object store, whose client does not take a name there
            remedy = "Rename that object, or name other prefixes."
        raise UsageError(f"{collection.title} cannot be listed: {error.strerror}.", remedy) from None
    return listing


def _only_kind(title: str, listing: _Listing, tables: Names[str]) -> Kind:
    """The one kind that the inputs are of.

    Raises:
        UsageError: There is none, or several.
    """
    present: list[Kind] = [kind for kind in _FILES if listing.counts(kind)]
    present += [kind for kind in TABLES if not listing.tables_of(kind).keys().isdisjoint(tables)]
    if not present:
        counts = listing.skipped.most_common()
        suffixes = [(name, count) for name, count in counts if not name or name.startswith(".")]
        named = [f"{count} x {name or 'no suffix'}" for name, count in suffixes[:_SUFFIXES_NAMED]]
        if listing.num_closed:
            named.append(f"{listing.num_closed} folders cannot be listed")
        named += [f"{count} x {name}" for name, count in counts if (name, count) not in suffixes]
        details = f" ({', '.join(named)})" if named else ""
        raise UsageError(
            f"{title} holds nothing to score: no image, no Parquet file and no tar shard"
            f" among its {sum(count for _, count in suffixes)} files{details}.",
            _SUPPORTED,
        )
    if len(present) > 1:
        raise UsageError(
            f"{title} holds inputs of several kinds: {listing.described(present)}.",
            f"Choose with {' or '.join(f'--kind {kind}' for kind in present)}, or name a sub-folder.",
        )
    return present[0]
