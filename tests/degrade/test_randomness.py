"""The random numbers: reproducible, independent, and distributed as they say."""

import numpy as np
import pytest

from quality_model.degrade.randomness import (
    SampleRandomness,
    Stream,
    normal_quantiles,
    poisson_quantiles,
)


def test_raw_bits_and_numbers_of_a_stream_are_the_same_for_ever() -> None:
    stream = Stream("golden")

    assert stream.bits16(5).tolist() == [26456, 13734, 37949, 58023, 10329]
    assert stream.uniform(2.0, 3.0) == pytest.approx(2.756068210751, abs=1e-12)
    assert [stream.integer(0, 9) for _ in range(8)] == [8, 1, 7, 4, 5, 7, 2, 4]
    assert stream.sample("abcdef", 3) == ["b", "d", "a"]


def test_an_operation_has_the_same_stream_whenever_it_is_asked_for() -> None:
    randomness = SampleRandomness(42, "image#01")
    first = randomness.stream("noise").bits16(100)
    randomness.stream("blurriness").bits16(7)

    assert np.array_equal(randomness.stream("noise").bits16(100), first)


@pytest.mark.parametrize(
    "other",
    [
        SampleRandomness(43, "image#01").stream("noise"),
        SampleRandomness(42, "image#02").stream("noise"),
        SampleRandomness(42, "image#01").stream("blurriness"),
    ],
    ids=["another seed", "another sample", "another operation"],
)
def test_another_seed_sample_or_operation_has_another_stream(other: Stream) -> None:
    stream = SampleRandomness(42, "image#01").stream("noise")

    assert np.mean(stream.bits16(4096) == other.bits16(4096)) < 0.01


def test_names_that_are_not_unicode_have_streams_too() -> None:
    SampleRandomness(1, "\udcff.jpg#01").stream("noise").bits16(1)


def test_uniforms_fill_their_range_evenly() -> None:
    stream = Stream("uniform")
    values = np.array([stream.uniform(0.1, 0.5) for _ in range(4000)])

    assert values.min() >= 0.1
    assert values.max() < 0.5
    counts = np.histogram(values, bins=10, range=(0.1, 0.5))[0]
    assert np.abs(counts - 400).max() < 4.5 * np.sqrt(400)


def test_integers_include_both_ends_and_are_equally_likely() -> None:
    stream = Stream("integer")
    values, counts = np.unique([stream.integer(-2, 4) for _ in range(7000)], return_counts=True)

    assert values.tolist() == [-2, -1, 0, 1, 2, 3, 4]
    assert np.abs(counts - 1000).max() < 4.5 * np.sqrt(1000)


def test_every_order_of_a_sample_is_equally_likely_and_nothing_comes_twice() -> None:
    stream = Stream("sample")
    drawn = ["".join(stream.sample("abc", 2)) for _ in range(6000)]

    orders, counts = np.unique(drawn, return_counts=True)
    assert orders.tolist() == ["ab", "ac", "ba", "bc", "ca", "cb"]
    assert np.abs(counts - 1000).max() < 4.5 * np.sqrt(1000)


def test_sampling_none_or_all_is_possible() -> None:
    assert Stream("none").sample("abcd", 0) == []
    assert sorted(Stream("all").sample("abcd", 4)) == list("abcd")


def test_the_normal_table_has_the_moments_of_the_standard_normal() -> None:
    table = normal_quantiles().astype(np.float64)

    assert np.array_equal(table, -table[::-1])
    assert np.all(np.diff(table) > 0)
    assert np.mean(table**2) == pytest.approx(1.0, abs=1e-3)
    assert np.mean(table**4) == pytest.approx(3.0, abs=2e-2)


@pytest.mark.parametrize("peak", [1, 128, 244, 4096])
@pytest.mark.parametrize("level", [0, 1, 20, 128])
def test_the_poisson_table_has_the_mean_and_variance_of_counts(peak: int, level: int) -> None:
    noisy = poisson_quantiles(peak).reshape(256, -1)[level].astype(np.float64)

    assert len(noisy) == 4096
    assert np.all(np.diff(noisy) >= 0)
    mean_count = level / 255 * peak
    if peak == 1:  # nearly every count is 0 or 1, and 2 is cut like white
        assert np.mean(noisy == 0) == pytest.approx(np.exp(-mean_count), abs=1e-3)
        return
    assert noisy.mean() == pytest.approx(level, abs=0.15)
    # Whole counts on whole grey levels: rounding moves the variance by a few per cent.
    assert noisy.var() == pytest.approx(255 * level / peak, rel=0.06, abs=0.1)


def test_the_poisson_table_agrees_with_scipy() -> None:
    from scipy.special import pdtr

    quantiles = (np.arange(4096) + 0.5) / 4096
    counts = np.searchsorted(pdtr(np.arange(200), 50 / 255 * 128), quantiles)

    expected = np.minimum(np.rint(counts * 255 / 128), 255)
    assert np.array_equal(poisson_quantiles(128).reshape(256, -1)[50], expected)
