"""Profile `seed` is the original generator: its ranges, shares, orders and labels, bit for bit."""

import hashlib
from collections import Counter

import numpy as np
import pytest

from quality_model.core.decoding import Pixels
from quality_model.core.views import squeezed as resize
from quality_model.degrade import PROFILES, AppliedDegradation, DegradedSample, SampleRandomness
from quality_model.records import HEADS

SEED = PROFILES["seed"]

RANGES = {"color_cast": (0.1, 0.5), "blurriness": (0.1, 1.0), "watermark": (0.1, 0.5), "noise": (0.1, 1.0)}

NUM_SAMPLES = 3600
TINY = np.full((4, 4, 3), 128, dtype=np.uint8)


@pytest.fixture(scope="module")
def drawn() -> list[tuple[AppliedDegradation, ...]]:
    """The degradations of 3,600 samples; the images are tiny because only the draws matter."""
    return [SEED.degrade(TINY, SampleRandomness(7, f"{i}#01")).applied for i in range(NUM_SAMPLES)]


def of_head(drawn: list[tuple[AppliedDegradation, ...]], head: str) -> list[AppliedDegradation]:
    return [degradation for applied in drawn for degradation in applied if degradation.head == head]


def assert_equally_likely(found: list[object], expected: set[object]) -> None:
    """Every expected value occurs, no other does, and shares are equal within 4.5 standard errors."""
    counts = Counter(found)
    assert set(counts) == expected
    share = 1 / len(expected)
    error = np.sqrt(share * (1 - share) / len(found))
    for value, count in counts.items():
        assert abs(count / len(found) - share) < 4.5 * error, value


def test_a_sample_gets_0_to_4_distinct_degradations_equally_often_in_every_order(drawn) -> None:
    assert_equally_likely([len(applied) for applied in drawn], set(range(5)))
    assert SEED.untouched_share == 0.2
    for applied in drawn:
        heads = [degradation.head for degradation in applied]
        assert len(set(heads)) == len(heads)
        assert [degradation.position for degradation in applied] == list(range(len(heads)))
    orders = [tuple(d.head for d in applied) for applied in drawn if len(applied) == 4]
    assert len(set(orders)) == 24
    assert_equally_likely(orders, set(orders))


@pytest.mark.parametrize("head", HEADS)
def test_every_kind_is_equally_likely_and_its_strength_uniform_in_the_range_of_its_head(drawn, head) -> None:
    assert_equally_likely([d.kind for d in of_head(drawn, head)], set(SEED.kinds[head]))
    low, high = RANGES[head]
    labels = np.array([degradation.label for degradation in of_head(drawn, head)])

    assert SEED.label_ranges[head] == (low, high)
    assert labels.min() >= low
    assert labels.max() < high
    counts = np.histogram(labels, bins=8, range=(low, high))[0]
    expected = len(labels) / 8
    assert np.abs(counts - expected).max() < 4.5 * np.sqrt(expected)


def test_label_variances_are_those_of_the_original(drawn) -> None:
    """The original's .0274, .1016, .0274, .1016 count every sample, absent degradations as 0,
    with 5 degraded samples beside each clean image: a head is present with a probability of
    5/6 x 1/2, and Var = p E[t^2] - (p E[t])^2 gives .02743 and .10165."""
    expected = {"color_cast": 0.0274, "blurriness": 0.1016, "watermark": 0.0274, "noise": 0.1016}
    labels = [DegradedSample(TINY, applied).labels for applied in drawn[:3000]]
    labels += [SEED.keep(TINY).labels for _ in range(600)]

    for head, column in zip(HEADS, np.array(labels).T, strict=True):
        deviations = (column - column.mean()) ** 2
        standard_error = deviations.std() / np.sqrt(len(column))
        assert abs(deviations.mean() - expected[head]) < 3.5 * standard_error, head
        low, high = RANGES[head]
        present, mean_square = 5 / 12, (high**3 - low**3) / (3 * (high - low))
        exact = present * mean_square - (present * (low + high) / 2) ** 2
        assert exact == pytest.approx(expected[head], abs=6e-5)


def test_parameters_follow_the_strength_as_in_the_original() -> None:
    clean = np.full((224, 224, 3), 128, dtype=np.uint8)
    seen = set()
    for number in range(400):
        for d in SEED.degrade(clean, SampleRandomness(5, f"{number}")).applied:
            t, p = d.label, d.parameters
            seen.add((d.head, d.kind))
            match d.head, d.kind:
                case "color_cast", _:
                    assert p["strength"] == t
                case "blurriness", "motion":
                    assert p["taps"] == int(5 + 15 * t)
                case "blurriness", _:
                    assert p["radius_px"] == int(1 + 9 * t)
                case "watermark", _:
                    assert p["opacity"] == t
                    assert 20 <= p["size_px"] <= 100
                case "noise", "gaussian":
                    assert p["std"] == 10 + 40 * t
                case "noise", "salt_and_pepper":
                    assert p["share"] == 0.01 + 0.09 * t
                case "noise", "poisson":
                    assert abs(p["peak"] - 255 * (1 - t / 2)) <= 2
    assert len(seen) == 8 + 3 + 4 + 3


def test_lengths_scale_with_the_size_of_the_image() -> None:
    for number in range(60):
        randomness = SampleRandomness(5, f"{number}")
        large = SEED.degrade(np.full((224, 224, 3), 128, dtype=np.uint8), randomness).applied
        small = SEED.degrade(np.full((56, 56, 3), 128, dtype=np.uint8), randomness).applied
        assert [(d.head, d.kind, d.label) for d in large] == [(d.head, d.kind, d.label) for d in small]
        for of_large, of_small in zip(large, small, strict=True):
            for name in {"taps", "radius_px", "size_px"} & set(of_large.parameters):
                quarter = of_large.parameters[name] / 4
                assert of_small.parameters[name] >= 1
                assert abs(of_small.parameters[name] - max(1, quarter)) <= 0.5


def test_the_samples_of_a_seed_never_change(photo: Pixels) -> None:
    """If this fails, older datasets can no longer be generated again: change the profile's name."""
    clean = resize(photo, 224)
    pixels, labels = hashlib.sha256(), hashlib.sha256()
    for number in range(40):
        sample = SEED.degrade(clean, SampleRandomness(42, f"astronaut#{number:02d}"))
        pixels.update(sample.image.data)
        labels.update(np.array(sample.labels, dtype="<f4").data)

    assert labels.hexdigest() == "919ddf4ee587f7d25e05a89a20ab43f7c0fff1682bbe513fc7e7db0e5a82afd4"
    assert pixels.hexdigest() == "c954d3979cb9c9ce34b6a705ee686b58c2e45c1b929d59efeebeef4fe500229a"
