"""How well scores agree with labels, per head, and how sure that is.

Labels and scores are severities in [0, 1]. A measure that is not defined (no samples; one sample or constant
labels, where variance counts; a score that is not finite) is None, never NaN: JSON can say it, and the gate
reads it as a refusal.

The intervals are percentile bootstrap intervals (Efron and Tibshirani, An Introduction to the Bootstrap,
1993, chapter 13) that resample whole groups: variants of one clean image are not independent of each other,
so resampling them one by one would promise too much.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from quality_model.core.provenance import Intervals
from quality_model.evaluate.evidence import CleanFlags, Coverage, Estimate, FlaggedShare, Measures
from quality_model.evaluate.whole_images import CleanScores, DegradedScores
from quality_model.records import HEADS, Head

Floats = npt.NDArray[np.float64]

SMALLEST_DEFINED_SHARE: Final = 0.9
"""An interval needs this share of the resamples to define its measure; else it is None."""

FEWEST_IMAGES: Final = 20
"""A slice of clean images with fewer has no share of flags."""

ROUNDING: Final = 1e-6
"""How far beyond its interval a label still counts as within, for float32."""

_FEWEST_GROUPS: Final = 2
_CELLS_AT_ONCE: Final = 2_000_000
"""Resamples x samples held at once, which bounds memory at some 100 MB."""


def measure(
    labels: npt.ArrayLike, scores: npt.ArrayLike, *, constant: float | None = None
) -> dict[str, float | None]:
    """Every one of `evidence.Measures` of one head.

    Args:
        labels: (n,), in [0, 1].
        scores: (n,), in [0, 1].
        constant: What the constant predictor answers. An honest one is the mean of the *training* labels; the
            mean of ``labels`` themselves gives their variance, the least that any constant can reach.

    Returns:
        By name; None where it is not defined. All are None if a label or score is not finite.
    """
    first, second = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(f"labels {first.shape} and scores {second.shape} must both be (n,)")
    found = _weighted_measures(first, second, np.ones((1, len(first))), constant)
    return {name: float(one) if np.isfinite(one) else None for name, (one,) in found.items()}


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Estimates with intervals by resampling groups. The same seed and groups give the same intervals.

    There is no interval where a label or score is not finite, where too few resamples define the measure,
    and with fewer than two groups: one group says nothing about another. ``groups`` are (n,), of any values;
    equal ones are drawn together.

    Attributes:
        samples: Number of resamples; 0 for no intervals.
        confidence: Share of the resamples inside the interval, in (0, 1).
        seed: Of the resamples.
    """

    samples: int
    confidence: float
    seed: int

    def measures(
        self, labels: npt.ArrayLike, scores: npt.ArrayLike, groups: npt.ArrayLike, *, constant: float | None
    ) -> Measures:
        """Every measure of one head; arguments as of `measure`."""
        values = measure(labels, scores, constant=constant)
        pair = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
        parts = [_weighted_measures(*pair, weights, constant) for weights in self._weights(groups)]
        return Measures(
            **{name: self._estimate(values[name], [part[name] for part in parts], groups) for name in values}
        )

    def mean(self, values: npt.ArrayLike, groups: npt.ArrayLike) -> Estimate:
        """The mean of ``values`` (n,), such as differences of two models' squared errors.

        Both models are then measured on the same resample each time, so what is hard for both cancels.
        """
        numbers = np.asarray(values, dtype=np.float64)
        if len(numbers) == 0 or not np.isfinite(numbers).all():
            return self._estimate(None, [], groups)
        resampled = [weights @ numbers / weights.sum(axis=1) for weights in self._weights(groups)]
        return self._estimate(float(numbers.mean()), resampled, groups)

    def share(self, is_member: npt.ArrayLike, groups: npt.ArrayLike) -> Estimate:
        """A share of independent cases, bool (n,): an interval that is honest where none or all are members.

        Its ends are those of the binomial interval (Clopper and Pearson, Biometrika 26, 1934), or of the
        bootstrap where that is wider, because cases of one group are alike.
        """
        from scipy.stats import binomtest

        found = self.mean(np.asarray(is_member, dtype=np.float64), groups)
        if found.low is None or found.high is None:
            return found
        members = np.asarray(is_member, dtype=bool)
        exact = binomtest(int(members.sum()), len(members)).proportion_ci(self.confidence)
        ends = {"low": min(found.low, float(exact.low)), "high": max(found.high, float(exact.high))}
        return found.model_copy(update=ends)

    def lead(
        self, labels: npt.ArrayLike, scores: npt.ArrayLike, others: npt.ArrayLike, groups: npt.ArrayLike
    ) -> Estimate:
        """R2 of ``scores`` (n,) less that of ``others`` (n,) against the same labels (n,)."""
        truth, ours, theirs = (np.asarray(one, dtype=np.float64) for one in (labels, scores, others))

        def lead(weights: Floats) -> Floats:
            first, second = (_weighted_measures(truth, one, weights, None)["r2"] for one in (ours, theirs))
            return first - second

        value = float(lead(np.ones((1, len(truth))))[0])
        resampled = [lead(weights) for weights in self._weights(groups)]
        return self._estimate(value if np.isfinite(value) else None, resampled, groups)

    def auc(self, scores: npt.ArrayLike, is_bad: npt.ArrayLike, groups: npt.ArrayLike) -> Estimate:
        """The area under the ROC curve: the share of (bad, clean) pairs in order, a tie being half a pair.

        Source: Hanley and McNeil, The meaning and use of the area under a ROC curve, Radiology 143, 1982.
        Around 1 the interval has no width.

        Args:
            scores: (n,), of any unit, higher where worse.
            is_bad: bool (n,).
            groups: (n,).
        """
        values, bad = np.asarray(scores, dtype=np.float64), np.asarray(is_bad, dtype=bool)
        first, second = values[bad][:, None], values[~bad]
        wins = (first > second) + 0.5 * (first == second)
        if not wins.size or not np.isfinite(values).all():
            return self._estimate(None, [], groups)

        def area(weights: Floats) -> Floats:
            pairs = weights[:, bad].sum(axis=1) * weights[:, ~bad].sum(axis=1)
            with np.errstate(invalid="ignore"):  # a resample may be without bad or clean ones
                return np.asarray(((weights[:, bad] @ wins) * weights[:, ~bad]).sum(axis=1) / pairs)

        return self._estimate(float(wins.mean()), [area(one) for one in self._weights(groups)], groups)

    def _weights(self, groups: npt.ArrayLike) -> Iterator[Floats]:
        """How often each resample has each sample, (part, n), some resamples at a time."""
        names, index = np.unique(np.asarray(groups), return_inverse=True)
        if len(names) >= _FEWEST_GROUPS and self.samples:
            counts = resample_counts(len(names), self.samples, self.seed)
            step = max(1, _CELLS_AT_ONCE // len(index))
            for start in range(0, len(counts), step):
                yield counts[start : start + step][:, index]

    def _estimate(self, value: float | None, resampled: list[Floats], groups: npt.ArrayLike) -> Estimate:
        low = high = None
        if resampled and value is not None:
            numbers = np.concatenate(resampled)
            defined = numbers[np.isfinite(numbers)]
            if len(defined) >= SMALLEST_DEFINED_SHARE * len(numbers):
                tail = (1.0 - self.confidence) / 2.0
                low, high = map(float, np.quantile(defined, [tail, 1.0 - tail]))
        return Estimate(value=value, low=low, high=high, num_groups=len(np.unique(np.asarray(groups))))


def p_below_zero(values: npt.ArrayLike, groups: npt.ArrayLike) -> float | None:
    """The chance of a mean at least as far below 0 as that of ``values`` (n,), if the true mean were 0.

    Student's t with a standard error from the sums of whole groups (n,), as many degrees of freedom as groups
    less one. A bootstrap cannot say how rare a thing is that none of its resamples shows.

    Source: Cameron and Miller, A Practitioner's Guide to Cluster-Robust Inference, Journal of Human Resources
    50, 2015, section VI.

    Returns:
        None with fewer than two groups, without scatter, and where a value is not finite.
    """
    from scipy.stats import t as students_t

    numbers = np.asarray(values, dtype=np.float64)
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < _FEWEST_GROUPS or not np.isfinite(numbers).all():
        return None
    sums = np.bincount(index, weights=numbers - numbers.mean())
    error = np.sqrt(len(names) / (len(names) - 1) * np.sum(sums**2)) / len(numbers)
    if error <= np.finfo(np.float64).eps * np.abs(numbers).max():
        return None
    return float(students_t.cdf(numbers.mean() / error, df=len(names) - 1))


def resample_counts(num_groups: int, samples: int, seed: int) -> Floats:
    """How often each group is drawn in each resample: (samples, num_groups), rows add up to num_groups."""
    generator = np.random.default_rng(seed)
    counts = np.empty((samples, num_groups))
    for row in range(samples):
        counts[row] = np.bincount(generator.integers(num_groups, size=num_groups), minlength=num_groups)
    return counts


def _weighted_measures(
    labels: Floats, scores: Floats, weights: Floats, constant: float | None
) -> dict[str, Floats]:
    """Each measure (b,) of samples that occur ``weights`` (b, n) times, NaN where it is not defined."""
    if len(labels) == 0 or not (np.isfinite(labels).all() and np.isfinite(scores).all()):
        return dict.fromkeys(Measures.model_fields, np.full(len(weights), np.nan))
    error, answer = scores - labels, np.nan if constant is None else constant
    first, second = labels - labels.mean(), scores - scores.mean()
    terms = [error**2, np.abs(error), (answer - labels) ** 2]
    terms += [first, first**2, second, second**2, first * second]
    size = weights.sum(axis=1, keepdims=True)
    mse, mae, constant_mse, s1, s11, s2, s22, s12 = (weights @ np.stack(terms, axis=1) / size).T
    label_variance, score_variance = _variance(s1, s11, labels), _variance(s2, s22, scores)
    centre = (size + 1.0) / 2.0
    rank_1, rank_2 = (_weighted_midranks(values, weights) - centre for values in (labels, scores))
    r11, r22, r12 = (
        (weights * one * other).sum(axis=1) / size[:, 0]
        for one, other in ((rank_1, rank_1), (rank_2, rank_2), (rank_1, rank_2))
    )
    rank_variances = _variance(0.0, r11, labels) * _variance(0.0, r22, scores)
    return {
        "mse": mse,
        "rmse": np.sqrt(mse),
        "mae": mae,
        "r2": 1.0 - mse / label_variance,
        "pearson": np.clip((s12 - s1 * s2) / np.sqrt(label_variance * score_variance), -1.0, 1.0),
        "spearman": np.clip(r12 / np.sqrt(rank_variances), -1.0, 1.0),
        "constant_mse": constant_mse,
    }


def _weighted_midranks(values: Floats, weights: Floats) -> Floats:
    """Ranks (b, n) of values (n,) that occur ``weights`` (b, n) times, ties sharing the middle."""
    order = np.argsort(values, kind="stable")
    starts_new = np.diff(values[order], prepend=-np.inf) > 0
    tied = np.add.reduceat(weights[:, order], np.flatnonzero(starts_new), axis=1)  # (b, distinct values)
    ranks = np.cumsum(tied, axis=1) - (tied - 1.0) / 2.0
    distinct = np.empty(len(values), dtype=np.intp)
    distinct[order] = np.cumsum(starts_new) - 1
    return np.asarray(ranks[:, distinct])


def _variance(mean: Any, mean_square: Any, values: Floats) -> Floats:
    """Variance, NaN where rounding alone could have made it: the values, or the resample's, are constant."""
    variance = np.asarray(mean_square - mean**2, dtype=np.float64)
    least = np.inf if np.ptp(values) == 0.0 else 1e-10 * np.var(values)
    return np.where(variance > least, variance, np.nan)


def measure_flags(
    bootstrap: Bootstrap, clean: CleanScores, thresholds: Mapping[Head, float] | None, head: Head
) -> CleanFlags:
    """The share of clean images that a head flags; not defined without images or a threshold.

    A slice of fewer than `FEWEST_IMAGES` is left out. An image counts as it is, and as a look-alike. Of
    the dataset's samples those count to which nothing was added, recompressed and rescaled ones too.
    """
    threshold, groups = (thresholds or {}).get(head), np.array(clean.groups)
    scores = clean.scores[0][:, HEADS.index(head)].astype(np.float64)
    flagged = scores > (np.inf if threshold is None else threshold)

    def of(mask: npt.NDArray[np.bool_]) -> FlaggedShare:
        own = () if threshold is None else flagged[mask]
        share = bootstrap.share(own, groups[mask])
        return FlaggedShare(num_images=int(mask.sum()), flagged_share=share)

    slices = {name: of(mask) for name, mask in clean.slice_masks().items() if mask.sum() >= FEWEST_IMAGES}
    every = of(np.ones(len(scores), dtype=bool))
    return CleanFlags(**dict(every), threshold=threshold, slices=slices)


def measure_coverage(
    bootstrap: Bootstrap, degraded: DegradedScores, intervals: Intervals | None, head: Head
) -> Coverage | None:
    """The share of images whose label is within the interval around the score; None without intervals."""
    if intervals is None or not len(degraded.scores):
        return None
    low, high = intervals.of(degraded.scores)[..., HEADS.index(head)]
    labels = degraded.labels[:, HEADS.index(head)]
    covered = (low - ROUNDING <= labels) & (labels <= high + ROUNDING)
    return Coverage(
        confidence=intervals.confidence,
        num_images=len(labels),
        covered_share=bootstrap.share(covered, degraded.groups),
        mean_width=float((high - low).mean()),
    )
