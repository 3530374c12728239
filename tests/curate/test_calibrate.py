"""What labelled images say of a head and its threshold, and how sure that is."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from quality_model.curate.calibrate import (
    FEWEST,
    Share,
    best_gap,
    best_threshold,
    calibrate,
    held_out_rates,
)
from quality_model.curate.labels import area_under_curve, auc_interval
from quality_model.errors import UsageError


def spread(low: float, high: float, count: int) -> np.ndarray:
    return np.linspace(low, high, count)


def test_the_area_is_the_share_of_pairs_in_order_and_a_tie_is_half_a_pair():
    assert area_under_curve(np.array([0.1, 0.2]), np.array([0.3, 0.4])) == 1.0
    assert area_under_curve(np.array([0.3, 0.4]), np.array([0.1, 0.2])) == 0.0
    assert area_under_curve(np.full(7, 0.5), np.full(3, 0.5)) == 0.5
    assert area_under_curve(np.array([0.1, 0.5]), np.array([0.5, 0.3])) == pytest.approx(2.5 / 4)


@pytest.mark.parametrize("count", [10, 20])
@pytest.mark.parametrize("area", [0.7, 0.9, 0.98])
@pytest.mark.parametrize("shape", ["normal", "skewed"])
def test_the_interval_of_the_area_covers_it_in_nine_cases_of_ten(shape: str, area: float, count: int) -> None:
    generator = np.random.default_rng(20)
    covered, cases = 0, 300
    for _ in range(cases):
        if shape == "normal":
            good = generator.normal(size=count)
            bad = generator.normal(math.sqrt(2) * NormalDist().inv_cdf(area), size=count)
        else:
            good, bad = (
                generator.exponential(size=count),
                generator.exponential(area / (1 - area), size=count),
            )
        found = auc_interval(area_under_curve(good, bad), count, count)
        covered += found.low <= area <= found.high
    assert covered >= 0.9 * cases


def test_an_area_of_one_has_an_interval_that_narrows_with_more_images():
    few, many = auc_interval(1.0, 10, 10), auc_interval(1.0, 40, 40)
    assert (few.value, few.high) == (1.0, 1.0)
    assert few.low == pytest.approx(0.800, abs=0.001)
    assert few.low < many.low < 1.0
    mirrored = auc_interval(0.0, 10, 10)
    assert (mirrored.low, mirrored.high) == (0.0, pytest.approx(1.0 - few.low))


def test_the_threshold_is_in_the_gap_where_good_and_bad_are_separable():
    good, bad = spread(0.05, 0.2, 10), spread(0.4, 0.9, 10)
    assert best_gap(good, bad) == (0.2, 0.4)
    found = best_threshold(good, bad)
    assert found is not None
    assert found.value == 0.3
    assert found.low <= 0.2 and found.high >= 0.4


def test_the_threshold_has_the_highest_balanced_accuracy_also_where_classes_differ_in_size():
    good, bad = np.array([0.1] * 90 + [0.6] * 10), np.array([0.3, 0.7, 0.7, 0.7, 0.7])
    assert best_gap(good, bad) == (0.1, 0.3)  # .9 of the good and all bad ones; 1 and .8 above .6


def test_no_threshold_is_given_where_none_is_better_than_chance():
    equal = np.full(10, 0.4)
    found = calibrate("noise", equal, equal, present=0.3)
    assert found.threshold is None and found.rates is None
    assert found.auc.value == 0.5
    assert found.works is False
    assert "no threshold is better than chance" in found.verdict()
    poor = calibrate("noise", spread(0.1, 0.6, 40), spread(0.15, 0.65, 40))
    assert poor.works is False and poor.threshold is not None
    assert poor.verdict().endswith("no threshold parts them well.")
    reversed_ones = calibrate("noise", spread(0.6, 0.9, 20), spread(0.1, 0.3, 20))
    assert reversed_ones.works is False and reversed_ones.threshold is None


def test_the_interval_of_the_threshold_covers_the_true_one():
    generator, covered = np.random.default_rng(3), 0
    for _ in range(30):
        good, bad = 0.4 + 0.1 * generator.normal(size=(2, 12)).clip(-3, 3) + [[0.0], [0.2]]
        found = best_threshold(good, bad)
        covered += found is not None and found.low <= 0.5 <= found.high
    assert covered >= 27


def test_the_rates_are_of_images_that_the_threshold_was_not_chosen_from():
    good, bad = np.array([0.1, 0.1, 0.1, 0.1, 0.1]), np.array([0.05, 0.9, 0.9, 0.9, 0.9])
    rates = held_out_rates(good, bad)
    assert (rates.found.count, rates.found.total) == (4, 5)
    assert (rates.wrongly.count, rates.wrongly.total) == (0, 5)
    lucky = held_out_rates(np.array([0.1] * 5 + [0.5]), np.array([0.6] + [0.45] * 5))
    assert lucky.wrongly.count == 1 and lucky.found.count == 6
    many = held_out_rates(spread(0.0, 0.4, 300), spread(0.6, 1.0, 300))
    assert (many.found.count, many.wrongly.count) == (300, 0)


def test_whether_the_images_are_enough_is_said_with_how_many_more_it_takes():
    ten = calibrate("noise", spread(0.0, 0.2, 10), spread(0.5, 1.0, 10), present=0.1)
    assert ten.works is True and not ten.is_known
    assert ten.needed == (6, 6)
    assert "20 images: enough to see that the head works (area at least 0.80)" in ten.verdict()
    assert "label about 6 more good and 6 more bad ones" in ten.verdict()
    twenty = calibrate("noise", spread(0.0, 0.2, 20), spread(0.5, 1.0, 20))
    assert twenty.is_known and twenty.needed == (0, 0)
    assert "and for the threshold" in twenty.verdict()
    five = calibrate("noise", spread(0.0, 0.2, 5), spread(0.5, 1.0, 5))
    assert five.works is None and "not enough to see whether the head works" in five.verdict()
    assert ten.present_rates is not None and ten.present_rates.wrongly.count == 5
    assert any("present threshold" in line for line in ten.lines())


@pytest.mark.parametrize(("present", "is_as_good"), [(0.3, True), (0.45, True), (0.1, False), (0.9, False)])
def test_a_present_threshold_that_does_as_well_within_the_intervals_may_stay(
    present: float, is_as_good: bool
) -> None:
    found = calibrate("noise", spread(0.0, 0.2, 20), spread(0.5, 1.0, 20), present=present)
    assert found.present_is_as_good is is_as_good
    assert ("to keep the present one is as good" in "\n".join(found.lines())) is is_as_good


def test_the_images_needed_are_the_fewest_whose_interval_is_narrow_enough():
    assert Share(10, 10).images_needed == Share(0, 10).images_needed == 16
    assert Share(16, 16).half_width <= 0.1 < Share(15, 15).half_width
    half = Share(5, 10).images_needed
    assert 90 <= half <= 100
    assert Share(300, 1000).images_needed == 1000
    assert Share(10, 1500).images_needed == 1500


@pytest.mark.parametrize(("good", "bad"), [(0, 20), (20, 0), (FEWEST - 1, 20), (20, FEWEST - 1)])
def test_too_few_images_are_refused_with_what_it_takes(good: int, bad: int) -> None:
    with pytest.raises(UsageError, match="too few") as caught:
        calibrate("watermark", spread(0.0, 0.1, good), spread(0.5, 0.6, bad))
    assert f"watermark: {good} good and {bad} bad" in caught.value.problem
    assert "at least 5 of each" in caught.value.remedy


def test_the_same_labels_give_the_same_calibration_in_any_order():
    generator = np.random.default_rng(1)
    good, bad = generator.uniform(0.0, 0.6, 20), generator.uniform(0.3, 1.0, 20)
    assert calibrate("noise", good, bad) == calibrate("noise", good[::-1], generator.permutation(bad))
