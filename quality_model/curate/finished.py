"""A finished scoring result, as what looks at it and acts on it reads it; files that name images of it."""

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from quality_model.core import storage
from quality_model.core.folders import JOB_NAME, file_name, is_folder, is_result, place_of, printable
from quality_model.core.parquet import open_parquet
from quality_model.core.stores import is_in_store
from quality_model.errors import CorruptError, IncompleteError, StorageError, UsageError
from quality_model.params import WITHOUT_PROJECT, LimitsParams
from quality_model.records import SCHEMA_VERSION, Head
from quality_model.score.result import ScoringModel
from quality_model.score.selection import Kind
from quality_model.score.tables import first_line

_BATCH_ROWS: Final = 1 << 17
_MOST_ENTRIES: Final = 1000
_NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class FinishedResult:
    """The folder of a result, with what its completion marker says.

    Attributes:
        files: Of the rows, in the order of the plan, with the rows of each.
        model: Which made the scores.
        sha256: Of the whole result.
        plan_sha256: Tells it from every other result.
        kind: Of the files that were scored.
        root: What was scored: a folder, a file, or the folder that names are relative to.
        is_tree: Everything below ``root`` was scored.
        limits: Those of the job: what an image may be.
    """

    folder: Path
    files: Mapping[Path, int]
    model: ScoringModel
    sha256: str
    plan_sha256: str
    kind: Kind
    root: Path
    is_tree: bool
    limits: LimitsParams

    @property
    def thresholds(self) -> Mapping[Head, float]:
        """Stored with the result; empty for a model without."""
        return self.model.thresholds or {}

    @property
    def base(self) -> Path:
        """The folder that names are relative to."""
        return self.root if is_folder(self.root) else self.root.parent

    @property
    def schema(self) -> pa.Schema:
        """Of the rows."""
        return schema_of(self.files)

    def rows(self, columns: Collection[str]) -> pa.Table:
        """Some columns of all rows, in the order of the plan.

        Raises:
            UsageError: The result is of an earlier release, without one of them.
        """
        schema = self.schema
        if missing := [column for column in columns if column not in schema.names]:
            raise UsageError(
                f"{self.folder} has no column {', '.join(missing)}.", "Score again, with --overwrite."
            )
        chosen = pa.schema([schema.field(column) for column in columns])
        return pa.Table.from_batches(self.batches(columns), chosen)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Read rows, and refuse what was read if an update has changed the result since it was opened.

        Raises:
            StorageError: It has: rows of two results would be mixed.
        """
        try:
            yield
        except Exception:
            self._require_unchanged()
            raise
        self._require_unchanged()

    def _require_unchanged(self) -> None:
        with suppress(IncompleteError, CorruptError):
            if storage.require_sealed(self.folder, marker_name=JOB_NAME)["sha256"] == self.sha256:
                return
        raise StorageError(f"{self.folder} was changed while it was read.", "Run the same command again.")

    def batches(self, columns: Collection[str]) -> Iterator[pa.RecordBatch]:
        """Some columns of all rows, a hundred thousand rows at a time."""
        return batches_of(self.files, columns)


def schema_of(files: Iterable[Path]) -> pa.Schema:
    """The columns of Parquet files of one result."""
    with open_parquet(next(iter(files))) as file:
        return file.schema_arrow


def batches_of(files: Iterable[Path], columns: Collection[str]) -> Iterator[pa.RecordBatch]:
    """Some columns of the rows of Parquet files, a hundred thousand rows at a time."""
    for path in files:
        with open_parquet(path) as file:
            yield from file.iter_batches(_BATCH_ROWS, columns=list(columns))


def open_finished(folder: Path) -> FinishedResult:
    """The finished result in a folder.

    Raises:
        UsageError: It is no result, one of an earlier layout or a later release, or has a name that PyArrow
            cannot open.
        IncompleteError: It is not finished.
        CorruptError: It is not what its completion marker says.
    """
    if not is_result(folder):
        is_there = folder.exists() if is_in_store(folder) else os.path.lexists(folder)
        problem = "no result of `score`" if is_there else "not there"
        raise UsageError(f"{printable(str(folder))} is {problem}.", _results_near(folder))
    try:
        str(folder).encode()
    except UnicodeEncodeError:  # PyArrow opens no such path
        raise UsageError(f"The path {printable(str(folder))} is not UTF-8.", "Rename the folder.") from None
    if not (folder / JOB_NAME).is_file():
        raise IncompleteError(f"{folder} is not finished.", "Run the same `score` again: it resumes.")
    facts = storage.require_sealed(folder, marker_name=JOB_NAME)
    version = facts.get("schema_version", 0)
    if not 0 < version <= SCHEMA_VERSION:
        raise UsageError(
            f"{folder} has version {version} of the columns; this release reads 1 to {SCHEMA_VERSION}.",
            "Install a newer release."
            if version
            else "Score again, with --overwrite or into another folder.",
        )
    try:
        return _described(folder, facts)
    except (KeyError, TypeError, AttributeError):
        raise CorruptError(
            f"The completion marker of {folder} does not say what made it of what.", "Score again."
        ) from None


def _results_near(folder: Path) -> str:
    """A remedy: results inside a folder that is none, or those beside it, the closest names first."""
    for place in () if is_in_store(folder) else (folder, folder.parent):
        with suppress(OSError):
            entries = islice(os.scandir(place), _MOST_ENTRIES)
            found = [entry.name for entry in entries if entry.is_dir() and is_result(place / entry.name)]
            if found:
                close = get_close_matches(folder.name, found, n=_NAMED, cutoff=0.0)
                names = ", ".join(printable(str(place / name)) for name in close)
                return f"Results {'in it' if place == folder else 'beside it'}: {names}."
    return "Name the folder that `score` printed."


def _described(folder: Path, facts: Mapping[str, Any]) -> FinishedResult:
    inputs, settings = facts["inputs"], facts["settings"]
    limits = {name: settings[name] for name in ("max_pixels", "max_bytes")}
    return FinishedResult(
        folder=folder,
        files={folder / part["file"]: part["rows"] for part in facts["parts"]},
        model=ScoringModel(**facts["model"], thresholds=facts["thresholds"]),
        sha256=facts["sha256"],
        plan_sha256=facts["plan_sha256"],
        kind=inputs["kind"],
        root=place_of(Path(), file_name(inputs["absolute_root"])),
        is_tree=inputs.get("is_folder", False),
        limits=WITHOUT_PROJECT.limits.model_copy(update={**limits, "formats": tuple(settings["formats"])}),
    )


# -- files that name images by their keys


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
