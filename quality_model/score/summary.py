"""What the rows of a scoring result add up to: its summary, with a figure, and its worst images."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from quality_model.core import storage
from quality_model.core.figures import new_figure, save_figure
from quality_model.core.jobs import DATA_FOLDER
from quality_model.errors import InputErrorsAboveLimit
from quality_model.records import FLAG_COLUMNS, HEADS, MEANINGS, SCORE_COLUMNS
from quality_model.score.distributions import Distributions
from quality_model.score.result import ScoringModel, read_rows

REPORT_NAME: Final = "report"
SUMMARY_NAME: Final = f"{REPORT_NAME}/summary.json"
DISTRIBUTIONS_NAME: Final = f"{REPORT_NAME}/distributions.json"
FIGURE_NAME: Final = f"{REPORT_NAME}/summary.png"
QUANTILES: Final = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_BINS: Final = 10_000
_BARS: Final = 50
_CODES: Final = 10


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
        distributions: What `quality_model.watch` compares with those of other results.
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
    distributions: Distributions = field(default_factory=Distributions)
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
        self.distributions.add(table)

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
            f" in {self.parts} part{'' if self.parts == 1 else 's'}"
            f" ({self.parts_before} from an earlier run).",
        ]
        if self.changes:
            lines.append("Last update: " + ", ".join(f"{n} {what}" for what, n in self.changes.items()) + ".")
        if self.retried:
            lines.append(f"Retried: {self.retried} inputs of the earlier run, whose errors were not final.")
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
    storage.write_json(summary.output / DISTRIBUTIONS_NAME, summary.distributions.to_json())
    if find_spec("matplotlib") is None:
        return SUMMARY_NAME, DISTRIBUTIONS_NAME
    _draw(summary, summary.output / FIGURE_NAME)
    return SUMMARY_NAME, DISTRIBUTIONS_NAME, FIGURE_NAME


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


def _draw(summary: ScoreSummary, path: Path) -> None:
    """Draw the histogram of each score, on a logarithmic axis of counts, and its threshold as a PNG file."""
    figure = new_figure(12, 6.4)
    figure.suptitle(f"{summary.scored} images scored by {summary.model.title}")
    axes = figure.subplots(2, 3)
    edges = np.linspace(0.0, 1.0, _BARS + 1)
    lines: dict[str, float] = dict((summary.model.thresholds or {}).items())
    for axis, (name, counts) in zip(axes.flat, summary.histograms.items(), strict=False):
        axis.stairs(counts.reshape(_BARS, -1).sum(axis=1), edges, fill=True)
        axis.set_title(name)
        if name in lines:
            axis.axvline(lines[name], color="firebrick", linestyle="--", label=f"threshold {lines[name]:.3g}")
            axis.legend(fontsize="small")
        axis.set_xlabel(MEANINGS[name])
        axis.set_ylabel("images")
        axis.set_xlim(0, 1)
        axis.set_xticks((0.0, 0.5, 1.0))
        axis.set_yscale("symlog", linthresh=1)  # logarithmic from 1 on, and 0 has a place
        axis.set_ylim(bottom=0)
    errors = list(summary.errors.items())[:_CODES]
    last = axes.flat[-1]
    last.set_title("not scored, by error code" if errors else "every input was scored")
    if errors:
        last.barh(range(len(errors)), [count for _, count in errors], color="lightsteelblue")
        for place, (code, count) in enumerate(errors):
            last.annotate(f" {code}: {count}", (0, place), va="center")
        last.set_yticks([])
        last.invert_yaxis()
        last.set_xlabel("inputs")
        last.locator_params(axis="x", nbins=4, integer=True)
    else:
        last.set_axis_off()
    save_figure(figure, path)


def require_scored(summary: ScoreSummary, max_error_share: float) -> None:
    """Refuse a complete result with too many errors.

    Raises:
        InputErrorsAboveLimit: None of the inputs could be scored, or too few.
    """
    output = summary.output
    if not summary.scored:
        raise nothing_scored(summary.errors, f"The column error_detail in {output / DATA_FOLDER}")
    if summary.error_share > max_error_share:
        raise InputErrorsAboveLimit(
            f"{summary.inputs - summary.scored} of {summary.inputs} inputs could not be scored"
            f" ({summary.error_share:.1%}, allowed {max_error_share:.1%}): "
            + ", ".join(f"{count} x {code}" for code, count in summary.errors.items())
            + ".",
            f"Everything else is scored, in {output}; the column error_detail says what is wrong.",
        )


_REMEDIES: Final = {
    "missing": "Are the paths right, and relative to the file that lists them?",
    "url": "Fetch them with --allow-download; addresses of other kinds (s3://) have to be downloaded first.",
    "download_refused": "Do the addresses lead to images? Private ones need --allow-private.",
    "download_failed": "Run the same command again when the servers answer.",
    "base64_text": "Decode the text and store the bytes in a binary column.",
    "not_an_image": "Are these images, in a format that limits.formats names?",
    "no_permission": "Let this user read the files.",
    "too_many_bytes": "Raise limits.max_bytes; `score` then needs --overwrite.",
    "too_many_pixels": "Raise limits.max_pixels; `score` then needs --overwrite.",
    "worker_died": "Use fewer workers or more memory, and run the same command again.",
    "too_slow": "Raise limits.max_seconds, and run the same command again.",
}


def nothing_scored(errors: Mapping[str, int], details: str) -> InputErrorsAboveLimit:
    """The error of a job of whose inputs none could be scored.

    Args:
        errors: How many inputs have each error code, at least one.
        details: Where the details of each input are, to begin a sentence with.
    """
    num_inputs = sum(errors.values())
    code, count = max(errors.items(), key=lambda item: item[1])
    return InputErrorsAboveLimit(
        f"None of the {num_inputs} inputs could be scored; the commonest error code is {code}"
        f" ({count} of {num_inputs}).",
        f"{_REMEDIES.get(code, 'Check the inputs.')} {details} says what is wrong with each.",
    )
