"""What is in a collection: which of its files are inputs, of which kind, and what they are called."""

import hashlib
import logging
from array import array
from collections import Counter
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from quality_model.core import folders
from quality_model.core.decoding import SUFFIXES
from quality_model.core.folders import ListedFile, file_name, printable
from quality_model.errors import ImageError, UsageError
from quality_model.params import LimitsParams
from quality_model.score.parquet_input import Columns, RowReader, choose_columns, list_keys
from quality_model.score.reading import PlannedInput, Source
from quality_model.score.tar_input import MemberReader, list_members

Kind = Literal["images", "tar", "parquet"]

TAR_SUFFIXES: Final = (
    ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz", ".tar.zst", ".tzst",
)  # fmt: skip

_NAMES: Final[dict[Kind, tuple[str, str]]] = {
    "images": ("image", "images"),
    "tar": ("tar shard", "tar shards"),
    "parquet": ("Parquet file", "Parquet files"),
}
_SUFFIXES_NAMED: Final = 5
_SUPPORTED: Final = (
    f"Inputs are image files ({', '.join(sorted(SUFFIXES))}), tar shards ({', '.join(TAR_SUFFIXES)})"
    " and Parquet files with a column of images, or a folder of one of these."
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


@dataclass(frozen=True, slots=True)
class Survey:
    """What a look at the collection found.

    ``fingerprint`` covers name, length and time of change of every input file: it is
    the same exactly as long as they are. ``skipped`` counts the others by suffix, or by what
    they are. ``columns`` are those of each Parquet file, by its printable name.
    """

    inputs: Path
    output: Path
    kind: Kind
    num_files: int
    fingerprint: str
    skipped: dict[str, int]
    columns: dict[str, Columns]

    @property
    def base(self) -> Path:
        """The folder that the names of files are relative to."""
        return self.inputs if self.inputs.is_dir() else self.inputs.parent

    @property
    def chosen_columns(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The columns of images and of keys that were chosen: a job that resumes must choose the same."""
        chosen = self.columns.values()
        images = {column for columns in chosen for column in columns.images}
        keys = {columns.key or "" for columns in chosen if columns.images}
        return tuple(sorted(images)), tuple(sorted(keys))


class Fingerprint:
    """A running hash over the files of a listing."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.num_files = 0

    def add(self, file: ListedFile) -> None:
        line = f"{printable(file.name)}\0{file.num_bytes}\0{file.mtime_ns}\n"
        self._hash.update(line.encode())
        self.num_files += 1

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def survey(inputs: Path, output: Path, choice: InputChoice = NO_CHOICE) -> Survey:
    """Look at the collection and decide what its inputs are.

    Hidden and system files, earlier results and whatever is in ``output`` are no inputs.
    Parquet files that hold no images are metadata: beside images or tar shards those whose
    images are not in the file itself, beside other Parquet files those without a column of images.

    Args:
        inputs: A folder, or one file.
        output: Folder of the result.
        choice: What to score, if the inputs leave a choice.

    Raises:
        UsageError: No such path, ``inputs`` and ``output`` are one, an earlier result, nothing to
            score in it, several kinds and none was named, or no such column.
        CorruptError: Parquet files are all there is, and not one can be read.
    """
    inputs = folders.input_path(inputs)
    if not inputs.exists():
        raise UsageError(f"{inputs} is not there.", "Name a folder, a Parquet file or a tar shard.")
    if inputs.resolve() == output.resolve():
        raise UsageError(f"{inputs} is both input and output.", "Choose another output folder.")
    if (result := folders.result_of(inputs)) is not None:
        raise UsageError(
            f"{inputs} is an earlier result of this tool, or a part of one ({result}).",
            "Name the images that were scored.",
        )
    listing = _list(inputs, output, choice.kind)
    base = inputs if inputs.is_dir() else inputs.parent
    columns = {}
    if listing.counts("parquet") and choice.kind in (None, "parquet"):
        alone = choice.kind == "parquet" or not (listing.counts("images") or listing.counts("tar"))
        paths = {printable(file.name): base / file.name for file in listing.parquet if not file.is_folder}
        columns = choose_columns(
            paths, choice.image_column, choice.key_column, alone=alone, skipped=listing.skipped
        )
    kind = choice.kind or _only_kind(inputs, listing, has_tables=bool(columns))
    if not listing.counts(kind):
        others = listing.described() or "nothing to score"
        raise UsageError(f"{inputs} holds no {_NAMES[kind][1]}, but {others}.", _SUPPORTED)
    if kind != "parquet" and (choice.image_column or choice.key_column):
        raise UsageError(
            f"{'--image-column' if choice.image_column else '--key-column'} names a column of Parquet files;"
            f" the inputs are {_NAMES[kind][1]}.",
            "Leave it out, or choose with --kind parquet.",
        )
    for other, suffixes in listing.suffixes.items():
        if other != kind and not (other == "parquet" and choice.kind is None):
            listing.skipped.update(suffixes)
    fingerprint = listing.fingerprints[kind]
    if kind == "parquet":
        for file in listing.parquet:
            if file.is_folder or printable(file.name) in columns:
                fingerprint.add(file)
    return Survey(
        inputs=inputs,
        output=output,
        kind=kind,
        num_files=fingerprint.num_files,
        fingerprint=fingerprint.hexdigest(),
        skipped=dict(sorted(listing.skipped.items())),
        columns=columns if kind == "parquet" else {},
    )


def list_inputs(found: Survey, limits: LimitsParams, skipped: Counter[str]) -> Iterator[PlannedInput]:
    """The inputs of a collection in the order of a job.

    Args:
        found: What a look at it found.
        limits: What an image may be.
        skipped: Counts what in tar shards is skipped.

    Raises:
        CorruptError: A Parquet file cannot be read.
    """
    tables = []
    is_file = not found.inputs.is_dir()  # of the kind that was chosen, whatever its name
    for file in folders.walk(found.inputs, leave_out=found.output):
        name = printable(file.name)
        if file.problem is not None:
            yield PlannedInput(name, error_code=file.problem.reason, error_detail=file.problem.detail)
        elif not is_file and (
            name not in found.columns if found.columns else kind_of(file.name) != found.kind
        ):
            continue
        elif found.kind == "images":
            yield PlannedInput(name)
        elif found.kind == "tar":
            yield from list_members(found.base / file.name, name, limits, skipped)
        elif (problem := found.columns[name].problem) is not None:
            yield PlannedInput(name, error_code="unreadable_rows", error_detail=problem)
        else:
            tables.append((name, found.base / file.name, found.columns[name]))
    yield from _list_rows(tables)


def sources_of(inputs: Iterable[PlannedInput], collection: Path) -> Generator[Source, None, None]:
    """Give the source of each input of a collection, a folder or one file, in order."""
    base = collection if collection.is_dir() else collection.parent
    rows, members = RowReader(), MemberReader()
    try:
        for planned in inputs:
            if planned.error_code is not None:
                yield ImageError(planned.error_code, planned.error_detail or "")
            elif planned.file is None:
                yield base / file_name(planned.key)
            elif planned.columns:
                file = base / file_name(planned.file)
                yield rows.read(file, planned.file, planned.at, planned.columns)
            else:
                yield members.read(base / file_name(planned.file), planned.at, planned.num_bytes)
    finally:
        members.close()


def repeated_hashes(hashes: "array[int]") -> tuple[set[int], npt.NDArray[np.int64]]:
    """Those hashes of keys that occur more than once, and all of them once, sorted."""
    values, counts = np.unique(np.frombuffer(hashes, dtype=np.int64), return_counts=True)
    return set(values[counts > 1].tolist()), values


def _list_rows(files: Sequence[tuple[str, Path, Columns]]) -> Iterator[PlannedInput]:
    """List the rows of Parquet files; no two keys are the same.

    A row's key is its value in the key column, or ``file#row`` where there is none, it cannot be read, or it
    is the image itself as base64 text. Where a key occurs twice in the collection, every key gets its file in
    front, ``file#key``; one that occurs twice in one file then gets its number behind, ``file#key#2``.
    Memory holds eight bytes for each row, and the keys that occur twice in one file.

    Raises:
        CorruptError: See `parquet_input.open_parquet`.
    """
    damaged: set[str] = set()

    def rows(in_front: bool) -> Iterator[PlannedInput]:
        for name, path, columns in files:
            for row, key in enumerate(list_keys(path, name, columns.key, damaged)):
                if key is None:
                    key = f"{name}#{row}"
                elif in_front:
                    key = f"{name}#{key}"
                yield PlannedInput(key, name, row, columns=columns.images)

    def hashes(in_front: bool) -> "array[int]":
        return array("q", (hash(row.key) for row in rows(in_front)))

    has_keys = any(columns.key is not None for _, _, columns in files)
    if not has_keys or not repeated_hashes(hashes(False))[0]:
        yield from rows(False)
        return
    _log.warning("Keys occur twice: each gets the name of its file in front, as in file.parquet#key.")
    repeated, taken = repeated_hashes(hashes(True))
    times_seen: Counter[str] = Counter()
    for row in rows(True):
        unique = key = row.key
        if hash(key) in repeated:
            times_seen[key] += 1
            while times_seen[key] > 1 and _is_in(taken, unique := f"{key}#{times_seen[key]}"):
                times_seen[key] += 1
        yield replace(row, key=unique)


def _is_in(hashes: npt.NDArray[np.int64], key: str) -> bool:
    place = int(np.searchsorted(hashes, hash(key)))
    return place < len(hashes) and int(hashes[place]) == hash(key)


def kind_of(name: str) -> Kind | None:
    """The kind of a file, by its name; None: not an input."""
    lowered = name.lower()
    if folders.suffix(name) in SUFFIXES:
        return "images"
    if lowered.endswith(".parquet"):
        return "parquet"
    return "tar" if lowered.endswith(TAR_SUFFIXES) else None


class _Listing:
    """The files of a walk by kind: counts by suffix, the first of each, and what was skipped."""

    def __init__(self) -> None:
        self.fingerprints: dict[Kind, Fingerprint] = {kind: Fingerprint() for kind in _NAMES}
        self.suffixes: dict[Kind, Counter[str]] = {kind: Counter() for kind in _NAMES}
        self.first: dict[Kind, str] = {}
        self.parquet: list[ListedFile] = []  # their columns decide which are inputs
        self.num_closed = 0
        self.skipped: Counter[str] = Counter()

    def add(self, file: ListedFile, kind: Kind | None) -> None:
        if file.is_folder:
            self.num_closed += 1
        elif kind is None:
            self.skipped[_shown_suffix(file.name)] += 1
        else:
            self.suffixes[kind][_shown_suffix(file.name)] += 1
            self.first.setdefault(kind, printable(file.name))
        if file.is_folder or kind == "parquet":
            self.parquet.append(file)
        for one, fingerprint in self.fingerprints.items():
            if one != "parquet" and (file.is_folder or kind == one):
                fingerprint.add(file)

    def counts(self, kind: Kind) -> int:
        return self.suffixes[kind].total()

    def described(self, kinds: Collection[Kind] = tuple(_NAMES)) -> str:
        """What there is of these kinds, with an example of each."""
        return ", ".join(
            f"{self.counts(kind)} {_NAMES[kind][self.counts(kind) != 1]} (such as {self.first[kind]})"
            for kind in kinds
            if self.counts(kind)
        )


def _list(inputs: Path, output: Path, kind: Kind | None) -> _Listing:
    listing = _Listing()
    if not inputs.is_dir():
        (file,) = folders.walk(inputs)
        kind = kind or kind_of(file.name)
        if kind is None:
            raise UsageError(
                f"{inputs} is no image, tar shard or Parquet file by its name.",
                f"{_SUPPORTED} Archives of other kinds have to be unpacked; lists of files are not read.",
            )
        listing.add(file, kind)
        return listing
    try:
        for file in folders.walk(inputs, leave_out=output, skipped=listing.skipped):
            listing.add(file, kind_of(file.name))
    except OSError as error:
        raise UsageError(f"{inputs} cannot be listed: {error.strerror}.", "Check its permissions.") from None
    return listing


def _only_kind(inputs: Path, listing: _Listing, *, has_tables: bool) -> Kind:
    """The one kind that the inputs are of.

    Raises:
        UsageError: There is none, or several.
    """
    present: list[Kind] = [kind for kind in ("images", "tar") if listing.counts(kind)]
    if has_tables:
        present.append("parquet")
    if not present:
        counts = listing.skipped.most_common()
        suffixes = [(name, count) for name, count in counts if not name or name.startswith(".")]
        named = [f"{count} x {name or 'no suffix'}" for name, count in suffixes[:_SUFFIXES_NAMED]]
        if listing.num_closed:
            named.append(f"{listing.num_closed} folders cannot be listed")
        named += [f"{count} x {name}" for name, count in counts if (name, count) not in suffixes]
        details = f" ({', '.join(named)})" if named else ""
        raise UsageError(
            f"{inputs} holds nothing to score: no image, no Parquet file and no tar shard"
            f" among its {sum(count for _, count in suffixes)} files{details}.",
            _SUPPORTED,
        )
    if len(present) > 1:
        raise UsageError(
            f"{inputs} holds inputs of several kinds: {listing.described(present)}.",
            f"Choose with {' or '.join(f'--kind {kind}' for kind in present)}, or name a sub-folder.",
        )
    return present[0]


def _shown_suffix(name: str) -> str:
    """The suffix as text that can be written anywhere, on one line."""
    suffix = printable(folders.suffix(name))
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in suffix)
