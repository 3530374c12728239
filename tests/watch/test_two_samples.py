"""The statistics of two samples, against SciPy's and published examples."""

import numpy as np
import pytest
from scipy import stats

from quality_model.watch.two_samples import (
    fisher_p_value,
    holm,
    ks_p_value,
    ks_statistic,
    newcombe,
    quantile_edges,
    stability_index,
)


@pytest.mark.parametrize(("num_one", "num_other", "shift"), [(100, 100, 0), (100, 2000, 1), (900, 700, 3)])
def test_kolmogorov_and_smirnov_agree_with_scipy(num_one: int, num_other: int, shift: int) -> None:
    random = np.random.default_rng(shift)
    one, other = random.integers(0, 40, num_one), random.integers(0, 40, num_other) + shift
    counted = [np.bincount(values, minlength=50) for values in (one, other)]
    expected = stats.ks_2samp(one, other, method="asymp")
    assert ks_statistic(*counted) == pytest.approx(expected.statistic)
    size = num_one * num_other / (num_one + num_other)
    assert ks_p_value(expected.statistic, num_one, num_other) == pytest.approx(
        stats.kstwobign.sf(expected.statistic * size**0.5)
    )


def test_p_values_are_in_their_range_at_the_extremes() -> None:
    assert ks_p_value(0.0, 100, 100) == 1.0
    assert ks_p_value(1.0, 10**6, 10**6) == 0.0
    assert fisher_p_value(0, 100, 0, 100) == 1.0
    assert 0.0 <= fisher_p_value(10**5, 10**6, 0, 10**6) < 1e-300


@pytest.mark.parametrize("table", [(0, 1000, 6, 1000), (3, 10, 9, 12), (50, 100, 1, 2000), (100, 100, 7, 7)])
def test_fishers_test_agrees_with_scipy(table: tuple[int, int, int, int]) -> None:
    one, num_one, other, num_other = table
    expected = stats.fisher_exact([[one, num_one - one], [other, num_other - other]]).pvalue
    assert fisher_p_value(*table) == pytest.approx(expected)


def test_holm_corrects_the_smallest_most_and_keeps_their_order() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


def test_newcombes_interval_is_that_of_his_paper() -> None:
    assert newcombe(48, 80, 56, 70) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    low, high = newcombe(0, 10, 0, 20)
    assert low < 0 < high


def test_the_stability_index_is_over_deciles_of_the_reference() -> None:
    reference, now = np.repeat(100, 10), np.array([0, 200, *[100] * 8])
    p, q = np.full(10, 0.1), (now + 0.5) / (now + 0.5).sum()
    assert stability_index(reference, now) == pytest.approx(((q - p) * np.log(q / p)).sum())
    assert stability_index(reference, 7 * reference) == pytest.approx(0, abs=1e-5)
    assert quantile_edges(np.array([0, 0, 990, 10, 0]), 10).tolist() == [0, 3]
    assert stability_index(np.array([0, 5, 0]), np.array([0, 5, 0])) == 0
