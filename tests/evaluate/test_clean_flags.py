"""Thresholds of flags, and the clean images that they flag."""

import numpy as np
import pytest

from quality_model.evaluate.clean_flags import calibrate_thresholds, clean_flags, flagged_shares
from quality_model.records import HEADS


def scores(size: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).beta(1, 20, (size, 4))


@pytest.mark.parametrize("size", [1, 7, 49, 50, 51, 149, 1000])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.1])
def test_thresholds_flag_the_allowed_share_of_the_images_they_come_from_and_no_more(
    size: int, share: float
) -> None:
    clean = scores(size)
    thresholds = calibrate_thresholds(clean, share)
    assert thresholds is not None
    for head, flagged in flagged_shares(clean, thresholds).items():
        assert flagged == pytest.approx(np.floor(share * size + 1e-9) / size), head


def test_few_images_are_flagged_rather_too_seldom() -> None:
    thresholds = calibrate_thresholds(scores(20), 0.02)
    assert thresholds == dict(zip(HEADS, scores(20).max(axis=0), strict=True))


def test_equal_scores_are_flagged_together_or_not_at_all() -> None:
    clean = np.repeat([[0.1], [0.9]], [90, 10], axis=0) * np.ones((1, 4))
    thresholds = calibrate_thresholds(clean, 0.05)
    assert thresholds is not None
    assert set(flagged_shares(clean, thresholds).values()) == {0.0}


def test_without_clean_images_there_are_no_thresholds_and_no_share() -> None:
    assert calibrate_thresholds(np.empty((0, 4)), 0.02) is None
    assert set(flagged_shares(np.empty((0, 4)), dict.fromkeys(HEADS, 0.5)).values()) == {None}


def test_the_facts_name_threshold_share_and_number_by_head() -> None:
    clean = np.array([[0.1, 0.2, 0.3, 0.4]] * 3 + [[0.9, 0.2, 0.3, 0.9]])
    facts = clean_flags(clean, dict.fromkeys(HEADS, 0.5))
    assert facts["noise"] == {"threshold": 0.5, "flagged_share": 0.25, "num_images": 4}
    assert facts["watermark"]["flagged_share"] == 0.0


def test_of_a_model_without_thresholds_no_share_is_claimed() -> None:
    facts = clean_flags(scores(9), None)
    assert facts["noise"] == {"threshold": None, "flagged_share": None, "num_images": 9}
