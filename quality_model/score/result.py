"""A scoring result: its rows, and what they add up to (docs/results-format.md)."""

import io
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from quality_model.core import storage
from quality_model.core.jobs import DATA_FOLDER
from quality_model.core.measures import MEASURES
from quality_model.core.processes import FailureKind
from quality_model.core.provenance import Intervals
from quality_model.core.views import SQUEEZED, ViewRecipe
from quality_model.errors import StorageError, UsageError
from quality_model.params import EngineName
from quality_model.records import (
    FLAG_COLUMNS,
    HEADS,
    MEANINGS,
    OVERALL_WEIGHTS,
    SCALE_VERSION,
    SCHEMA_VERSION,
    Head,
    ModelRef,
)
from quality_model.score.reading import Reading

if TYPE_CHECKING:
    from quality_model.core.predict import Scorer

REPORT_NAME: Final = "report"
SUMMARY_NAME: Final = f"{REPORT_NAME}/summary.json"
FIGURE_NAME: Final = f"{REPORT_NAME}/summary.png"
QUANTILES: Final = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_BINS: Final = 10_000

SCORE_COLUMNS: Final = (*HEADS, "overall", "worst_score")
METADATA_PREFIX: Final = "quality_model."
NOT_FINAL: Final[frozenset[str]] = frozenset({*get_args(FailureKind), "download_failed"})
"""Error codes that depend on machine and network at that time: such inputs are read again."""

SCHEMA: Final = pa.schema(
    [
        ("key", pa.string()),
        ("sha256", pa.string()),
        ("size_bytes", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("format", pa.string()),
        *[(name, pa.float32()) for name in (*HEADS, "overall")],
        ("worst_head", pa.string()),
        ("worst_score", pa.float32()),
        *[(name, pa.bool_()) for name in FLAG_COLUMNS.values()],
        *[(each.name, pa.type_for_alias(each.dtype)) for each in MEASURES],
        ("error_code", pa.string()),
        ("error_detail", pa.string()),
        ("model_name", pa.string()),
        ("model_version", pa.string()),
        ("model_run_id", pa.string()),
        ("model_scale_version", pa.string()),
        ("schema_version", pa.int32()),
    ]
)
"""The columns of a part (docs/results-format.md). Scores are null exactly where ``error_code`` is not;
measures also where they were not asked for, or an image has none."""

INTERVAL_SCHEMA: Final = pa.schema(
    [(f"{head}_{end}", pa.float32()) for head in HEADS for end in ("lower", "upper")]
)
"""The columns behind those of `SCHEMA` where intervals were asked for; null like the scores."""


@dataclass(frozen=True, slots=True)
class ScoringModel(ModelRef):
    """The model of a job, which each row names, and what decides about the scores and flags of its rows.

    Attributes:
        image_size_px: The side it scores at.
        engine: What runs it: engines agree, but not to the last bit.
        views: Which views of an image it scores, as JSON values; None: the image squeezed to a square.
        data_sha256: Of the training dataset, if the model's files say so.
        git_commit: Of the code that trained it, if the model's files say so.
        thresholds: A score above its head's threshold is flagged; None: nothing is.
        intervals: Around its scores (`model_facts.Intervals`), as JSON values; None: not asked for.
    """

    image_size_px: int
    engine: EngineName | None = None
    views: Mapping[str, Any] | None = None
    data_sha256: str | None = None
    git_commit: str | None = None
    thresholds: Mapping[Head, float] | None = None
    intervals: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, loaded: "Scorer", *, intervals: bool = False) -> Self:
        """What scoring needs to know of a model that is loaded, with its intervals if they are asked for.

        Raises:
            UsageError: It has no intervals for its views.
        """
        known = loaded.intervals
        if intervals and known is None:
            raise UsageError(
                f"The model {loaded.source.name} has no intervals for these views.",
                "Leave score.intervals false, score with views auto, or train the model again.",
            )
        return cls(
            intervals=known.model_dump(mode="json") if intervals and known else None,
            **asdict(loaded.source),
            image_size_px=loaded.image_size_px,
            thresholds=loaded.thresholds,
            engine=loaded.engine_name,
            views=None if loaded.views == SQUEEZED else loaded.views.model_dump(mode="json"),
            data_sha256=loaded.facts.data_sha256,
            git_commit=loaded.facts.git_commit,
        )

    @property
    def recipe(self) -> ViewRecipe:
        """Which views of an image it scores."""
        return SQUEEZED if self.views is None else ViewRecipe.model_validate(self.views)

    @property
    def schema(self) -> pa.Schema:
        """The columns of its rows."""
        return SCHEMA if self.intervals is None else pa.schema([*SCHEMA, *INTERVAL_SCHEMA])

    @property
    def title(self) -> str:
        return f"{self.name} version {self.version}" if self.version else self.name

    def described(self) -> dict[str, Any]:
        """What a result says of its model: JSON values, the thresholds apart."""
        facts = asdict(self)
        thresholds = facts.pop("thresholds")
        return {"model": {**facts, "scale_version": SCALE_VERSION}, "thresholds": thresholds}


def make_table(
    keys: Sequence[str], readings: Sequence[Reading], model: ScoringModel, plan_sha256: str
) -> pa.Table:
    """Make rows.

    Args:
        keys: One per input.
        readings: One per input: its scores, or an error code.
        model: Named in each row; its thresholds decide what is flagged.
        plan_sha256: Of the job's plan.

    Returns:
        A table of the model's schema. Its metadata is what a reader needs to know of the job, as JSON.
    """
    failed = np.array([reading.scores is None for reading in readings], dtype=bool)
    scores = np.zeros((len(keys), len(HEADS)), dtype=np.float32)
    scores[~failed] = [reading.scores for reading in readings if reading.scores is not None] or 0.0
    overall = 1.0 - scores @ np.array([OVERALL_WEIGHTS[head] for head in HEADS])  # as records.overall_score
    by_name = dict(zip(HEADS, scores.T, strict=True)) | {
        "overall": np.clip(overall, 0.0, 1.0).astype(np.float32),
        "worst_score": scores.max(axis=1),
    }
    columns: dict[str, Any] = {name: pa.array(values, mask=failed) for name, values in by_name.items()}
    columns["key"] = keys
    columns["worst_head"] = pa.array(np.array(HEADS)[scores.argmax(axis=1)], pa.string(), mask=failed)
    for name in ("sha256", "size_bytes", "width", "height", "format", "error_code", "error_detail"):
        columns[name] = [getattr(reading, name) for reading in readings]
    for name in (each.name for each in MEASURES):
        columns[name] = [(reading.measures or {}).get(name) for reading in readings]
    for head, name in FLAG_COLUMNS.items():
        limit = (model.thresholds or {}).get(head)
        flags = None if limit is None else by_name[head].astype(np.float64) > limit
        columns[name] = pa.nulls(len(keys)) if flags is None else pa.array(flags, mask=failed)
    if model.intervals is not None:
        ends = Intervals.model_validate(model.intervals).of(scores).transpose(2, 0, 1).reshape(-1, len(keys))
        named = zip(INTERVAL_SCHEMA.names, ends, strict=True)
        columns |= {name: pa.array(values, mask=failed) for name, values in named}
    constants = {
        "model_name": model.name,
        "model_version": model.version,
        "model_run_id": model.run_id,
        "model_scale_version": SCALE_VERSION,
        "schema_version": SCHEMA_VERSION,
    }
    columns |= {name: [value] * len(keys) for name, value in constants.items()}
    metadata = {"schema_version": SCHEMA_VERSION, **model.described(), "plan_sha256": plan_sha256}
    fields = model.schema.with_metadata(
        {METADATA_PREFIX + name: json.dumps(value) for name, value in metadata.items()}
    )
    return pa.table({name: columns[name] for name in fields.names}, schema=fields)


def to_parquet(table: pa.Table) -> bytes:
    """The bytes of a part; the same rows give the same bytes."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def from_parquet(data: bytes, path: Path, *, keys: Sequence[str], schema: pa.Schema = SCHEMA) -> pa.Table:
    """Read a part whose bytes its completion marker verifies, and compare it with the plan.

    Raises:
        StorageError: It has not one row for each input of the part.
    """
    with pq.ParquetFile(pa.BufferReader(data)) as file:
        table = file.read()
    if table.schema != schema or table["key"].to_pylist() != list(keys):
        raise StorageError(f"{path} does not hold the inputs of its plan.", "Score into another folder.")
    return table


def replace_rows(table: pa.Table, rows: Sequence[int], new: pa.Table) -> pa.Table:
    """The table with its rows of these numbers replaced by those of ``new``, in order."""
    order = np.arange(table.num_rows)
    order[list(rows)] = table.num_rows + np.arange(new.num_rows)
    joined = pa.concat_tables([table, new]).take(pa.array(order)).combine_chunks()
    return joined.replace_schema_metadata(new.schema.metadata)


def read_rows(output: Path, columns: Collection[str]) -> pa.Table:
    """Some columns of a complete result, in the order of its plan."""
    return pq.read_table(output / DATA_FOLDER, columns=list(columns))


@dataclass(frozen=True, slots=True)
class Range:
    """Smallest and largest value of a column, None without values, and how many values are null."""

    low: float | None = None
    high: float | None = None
    nulls: int = 0

    def extended(self, column: pa.ChunkedArray) -> "Range":
        """The range of these values and those of a column."""
        values = [self.low, self.high, *pc.min_max(column).as_py().values()]
        known = [value for value in values if value is not None]
        return Range(min(known, default=None), max(known, default=None), self.nulls + column.null_count)


@dataclass(slots=True)
class ScoreSummary:
    """The outcome of a job, added up part by part in memory that does not grow with them.

    Attributes:
        skipped: Files that are not inputs, by suffix or by what they are.
        planned: Inputs of the plan.
        parts, parts_before: Parts of the result; those that an earlier run finished.
        retried: Inputs of finished parts that were read again, because their error codes were not final.
        changes: What the last update found: inputs that are new, changed, removed, unchanged.
        elapsed_s, images_per_s: Of this run alone.
        inputs: ``scored`` + the sum of ``errors``.
        ranges: Smallest and largest value per column of scores; None without scores.
        measured: The same per measure that was asked for.
        histograms: int64 (10000,) per head and overall: scores in bins of equal width from 0 to 1.
    """

    output: Path
    model: ScoringModel
    skipped: dict[str, int]
    planned: int
    parts: int
    parts_before: int = 0
    retried: int = 0
    changes: Mapping[str, int] = field(default_factory=dict)
    elapsed_s: float = 0.0
    images_per_s: float = 0.0
    inputs: int = 0
    ranges: dict[str, Range] = field(default_factory=lambda: dict.fromkeys(SCORE_COLUMNS, Range()))
    measured: dict[str, Range] = field(default_factory=dict)
    histograms: dict[str, npt.NDArray[np.int64]] = field(
        default_factory=lambda: {name: np.zeros(_BINS, dtype=np.int64) for name in (*HEADS, "overall")}
    )
    _errors: Counter[str] = field(default_factory=Counter)
    _flags: Counter[str] = field(default_factory=Counter)

    def add(self, table: pa.Table) -> None:
        """Add the rows of a part (see `SCHEMA`)."""
        self.inputs += table.num_rows
        self._errors.update(table["error_code"].drop_null().to_pylist())
        self._flags.update({head: pc.sum(table[name]).as_py() or 0 for head, name in FLAG_COLUMNS.items()})
        self.ranges = {name: old.extended(table[name]) for name, old in self.ranges.items()}
        self.measured = {name: old.extended(table[name]) for name, old in self.measured.items()}
        for name, counts in self.histograms.items():
            values = table[name].drop_null().to_numpy()
            bins = np.minimum((values.astype(np.float64) * _BINS).astype(np.int64), _BINS - 1)
            counts += np.bincount(bins, minlength=_BINS)

    @property
    def scored(self) -> int:
        return self.inputs - self._errors.total()

    @property
    def errors(self) -> dict[str, int]:
        """Inputs per error code, most frequent first."""
        return dict(sorted(self._errors.items(), key=lambda entry: (-entry[1], entry[0])))

    @property
    def flagged(self) -> dict[str, int]:
        """Per head that has a threshold, the images above it."""
        return {head: self._flags[head] for head in HEADS if head in (self.model.thresholds or {})}

    @property
    def quantiles(self) -> dict[str, dict[str, float]]:
        """Per head and overall, the quantiles of the scores to within 0.0001; none without scores."""
        if not self.scored:
            return {}
        found = {}
        for name, counts in self.histograms.items():
            ranks = [max(1, share * self.scored) for share in QUANTILES]
            middles = (np.searchsorted(np.cumsum(counts), ranks) + 0.5) / _BINS
            found[name] = {
                f"{share:g}": round(float(middle), 5)
                for share, middle in zip(QUANTILES, middles, strict=True)
            }
        return found

    @property
    def error_share(self) -> float:
        """Share of the inputs that could not be scored."""
        return (self.inputs - self.scored) / self.inputs if self.inputs else 0.0

    def counts(self) -> dict[str, Any]:
        """JSON values that depend on inputs and model alone: the same after any interruption."""
        return {"scored": self.scored, "errors": self.errors, "flagged": self.flagged}

    def lines(self) -> list[str]:
        """The summary for a console."""
        lines = [
            f"Model: {self.model.title}.",
            f"{self.inputs} inputs: {self.scored} scored, {self.inputs - self.scored} with an error code,"
            f" in {self.parts} parts ({self.parts_before} from an earlier run).",
        ]
        if self.changes:
            lines.append("Last update: " + ", ".join(f"{n} {what}" for what, n in self.changes.items()) + ".")
        if self.retried:
            lines.append(
                f"Retried: {self.retried} inputs of the earlier run, which a worker crashed on or which were"
                " too slow."
            )
        lines += [f"  {count} x {code}" for code, count in self.errors.items()]
        if self.skipped:
            files = ", ".join(f"{count} x {name or '(no suffix)'}" for name, count in self.skipped.items())
            lines.append(f"Skipped, not inputs: {files}.")
        if self.elapsed_s > 0:
            lines.append(f"{self.images_per_s:.1f} images/s, {self.elapsed_s:.1f} s.")
        for name, values in self.quantiles.items():
            lines.append(
                f"  {name:<10} median {values['0.5']:.3f}, 5 to 95 % {values['0.05']:.3f} to"
                f" {values['0.95']:.3f}   ({MEANINGS[name]})"
            )
        counts = ", ".join(f"{count} x {head}" for head, count in self.flagged.items())
        lines.append(f"Flagged: {counts}." if counts else "Nothing is flagged: the model has no thresholds.")
        return lines


def write_report(summary: ScoreSummary) -> tuple[str, ...]:
    """Write the report of a job, with a figure if matplotlib is installed; give the files' names."""
    values = {
        **summary.model.described(),
        "inputs": summary.inputs,
        **summary.counts(),
        "skipped": summary.skipped,
        "parts": summary.parts,
        "quantiles": summary.quantiles,
    }
    storage.write_json(summary.output / SUMMARY_NAME, values)
    if find_spec("matplotlib") is None:
        return (SUMMARY_NAME,)
    from quality_model.score.histograms import draw

    draw(summary, summary.output / FIGURE_NAME)
    return SUMMARY_NAME, FIGURE_NAME


def worst_first(output: Path, count: int = 20) -> Iterator[str]:
    """Lines for a terminal: a heading, and the ``count`` images with the highest score of any head.

    A score above its head's threshold is followed by ``*``; an input without scores shows its error code.
    """
    columns = ["key", *HEADS, "overall", "worst_score", "error_code", *FLAG_COLUMNS.values()]
    table = read_rows(output, columns)
    worst = table.sort_by([("worst_score", "descending"), ("key", "ascending")]).slice(0, count).to_pylist()
    width = max((len(row["key"]) for row in worst), default=0)
    yield "  ".join([f"{'image':{width}}", *(f"{head:>10}" for head in HEADS), f"{'overall':>7}"])
    for row in worst:
        if row["error_code"] is not None:
            yield f"{row['key']:{width}}  {row['error_code']}"
            continue
        cells = (f"{row[head]:9.2f}{'*' if row[flag] else ' '}" for head, flag in FLAG_COLUMNS.items())
        yield "  ".join([f"{row['key']:{width}}", *cells, f"{row['overall']:7.2f}"])
