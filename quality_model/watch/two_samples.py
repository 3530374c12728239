"""Statistics of two samples: whether they differ, by how much, and how sure that is.

Samples are counts in the same bins, in order. Binned values are values with ties, with which the test of
Kolmogorov and Smirnov is conservative: where nothing has moved, its p-values are too large.
"""

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from quality_model.score.distributions import Counts
from quality_model.score.stream import wilson

_PSI_BINS: Final = 10
_TERMS: Final = np.arange(1, 101)
_TOLERANCE: Final = 1e-7  # of logarithms that are equal but for rounding


def ks_statistic(one: Counts, other: Counts) -> float:
    """The largest distance of two cumulative distributions, in [0, 1], from counts in the same bins."""
    return float(np.abs(np.cumsum(one) / one.sum() - np.cumsum(other) / other.sum()).max())


def ks_p_value(statistic: float, num_one: int, num_other: int) -> float:
    """The two-sided, two-sample p-value, in [0, 1] (Smirnov, Annals of Mathematical Statistics 19, 1948).

    It is that of the limit of large samples, and of continuous values. It is larger than the exact one for
    small samples, and with ties, which bins and rounding make.
    """
    scaled = statistic * math.sqrt(num_one * num_other / (num_one + num_other))
    if scaled < 0.2:  # where the series converges slowly, and the value is 1 to twelve digits
        return 1.0
    terms = np.where(_TERMS % 2 == 1, 2.0, -2.0) * np.exp(-2.0 * (_TERMS * scaled) ** 2)
    return float(np.clip(terms.sum(), 0.0, 1.0))


def fisher_p_value(count_one: int, num_one: int, count_other: int, num_other: int) -> float:
    """Fisher's exact two-sided p-value, in (0, 1], for two shares (Fisher, J. R. Stat. Soc. 98, 1935).

    It adds up all tables of the same margins that are no more likely than the one found.
    """
    hits = count_one + count_other
    first = max(0, hits - num_other)
    k = np.arange(first, min(hits, num_one), dtype=np.float64)  # each table but the last, by its first count
    steps = np.log((hits - k) * (num_one - k)) - np.log((k + 1) * (num_other - hits + k + 1))
    logs = np.concatenate([[0.0], np.cumsum(steps)])
    chances = np.exp(logs - logs.max())
    no_likelier = logs <= logs[count_one - first] + _TOLERANCE
    return float(min(1.0, chances[no_likelier].sum() / chances.sum()))


def holm(ps: Mapping[str, float]) -> dict[str, float]:
    """Holm's corrected p-values, in [0, 1], by name (Holm, Scandinavian Journal of Statistics 6, 1979).

    Each column whose value is at most alpha has moved; the chance that any of them has not is at most alpha,
    however they depend on each other.
    """
    corrected, largest = {}, 0.0
    for place, name in enumerate(sorted(ps, key=lambda name: ps[name])):
        largest = max(largest, min(1.0, ps[name] * (len(ps) - place)))
        corrected[name] = largest
    return {name: corrected[name] for name in ps}


def stability_index(reference: Counts, now: Counts) -> float:
    """The population stability index over the deciles of the reference, 0 or more.

    The sum of (q - p) ln(q / p) over ten bins with a tenth of the reference each, fewer where many of its
    values are equal (Siddiqi, Credit Risk Scorecards, 2006). Half an image is added to each bin.
    """
    edges = quantile_edges(reference, _PSI_BINS)
    p, q = (np.add.reduceat(counts, edges) + 0.5 for counts in (reference, now))
    p, q = p / p.sum(), q / q.sum()
    return float(((q - p) * np.log(q / p)).sum())


def newcombe(count_one: int, num_one: int, count_other: int, num_other: int) -> tuple[float, float]:
    """The 95 % interval of the second share minus the first, in [-1, 1].

    Method 10 of Newcombe (Statistics in Medicine 17, 1998, page 873), from the two intervals of Wilson.
    """
    one, other = count_one / num_one, count_other / num_other
    (low_one, high_one), (low_other, high_other) = wilson(count_one, num_one), wilson(count_other, num_other)
    change = other - one
    return (
        change - math.hypot(other - low_other, high_one - one),
        change + math.hypot(high_other - other, one - low_one),
    )


def quantile_edges(counts: Counts, num: int) -> npt.NDArray[np.int64]:
    """First places of at most ``num`` runs of bins that hold about as many of the counted values each."""
    wanted = np.arange(1, num) * counts.sum() / num
    after = np.searchsorted(np.cumsum(counts), wanted) + 1
    return np.unique(np.concatenate([[0], after[after < len(counts)]]))
