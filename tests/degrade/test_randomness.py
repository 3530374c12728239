"""The random numbers: reproducible, independent, and with the distributions that they promise."""

import numpy as np
import pytest

from quality_model.degrade.randomness import SampleRandomness, Stream, normal_quantiles, poisson_quantiles


def test_bits_and_numbers_of_a_stream_never_change() -> None:
    stream = Stream("golden")

    assert stream.bits16(5).tolist() == [26456, 13734, 37949, 58023, 10329]
    assert stream.uniform(2.0, 3.0) == pytest.approx(2.756068210751, abs=1e-12)
    assert [stream.integer(0, 9) for _ in range(8)] == [8, 1, 7, 4, 5, 7, 2, 4]
    assert stream.sample("abcdef", 3) == ["b", "d", "a"]


def test_an_operation_has_its_own_stream_and_another_seed_sample_or_operation_another() -> None:
    randomness = SampleRandomness(42, "image#01")
    first = randomness.stream("noise").bits16(4096)
    randomness.stream("blurriness").bits16(7)

    assert np.array_equal(randomness.stream("noise").bits16(4096), first)
    for other in (
        SampleRandomness(43, "image#01").stream("noise"),
        SampleRandomness(42, "image#02").stream("noise"),
        SampleRandomness(42, "\udcff.jpg#01").stream("noise"),  # a name that is not Unicode
        randomness.stream("blurriness"),
    ):
        assert np.mean(first == other.bits16(4096)) < 0.01


def test_uniforms_and_integers_fill_their_range_evenly() -> None:
    stream = Stream("uniform")
    values = np.array([stream.uniform(0.1, 0.5) for _ in range(4000)])
    integers, counts = np.unique([stream.integer(-2, 4) for _ in range(7000)], return_counts=True)

    assert values.min() >= 0.1
    assert values.max() < 0.5
    assert np.abs(np.histogram(values, bins=10, range=(0.1, 0.5))[0] - 400).max() < 4.5 * np.sqrt(400)
    assert integers.tolist() == [-2, -1, 0, 1, 2, 3, 4]
    assert np.abs(counts - 1000).max() < 4.5 * np.sqrt(1000)


def test_every_order_of_a_sample_is_equally_likely_and_nothing_comes_twice() -> None:
    stream = Stream("sample")
    drawn = ["".join(stream.sample("abc", 2)) for _ in range(6000)]

    orders, counts = np.unique(drawn, return_counts=True)
    assert orders.tolist() == ["ab", "ac", "ba", "bc", "ca", "cb"]
    assert np.abs(counts - 1000).max() < 4.5 * np.sqrt(1000)
    assert stream.sample("abcd", 0) == []
    assert sorted(stream.sample("abcd", 4)) == list("abcd")


def test_the_normal_table_has_the_moments_of_the_standard_normal() -> None:
    table = normal_quantiles().astype(np.float64)

    assert np.array_equal(table, -table[::-1])
    assert np.all(np.diff(table) > 0)
    assert np.mean(table**2) == pytest.approx(1.0, abs=1e-3)
    assert np.mean(table**4) == pytest.approx(3.0, abs=2e-2)


@pytest.mark.parametrize("peak", [1, 128, 244, 4096])
def test_the_poisson_table_agrees_with_scipy(peak: int) -> None:
    from scipy.special import pdtr

    quantiles = (np.arange(4096) + 0.5) / 4096
    for level in (0, 1, 20, 50, 128):
        found = poisson_quantiles(peak).reshape(256, -1)[level]
        counts = np.searchsorted(pdtr(np.arange(8192), level / 255 * peak), quantiles)
        expected = np.minimum(np.rint(counts * 255 / peak), 255)
        assert np.mean(found == expected) > 0.999  # a midpoint that rounding puts on the other side
        assert np.abs(found - expected).max() <= np.ceil(255 / peak)
