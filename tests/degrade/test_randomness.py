"""The random numbers: reproducible, independent, and with the distributions that they promise."""

import numpy as np
import pytest

from quality_model.degrade.randomness import SampleRandomness, Stream, poisson_quantiles


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
