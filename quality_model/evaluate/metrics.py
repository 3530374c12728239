"""How well scores agree with labels, per head, and how sure that is.

Labels and scores are severities in [0, 1]. A measure that is not defined (no samples; one
sample or constant labels, where variance counts; a score that is not finite) is None, never
NaN: JSON can say it, and the gate reads it as a refusal.

The intervals are percentile bootstrap intervals (Efron and Tibshirani, An Introduction to
the Bootstrap, 1993, chapter 13) that resample whole groups: variants of one clean image
are not independent of each other, so resampling them one by one would promise too much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from quality_model.evaluate.evidence import Estimate, Measures

Floats = npt.NDArray[np.float64]

SMALLEST_DEFINED_SHARE: Final = 0.9
"""An interval needs this share of the resamples to define its measure; else it is None."""

_FEWEST: Final = 2
"""Samples that a variance needs, and groups that an interval needs."""
_CELLS_AT_ONCE: Final = 2_000_000
"""Resamples x samples held at once, which bounds memory at some 100 MB."""


def mse(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float | None:
    """Mean squared error of scores (n,) against labels (n,); None if none or not finite."""
    pair = _usable(labels, scores, fewest=1)
    return None if pair is None else float(np.mean((pair[1] - pair[0]) ** 2))


def rmse(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float | None:
    """Root of the mean squared error, in units of the label."""
    error = mse(labels, scores)
    return None if error is None else float(np.sqrt(error))


def mae(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float | None:
    """Mean absolute error, in units of the label."""
    pair = _usable(labels, scores, fewest=1)
    return None if pair is None else float(np.mean(np.abs(pair[1] - pair[0])))


def r2(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float | None:
    """Share of the variance of labels (n,) that scores (n,) explain, around the labels' own mean.

    1 is perfect, 0 no better than that mean, negative worse; None for constant labels.
    """
    pair = _usable(labels, scores)
    if pair is None or _is_constant(pair[0]):
        return None
    total = np.sum((pair[0] - pair[0].mean()) ** 2)
    return float(1.0 - np.sum((pair[1] - pair[0]) ** 2) / total)


def pearson(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float | None:
    """Linear correlation of labels (n,) and scores (n,), -1 to 1; None if either is constant."""
    pair = _usable(labels, scores)
    if pair is None or _is_constant(pair[0]) or _is_constant(pair[1]):
        return None
    first, second = pair[0] - pair[0].mean(), pair[1] - pair[1].mean()
    product = np.sum(first * second) / (np.sqrt(np.sum(first**2)) * np.sqrt(np.sum(second**2)))
    return float(np.clip(product, -1.0, 1.0))


def spearman(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float | None:
    """Rank correlation, ties sharing their middle rank, -1 to 1; None if either is constant."""
    pair = _usable(labels, scores)
    return None if pair is None else pearson(rankdata(pair[0]), rankdata(pair[1]))


def constant_mse(labels: npt.ArrayLike, constant: float | None) -> float | None:
    """MSE of answering ``constant`` for every one of labels (n,), whatever the image.

    An honest constant is the mean of the *training* labels; the mean of ``labels``
    themselves gives their variance, the least that any constant can reach.
    """
    if constant is None:
        return None
    values = np.asarray(labels, dtype=np.float64)
    return mse(values, np.full_like(values, constant))


def measure(
    labels: npt.ArrayLike, scores: npt.ArrayLike, *, constant: float | None
) -> dict[str, float | None]:
    """Every measure of one head.

    Args:
        labels: (n,), in [0, 1].
        scores: (n,), in [0, 1].
        constant: What the constant predictor answers, see `constant_mse`.
    """
    return {
        "mse": mse(labels, scores),
        "rmse": rmse(labels, scores),
        "mae": mae(labels, scores),
        "r2": r2(labels, scores),
        "pearson": pearson(labels, scores),
        "spearman": spearman(labels, scores),
        "constant_mse": constant_mse(labels, constant),
    }


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Intervals by resampling groups. The same seed and groups give the same intervals.

    There is no interval where a label or score is not finite, where too few resamples define the measure,
    and with fewer than two groups: one group says nothing about another.

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
        """Every measure of one head.

        Args:
            labels: (n,), in [0, 1].
            scores: (n,), in [0, 1].
            groups: (n,), any values; equal ones are drawn together.
            constant: What the constant predictor answers, see `constant_mse`.
        """
        values = measure(labels, scores, constant=constant)
        pair = _usable(labels, scores)
        drawn = self._draw(groups)
        resampled = {}
        if pair is not None and drawn.counts is not None:
            resampled = _resampled_measures(*pair, drawn, drawn.counts, constant)
        return Measures(
            **{name: self._estimate(value, resampled.get(name), drawn) for name, value in values.items()}
        )

    def mean(self, values: npt.ArrayLike, groups: npt.ArrayLike) -> Estimate:
        """The mean of ``values`` (n,), such as differences of two models' squared errors.

        Both models are then measured on the same resample each time, so what is hard for both cancels.
        """
        numbers = np.asarray(values, dtype=np.float64)
        drawn = self._draw(groups)
        if len(numbers) == 0 or not np.isfinite(numbers).all():
            return self._estimate(None, None, drawn)
        resampled = None
        if drawn.counts is not None:
            resampled = (drawn.counts @ drawn.sums(numbers)) / (
                drawn.counts @ drawn.sums(np.ones_like(numbers))
            )
        return self._estimate(float(numbers.mean()), resampled, drawn)

    def lead(
        self, labels: npt.ArrayLike, scores: npt.ArrayLike, others: npt.ArrayLike, groups: npt.ArrayLike
    ) -> Estimate:
        """R2 of ``scores`` (n,) less that of ``others`` (n,) against the same labels (n,)."""
        first, second = r2(labels, scores), r2(labels, others)
        drawn = self._draw(groups)
        if first is None or second is None:
            return self._estimate(None, None, drawn)
        truth, ours, theirs = (np.asarray(each, dtype=np.float64) for each in (labels, scores, others))
        resampled = None
        if drawn.counts is not None:
            centred = truth - truth.mean()
            terms = (np.ones_like(truth), centred, centred**2, (theirs - truth) ** 2 - (ours - truth) ** 2)
            size, s1, s11, gain = (drawn.counts @ drawn.sums(term) for term in terms)
            resampled = gain / size / _variance(s1 / size, s11 / size, _scale(truth))
        return self._estimate(first - second, resampled, drawn)

    def _draw(self, groups: npt.ArrayLike) -> _Draw:
        names, index = np.unique(np.asarray(groups), return_inverse=True)
        enough = self.samples and len(names) >= _FEWEST
        return _Draw(
            len(names), index, resample_counts(len(names), self.samples, self.seed) if enough else None
        )

    def _estimate(self, value: float | None, resampled: Floats | None, drawn: _Draw) -> Estimate:
        low = high = None
        if resampled is not None and value is not None:
            defined = resampled[np.isfinite(resampled)]
            if len(defined) and len(defined) >= SMALLEST_DEFINED_SHARE * len(resampled):
                tail = (1.0 - self.confidence) / 2.0
                low, high = map(float, np.quantile(defined, [tail, 1.0 - tail]))
        return Estimate(value=value, low=low, high=high, num_groups=drawn.num_groups)


@dataclass(frozen=True, slots=True)
class _Draw:
    """Resampled groups: the group of each sample (n,), and how often each resample has each group."""

    num_groups: int
    index: npt.NDArray[np.intp]
    counts: Floats | None

    def sums(self, values: Floats) -> Floats:
        """Sums by group (num_groups,) of values (n,)."""
        return np.asarray(
            np.bincount(self.index, weights=values, minlength=self.num_groups), dtype=np.float64
        )


def resample_counts(num_groups: int, samples: int, seed: int) -> Floats:
    """How often each group is drawn in each resample: (samples, num_groups), rows add up to num_groups."""
    generator = np.random.default_rng(seed)
    counts = np.empty((samples, num_groups))
    for row in range(samples):
        counts[row] = np.bincount(generator.integers(num_groups, size=num_groups), minlength=num_groups)
    return counts


def _resampled_measures(
    labels: Floats, scores: Floats, drawn: _Draw, counts: Floats, constant: float | None
) -> dict[str, Floats]:
    """Each measure in each resample, (samples,), NaN where it is not defined.

    All but the rank correlation are functions of sums over samples, so the sums are formed
    once per group and a resample is a product with its counts.
    """
    first, second = labels - labels.mean(), scores - scores.mean()
    error = scores - labels
    answer = np.full_like(labels, np.nan if constant is None else constant)
    terms = [np.ones_like(labels), error**2, np.abs(error), (answer - labels) ** 2]
    terms += [first, first**2, second, second**2, first * second]
    totals = counts @ np.stack([drawn.sums(term) for term in terms], axis=1)  # (samples, terms)
    size, squared, absolute, constant_squared = totals[:, :4].T
    s1, s11, s2, s22, s12 = totals[:, 4:].T / size
    label_variance = _variance(s1, s11, _scale(labels))
    score_variance = _variance(s2, s22, _scale(scores))
    mean_squared = squared / size
    return {
        "mse": mean_squared,
        "rmse": np.sqrt(mean_squared),
        "mae": absolute / size,
        "r2": 1.0 - mean_squared / label_variance,
        "pearson": np.clip((s12 - s1 * s2) / np.sqrt(label_variance * score_variance), -1.0, 1.0),
        "spearman": _resampled_spearman(labels, scores, drawn.index, counts),
        "constant_mse": constant_squared / size,
    }


def _resampled_spearman(
    labels: Floats, scores: Floats, group_index: npt.NDArray[np.intp], counts: Floats
) -> Floats:
    """Rank correlation in each resample, (samples,): midranks of a weighted sample, exactly."""
    result = np.empty(len(counts))
    step = max(1, _CELLS_AT_ONCE // len(labels))
    for start in range(0, len(counts), step):
        part = slice(start, start + step)
        weights = counts[part][:, group_index]  # (part, n)
        size = weights.sum(axis=1)
        centre = ((size + 1.0) / 2.0)[:, None]
        first = _weighted_midranks(labels, weights) - centre
        second = _weighted_midranks(scores, weights) - centre
        weighted = weights * first
        variance_1 = _variance(0.0, np.einsum("bn,bn->b", weighted, first) / size, 1.0)
        variance_2 = _variance(0.0, np.einsum("bn,bn,bn->b", weights, second, second) / size, 1.0)
        covariance = np.einsum("bn,bn->b", weighted, second) / size
        result[part] = np.clip(covariance / np.sqrt(variance_1 * variance_2), -1.0, 1.0)
    return result


def _weighted_midranks(values: Floats, weights: Floats) -> Floats:
    """Ranks (part, n) of values (n,) that occur ``weights`` (part, n) times, ties sharing the middle."""
    order = np.argsort(values, kind="stable")
    starts_new = np.diff(values[order], prepend=-np.inf) > 0
    starts = np.flatnonzero(starts_new)
    tied = np.add.reduceat(weights[:, order], starts, axis=1)  # (part, distinct values)
    ranks = np.cumsum(tied, axis=1) - (tied - 1.0) / 2.0
    distinct = np.empty(len(values), dtype=np.intp)
    distinct[order] = np.cumsum(starts_new) - 1
    return np.asarray(ranks[:, distinct])


def _variance(mean: Any, mean_square: Any, scale: float) -> Floats:
    """Variance, NaN where rounding alone could have made it: the resample is constant."""
    variance = np.asarray(mean_square - mean**2, dtype=np.float64)
    return np.where(variance > 1e-10 * scale, variance, np.nan)


def _scale(values: Floats) -> float:
    return float("inf") if _is_constant(values) else float(np.var(values))


def _usable(
    labels: npt.ArrayLike, scores: npt.ArrayLike, *, fewest: int = _FEWEST
) -> tuple[Floats, Floats] | None:
    first, second = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(f"labels {first.shape} and scores {second.shape} must both be (n,)")
    finite = np.isfinite(first).all() and np.isfinite(second).all()
    return (first, second) if len(first) >= fewest and finite else None


def _is_constant(values: Floats) -> bool:
    return bool(np.ptp(values) == 0.0)
