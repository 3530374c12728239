"""Measures against other implementations, hand-worked cases, and intervals against brute force."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

from quality_model.evaluate import metrics
from quality_model.evaluate.evidence import Estimate
from quality_model.evaluate.metrics import Bootstrap

BOOTSTRAP = Bootstrap(samples=200, confidence=0.9, seed=4)


def labelled(seed: int, size: int = 200, per_group: int = 5) -> tuple[Any, Any, Any]:
    """Labels with many zeros, as a training dataset has, scores with ties, and groups of equal size."""
    rng = np.random.default_rng(seed)
    labels = rng.random(size) * (rng.random(size) > 0.6)
    scores = np.round(np.clip(0.1 + 0.7 * labels + rng.normal(0, 0.15, size), 0, 1), 2)
    return labels, scores, np.arange(size) // per_group


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=25))
def test_measures_of_scores_with_many_ties_agree_with_scikit_learn_and_scipy(pairs: list[Any]) -> None:
    labels, scores = np.array(pairs, dtype=np.float64).T / 4
    varied, both = np.ptp(labels) > 0, np.ptp(labels) > 0 and np.ptp(scores) > 0
    expected = {
        "mse": mean_squared_error(labels, scores),
        "rmse": math.sqrt(mean_squared_error(labels, scores)),
        "mae": mean_absolute_error(labels, scores),
        "r2": r2_score(labels, scores) if varied else None,
        "pearson": stats.pearsonr(labels, scores).statistic if both else None,
        "spearman": stats.spearmanr(labels, scores).statistic if both else None,
        "constant_mse": mean_squared_error(labels, np.full_like(labels, 0.3)),
    }
    assert metrics.measure(labels, scores, constant=0.3) == pytest.approx(expected, abs=1e-12)


def test_one_sample_has_an_error_and_nothing_that_needs_variance_and_none_has_nothing() -> None:
    measured = metrics.measure([0.5], [0.25], constant=0.0)
    assert (measured["mse"], measured["mae"]) == (0.0625, 0.25)
    assert [measured[name] for name in ("r2", "pearson", "spearman")] == [None, None, None]
    assert set(metrics.measure([], [], constant=0.5).values()) == {None}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_leaves_every_measure_undefined(bad: float) -> None:
    measured = metrics.measure([0.0, 0.5, 1.0], [0.1, bad, 0.9], constant=0.5)
    assert set(measured.values()) == {None}
    estimates = dict(BOOTSTRAP.measures([0.0, 0.5, 1.0], [0.1, bad, 0.9], [1, 2, 3], constant=0.5))
    assert {estimate.low for estimate in estimates.values()} == {None}
    undefined = BOOTSTRAP.mean([0.1, bad], [1, 2])
    assert (undefined.value, undefined.low, undefined.num_groups) == (None, None, 2)


def repeated(groups: np.ndarray, bootstrap: Bootstrap) -> list[np.ndarray]:
    """The rows of each resample, sample by sample."""
    names = np.unique(groups)
    drawn = metrics.resample_counts(len(names), bootstrap.samples, bootstrap.seed)
    return [
        np.repeat(np.arange(len(groups)), one[np.searchsorted(names, groups)].astype(int)) for one in drawn
    ]


def ends(estimate: Estimate) -> tuple[float | None, float | None]:
    return estimate.low, estimate.high


def test_intervals_are_those_of_repeating_whole_groups_sample_by_sample() -> None:
    labels, scores, _ = labelled(3, size=60)
    rng = np.random.default_rng(5)
    groups = np.sort(rng.integers(0, 9, 60))  # groups of unequal size
    other = np.clip(scores + rng.normal(0, 0.1, 60), 0, 1)
    rows = repeated(groups, BOOTSTRAP)
    measured = [metrics.measure(labels[one], scores[one], constant=0.25) for one in rows]
    for name, estimate in BOOTSTRAP.measures(labels, scores, groups, constant=0.25):
        expected = np.quantile([float(one[name] or 0.0) for one in measured], [0.05, 0.95])
        assert ends(estimate) == pytest.approx(expected, abs=1e-9), name
        assert estimate.value == metrics.measure(labels, scores, constant=0.25)[name]
    errors = (scores - labels) ** 2 - (other - labels) ** 2
    expected = np.quantile([errors[one].mean() for one in rows], [0.05, 0.95])
    assert ends(BOOTSTRAP.mean(errors, groups)) == pytest.approx(expected, abs=1e-12)
    leads = [r2_score(labels[one], scores[one]) - r2_score(labels[one], other[one]) for one in rows]
    lead = BOOTSTRAP.lead(labels, scores, other, groups)
    assert ends(lead) == pytest.approx(np.quantile(leads, [0.05, 0.95]), abs=1e-9)
    assert lead.value == pytest.approx(r2_score(labels, scores) - r2_score(labels, other))


def test_repeating_every_sample_changes_no_interval_even_beyond_what_is_computed_at_once() -> None:
    labels, scores, groups = labelled(3, size=60)
    few = BOOTSTRAP.measures(labels, scores, groups, constant=0.25)
    repeats = [np.repeat(each, 250) for each in (labels, scores, groups)]
    for (_, one), (_, other) in zip(few, BOOTSTRAP.measures(*repeats, constant=0.25), strict=True):
        assert ends(one) == pytest.approx(ends(other), abs=1e-9)


def test_one_group_alone_or_no_resamples_give_values_without_intervals() -> None:
    labels, scores, groups = labelled(4, size=40)
    alone = BOOTSTRAP.measures(labels, scores, ["one"] * 40, constant=0.2)
    unasked = Bootstrap(samples=0, confidence=0.9, seed=1).measures(labels, scores, groups, constant=0.2)
    for measures, num_groups in ((alone, 1), (unasked, 8)):
        for name, estimate in measures:
            assert (*ends(estimate), estimate.num_groups) == (None, None, num_groups)
            assert estimate.value == metrics.measure(labels, scores, constant=0.2)[name]
    assert ends(BOOTSTRAP.mean(scores, ["one"] * 40)) == (None, None)
    assert ends(BOOTSTRAP.lead(labels, scores, scores, ["one"] * 40)) == (None, None)


@pytest.mark.parametrize("constant_label", [0.0, 0.1, 1 / 3])
def test_constant_labels_give_intervals_of_errors_only(constant_label: float) -> None:
    _, scores, groups = labelled(5, size=40)
    measures = BOOTSTRAP.measures(np.full(40, constant_label), scores, groups, constant=0.0)
    assert {name for name, one in measures if one.low is None} == {"r2", "pearson", "spearman"}
    assert {name for name, one in measures if one.value is None} == {"r2", "pearson", "spearman"}
    assert BOOTSTRAP.lead(np.full(40, constant_label), scores, scores, groups).value is None


def test_a_measure_that_many_resamples_do_not_define_has_no_interval() -> None:
    labels = np.zeros(40)
    labels[:4] = [0.2, 0.4, 0.6, 0.8]  # one group of ten varies; a third of the resamples lack it
    _, scores, _ = labelled(6, size=40)
    measures = BOOTSTRAP.measures(labels, scores, np.arange(40) // 4, constant=0.0)
    assert measures.mse.low is not None
    assert measures.r2.value is not None
    assert (measures.r2.low, measures.spearman.low) == (None, None)


def test_the_same_seed_gives_the_same_intervals_whatever_the_order_of_the_samples() -> None:
    labels, scores, groups = labelled(7)
    shuffled = np.random.default_rng(0).permutation(len(labels))
    first = BOOTSTRAP.measures(labels, scores, groups, constant=0.1)
    second = BOOTSTRAP.measures(labels[shuffled], scores[shuffled], groups[shuffled], constant=0.1)
    for (_, one), (_, other) in zip(first, second, strict=True):
        assert ends(one) == pytest.approx(ends(other), abs=1e-12)
    other_seed = replace(BOOTSTRAP, seed=10).measures(labels, scores, groups, constant=0.1)
    assert ends(other_seed.mse) != ends(first.mse)


def test_the_area_under_the_curve_counts_ties_half_and_its_interval_draws_whole_scenes() -> None:
    bootstrap = Bootstrap(1000, 0.95, seed=42)
    bad = np.array([True, True, False, False])
    found = bootstrap.auc([2.0, 1.0, 1.0, 0.0], bad, [*"abab"])
    assert found.value == pytest.approx(3.5 / 4)
    assert (found.low, found.high, found.num_groups) == (pytest.approx(0.875, abs=0.13), 1.0, 2)
    alone = bootstrap.auc([2.0, 1.0], bad[1:3], [*"aa"])
    assert (alone.value, alone.low) == (1.0, None)
    assert bootstrap.auc([2.0], bad[:1], ["a"]).value is None
