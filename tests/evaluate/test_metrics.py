"""Measures against other implementations, hand-worked cases, and intervals against brute force."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

from quality_model.evaluate import metrics


def labelled(seed: int, size: int = 200, per_group: int = 5) -> tuple[Any, Any, Any]:
    """Labels with many zeros, as a training dataset has, scores with ties, and groups of equal size."""
    rng = np.random.default_rng(seed)
    labels = rng.random(size) * (rng.random(size) > 0.6)
    scores = np.round(np.clip(0.1 + 0.7 * labels + rng.normal(0, 0.15, size), 0, 1), 2)
    return labels, scores, np.arange(size) // per_group


@pytest.mark.parametrize("seed", range(5))
def test_measures_agree_with_scikit_learn_and_scipy(seed: int) -> None:
    labels, scores, _ = labelled(seed)
    measured = metrics.measure(labels, scores, constant=0.3)
    expected = {
        "mse": mean_squared_error(labels, scores),
        "rmse": math.sqrt(mean_squared_error(labels, scores)),
        "mae": mean_absolute_error(labels, scores),
        "r2": r2_score(labels, scores),
        "pearson": stats.pearsonr(labels, scores).statistic,
        "spearman": stats.spearmanr(labels, scores).statistic,
        "constant_mse": mean_squared_error(labels, np.full_like(labels, 0.3)),
    }
    assert measured == pytest.approx(expected, abs=1e-12)
    assert tuple(measured) == metrics.MEASURES


def test_a_case_worked_by_hand() -> None:
    measured = metrics.measure([0.0, 0.5, 1.0], [0.0, 0.5, 0.5], constant=0.0)
    assert measured == pytest.approx(
        {
            "mse": 0.25 / 3,
            "rmse": math.sqrt(0.25 / 3),
            "mae": 0.5 / 3,
            "r2": 0.5,
            "pearson": math.sqrt(3) / 2,
            "spearman": math.sqrt(3) / 2,
            "constant_mse": 1.25 / 3,
        }
    )


def test_perfect_scores_reach_the_best_of_every_measure() -> None:
    labels, _, _ = labelled(1)
    measured = metrics.measure(labels, labels, constant=None)
    assert [measured[name] for name in ("mse", "rmse", "mae", "r2", "pearson", "spearman")] == pytest.approx(
        [0, 0, 0, 1, 1, 1]
    )


def test_always_answering_the_mean_of_the_labels_has_an_r2_of_zero_and_their_variance_as_error() -> None:
    labels, _, _ = labelled(2)
    assert metrics.r2(labels, np.full_like(labels, labels.mean())) == pytest.approx(0.0, abs=1e-12)
    assert metrics.constant_mse(labels, labels.mean()) == pytest.approx(labels.var())


def test_constant_labels_leave_errors_defined_and_correlations_not() -> None:
    measured = metrics.measure([0.3] * 7, np.linspace(0, 1, 7), constant=0.3)
    assert measured["mse"] == pytest.approx(np.mean((np.linspace(0, 1, 7) - 0.3) ** 2))
    assert measured["constant_mse"] == 0.0
    assert [measured[name] for name in ("r2", "pearson", "spearman")] == [None, None, None]


def test_constant_scores_have_an_r2_but_no_correlation() -> None:
    measured = metrics.measure([0.0, 0.4, 0.9], [0.1, 0.1, 0.1], constant=None)
    assert measured["r2"] == pytest.approx(r2_score([0.0, 0.4, 0.9], [0.1, 0.1, 0.1]))
    assert (measured["pearson"], measured["spearman"], measured["constant_mse"]) == (None, None, None)


def test_one_sample_has_an_error_and_nothing_that_needs_variance() -> None:
    measured = metrics.measure([0.5], [0.25], constant=0.0)
    assert (measured["mse"], measured["mae"]) == (0.0625, 0.25)
    assert [measured[name] for name in ("r2", "pearson", "spearman")] == [None, None, None]


def test_no_samples_define_nothing() -> None:
    assert set(metrics.measure([], [], constant=0.5).values()) == {None}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_leaves_every_measure_of_the_scores_undefined(bad: float) -> None:
    measured = metrics.measure([0.0, 0.5, 1.0], [0.1, bad, 0.9], constant=0.5)
    assert {value for name, value in measured.items() if name != "constant_mse"} == {None}
    intervals = metrics.bootstrap_intervals(
        [0.0, 0.5, 1.0], [0.1, bad, 0.9], [1, 2, 3], constant=0.5, samples=20, confidence=0.9, seed=1
    )
    assert set(intervals.values()) == {None}


def test_labels_and_scores_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3,\).*\(2,\)"):
        metrics.mse([0.1, 0.2, 0.3], [0.1, 0.2])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=25))
def test_rank_correlation_with_many_ties_agrees_with_scipy(pairs: list[tuple[int, int]]) -> None:
    labels, scores = np.array(pairs, dtype=np.float64).T / 4
    ours = metrics.spearman(labels, scores)
    if np.ptp(labels) == 0 or np.ptp(scores) == 0:
        assert ours is None
    else:
        assert ours == pytest.approx(stats.spearmanr(labels, scores).statistic, abs=1e-12)


@pytest.mark.parametrize("cells_at_once", [1, 2_000_000])
def test_intervals_are_those_of_repeating_whole_groups_sample_by_sample(
    monkeypatch: pytest.MonkeyPatch, cells_at_once: int
) -> None:
    monkeypatch.setattr(metrics, "_CELLS_AT_ONCE", cells_at_once)
    labels, scores, _ = labelled(3, size=60)
    rng = np.random.default_rng(5)
    groups = np.sort(rng.integers(0, 9, 60))  # groups of unequal size
    samples = 80
    names = np.unique(groups)
    repeated = []
    for counts in metrics.resample_counts(len(names), samples, 7):
        rows = np.concatenate(
            [
                np.tile(np.flatnonzero(groups == name), int(count))
                for name, count in zip(names, counts, strict=True)
            ]
        )
        repeated.append(metrics.measure(labels[rows], scores[rows], constant=0.25))
    intervals = metrics.bootstrap_intervals(
        labels, scores, groups, constant=0.25, samples=samples, confidence=0.9, seed=7
    )
    for name in metrics.MEASURES:
        expected = np.quantile([float(one[name] or 0.0) for one in repeated], [0.05, 0.95])
        assert intervals[name] == pytest.approx(expected, abs=1e-9), name


def test_each_resample_draws_as_many_groups_as_there_are() -> None:
    counts = metrics.resample_counts(13, 50, 1)
    assert counts.shape == (50, 13)
    assert (counts.sum(axis=1) == 13).all()
    assert counts.mean(axis=0) == pytest.approx(np.ones(13), abs=0.5)


def test_intervals_over_groups_cover_the_truth_where_intervals_over_samples_do_not() -> None:
    rng = np.random.default_rng(11)
    covered = {"groups": 0, "samples": 0}
    repetitions, num_groups, per_group, spread = 60, 25, 8, 0.2
    for _ in range(repetitions):
        groups = np.repeat(np.arange(num_groups), per_group)
        error = rng.normal(0, spread, num_groups)[groups]  # a group errs as one
        labels = rng.random(len(groups))
        for name, unit in (("groups", groups), ("samples", np.arange(len(groups)))):
            interval = metrics.bootstrap_intervals(
                labels, labels + error, unit, constant=None, samples=150, confidence=0.9, seed=3
            )["mse"]
            assert interval is not None
            covered[name] += interval.low <= spread**2 <= interval.high
    assert covered["groups"] >= 0.75 * repetitions
    assert covered["samples"] <= 0.6 * repetitions


def test_a_group_may_hold_a_single_sample() -> None:
    labels, scores, _ = labelled(4, size=40)
    intervals = metrics.bootstrap_intervals(
        labels, scores, np.arange(40), constant=0.2, samples=200, confidence=0.95, seed=1
    )
    for name, value in metrics.measure(labels, scores, constant=0.2).items():
        interval = intervals[name]
        assert interval is not None and value is not None
        assert interval.low < value < interval.high


def test_one_group_alone_gives_no_interval() -> None:
    labels, scores, _ = labelled(4, size=40)
    intervals = metrics.bootstrap_intervals(
        labels, scores, ["one"] * 40, constant=0.2, samples=50, confidence=0.95, seed=1
    )
    assert intervals == dict.fromkeys(metrics.MEASURES)


@pytest.mark.parametrize("constant_label", [0.0, 0.1, 1 / 3])
def test_constant_labels_give_intervals_of_errors_only(constant_label: float) -> None:
    _, scores, groups = labelled(5, size=40)
    intervals = metrics.bootstrap_intervals(
        np.full(40, constant_label), scores, groups, constant=0.0, samples=50, confidence=0.95, seed=1
    )
    assert {name for name, interval in intervals.items() if interval is None} == {"r2", "pearson", "spearman"}


def test_a_measure_that_many_resamples_do_not_define_has_no_interval() -> None:
    labels = np.zeros(40)
    labels[:4] = [0.2, 0.4, 0.6, 0.8]  # one group of ten varies; a third of the resamples lack it
    _, scores, _ = labelled(6, size=40)
    intervals = metrics.bootstrap_intervals(
        labels, scores, np.arange(40) // 4, constant=0.0, samples=100, confidence=0.95, seed=1
    )
    assert intervals["mse"] is not None
    assert (intervals["r2"], intervals["spearman"]) == (None, None)


def test_the_same_seed_gives_the_same_intervals_whatever_the_order_of_the_samples() -> None:
    labels, scores, groups = labelled(7)
    shuffled = np.random.default_rng(0).permutation(len(labels))
    options: dict[str, Any] = {"constant": 0.1, "samples": 100, "confidence": 0.95, "seed": 9}
    first = metrics.bootstrap_intervals(labels, scores, groups, **options)
    second = metrics.bootstrap_intervals(labels[shuffled], scores[shuffled], groups[shuffled], **options)
    for name in metrics.MEASURES:
        assert first[name] == pytest.approx(second[name], abs=1e-12)
    other = metrics.bootstrap_intervals(labels, scores, groups, **{**options, "seed": 10})
    assert other["mse"] != first["mse"]


OPTIONS: dict[str, Any] = {"samples": 300, "confidence": 0.9, "seed": 4}


def test_a_paired_interval_is_that_of_measuring_both_on_each_resample() -> None:
    labels, first, _ = labelled(8, size=60)
    second = np.clip(first + np.random.default_rng(1).normal(0, 0.1, 60), 0, 1)
    groups = np.sort(np.random.default_rng(5).integers(0, 9, 60))  # groups of unequal size
    names = np.unique(groups)
    differences = []
    for counts in metrics.resample_counts(len(names), OPTIONS["samples"], OPTIONS["seed"]):
        rows = np.repeat(np.arange(60), counts[np.searchsorted(names, groups)].astype(int))
        ours, theirs = (metrics.mse(labels[rows], scores[rows]) for scores in (first, second))
        assert ours is not None
        assert theirs is not None
        differences.append(ours - theirs)
    interval = metrics.paired_bootstrap(labels, first, second, groups, **OPTIONS)
    assert interval == pytest.approx(np.quantile(differences, [0.05, 0.95]), abs=1e-12)


def test_what_is_hard_for_both_does_not_widen_a_paired_interval() -> None:
    rng = np.random.default_rng(6)
    groups = np.repeat(np.arange(20), 5)
    labels = rng.random(100)
    hardness = rng.uniform(0, 0.5, 20)[groups]  # some groups are hard for any model
    first, second = labels + hardness, labels + np.sqrt(hardness**2 + 0.01)
    interval = metrics.paired_bootstrap(labels, first, second, groups, **OPTIONS)
    assert interval == pytest.approx((-0.01, -0.01))


def test_a_model_compared_with_itself_differs_by_nothing() -> None:
    labels, scores, groups = labelled(9)
    assert metrics.paired_bootstrap(labels, scores, scores, groups, **OPTIONS) == (0.0, 0.0)


def test_exchanging_the_two_models_turns_a_paired_interval_round() -> None:
    labels, first, groups = labelled(10)
    second = np.clip(first * 0.9, 0, 1)
    one = metrics.paired_bootstrap(labels, first, second, groups, **OPTIONS)
    other = metrics.paired_bootstrap(labels, second, first, groups, **OPTIONS)
    assert one is not None
    assert other == pytest.approx((-one.high, -one.low))


def test_a_paired_interval_over_groups_is_wider_where_a_group_errs_as_one() -> None:
    rng = np.random.default_rng(12)
    groups = np.repeat(np.arange(12), 20)
    labels = rng.random(240)
    first = labels + rng.normal(0, 0.1, 12)[groups]
    second = labels + 0.1
    over_groups = metrics.paired_bootstrap(labels, first, second, groups, **OPTIONS)
    over_samples = metrics.paired_bootstrap(labels, first, second, np.arange(240), **OPTIONS)
    assert over_groups is not None
    assert over_samples is not None
    assert over_groups.high - over_groups.low > 2 * (over_samples.high - over_samples.low)


@pytest.mark.parametrize(
    ("scores", "groups"), [([0.1, 0.2, 0.3], ["a"] * 3), ([0.1, math.nan, 0.3], ["a", "b", "c"])]
)
def test_one_group_or_a_score_that_is_not_finite_gives_no_paired_interval(
    scores: list[float], groups: list[str]
) -> None:
    labels, other = [0.0, 0.5, 1.0], [0.0, 0.4, 0.9]
    assert metrics.paired_bootstrap(labels, scores, other, groups, **OPTIONS) is None
    assert metrics.paired_bootstrap(labels, other, scores, groups, **OPTIONS) is None
