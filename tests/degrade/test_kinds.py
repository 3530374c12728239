"""Each kind of degradation does what its name says, on images made for it."""

import numpy as np
import pytest

from quality_model.core.decoding import Pixels
from quality_model.degrade import blur, color_cast, noise, watermark
from quality_model.degrade.randomness import Stream


def flat(level: int, side_px: int = 64) -> Pixels:
    return np.full((side_px, side_px, 3), level, dtype=np.uint8)


def edge(side_px: int = 128) -> Pixels:
    """Black on the left, white on the right."""
    image = flat(0, side_px)
    image[:, side_px // 2 :] = 255
    return image


def spread_px(blurred: Pixels, row: int) -> float:
    """Standard deviation of the line-spread function, from a blurred edge."""
    response = np.diff(blurred[row, :, 0].astype(np.float64)) / 255
    positions = np.arange(len(response))
    mean = (response * positions).sum()
    return float(np.sqrt((response * (positions - mean) ** 2).sum()))


ALL = [
    pytest.param(lambda p: color_cast.blend(p, (255, 200, 200), 0.3), id="cast"),
    pytest.param(lambda p: blur.gaussian(p, 1.0), id="gaussian, small"),
    pytest.param(lambda p: blur.gaussian(p, 10.0), id="gaussian, large"),
    pytest.param(lambda p: blur.box(p, 10), id="box"),
    *(pytest.param(lambda p, d=d: blur.motion(p, 20, d), id=f"motion, {d}") for d in blur.DIRECTIONS),
    *(
        pytest.param(
            lambda p, layout=layout: watermark.stamp(
                p,
                watermark.lay_out(
                    "SAMPLE", 40, layout, p.shape[0], corner="lower left", gap_px=50, margin_px=10
                ),
                0.5,
                128,
            ),
            id=f"watermark, {layout}",
        )
        for layout in watermark.LAYOUTS
    ),
    pytest.param(lambda p: noise.gaussian(p, 50.0, Stream("s")), id="gaussian noise"),
    pytest.param(lambda p: noise.salt_and_pepper(p, 0.1, Stream("s")), id="salt and pepper"),
    pytest.param(lambda p: noise.poisson(p, 128, Stream("s")), id="poisson"),
]


@pytest.mark.parametrize("degrade", ALL)
@pytest.mark.parametrize("side_px", [1, 2, 33, 224])
def test_a_degradation_keeps_shape_and_dtype_and_leaves_its_input_alone(degrade, side_px: int) -> None:
    image = np.arange(side_px * side_px * 3, dtype=np.uint32).astype(np.uint8)
    image = image.reshape(side_px, side_px, 3)
    before = image.copy()

    result = degrade(image)

    assert result.shape == image.shape
    assert result.dtype == np.uint8
    assert result is not image
    assert np.array_equal(image, before)


@pytest.mark.parametrize("degrade", ALL[1:7])
@pytest.mark.parametrize("level", [0, 93, 255])
def test_a_blur_leaves_a_plain_image_as_it_is(degrade, level: int) -> None:
    assert np.array_equal(degrade(flat(level)), flat(level))


@pytest.mark.parametrize("strength", [0.0, 0.1, 0.3333, 0.5, 1.0])
def test_a_cast_is_the_blend_that_the_formula_says(photo: Pixels, strength: float) -> None:
    tint = (255, 220, 180)
    expected = np.floor(photo * (1 - strength) + np.array(tint) * strength + 0.5)

    assert np.array_equal(color_cast.blend(photo, tint, strength), expected.astype(np.uint8))


@pytest.mark.parametrize("sigma_px", [*range(1, 11), 15])
def test_a_gaussian_blur_has_the_spread_that_was_asked_for(sigma_px: int) -> None:
    blurred = blur.gaussian(edge(), float(sigma_px))

    assert spread_px(blurred, 64) == pytest.approx(sigma_px, rel=0.05)


def test_a_gaussian_blur_of_an_edge_follows_the_error_function() -> None:
    from scipy.special import ndtr

    blurred = blur.gaussian(edge(), 8.0)[64, :, 0]

    expected = 255 * ndtr((np.arange(128) - 63.5) / 8.0)
    assert np.abs(blurred - expected).max() < 4


@pytest.mark.parametrize("sigma_px", np.arange(2.5, 20.0, 0.25).tolist())
def test_box_widths_are_odd_and_near_the_sigma(sigma_px: float) -> None:
    widths = blur.box_widths(sigma_px)

    assert all(width % 2 == 1 for width in widths)
    assert np.sqrt((sum(w * w for w in widths) - 3) / 12) == pytest.approx(sigma_px, rel=0.03)


@pytest.mark.parametrize("radius_px", [1, 4, 10])
def test_a_box_blur_spreads_a_point_evenly_over_its_square(radius_px: int) -> None:
    image = flat(0)
    image[32, 32] = 255
    side = 2 * radius_px + 1

    touched = blur.box(flat(0) + image, radius_px)

    expected = np.zeros((64, 64))
    expected[32 - radius_px : 33 + radius_px, 32 - radius_px : 33 + radius_px] = 255 / side**2
    assert np.abs(touched[:, :, 0] - expected).max() <= 0.5


def test_a_horizontal_motion_blur_leaves_horizontal_stripes_and_greys_vertical_ones() -> None:
    rows = flat(0)
    rows[::2] = 255
    columns = np.ascontiguousarray(rows.transpose(1, 0, 2))

    assert np.array_equal(blur.motion(rows, 16, "horizontal"), rows)
    assert np.array_equal(blur.motion(columns, 16, "vertical"), columns)
    assert np.all(np.abs(blur.motion(columns, 16, "horizontal")[:, 8:-8].astype(int) - 128) <= 1)
    assert np.all(np.abs(blur.motion(rows, 16, "vertical")[8:-8].astype(int) - 128) <= 1)


@pytest.mark.parametrize("taps", [1, 5, 6, 7, 13, 20])
def test_a_diagonal_motion_blur_smears_a_point_from_upper_left_to_lower_right(taps: int) -> None:
    image = flat(0)
    image[30, 30] = 255

    smeared = blur.motion(image, taps, "diagonal")[:, :, 1]

    along = np.diagonal(smeared)
    assert np.count_nonzero(along) == taps == np.count_nonzero(smeared)
    assert np.all(np.abs(along[along > 0] - 255 / taps) <= 0.5)
    assert abs(np.flatnonzero(along).mean() - 30) <= 0.5


def test_the_diagonal_motion_blur_agrees_with_a_plain_convolution(photo: Pixels) -> None:
    from scipy.ndimage import correlate

    image = photo[:80, :90]
    ours = blur.motion(image, 15, "diagonal")

    kernel = np.eye(15)[:, :, None] / 15
    theirs = correlate(image.astype(np.float64), kernel, mode="nearest")
    assert np.abs(ours - theirs).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("std", [10.0, 30.0, 50.0])
def test_gaussian_noise_has_its_standard_deviation_and_no_bias(std: float) -> None:
    noisy = noise.gaussian(flat(128, 224), std, Stream("noise")).astype(np.float64) - 128

    inside = std if std < 40 else np.std(np.clip(np.random.default_rng(0).normal(0, std, 10**6), -128, 127))
    assert noisy.std() == pytest.approx(inside, rel=0.01)
    assert abs(noisy.mean()) < 0.5


def test_gaussian_noise_is_independent_between_pixels_and_channels() -> None:
    noisy = noise.gaussian(flat(128, 224), 20.0, Stream("noise")).astype(np.float64) - 128

    neighbours = np.corrcoef(noisy[:, 1:].ravel(), noisy[:, :-1].ravel())[0, 1]
    channels = np.corrcoef(noisy[:, :, 0].ravel(), noisy[:, :, 1].ravel())[0, 1]
    assert abs(neighbours) < 0.015
    assert abs(channels) < 0.02


@pytest.mark.parametrize("level", [0, 255])
def test_noise_is_cut_at_black_and_white_and_does_not_wrap(level: int) -> None:
    noisy = noise.gaussian(flat(level), 50.0, Stream("noise")).astype(int)

    assert np.mean(noisy == level) == pytest.approx(0.5, abs=0.03)
    assert np.abs(noisy - level).max() < 230


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 1.0])
def test_salt_and_pepper_turn_their_share_of_pixels_half_white_half_black(share: float) -> None:
    noisy = noise.salt_and_pepper(flat(128, 224), share, Stream("noise"))

    white, black = (np.all(noisy == level, axis=2).mean() for level in (255, 0))
    tolerance = 4.5 * np.sqrt(share / 2 / 224**2) + 2**-15
    assert white == pytest.approx(share / 2, abs=tolerance)
    assert black == pytest.approx(share / 2, abs=tolerance)
    untouched = np.all(noisy == 128, axis=2).mean()
    assert white + black + untouched == pytest.approx(1.0)


@pytest.mark.parametrize("level", [0, 64, 128])
def test_poisson_noise_has_the_spread_of_counting(level: int) -> None:
    noisy = noise.poisson(flat(level, 224), 128, Stream("noise")).astype(np.float64)

    assert noisy.mean() == pytest.approx(level, abs=0.4)
    assert noisy.std() == pytest.approx(np.sqrt(255 * level / 128), rel=0.03)


def lay_out(layout: watermark.Layout, text: str = "DEMO", **changes) -> watermark.Coverage:
    arguments = {"size_px": 30, "side_px": 224, "corner": "upper left", "gap_px": 50, "margin_px": 10}
    return watermark.lay_out(text, layout=layout, **{**arguments, **changes})


def extent(coverage: watermark.Coverage) -> tuple[int, int, int, int]:
    """First and last covered row, first and last covered column."""
    rows, columns = np.flatnonzero(coverage.any(axis=1)), np.flatnonzero(coverage.any(axis=0))
    return int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])


@pytest.mark.parametrize("layout", ["centred", "diagonal"])
def test_a_centred_or_diagonal_mark_is_in_the_middle(layout: watermark.Layout) -> None:
    top, bottom, left, right = extent(lay_out(layout))

    assert abs(top + bottom - 223) <= 8
    assert abs(left + right - 223) <= 8


def test_a_diagonal_mark_rises_by_45_degrees() -> None:
    coverage = lay_out("diagonal", "WATERMARK", size_px=20)
    rows, columns = np.nonzero(coverage)

    slope = np.polyfit(columns, rows, 1)[0]
    assert slope == pytest.approx(-1.0, abs=0.1)
    # Turning moves the ink and neither makes nor loses any.
    assert coverage.sum() == pytest.approx(lay_out("centred", "WATERMARK", size_px=20).sum(), rel=0.03)


@pytest.mark.parametrize("corner", watermark.CORNERS)
def test_a_corner_mark_keeps_the_margin_to_its_corner(corner: watermark.Corner) -> None:
    top, bottom, left, right = extent(lay_out("corner", corner=corner))

    assert abs((top if "upper" in corner else 223 - bottom) - 10) <= 1
    assert abs((left if "left" in corner else 223 - right) - 10) <= 2
    assert bottom - top < 60
    assert right - left < 112


def test_a_tiled_mark_repeats_over_the_whole_image_with_gaps_between() -> None:
    coverage = lay_out("tiled", size_px=14)
    right = extent(lay_out("corner", size_px=14, margin_px=0))[3]

    rows = np.flatnonzero(np.diff(coverage.any(axis=1).astype(int), prepend=0) == 1)
    assert len(rows) >= 3
    assert len(set(np.diff(rows))) == 1
    period = right + 1 + 50  # the room after the last letter belongs to the text
    widths = [p for p in range(period, period + 5) if np.array_equal(coverage[:, :p], coverage[:, p : 2 * p])]
    assert len(widths) == 1


def test_a_mark_too_long_for_the_image_is_cut_at_its_border() -> None:
    for layout in watermark.LAYOUTS:
        coverage = lay_out(layout, "www.example.com", size_px=100)
        assert coverage.shape == (224, 224)
        assert coverage.any()


@pytest.mark.parametrize("text", ["SAMPLE", "© COPYRIGHT"])
def test_larger_type_covers_more(text: str) -> None:
    inked = [lay_out("centred", text, size_px=size, side_px=800).sum() for size in (20, 40, 80)]

    assert inked[1] / inked[0] == pytest.approx(4.0, rel=0.15)
    assert inked[2] / inked[1] == pytest.approx(4.0, rel=0.15)


@pytest.mark.parametrize("opacity", [0.1, 0.3, 0.5, 1.0])
def test_a_mark_is_blended_with_its_opacity_and_nothing_else_changes(photo: Pixels, opacity: float) -> None:
    image = photo[:224, :224]
    coverage = lay_out("centred", size_px=60)
    marked = watermark.stamp(image, coverage, opacity, 128)

    share = opacity * coverage[:, :, None] / 255
    expected = image * (1 - share) + 128 * share
    assert np.abs(marked - expected).max() <= 1.0
    inside = coverage == 255
    assert inside.sum() > 500
    assert np.abs(marked - expected)[inside].max() <= 0.5
    assert np.array_equal(marked[coverage == 0], image[coverage == 0])


def test_a_mark_without_ink_changes_nothing(photo: Pixels) -> None:
    nothing = np.zeros(photo.shape[:2], dtype=np.uint8)

    assert np.array_equal(watermark.stamp(photo, nothing, 0.5, 128), photo)
