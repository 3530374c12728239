"""What is in a collection: which of its files are inputs, and of which kind."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from quality_model.core import folders
from quality_model.core.decoding import SUFFIXES
from quality_model.core.folders import ListedFile, printable
from quality_model.errors import UsageError
from quality_model.params import LimitsParams
from quality_model.score import parquet_columns, parquet_input, tar_input
from quality_model.score.parquet_columns import Columns

Kind = Literal["images", "tar", "parquet"]

TAR_SUFFIXES: Final = (
    ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz", ".tar.zst", ".tzst",
)  # fmt: skip

_NAMES: Final[Mapping[Kind, tuple[str, str]]] = {
    "images": ("image", "images"),
    "tar": ("tar shard", "tar shards"),
    "parquet": ("Parquet file", "Parquet files"),
}
_SUFFIXES_NAMED: Final = 5
_SUPPORTED: Final = (
    f"Inputs are image files ({', '.join(sorted(SUFFIXES))}), tar shards ({', '.join(TAR_SUFFIXES)})"
    " and Parquet files with a column of images, or a folder of one of these."
)


@dataclass(frozen=True, slots=True)
class Survey:
    """What a look at the collection found.

    ``fingerprint`` covers name, length and time of change of every input file: it is
    the same exactly as long as they are. ``skipped`` counts the others by suffix, or by what
    they are. ``columns`` are those of each Parquet file, by its printable name.
    """

    kind: Kind
    base: Path
    num_files: int
    fingerprint: str
    skipped: dict[str, int]
    columns: dict[str, Columns] = field(default_factory=dict)

    def takes(self, file: ListedFile) -> bool:
        """Whether a file of the walk is an input, or a folder that cannot be listed."""
        if file.is_folder:
            return True
        if self.kind == "parquet":
            return printable(file.name) in self.columns
        return kind_of(file.name) == self.kind

    @property
    def chosen_columns(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The columns of images and of keys that were chosen: a job that resumes must choose the same."""
        chosen = self.columns.values()
        images = {column for columns in chosen for column in columns.images}
        keys = {columns.key or "" for columns in chosen if columns.images}
        return tuple(sorted(images)), tuple(sorted(keys))


@dataclass(frozen=True, slots=True)
class PlannedInput:
    """One input.

    ``key`` is its path or key, unique in the job. ``file`` is the Parquet file or tar
    shard that holds it (None for an image file), ``at`` the row or the offset there, ``columns``
    the columns of images there. ``error_code`` and ``error_detail`` say why it cannot be read, where the
    listing knows.
    """

    key: str
    file: str | None = None
    at: int = 0
    num_bytes: int = 0
    error_code: str | None = None
    error_detail: str | None = None
    columns: tuple[str, ...] = ()


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


def survey(
    inputs: Path,
    output: Path,
    *,
    kind: Kind | None = None,
    image_column: str | None = None,
    key_column: str | None = None,
) -> Survey:
    """Look at the collection and decide what its inputs are.

    Hidden and system files, earlier results and whatever is in ``output`` are no inputs.
    Parquet files that hold no images are metadata: beside images or tar shards those whose
    images are not in the file itself, beside other Parquet files those without a column of images.

    Args:
        inputs: A folder, or one file.
        output: Folder of the result.
        kind: What to score where a folder has several kinds; one file is then of this kind
            whatever its name.
        image_column: The column of images of Parquet files; by default it is found.
        key_column: The column of keys of Parquet files; by default it is found.

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
    listing = _list(inputs, output, kind)
    base = inputs if inputs.is_dir() else inputs.parent
    columns = _columns(listing, base, kind, image_column, key_column)
    chosen = kind or _only_kind(inputs, listing, columns)
    if not listing.counts(chosen):
        others = listing.described() or "nothing to score"
        raise UsageError(f"{inputs} holds no {_NAMES[chosen][1]}, but {others}.", _SUPPORTED)
    if chosen != "parquet" and (image_column or key_column):
        raise UsageError(
            f"{'--image-column' if image_column else '--key-column'} names a column of Parquet files;"
            f" the inputs are {_NAMES[chosen][1]}.",
            "Leave it out, or choose with --kind parquet.",
        )
    skipped = listing.skipped
    for other, suffixes in listing.suffixes.items():
        if other != chosen and not (other == "parquet" and kind is None):
            skipped.update(suffixes)
    files = listing.fingerprint(chosen, columns)
    return Survey(
        kind=chosen,
        base=base,
        num_files=files.num_files,
        fingerprint=files.hexdigest(),
        skipped=dict(sorted(skipped.items())),
        columns=columns if chosen == "parquet" else {},
    )


def list_inputs(
    inputs: Path,
    output: Path,
    found: Survey,
    limits: LimitsParams,
    fingerprint: Fingerprint,
    skipped: Counter[str],
) -> Iterator[PlannedInput]:
    """The inputs of a collection in the order of a job.

    Args:
        inputs, output: As of `survey`.
        found: What that found.
        limits: What an image may be.
        fingerprint: Gets the files.
        skipped: Counts what in tar shards is skipped.

    Raises:
        CorruptError: A Parquet file cannot be read.
    """
    tables = []
    for file in folders.walk(inputs, leave_out=output):
        if inputs.is_dir() and not found.takes(file):
            continue
        fingerprint.add(file)
        name = printable(file.name)
        if file.problem is not None:
            yield PlannedInput(name, error_code=file.problem.reason, error_detail=file.problem.detail)
        elif found.kind == "images":
            yield PlannedInput(name)
        elif found.kind == "tar":
            for member in tar_input.list_members(found.base / file.name, limits, skipped):
                key = f"{name}#{member.name}" if member.name else name
                yield PlannedInput(key, name, member.offset, member.num_bytes, member.reason, member.detail)
        elif (problem := found.columns[name].problem) is not None:
            yield PlannedInput(name, error_code="unreadable_rows", error_detail=problem)
        else:
            tables.append((name, found.base / file.name, found.columns[name]))
    for key, name, row, image_columns in parquet_input.list_keys(tables):
        yield PlannedInput(key, name, row, columns=image_columns)


def kind_of(name: str) -> Kind | None:
    """Tell by the name what a file is; None: not an input."""
    lowered = name.lower()
    if folders.suffix(name) in SUFFIXES:
        return "images"
    if lowered.endswith(".parquet"):
        return "parquet"
    return "tar" if lowered.endswith(TAR_SUFFIXES) else None


class _Listing:
    """The files of a walk by kind: counts by suffix, the first of each, and what was skipped."""

    def __init__(self) -> None:
        self.files: dict[Kind, Fingerprint] = {"images": Fingerprint(), "tar": Fingerprint()}
        self.suffixes: dict[Kind, Counter[str]] = {kind: Counter() for kind in _NAMES}
        self.first: dict[Kind, str] = {}
        self.parquet: list[ListedFile] = []
        self.num_closed = 0
        self.skipped: Counter[str] = Counter()

    def add(self, file: ListedFile, kind: Kind | None) -> None:
        if file.is_folder:
            self.num_closed += 1
            for fingerprint in self.files.values():
                fingerprint.add(file)
            self.parquet.append(file)
        elif kind is None:
            self.skipped[_shown_suffix(file.name)] += 1
        else:
            self.suffixes[kind][_shown_suffix(file.name)] += 1
            self.first.setdefault(kind, printable(file.name))
            if kind == "parquet":
                self.parquet.append(file)
            else:
                self.files[kind].add(file)

    def fingerprint(self, kind: Kind, columns: Mapping[str, Columns]) -> Fingerprint:
        if kind != "parquet":
            return self.files[kind]
        found = Fingerprint()
        for file in self.parquet:
            if file.is_folder or printable(file.name) in columns:
                found.add(file)
        return found

    def counts(self, kind: Kind) -> int:
        return self.suffixes[kind].total()

    def described(self, kinds: Collection[Kind] = tuple(_NAMES)) -> str:
        """What there is of these kinds, with an example of each."""
        told = [
            f"{self.counts(kind)} {_NAMES[kind][self.counts(kind) != 1]} (such as {self.first[kind]})"
            for kind in kinds
            if self.counts(kind)
        ]
        return ", ".join(told)


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


def _columns(
    listing: _Listing, base: Path, kind: Kind | None, image_column: str | None, key_column: str | None
) -> dict[str, Columns]:
    """The columns of the Parquet files that hold images."""
    if not listing.counts("parquet") or kind in ("images", "tar"):
        return {}
    alone = kind == "parquet" or not (listing.counts("images") or listing.counts("tar"))
    paths = {printable(file.name): base / file.name for file in listing.parquet if not file.is_folder}
    return parquet_columns.choose_columns(
        paths, image_column, key_column, alone=alone, skipped=listing.skipped
    )


def _only_kind(inputs: Path, listing: _Listing, columns: Mapping[str, Columns]) -> Kind:
    """The one kind that the inputs are of.

    Raises:
        UsageError: There is none, or several.
    """
    present: list[Kind] = [kind for kind in ("images", "tar") if listing.counts(kind)]
    if columns:
        present.append("parquet")
    if not present:
        others = [f"{count} x {name}" for name, count in listing.skipped.items() if not _is_suffix(name)]
        suffixes = Counter({name: count for name, count in listing.skipped.items() if _is_suffix(name)})
        num_others = suffixes.total()
        named = [f"{count} x {name or 'no suffix'}" for name, count in suffixes.most_common(_SUFFIXES_NAMED)]
        closed = [f"{listing.num_closed} folders cannot be listed"] if listing.num_closed else []
        details = ", ".join([*named, *closed, *others])
        raise UsageError(
            f"{inputs} holds nothing to score: no image, no Parquet file and no tar shard"
            f" among its {num_others} files" + (f" ({details})." if details else "."),
            _SUPPORTED,
        )
    if len(present) > 1:
        raise UsageError(
            f"{inputs} holds inputs of several kinds: {listing.described(present)}.",
            f"Choose with {' or '.join(f'--kind {kind}' for kind in present)}, or name a sub-folder.",
        )
    return present[0]


def _is_suffix(name: str) -> bool:
    return not name or name.startswith(".")


def _shown_suffix(name: str) -> str:
    """The suffix as text that can be written anywhere, on one line."""
    suffix = printable(folders.suffix(name))
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in suffix)
