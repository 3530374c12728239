"""What a job came to: counts, error codes, quantiles and histograms of the scores."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from quality_model.core import storage
from quality_model.errors import InputErrorsAboveLimit
from quality_model.records import FLAG_COLUMNS, HEADS, MEANINGS, Head
from quality_model.score.identity import ModelIdentity

REPORT_NAME: Final = "report"
SUMMARY_NAME: Final = f"{REPORT_NAME}/summary.json"
FIGURE_NAME: Final = f"{REPORT_NAME}/summary.png"
QUANTILES: Final = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_BINS: Final = 10_000
_BARS: Final = 50
_REASONS: Final = 10


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """The outcome of a job.

    ``inputs`` = ``scored`` + the sum of ``reasons``. ``skipped`` counts files that are not
    inputs, by suffix. ``quantiles`` holds, per head and overall, the quantiles of the
    scores to within 0.0001. ``flagged`` counts, per head that has a threshold, the images
    above it. ``shards_before`` were finished by an earlier run; ``retried`` inputs of such parts were
    read again, for their error codes were not final; speed is that of this run alone.
    """

    output: Path
    model: ModelIdentity
    inputs: int
    scored: int
    reasons: dict[str, int]
    skipped: dict[str, int]
    shards: int
    shards_before: int
    elapsed_s: float
    images_per_s: float
    quantiles: dict[str, dict[str, float]]
    flagged: dict[str, int]
    retried: int = 0

    @property
    def error_share(self) -> float:
        """Share of the inputs that could not be scored."""
        return (self.inputs - self.scored) / self.inputs if self.inputs else 0.0

    def lines(self) -> list[str]:
        """The summary for a console."""
        version = f", version {self.model.version}" if self.model.version else ""
        told = [
            f"Model: {self.model.name}{version}.",
            f"{self.inputs} inputs: {self.scored} scored, {self.inputs - self.scored} with an error code,"
            f" in {self.shards} parts ({self.shards_before} from an earlier run).",
        ]
        if self.retried:
            told.append(
                f"Retried: {self.retried} inputs of the earlier run, which a worker crashed on or which were"
                " too slow."
            )
        told += [f"  {count} x {reason}" for reason, count in self.reasons.items()]
        if self.skipped:
            files = ", ".join(f"{count} x {name or '(no suffix)'}" for name, count in self.skipped.items())
            told.append(f"Skipped, for they are not inputs: {files}.")
        if self.elapsed_s > 0:
            told.append(f"{self.images_per_s:.1f} images/s, {self.elapsed_s:.1f} s.")
        for name, values in self.quantiles.items():
            told.append(
                f"  {name:<10} median {values['0.5']:.3f}, 5 to 95 % {values['0.05']:.3f} to"
                f" {values['0.95']:.3f}   ({MEANINGS[name]})"
            )
        counts = ", ".join(f"{count} x {head}" for head, count in self.flagged.items())
        told.append(f"Flagged: {counts}." if counts else "Nothing is flagged: the model has no thresholds.")
        return told


@dataclass(slots=True)
class Tally:
    """Adds up parts, in memory that does not grow with them."""

    inputs: int = 0
    scored: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    counts: dict[str, npt.NDArray[np.int64]] = field(
        default_factory=lambda: {name: np.zeros(_BINS, dtype=np.int64) for name in (*HEADS, "overall")}
    )

    def add(self, table: Any) -> None:
        """Add a part as `parts.read_checked` gives it."""
        import pyarrow.compute as pc

        self.inputs += table.num_rows
        reasons = Counter(table["error_code"].drop_null().to_pylist())
        self.scored += table.num_rows - reasons.total()
        self.reasons.update(reasons)
        self.flags.update({head: pc.sum(table[name]).as_py() or 0 for head, name in FLAG_COLUMNS.items()})
        for name, counts in self.counts.items():
            values = table[name].drop_null().to_numpy()
            bins = np.minimum((values.astype(np.float64) * _BINS).astype(np.int64), _BINS - 1)
            counts += np.bincount(bins, minlength=_BINS)

    def quantiles(self) -> dict[str, dict[str, float]]:
        """Per score, the middle of the bin in which each quantile lies; none without scores."""
        if not self.scored:
            return {}
        found = {}
        for name, counts in self.counts.items():
            reached = np.cumsum(counts)
            bins = [int(np.searchsorted(reached, max(1, share * self.scored))) for share in QUANTILES]
            found[name] = {
                f"{share:g}": round((number + 0.5) / _BINS, 5)
                for share, number in zip(QUANTILES, bins, strict=True)
            }
        return found

    def flagged(self, thresholds: Mapping[Head, float] | None) -> dict[str, int]:
        """Images flagged per head that has a threshold."""
        return {head: self.flags[head] for head in HEADS if head in (thresholds or {})}

    def sorted_reasons(self) -> dict[str, int]:
        """Counts of the error codes, most frequent first."""
        return dict(sorted(self.reasons.items(), key=lambda entry: (-entry[1], entry[0])))


def write_figure(path: Path, tally: Tally, thresholds: Mapping[Head, float] | None, title: str) -> None:
    """Draw the histogram of each score, on a logarithmic axis of counts, and its threshold as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(12, 6.4))
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    axes = figure.subplots(2, 3)
    figure.subplots_adjust(left=0.07, right=0.97, bottom=0.09, top=0.88, wspace=0.35, hspace=0.45)
    edges = np.linspace(0.0, 1.0, _BARS + 1)
    lines: dict[str, float] = dict((thresholds or {}).items())
    for axis, (name, counts) in zip(axes.flat, tally.counts.items(), strict=False):
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
    reasons = tally.sorted_reasons()
    last = axes.flat[-1]
    last.set_title("not scored, by error code" if reasons else "every input was scored")
    if reasons:
        shown = list(reasons.items())[:_REASONS]
        last.barh(range(len(shown)), [count for _, count in shown], color="lightsteelblue")
        for place, (reason, count) in enumerate(shown):
            last.annotate(f" {reason}: {count}", (0, place), va="center")
        last.set_yticks([])
        last.invert_yaxis()
        last.set_xlabel("inputs")
        last.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    else:
        last.set_axis_off()
    with storage.staged(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100, metadata={"Software": None})


_REMEDIES: Final = {
    "missing": "Are the paths right, and relative to the file that lists them? Addresses (https://, s3://)"
    " are not read: download the images first.",
    "base64_text": "Decode the text and store the bytes in a binary column.",
    "not_an_image": "Are these images, in a format that limits.formats names?",
    "no_permission": "Let this user read the files.",
    "too_many_bytes": "Raise limits.max_bytes; `score` then needs --overwrite.",
    "too_many_pixels": "Raise limits.max_pixels; `score` then needs --overwrite.",
    "worker_died": "Use fewer workers or more memory, and run the same command again.",
    "too_slow": "Raise limits.max_seconds, and run the same command again.",
}


def nothing_scored(reasons: Mapping[str, int], details: str) -> InputErrorsAboveLimit:
    """The error of a job of whose inputs none could be scored.

    Args:
        reasons: How many inputs have each error code, at least one.
        details: Where the reason of each input is, to begin a sentence with.
    """
    num_inputs = sum(reasons.values())
    code, count = max(reasons.items(), key=lambda item: item[1])
    return InputErrorsAboveLimit(
        f"None of the {num_inputs} inputs could be scored; the commonest error code is {code}"
        f" ({count} of {num_inputs}).",
        f"{_REMEDIES.get(code, 'Check the inputs.')} {details} says what is wrong with each.",
    )
