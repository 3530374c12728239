"""Each kind of profile `seed` does what its name says, on images made for it."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quality_model.core.decoding import Pixels
from quality_model.degrade import casts, noise, seed
from quality_model.degrade.randomness import Stream

quick = settings(max_examples=30, deadline=None)


def flat(level: int, side_px: int = 64) -> Pixels:
    return np.full((side_px, side_px, 3), level, dtype=np.uint8)


def edge(side_px: int = 128) -> Pixels:
    """Black on the left, white on the right."""
    image = flat(0, side_px)
    image[:, side_px // 2 :] = 255
    return image


def lay_out(layout: str, text: str = "DEMO", **changes) -> seed.Coverage:
    arguments = {"size_px": 30, "side_px": 224, "corner": "upper left", "gap_px": 50, "margin_px": 10}
    return seed.lay_out(text, layout=layout, **{**arguments, **changes})


def extent(coverage: seed.Coverage) -> tuple[int, int, int, int]:
    """First and last covered row, first and last covered column."""
    rows, columns = np.flatnonzero(coverage.any(axis=1)), np.flatnonzero(coverage.any(axis=0))
    return int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])


def blend(pixels: Pixels, tint: tuple[int, int, int], strength: float) -> Pixels:
    return casts.recolour(pixels, casts.blend_table(tint, strength))


BLURS: dict[str, Callable[[Pixels], Pixels]] = {
    "gaussian, small": lambda p: seed.gaussian_blur(p, 1.0),
    "gaussian, large": lambda p: seed.gaussian_blur(p, 10.0),
    "box": lambda p: seed.box_blur(p, 10),
    **{f"motion, {d}": lambda p, d=d: seed.motion_blur(p, 20, d) for d in seed.DIRECTIONS},
}
ALL = {
    **BLURS,
    "cast": lambda p: blend(p, (255, 200, 200), 0.3),
    **{
        f"watermark, {layout}": lambda p, layout=layout: seed.stamp(
            p, lay_out(layout, "SAMPLE", size_px=40, side_px=p.shape[0]), 0.5, 128
        )
        for layout in seed.LAYOUTS
    },
    "gaussian noise": lambda p: noise.gaussian(p, 50.0, Stream("s")),
    "salt and pepper": lambda p: noise.salt_and_pepper(p, 0.1, Stream("s")),
    "poisson": lambda p: noise.poisson(p, 128, Stream("s")),
}


@pytest.mark.parametrize("side_px", [1, 2, 33, 224])
def test_a_degradation_keeps_shape_and_dtype_and_does_not_change_its_input(side_px: int) -> None:
    image = np.arange(side_px * side_px * 3, dtype=np.uint32).astype(np.uint8)
    image = image.reshape(side_px, side_px, 3)
    image.setflags(write=False)
    for name, degrade in ALL.items():
        result = degrade(image)
        assert result.shape == image.shape, name
        assert result.dtype == np.uint8, name
        assert result is not image, name


@given(st.sampled_from(sorted(BLURS)), st.integers(0, 255))
@quick
def test_a_blur_does_not_change_a_plain_image(name: str, level: int) -> None:
    assert np.array_equal(BLURS[name](flat(level)), flat(level))


@given(st.floats(0.0, 1.0))
@quick
def test_a_cast_is_the_blend_of_the_formula(strength: float) -> None:
    tint = (255, 220, 180)
    image = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    expected = np.floor(image * (1 - strength) + np.array(tint) * strength + 0.5)

    assert np.array_equal(blend(image, tint, strength), expected.astype(np.uint8))


@given(st.floats(0.8, 15.0))
@quick
def test_a_gaussian_blur_has_the_spread_that_was_requested(sigma_px: float) -> None:
    response = np.diff(seed.gaussian_blur(edge(), sigma_px)[64, :, 0].astype(np.float64)) / 255
    positions = np.arange(len(response))
    spread_px = np.sqrt((response * (positions - (response * positions).sum()) ** 2).sum())

    assert spread_px == pytest.approx(sigma_px, rel=0.07)


@given(st.integers(1, 20))
@quick
def test_a_diagonal_motion_blur_is_a_plain_convolution_with_a_diagonal(taps: int) -> None:
    from scipy.ndimage import correlate

    image = np.random.default_rng(taps).integers(0, 256, (48, 40, 3)).astype(np.uint8)

    theirs = correlate(image.astype(np.float64), np.eye(taps)[:, :, None] / taps, mode="nearest", origin=0)
    if taps % 2:  # SciPy places the centre of an even kernel one pixel further
        assert np.abs(seed.motion_blur(image, taps, "diagonal") - theirs).max() <= 0.5 + 1e-6
    point = flat(0)
    point[30, 30] = 255
    smeared = seed.motion_blur(point, taps, "diagonal")[:, :, 1]
    along = np.diagonal(smeared)
    assert np.count_nonzero(along) == taps == np.count_nonzero(smeared)
    assert abs(np.flatnonzero(along).mean() - 30) <= 0.5


@pytest.mark.parametrize("std", [10.0, 30.0])
def test_gaussian_noise_has_its_standard_deviation_no_bias_and_is_independent(std: float) -> None:
    noisy = noise.gaussian(flat(128, 224), std, Stream("noise")).astype(np.float64) - 128

    assert noisy.std() == pytest.approx(std, rel=0.01)
    assert abs(noisy.mean()) < 0.5
    assert abs(np.corrcoef(noisy[:, 1:].ravel(), noisy[:, :-1].ravel())[0, 1]) < 0.015
    assert abs(np.corrcoef(noisy[:, :, 0].ravel(), noisy[:, :, 1].ravel())[0, 1]) < 0.02


@pytest.mark.parametrize("level", [0, 255])
def test_noise_is_cut_at_black_and_white_and_does_not_wrap(level: int) -> None:
    noisy = noise.gaussian(flat(level), 50.0, Stream("noise")).astype(int)

    assert np.mean(noisy == level) == pytest.approx(0.5, abs=0.03)
    assert np.abs(noisy - level).max() < 230


@given(st.floats(0.0, 1.0))
@quick
def test_salt_and_pepper_turns_its_share_of_the_pixels_half_white_half_black(share: float) -> None:
    noisy = noise.salt_and_pepper(flat(128, 224), share, Stream("noise"))

    white, black = (np.all(noisy == level, axis=2).mean() for level in (255, 0))
    tolerance = 5 * np.sqrt(share / 2 / 224**2) + 2**-15
    assert white == pytest.approx(share / 2, abs=tolerance)
    assert black == pytest.approx(share / 2, abs=tolerance)
    assert white + black + np.all(noisy == 128, axis=2).mean() == pytest.approx(1.0)


@pytest.mark.parametrize("level", [0, 64, 128])
def test_poisson_noise_has_the_spread_of_counting(level: int) -> None:
    noisy = noise.poisson(flat(level, 224), 128, Stream("noise")).astype(np.float64)

    assert noisy.mean() == pytest.approx(level, abs=0.4)
    assert noisy.std() == pytest.approx(np.sqrt(255 * level / 128), rel=0.03)


def test_a_diagonal_watermark_rises_by_45_degrees_in_the_middle() -> None:
    coverage, level = (
        lay_out("diagonal", "WATERMARK", size_px=20),
        lay_out("centred", "WATERMARK", size_px=20),
    )
    rows, columns = np.nonzero(coverage)

    assert np.polyfit(columns, rows, 1)[0] == pytest.approx(-1.0, abs=0.1)
    assert coverage.sum() == pytest.approx(level.sum(), rel=0.03)  # turning neither makes nor loses ink
    for one in (coverage, level):
        top, bottom, left, right = extent(one)
        assert abs(top + bottom - 223) <= 8
        assert abs(left + right - 223) <= 8


@given(st.floats(0.05, 1.0))
@quick
def test_a_watermark_is_blended_with_its_opacity_and_nothing_else_changes(opacity: float) -> None:
    image = np.random.default_rng(1).integers(0, 256, (224, 224, 3)).astype(np.uint8)
    coverage = lay_out("centred", size_px=60)
    marked = seed.stamp(image, coverage, opacity, 128)

    share = opacity * coverage[:, :, None] / 255
    off = np.abs(marked - (image * (1 - share) + 128 * share))
    assert off.max() <= 1.0
    assert off[coverage == 255].max() <= 0.5
    assert np.array_equal(marked[coverage == 0], image[coverage == 0])
    assert np.array_equal(seed.stamp(image, np.zeros_like(coverage), opacity, 128), image)
