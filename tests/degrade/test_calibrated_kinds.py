"""Each kind of profile `calibrated`: blurs have their sigma, casts their shift, watermarks their place."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quality_model.core.decoding import Pixels
from quality_model.core.views import squeezed as resize
from quality_model.degrade import casts, noise
from quality_model.degrade.calibrated import point_spread as psf
from quality_model.degrade.calibrated import watermark_overlay
from quality_model.degrade.calibrated.calibrated_profile import QUALITIES, SMALLEST_FACTOR, deliver
from quality_model.degrade.calibrated.watermark_overlay import Overlay
from quality_model.degrade.randomness import Stream
from quality_model.degrade.severity import SCALES, Lab, colour_differences, mean_shift_ab, rms_of, to_lab

SIDE_PX = 96
quick = settings(max_examples=30, deadline=None)
thorough = settings(max_examples=100, deadline=None)

KERNELS = {
    "gaussian": psf.gaussian_kernel,
    "box": lambda sigma: psf.box_kernel(psf.width_for_sigma("box", sigma)),
    "disc": lambda sigma: psf.disc_kernel(psf.width_for_sigma("disc", sigma)),
    "motion": lambda sigma: psf.motion_kernel(psf.width_for_sigma("motion", sigma), 30.0),
}
kernel_kinds = st.sampled_from(sorted(KERNELS))

PATHS = {
    "warm": casts.daylight_path("warm"),
    "cool": casts.daylight_path("cool"),
    "green": casts.tint_path("green"),
    "magenta": casts.tint_path("magenta"),
    "mixed": casts.mixed_path(120.0),
}
path_names = st.sampled_from(sorted(PATHS))


def rms_difference(before: Lab, after: Pixels) -> float:
    return rms_of(colour_differences(before, after))


def flat(*colour: int, side_px: int = SIDE_PX) -> Pixels:
    return np.full((side_px, side_px, 3), colour, dtype=np.uint8)


GREY = flat(128, side_px=6)


def under(pixels: Pixels, gains: np.ndarray) -> Pixels:
    return casts.recolour(pixels, casts.gains_table(gains))


@given(kernel_kinds, st.floats(0.02, 20.0))
@thorough
def test_a_kernel_is_never_negative_adds_up_to_1_and_has_its_sigma(kind: str, sigma_px: float) -> None:
    kernel = psf.narrowed(KERNELS[kind](sigma_px), sigma_px)

    assert kernel.dtype == np.float32
    assert kernel.min() >= 0
    assert kernel.sum(dtype=np.float64) == pytest.approx(1.0, abs=1e-5)
    found = psf.equivalent_sigma(kernel)
    if sigma_px < 0.5:  # narrowed to it, if it was wider
        assert found <= sigma_px * 1.001 + 1e-4
    elif sigma_px < 1.0:  # the width of the pixel is added
        assert 0.95 * sigma_px < found < 1.1 * np.hypot(sigma_px, 12**-0.5) + 0.1
    else:  # one tap more or less counts where there are few
        assert found == pytest.approx(sigma_px, rel=0.05 if kind == "gaussian" else 0.12)


@given(kernel_kinds, st.integers(0, 255))
@quick
def test_a_blur_does_not_change_a_plain_image_and_spreads_a_point_by_its_sigma(kind: str, level: int) -> None:
    kernel = KERNELS[kind](2.0)
    image = np.zeros((41, 41, 3), dtype=np.uint8)
    image[20, 20] = 255

    assert np.array_equal(psf.blur(flat(level), kernel), flat(level))
    spread = psf.blur(image, kernel * 8)[:, :, 0].astype(np.float64)  # brighter than 255 times a tap
    rows, columns = np.indices(spread.shape) - 20.0
    variance = (spread * (rows**2 + columns**2)).sum() / spread.sum() / 2
    assert np.sqrt(variance) == pytest.approx(psf.equivalent_sigma(kernel), rel=0.05)


def test_motion_follows_its_angle() -> None:
    sideways, slant = psf.motion_kernel(9.0, 0.0), psf.motion_kernel(9.0, 30.0)

    assert np.allclose(psf.motion_kernel(9.0, 90.0), sideways.T, atol=1e-6)
    assert np.count_nonzero(sideways.sum(axis=1) > 1e-6) == 1
    rows, columns = np.indices(slant.shape) - slant.shape[0] // 2
    assert (slant * rows * columns).sum() < 0  # rises to the right: rows count downwards


@pytest.mark.parametrize("interpolation", psf.INTERPOLATIONS)
def test_a_low_resolution_looks_most_like_the_gaussian_of_its_sigma(
    photo: Pixels, interpolation: str
) -> None:
    image = photo[20:148, 150:278]
    for factor in (2.0, 4.0):
        low = psf.low_resolution(image, factor, interpolation)
        sigma_px = psf.resampled_sigma(128, factor, interpolation)
        candidates = np.linspace(0.5, 1.5, 41) * sigma_px
        errors = [
            np.square(psf.blur(image, psf.gaussian_kernel(sigma)).astype(np.float64) - low).mean()
            for sigma in candidates
        ]
        assert candidates[int(np.argmin(errors))] == pytest.approx(sigma_px, rel=0.25)


def test_cielab_and_its_measures_agree_with_another_library(photo: Pixels) -> None:
    from skimage.color import deltaE_cie76, rgb2lab

    image = photo[:96, 150:246]
    cast = under(image, casts.at_shift(PATHS["warm"], 20.0))

    np.testing.assert_allclose(to_lab(image), rgb2lab(image), atol=0.3)
    moved = (rgb2lab(cast) - rgb2lab(image))[..., 1:].reshape(-1, 2).mean(axis=0)
    assert mean_shift_ab(image, cast) == pytest.approx(np.hypot(*moved), rel=0.03)
    expected = np.sqrt(np.square(deltaE_cie76(rgb2lab(image), rgb2lab(cast))).mean())
    assert rms_difference(to_lab(image), cast) == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize("name", PATHS)
def test_a_path_begins_without_a_cast_and_leads_to_ever_stronger_ones(name: str) -> None:
    path = PATHS[name]

    assert np.allclose(path[0], 1.0)
    assert path.min() > 0
    assert np.all(np.diff([mean_shift_ab(GREY, under(GREY, gains)) for gains in path[::4]]) > 0)
    assert np.allclose(casts.at_shift(path, 1000.0), path[-1])


@given(path_names, st.floats(1.0, 23.0))
@quick
def test_a_cast_shifts_a_mid_grey_as_requested_and_keeps_its_luminance(name: str, shift_ab: float) -> None:
    cast = under(GREY, casts.at_shift(PATHS[name], shift_ab))

    assert mean_shift_ab(GREY, cast) == pytest.approx(shift_ab, abs=1.1)  # three channels in whole levels
    assert to_lab(cast)[0, 0, 0] == pytest.approx(to_lab(GREY)[0, 0, 0], abs=0.6)


def test_grain_keeps_the_standard_deviation_and_correlates_neighbours() -> None:
    gray = flat(128, side_px=128)
    fine, grained = (
        noise.gaussian(gray, 20.0, Stream("n"), coloured=True, grain_sigma_px=grain).astype(int) - 128
        for grain in (0.0, 1.0)
    )

    assert fine.std() == pytest.approx(20.0, rel=0.03)
    assert grained.std() == pytest.approx(20.0, rel=0.03)
    alike = [np.corrcoef(field[:, 1:].ravel(), field[:, :-1].ravel())[0, 1] for field in (fine, grained)]
    assert abs(alike[0]) < 0.03
    assert alike[1] > 0.5


def test_luminance_noise_moves_all_channels_alike_and_speckle_grows_with_brightness() -> None:
    noisy = noise.gaussian(flat(128), 20.0, Stream("n"), coloured=False, grain_sigma_px=0.0)

    assert np.array_equal(noisy, np.repeat(noisy[..., :1], 3, axis=2))
    assert noisy.std() == pytest.approx(20.0, rel=0.05)
    for level in (0, 40, 160):
        speckled = noise.speckle(flat(level), 0.15, Stream("n"))
        assert speckled.std() == pytest.approx(0.15 * level, rel=0.04, abs=0.3)
        assert speckled.mean() == pytest.approx(level, abs=0.5)


overlays = st.builds(
    lambda kind, number: watermark_overlay.draw(kind, SIDE_PX, SIDE_PX, Stream(f"{kind} {number}")),
    st.sampled_from(watermark_overlay.KINDS),
    st.integers(0, 39),
)
numbers = st.integers(0, 39)


def draw(kind: str, number: int, side_px: int = SIDE_PX) -> Overlay:
    return watermark_overlay.draw(kind, side_px, side_px, Stream(f"{kind} {number}"))


def extent(overlay: Overlay) -> tuple[int, int, int, int]:
    """First and last covered row, first and last covered column."""
    rows, columns = (np.flatnonzero(overlay.coverage.any(axis=axis)) for axis in (1, 0))
    return int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])


def label(before: Pixels, after: Pixels) -> float:
    return SCALES["watermark"].severity(rms_difference(to_lab(before), after))


@given(overlays)
@thorough
def test_a_watermark_is_visible_where_it_has_contrast_and_only_there(overlay: Overlay) -> None:
    assert overlay.colour.shape == (SIDE_PX, SIDE_PX, 3)
    assert overlay.coverage.any()
    dark, bright, grey = flat(30, 90, 30), flat(220, 200, 220), flat(128)
    assert any(not np.array_equal(overlay.stamp(plain, 1.0), plain) for plain in (dark, bright))
    bare = overlay.coverage == 0
    assert np.array_equal(overlay.stamp(dark, 1.0)[bare], dark[bare])
    vanishing = replace(overlay, colour=grey)
    assert label(grey, vanishing.stamp(grey, 0.7)) == 0.0
    assert label(flat(0), vanishing.stamp(flat(0), 0.7)) > 0.0


@given(overlays, st.floats(0.05, 1.0))
@quick
def test_a_stamp_is_the_blend_of_the_formula_and_more_opacity_has_a_higher_label(
    overlay: Overlay, opacity: float
) -> None:
    image = np.random.default_rng(3).integers(0, 256, (SIDE_PX, SIDE_PX, 3)).astype(np.uint8)

    share = opacity * overlay.coverage[..., None] / 255
    expected = image * (1 - share) + overlay.colour * share
    assert np.abs(overlay.stamp(image, opacity) - expected).max() <= 0.51
    labels = [label(image, overlay.stamp(image, one)) for one in (0.0, 0.2, 0.5, 1.0)]
    assert labels[0] == 0.0
    assert np.all((np.diff(labels) > 0) | (np.array(labels[:-1]) == 1.0))


WHOLE = ("words", "logo", "badge", "signature", "stamp", "edge", "strip")


@given(st.sampled_from(WHOLE), numbers)
@thorough
def test_a_single_watermark_on_a_whole_image_is_wholly_inside_it(kind: str, number: int) -> None:
    """It is as large on an image with a margin around it: nothing was cut off."""
    top, bottom, left, right = extent(draw(kind, number))
    largest_share = {"stamp": 0.7, "signature": 0.65, "badge": 0.3}.get(kind, 1.0)
    assert max(bottom - top, right - left) + 1 <= largest_share * SIDE_PX + 3


@given(st.sampled_from(watermark_overlay.KINDS), st.floats(1.0, 4.0), numbers)
@thorough
def test_a_view_of_a_part_of_an_image_shows_a_part_of_its_watermark(
    kind: str, zoom: float, number: int
) -> None:
    overlay = watermark_overlay.draw(kind, SIDE_PX, zoom * SIDE_PX, Stream(f"{kind} {number}"))
    assert overlay.coverage.shape == (SIDE_PX, SIDE_PX)
    assert overlay.facts["extent_px"] == zoom * SIDE_PX
    assert overlay.opacity is None or 0 < overlay.opacity <= 1


@given(st.floats(0.3, 12.0), numbers)
@quick
def test_a_shaken_path_has_its_sigma_and_is_curved(sigma_px: float, number: int) -> None:
    kernel = psf.shake_kernel(sigma_px, Stream(f"{number}"))
    assert kernel.sum(dtype=np.float64) == pytest.approx(1.0, abs=1e-4)
    # Each point is spread over its neighbours, which adds a variance of a sixth of a pixel or less.
    assert psf.equivalent_sigma(kernel) == pytest.approx(sigma_px, rel=0.05, abs=0.25)


@given(numbers)
@quick
def test_camera_noise_has_an_rms_of_1_is_correlated_and_stronger_in_the_shadows(number: int) -> None:
    stream = Stream(f"{number}")
    camera = noise.Camera.draw(stream)
    dark, bright = (camera.field(flat(level, side_px=128), Stream("n")) for level in (40, 200))
    for field in (dark, bright):
        assert field.dtype == np.float32
        assert np.sqrt(np.square(field).mean()) == pytest.approx(1.0, rel=1e-3)
    halves = flat(40, side_px=128)
    halves[:, 64:] = 200
    both = replace(camera, shot_share=0.3).field(halves, Stream("n"))
    assert both[:, :60].std() > both[:, 68:].std()  # the tone curve is steeper there


def test_images_are_recompressed_or_rescaled_or_both_or_neither_and_look_alike(photo: Pixels) -> None:
    image = resize(photo, SIDE_PX)
    image.setflags(write=False)
    seen = set()
    for number in range(80):
        delivered, facts = deliver(image, Stream(f"{number}"))
        assert delivered.shape == image.shape
        assert delivered.dtype == np.uint8
        assert facts.keys() <= {"factor", "quality", "sampling", "format", "sharpening", "radius_px"}
        assert SMALLEST_FACTOR <= facts.get("factor", 1.0) <= 1.0
        assert QUALITIES[0] <= facts.get("quality", QUALITIES[0]) <= QUALITIES[1]
        assert np.array_equal(delivered, image) or facts
        assert np.abs(delivered.astype(int) - image).mean() < 16
        seen.add(("factor" in facts, "quality" in facts))
    assert seen == {(one, other) for one in (True, False) for other in (True, False)}
