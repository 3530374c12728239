"""What moved between two scoring results of one model: which columns, by how much, and which images.

Both are read by the distributions that are stored with them, in the same bins. Rows are read for the images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from quality_model.core.figures import text_table
from quality_model.curate.finished import FinishedResult, open_finished
from quality_model.curate.gallery import Section, write_gallery
from quality_model.errors import DriftError, UsageError
from quality_model.records import HEADS, Head
from quality_model.score.distributions import BINS, ROW_COLUMNS, SHORT_SIDE, Counts, Distributions, values_of
from quality_model.score.summary import DISTRIBUTIONS_NAME
from quality_model.watch.two_samples import (
    fisher_p_value,
    holm,
    ks_p_value,
    ks_statistic,
    newcombe,
    quantile_edges,
    stability_index,
)

FEWEST: Final = 100
"""Images with a value, on either side, below which a column is not compared."""
ALPHA: Final = 0.05
"""Chance that anything is said to have moved, over all columns and all looks, where nothing has."""
LEAST_EFFECT: Final = 0.02
"""Largest distance of the cumulative distributions below which a column counts as unmoved: with a million
images much smaller ones are certain, and of no interest."""
MOST_KEYS: Final = 240
"""Images that are named: as many as a section of the gallery shows."""

LEAST_RATIO: Final = 1.5
"""How many times as frequent the values of an image are that is named, at least."""

_RATIO_BINS: Final = 20


@dataclass(frozen=True, slots=True)
class ShareShift:
    """The share of images above a threshold, before and now, with Newcombe's 95 % interval of the change."""

    before: float
    now: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ColumnShift:
    """What moved in one column.

    Attributes:
        name: A column of `BINS`, or ``error:CODE`` for the share of inputs with this error code.
        effect: Kolmogorov and Smirnov's statistic, in [0, 1]: the largest distance of the cumulative
            distributions. Of an error code, by how much its share has changed.
        p: Holm's, in [0, 1]: corrected for all columns of the comparison. Of the test of Kolmogorov and
            Smirnov; of Fisher's for an error code; of both for a head with ``share``, which sees few images
            that are far above the others.
        psi: Population stability index, 0 or more; None for error codes.
        share: Of the images above the threshold, for a head that has the same one in both results.
        has_moved: ``p`` is at most the alpha of this look, and ``effect`` at least `LEAST_EFFECT` (which does
            not apply to error codes).
    """

    name: str
    effect: float
    p: float
    psi: float | None
    share: ShareShift | None
    has_moved: bool


@dataclass(frozen=True, slots=True)
class Drift:
    """The comparison of a result with a reference.

    Attributes:
        alpha: Of this look.
        columns: Those compared.
        skipped: Columns that are not, with the reason.
    """

    reference: FinishedResult
    now: FinishedResult
    before: Distributions
    after: Distributions
    alpha: float
    columns: tuple[ColumnShift, ...]
    skipped: Mapping[str, str]

    @property
    def moved(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns if column.has_moved)

    def require_none(self) -> None:
        """Raise `DriftError` if anything moved."""
        if self.moved:
            raise DriftError(
                f"Moved since {self.reference.folder}: {', '.join(self.moved)}.",
                "See which images moved it: --gallery FILE.",
            )

    def lines(self) -> list[str]:
        """The comparison for a terminal."""
        titles = ("column", "PSI", "KS", "p", "above the threshold", "change, 95 %", "verdict")
        lines = [
            f"{self.after.scored} images of {self.now.folder} against {self.before.scored} of"
            f" {self.reference.folder}.",
            text_table(titles, [_cells(column) for column in self.columns], right=titles[1:4]),
        ]
        if self.skipped:
            why = ", ".join(f"{name} ({reason})" for name, reason in self.skipped.items())
            lines.append(f"Not compared: {why}.")
        about = f"p at most {self.alpha:.3g}, corrected for {len(self.columns)} columns"
        if self.moved:
            return [*lines, f"Moved ({about}): {', '.join(self.moved)}."]
        return [*lines, f"Nothing is shown to have moved ({about})."]


def compare(now: Path, reference: Path, *, look: int = 1) -> Drift:
    """Compare a finished result with a reference.

    Args:
        look: How many comparisons with this reference this one makes; 1 for the first. Look n spends ALPHA /
            (n (n + 1)), so that all looks together say that anything moved with a chance of at most ALPHA
            where nothing has.

    Raises:
        UsageError: A folder is no result; both are one result; their models, views or scales of scores
            differ; or there are fewer than `FEWEST` scored images in one of them.
        IncompleteError, CorruptError: As of `open_finished`.
    """
    first, second = open_finished(reference), open_finished(now)
    _require_comparable(first, second)
    before, after = distributions_of(first), distributions_of(second)
    for result, its in ((first, before), (second, after)):
        if its.scored < FEWEST:
            raise UsageError(
                f"{result.folder} has {its.scored} scored images; a comparison needs {FEWEST}.",
                "Compare results of more images.",
            )
    limits = first.thresholds
    same = [head for head in HEADS if head in limits and limits[head] == second.thresholds.get(head)]
    alpha = ALPHA / (look * (look + 1))
    columns, skipped = shifts(before, after, alpha=alpha, heads=same)
    return Drift(first, second, before, after, alpha, columns, skipped)


def distributions_of(result: FinishedResult) -> Distributions:
    """Those stored with a result, or those of its rows, which are the same, if it is of another release."""
    if (stored := Distributions.read(result.folder / DISTRIBUTIONS_NAME)) is not None:
        return stored
    names = result.schema.names
    found = Distributions()
    with result.unchanged():
        for batch in result.batches([name for name in ROW_COLUMNS if name in names]):
            found.add(batch)
    return found


def _require_comparable(reference: FinishedResult, now: FinishedResult) -> None:
    if reference.sha256 == now.sha256:
        raise UsageError(
            f"{now.folder} and {reference.folder} are the same result.",
            "Name the result of another collection.",
        )
    for what, one, other in (
        ("models", reference.model.sha256, now.model.sha256),
        ("versions of the scale of scores", reference.model.scale_version, now.model.scale_version),
        ("views of images", reference.model.views, now.model.views),
    ):
        if one != other:
            titles = f" ({now.model.title}, {reference.model.title})" if what == "models" else ""
            raise UsageError(
                f"{now.folder} and {reference.folder} have scores of different {what}{titles}.",
                "Score one of the collections again, with the model of the other.",
            )


def shifts(
    before: Distributions, now: Distributions, *, alpha: float = ALPHA, heads: Sequence[Head] = ()
) -> tuple[tuple[ColumnShift, ...], dict[str, str]]:
    """What moved, per column, and which columns were not compared, with the reason.

    Args:
        alpha: Chance that any column is said to have moved where none has.
        heads: Which flag by the same threshold in both.
    """
    skipped, effects, ps = {}, dict[str, float](), dict[str, float]()
    for name in BINS:
        one, other = before.counts[name], now.counts[name]
        if fewest := [counts.sum() for counts in (one, other) if counts.sum() < FEWEST]:
            skipped[name] = "not measured" if min(fewest) == 0 else f"fewer than {FEWEST} values"
            continue
        effects[name] = ks_statistic(one, other)
        ps[name] = ks_p_value(effects[name], int(one.sum()), int(other.sum()))
        if name in heads:  # two tests of one column, of which the better one counts
            ps[name] = min(1.0, 2 * min(ps[name], fisher_p_value(*_flagged(before, now, name))))
    for code in sorted({*before.errors, *now.errors}):
        counted = (before.errors[code], before.inputs, now.errors[code], now.inputs)
        effects[f"error:{code}"] = abs(counted[0] / counted[1] - counted[2] / counted[3])
        ps[f"error:{code}"] = fisher_p_value(*counted)
    corrected = holm(ps)
    columns = []
    for name, p in corrected.items():
        is_code = name not in BINS
        columns.append(
            ColumnShift(
                name,
                effects[name],
                p,
                None if is_code else stability_index(before.counts[name], now.counts[name]),
                _share_shift(before, now, name) if name in heads else None,
                p <= alpha and (is_code or effects[name] >= LEAST_EFFECT),
            )
        )
    return tuple(columns), skipped


def _share_shift(before: Distributions, now: Distributions, name: str) -> ShareShift:
    counted = _flagged(before, now, name)
    return ShareShift(counted[0] / counted[1], counted[2] / counted[3], *newcombe(*counted))


def _flagged(before: Distributions, now: Distributions, name: str) -> tuple[int, int, int, int]:
    """Images above the threshold and all with scores, before and now."""
    return before.flagged[name], before.scored, now.flagged[name], now.scored


def _cells(column: ColumnShift) -> tuple[str, ...]:
    share = column.share
    return (
        column.name,
        "-" if column.psi is None else f"{column.psi:.3f}",
        f"{column.effect:.3f}",
        f"{column.p:.2g}",
        "-" if share is None else f"{share.before:.1%} -> {share.now:.1%}",
        "-" if share is None else f"{100 * share.low:+.1f} to {100 * share.high:+.1f} points",
        "moved" if column.has_moved else "not shown to have moved",
    )


@dataclass(frozen=True, slots=True)
class MovingImage:
    """An image of values that are now more frequent.

    Attributes:
        ratio: How many times as frequent, by the column in which it is most.
        note: Says so.
    """

    key: str
    ratio: float
    note: str


def moving_images(drift: Drift, most: int = MOST_KEYS) -> list[MovingImage]:
    """The images of values that became most frequent in a column that moved, the most so first.

    A column's values are divided into up to twenty ranges that hold as many images of both results each. The
    ratio of a range is its share of the images now by that of the reference.
    """
    names = [name for name in drift.moved if name in BINS]
    if not names:
        return []
    ratios = {name: _ratios(drift.before.counts[name], drift.after.counts[name]) for name in names}
    columns = ["key", *(name for name in names if name != SHORT_SIDE)]
    columns += ["width", "height"] if SHORT_SIDE in names else []
    found: list[MovingImage] = []
    with drift.now.unchanged():
        for batch in drift.now.batches(columns):
            found += _moving(batch, ratios)
            found = sorted(found, key=lambda image: -image.ratio)[:most]
    return found


def _ratios(before: Counts, now: Counts) -> npt.NDArray[np.float64]:
    """float64 (1000,): the ratio of each bin."""
    edges = quantile_edges(before + now, _RATIO_BINS)
    p, q = (np.add.reduceat(counts, edges) + 0.5 for counts in (before, now))
    ratio = (q / q.sum()) / (p / p.sum())
    return np.asarray(np.repeat(ratio, np.diff([*edges, len(before)])))


def _moving(batch: pa.RecordBatch, ratios: Mapping[str, npt.NDArray[np.float64]]) -> Iterator[MovingImage]:
    names = [*ratios]
    values = np.array([values_of(batch, name) for name in names])
    known = ~np.isnan(values)
    each = np.zeros(values.shape)
    for at, name in enumerate(names):
        each[at, known[at]] = ratios[name][BINS[name].places(values[at, known[at]])]
    best = each.argmax(axis=0)
    highest = each.max(axis=0)
    for row in np.argsort(-highest, kind="stable")[:MOST_KEYS]:
        if highest[row] >= LEAST_RATIO:
            name, value = names[best[row]], values[best[row], row]
            note = f"{name} {value:.4g}: {highest[row]:.1f} times as frequent"
            yield MovingImage(batch["key"][int(row)].as_py(), float(highest[row]), note)


def write_moving(drift: Drift, images: Sequence[MovingImage], to: Path) -> Path:
    """Write a gallery of images that moved the result, and give its path; errors as of `write_gallery`."""
    heads = [head for head in HEADS if head in drift.moved]
    section = Section(
        "Moved it",
        [image.key for image in images],
        "of values that became most frequent",
        tab="Moved",
        head=heads[0] if len(heads) == 1 else None,
        count=len(images),
    )
    return write_gallery(
        drift.now.folder,
        to,
        [section],
        heading="drift",
        about=f"Moved since {drift.reference.folder.name}: {', '.join(drift.moved)}",
        notes={image.key: image.note for image in images},
    )
