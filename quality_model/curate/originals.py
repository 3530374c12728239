"""The rows of a finished result, column by column, and the originals behind them."""

import hashlib
from collections import Counter, deque
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import compress
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from quality_model.core import decoding
from quality_model.core.folders import input_path, is_there
from quality_model.core.parquet import open_parquet
from quality_model.curate.expressions import require_column
from quality_model.curate.finished import FinishedResult, batches_of, schema_of
from quality_model.errors import ImageError, IncompleteError, UsageError
from quality_model.params import LimitsParams
from quality_model.records import Head
from quality_model.score.inputs import sources_of
from quality_model.score.plan import open_plan
from quality_model.score.reading import DownloadRules, PlannedInput, Source, fetched
from quality_model.score.sketches import order_of

Mask = npt.NDArray[np.bool_]

_KEYS_NAMED: Final = 1000


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
    def of(cls, files: Collection[Path], thresholds: Mapping[Head, float]) -> "Rows":
        """Read which rows have scores; at least one file."""
        batches = batches_of(files, ["error_code"])
        codes = pa.chunked_array([batch.column(0) for batch in batches], pa.string())
        counts = Counter(
            {row["values"]: row["counts"] for row in pc.value_counts(codes.drop_null()).to_pylist()}
        )
        return cls(
            tuple(files),
            schema_of(files),
            thresholds,
            codes.is_null().to_numpy(),
            dict(counts.most_common()),
        )

    @property
    def columns(self) -> list[str]:
        return list(self.schema.names)

    def batches(self, columns: Collection[str]) -> Iterator[pa.RecordBatch]:
        """Some columns of all rows, a hundred thousand rows at a time."""
        return batches_of(self.files, columns)

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of all rows: for what Arrow prepares once a call, such as a table of keys to look up."""
        found = [batch.column(0) for batch in self.batches([name])]
        return pa.chunked_array(found, self.schema.field(name).type)

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
            found[at : at + len(batch)] = (
                batch.column(0).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
            )
            at += len(batch)
        found[~self.scored] = np.nan
        return found

    def sample(self, chosen: Mask, count: int, column: str = "worst_score") -> npt.NDArray[np.int64]:
        """The numbers of the chosen rows with the smallest hashes, those with the highest score first."""
        (numbers,) = np.nonzero(chosen)
        numbers = np.sort(numbers[np.argsort(self.key_hashes(chosen))[:count]])
        return numbers[np.argsort(-self.numbers(column)[numbers], kind="stable")]

    def keys_of(self, numbers: npt.NDArray[np.int64]) -> list[str]:
        """The keys of rows by their numbers, in this order."""
        found = np.zeros(len(self.scored), np.bool_)
        found[numbers] = True
        keys: list[str] = []
        for batch, mask in self._masked(["key"], found):
            keys += batch.column(0).filter(mask).to_pylist()
        return [keys[place] for place in np.searchsorted(np.flatnonzero(found), numbers)]

    def key_hashes(self, chosen: Mask) -> npt.NDArray[np.uint64]:
        """Of the keys of chosen rows, in order (`order_of`)."""
        hashes: list[int] = []
        for batch, mask in self._masked(["key"], chosen):
            keys = batch.column(0).filter(mask).to_pylist()
            hashes += map(order_of, keys)
        return np.array(hashes, dtype=np.uint64)

    def _masked(self, columns: Collection[str], chosen: Mask) -> Iterator[tuple[pa.RecordBatch, pa.Array]]:
        """Batches of some columns, each with its part of a mask."""
        first = 0
        for batch in self.batches(columns):
            yield batch, pa.array(chosen[first : first + len(batch)])
            first += len(batch)


def moved_to(result: FinishedResult, root: Path) -> FinishedResult:
    """The same result, with the originals in another folder or file.

    Raises:
        UsageError: It is not there.
    """
    root = input_path(root)
    if not is_there(root):
        raise UsageError(f"{root} is not there.", "Name what was scored, where it is now.")
    return replace(result, root=root.resolve())


def tables(result: FinishedResult, chosen: Mask, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The chosen rows of each part that has some, in the order of the plan."""
    for path, mask in zip(result.files, _by_part(result, chosen), strict=True):
        if mask.any():
            with open_parquet(path) as file:
                yield file.read(columns).filter(pa.array(mask))


def originals_of(result: FinishedResult, chosen: Mask) -> Iterator["Original"]:
    """The originals of the chosen rows, in the order of the plan; nothing of them is read yet.

    Raises:
        CorruptError: The plan is damaged.
        IncompleteError: It is not that of the result: an update was interrupted at its end.
    """
    plan = open_plan(result.folder)
    if plan is None or plan.plan_sha256 != result.plan_sha256:
        raise IncompleteError(
            f"The plan in {result.folder} is not that of its rows: an update did not end.",
            "Run the same `score` again: it ends the update.",
        )
    facts_of_parts = tables(result, chosen, ["sha256", "size_bytes", "format"])
    for number, mask in zip(plan.rows_of_parts, _by_part(result, chosen), strict=True):
        if mask.any():
            inputs = compress(plan.inputs_of(result.folder, number), mask)
            for planned, *facts in zip(inputs, *next(facts_of_parts).to_pydict().values(), strict=True):
                yield Original(planned, *facts)


def with_sources(
    result: FinishedResult, originals: Iterable["Original"], download: DownloadRules | None
) -> Generator[tuple["Original", Source], None, None]:
    """Each original with its path or bytes, or why there are none, in order."""
    waiting: deque[Original] = deque()

    def inputs() -> Iterator[PlannedInput]:
        for original in originals:
            waiting.append(original)
            yield original.planned

    found = sources_of(inputs(), result.root, result.kind)
    with closing(found), closing(fetched(found, download, result.limits)) as sources:
        for source in sources:
            yield waiting.popleft(), source


def _by_part(result: FinishedResult, chosen: Mask) -> list[Mask]:
    return np.split(chosen, np.cumsum([*result.files.values()])[:-1])


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

    def __or__(self, other: "Losses") -> "Losses":
        """Those of two outputs of the same originals: what is lost for both counts once."""
        return Losses(dict(Counter(self.counts) | Counter(other.counts)), {**other.keys, **self.keys})

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def to_json(self) -> dict[str, object]:
        """JSON values."""
        return {
            code: {"count": count, "keys": self.keys[code]} for code, count in sorted(self.counts.items())
        }
