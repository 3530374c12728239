"""A finished result as it is filtered: its rows, column by column, and the originals behind them."""

import hashlib
from collections import Counter, deque
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import compress
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from quality_model.core import decoding
from quality_model.core.folders import file_name
from quality_model.core.jobs import JobFolder, part_name
from quality_model.curate.expressions import require_column
from quality_model.errors import CorruptError, ImageError, IncompleteError, UsageError
from quality_model.params import LimitsParams
from quality_model.records import SCHEMA_VERSION, Head
from quality_model.score.inputs import sources_of
from quality_model.score.plan import Plan, open_plan
from quality_model.score.reading import DownloadRules, PlannedInput, Source, fetched

Mask = npt.NDArray[np.bool_]

_BATCH_ROWS: Final = 1 << 17
_KEYS_NAMED: Final = 1000
_MAX_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a result in the order of its plan, read column by column.

    Attributes:
        files: Parquet files, one part each.
        schema: Of every file.
        thresholds: The model's, as the result stores them.
        scored: bool (N,): the rows with scores.
        errors: Of the others, how many have each error code.
    """

    files: tuple[Path, ...]
    schema: pa.Schema
    thresholds: Mapping[Head, float]
    scored: Mask = field(repr=False)
    errors: Mapping[str, int]

    @classmethod
    def of(cls, files: Sequence[Path], thresholds: Mapping[Head, float]) -> "Rows":
        """Read which rows have scores; at least one file."""
        codes = pq.read_table(list(files), columns=["error_code"])["error_code"]
        counts = Counter(
            {row["values"]: row["counts"] for row in pc.value_counts(codes.drop_null()).to_pylist()}
        )
        return cls(
            tuple(files),
            pq.read_schema(files[0]),
            thresholds,
            codes.is_null().to_numpy(),
            dict(counts.most_common()),
        )

    @property
    def columns(self) -> list[str]:
        return list(self.schema.names)

    def batches(self, columns: Collection[str]) -> Iterator[pa.RecordBatch]:
        """Some columns of all rows, a hundred thousand rows at a time."""
        for path in self.files:
            with pq.ParquetFile(path) as file:
                yield from file.iter_batches(_BATCH_ROWS, columns=list(columns))

    def numbers(self, column: str) -> npt.NDArray[np.float64]:
        """A column of numbers, (N,), NaN where a row has no scores or the value is null.

        Raises:
            UsageError: There is no such column, or it holds no numbers.
        """
        require_column(column, self.columns)
        kind = self.schema.field(column).type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            numeric = [each.name for each in self.schema if pa.types.is_floating(each.type)]
            raise UsageError(
                f"The column {column} holds {kind}, no numbers.", f"Columns of numbers: {', '.join(numeric)}."
            )
        found = np.empty(len(self.scored))
        at = 0
        for batch in self.batches([column]):
            found[at : at + len(batch)] = batch.column(0).cast(pa.float64()).to_numpy(zero_copy_only=False)
            at += len(batch)
        found[~self.scored] = np.nan
        return found

    def sample(self, chosen: Mask, count: int) -> list[str]:
        """The keys of the chosen rows with the smallest hashes, those with the highest worst score first."""
        (numbers,) = np.nonzero(chosen)
        numbers = np.sort(numbers[np.argsort(self.key_hashes(chosen))[:count]])
        found = np.zeros(len(chosen), np.bool_)
        found[numbers] = True
        order = np.argsort(-self.numbers("worst_score")[numbers], kind="stable")
        keys: list[str] = []
        for batch, mask in self._masked(["key"], found):
            keys += batch.column(0).filter(mask).to_pylist()
        return [keys[number] for number in order]

    def key_hashes(self, chosen: Mask) -> npt.NDArray[np.uint64]:
        """Of the keys of chosen rows, in order: the first eight bytes of SHA-256, the same everywhere."""
        hashes: list[int] = []
        for batch, mask in self._masked(["key"], chosen):
            keys = batch.column(0).filter(mask).to_pylist()
            hashes += [int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) for key in keys]
        return np.array(hashes, dtype=np.uint64)

    def _masked(self, columns: Collection[str], chosen: Mask) -> Iterator[tuple[pa.RecordBatch, pa.Array]]:
        """Batches of some columns, each with its part of a mask."""
        first = 0
        for batch in self.batches(columns):
            yield batch, pa.array(chosen[first : first + len(batch)])
            first += len(batch)


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished result.

    Attributes:
        folder: Of the result.
        plan: Which input each row is; its model and settings.
        sha256: Of the whole result, as its completion marker says.
        root: What was scored: a folder, a file, or the folder that names are relative to.
        is_tree: Everything below ``root`` was scored.
    """

    folder: Path
    plan: Plan
    sha256: str
    root: Path
    is_tree: bool

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the result in a folder.

        Raises:
            UsageError: It is none, or one of another release.
            IncompleteError: It is not finished.
            CorruptError: It is not what its completion marker says.
        """
        plan = open_plan(folder)
        if plan is None:
            raise UsageError(f"{folder} is no result of `score`.", "Name the folder that `score` printed.")
        if (version := plan.settings.schema_version) > SCHEMA_VERSION:
            raise UsageError(
                f"{folder} has version {version} of the columns; this release reads {SCHEMA_VERSION}.",
                "Install a newer one.",
            )
        facts = JobFolder(folder).completion()
        if facts is None:
            raise IncompleteError(f"{folder} is not finished.", "Run the same `score` again: it resumes.")
        try:
            root, written = (file_name(facts["inputs"][name]) for name in ("absolute_root", "root"))
            sha256 = str(facts["sha256"])
        except (KeyError, TypeError):
            raise CorruptError(f"{folder} does not say what was scored.", "Score again.") from None
        place = Path(root)
        # Of several arguments or a list, root is only what names are relative to.
        is_tree = place.is_dir() and (
            Path(written).name in (place.name, "", "..") or Path(written).resolve() == place
        )
        return cls(folder, plan, sha256, place, is_tree)

    def moved_to(self, root: Path) -> Self:
        """The same, with the originals in another folder or file.

        Raises:
            UsageError: It is not there.
        """
        if not root.exists():
            raise UsageError(f"{root} is not there.", "Name what was scored, where it is now.")
        return replace(self, root=root.resolve())

    def rows(self) -> Rows:
        """Its rows, for rules."""
        return Rows.of(self.files, self.plan.model.thresholds or {})

    @property
    def files(self) -> list[Path]:
        """Of the rows, in the order of the plan."""
        return [self.folder / part_name(number) for number in self.plan.rows_of_parts]

    @property
    def base(self) -> Path:
        """The folder that names are relative to."""
        return self.root if self.root.is_dir() else self.root.parent

    @property
    def limits(self) -> LimitsParams:
        """The limits of the job: no original has more bytes."""
        settings = self.plan.settings
        return LimitsParams(
            max_pixels=settings.max_pixels,
            max_bytes=settings.max_bytes,
            formats=settings.formats,
            max_seconds=_MAX_SECONDS,
        )

    def tables(self, chosen: Mask, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The chosen rows of each part that has some, in the order of the plan."""
        for path, mask in zip(self.files, self._by_part(chosen), strict=True):
            if mask.any():
                with pq.ParquetFile(path) as file:
                    yield file.read(columns).filter(pa.array(mask))

    def originals(self, chosen: Mask) -> Iterator["Original"]:
        """The originals of the chosen rows, in the order of the plan; nothing of them is read yet."""
        tables = self.tables(chosen, ["sha256", "size_bytes", "format"])
        for number, mask in zip(self.plan.rows_of_parts, self._by_part(chosen), strict=True):
            if mask.any():
                inputs = compress(self.plan.inputs_of(self.folder, number), mask)
                for planned, *facts in zip(inputs, *next(tables).to_pydict().values(), strict=True):
                    yield Original(planned, *facts)

    def sources(
        self, originals: Iterable["Original"], download: DownloadRules | None
    ) -> Generator[tuple["Original", Source], None, None]:
        """Each original with its path or bytes, or why there are none, in order."""
        waiting: deque[Original] = deque()

        def inputs() -> Iterator[PlannedInput]:
            for original in originals:
                waiting.append(original)
                yield original.planned

        found = sources_of(inputs(), self.root, self.plan.kind)
        with closing(found), closing(fetched(found, download, self.limits)) as sources:
            for source in sources:
                yield waiting.popleft(), source

    def _by_part(self, chosen: Mask) -> list[Mask]:
        return np.split(chosen, np.cumsum([*self.plan.rows_of_parts.values()])[:-1])


@dataclass(frozen=True, slots=True)
class Original:
    """What was scored: its place, and SHA-256, length and format of its bytes then."""

    planned: PlannedInput
    sha256: str | None
    num_bytes: int | None
    format: str | None

    def is_same(self, data: bytes) -> bool:
        """Whether these are the bytes that were scored."""
        return len(data) == self.num_bytes and hashlib.sha256(data).hexdigest() == self.sha256

    def bytes_of(self, source: Source, limits: LimitsParams) -> bytes:
        """The bytes that were scored.

        Raises:
            ImageError: They cannot be read, or are ``changed``.
        """
        if isinstance(source, ImageError):
            raise source
        data = decoding.read_bytes(source, limits) if isinstance(source, Path) else source
        if not self.is_same(data):
            raise ImageError("changed", "it is not the image that was scored")
        return data


@dataclass(slots=True)
class Losses:
    """Originals that were kept and could not be written: their number and first keys by error code."""

    counts: dict[str, int] = field(default_factory=dict)
    keys: dict[str, list[str]] = field(default_factory=dict)

    def add(self, key: str, code: str) -> None:
        self.counts[code] = self.counts.get(code, 0) + 1
        named = self.keys.setdefault(code, [])
        if len(named) < _KEYS_NAMED:
            named.append(key)

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def to_json(self) -> dict[str, object]:
        """JSON values."""
        return {
            code: {"count": count, "keys": self.keys[code]} for code, count in sorted(self.counts.items())
        }
