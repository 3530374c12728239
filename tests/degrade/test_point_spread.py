"""Blurs of any width have the equivalent sigma that their labels are made of."""

from collections.abc import Callable

import numpy as np
import pytest

from quality_model.core.decoding import Pixels
from quality_model.degrade import point_spread as psf
from quality_model.degrade.point_spread import Kernel

KERNELS: dict[str, Callable[[float], Kernel]] = {
    "gaussian": psf.gaussian_kernel,
    "box": lambda sigma: psf.box_kernel(psf.width_for_sigma("box", sigma)),
    "disc": lambda sigma: psf.disc_kernel(psf.width_for_sigma("disc", sigma)),
    "motion": lambda sigma: psf.motion_kernel(psf.width_for_sigma("motion", sigma), 30.0),
}


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("sigma_px", [0.05, 0.3, 0.5, 1.0, 2.7, 8.0, 20.0])
def test_a_kernel_is_nowhere_negative_and_adds_up_to_1(kind: str, sigma_px: float) -> None:
    kernel = KERNELS[kind](sigma_px)

    assert kernel.dtype == np.float32
    assert kernel.min() >= 0
    assert kernel.sum(dtype=np.float64) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("sigma_px", [1.0, 1.5, 2.0, 4.0, 8.0])
@pytest.mark.parametrize("kind", KERNELS)
def test_a_kernel_made_for_a_sigma_is_equivalent_to_it(kind: str, sigma_px: float) -> None:
    tolerance = 0.05 if kind == "gaussian" else 0.12  # one tap more or less counts where there are few

    assert psf.equivalent_sigma(KERNELS[kind](sigma_px)) == pytest.approx(sigma_px, rel=tolerance)


@pytest.mark.parametrize("sigma_px", [0.5, 0.7])
@pytest.mark.parametrize("kind", KERNELS)
def test_a_kernel_narrower_than_a_pixel_has_the_width_of_the_pixel_on_top(kind: str, sigma_px: float) -> None:
    found = psf.equivalent_sigma(KERNELS[kind](sigma_px))

    assert 0.95 * sigma_px < found < 1.1 * np.hypot(sigma_px, 12**-0.5) + 0.1


@pytest.mark.parametrize("sigma_px", [0.02, 0.1, 0.3, 0.49])
@pytest.mark.parametrize("kind", KERNELS)
def test_a_narrowed_kernel_has_exactly_the_sigma_below_half_a_pixel(kind: str, sigma_px: float) -> None:
    before = KERNELS[kind](sigma_px)
    narrowed = psf.narrowed(before, sigma_px)

    expected = min(sigma_px, psf.equivalent_sigma(before))
    assert psf.equivalent_sigma(narrowed) == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert narrowed.sum(dtype=np.float64) == pytest.approx(1.0, abs=1e-5)


def test_a_kernel_of_more_than_half_a_pixel_is_not_narrowed() -> None:
    kernel = psf.box_kernel(psf.width_for_sigma("box", 1.0))

    assert np.array_equal(psf.narrowed(kernel, 1.0), kernel)


@pytest.mark.parametrize("kind", KERNELS)
def test_a_blurred_point_spreads_by_the_sigma_that_is_claimed(kind: str) -> None:
    kernel = KERNELS[kind](2.0)
    image = np.zeros((41, 41, 3), dtype=np.uint8)
    image[20, 20] = 255

    spread = psf.blur(image, kernel * 8)[:, :, 0].astype(np.float64)  # brighter than 255 times a tap

    rows, columns = np.indices(spread.shape) - 20.0
    variance = (spread * (rows**2 + columns**2)).sum() / spread.sum() / 2
    assert np.sqrt(variance) == pytest.approx(psf.equivalent_sigma(kernel), rel=0.05)


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("level", [0, 93, 255])
def test_a_blur_leaves_a_plain_image_as_it_is(kind: str, level: int) -> None:
    flat = np.full((32, 32, 3), level, dtype=np.uint8)

    assert np.array_equal(psf.blur(flat, KERNELS[kind](3.0)), flat)


def test_motion_upwards_is_motion_sideways_transposed() -> None:
    assert np.allclose(psf.motion_kernel(9.3, 90.0), psf.motion_kernel(9.3, 0.0).T, atol=1e-6)


def test_motion_sideways_stays_in_its_row_and_a_slant_rises_to_the_right() -> None:
    sideways, slant = psf.motion_kernel(9.0, 0.0), psf.motion_kernel(9.0, 30.0)

    assert np.count_nonzero(sideways.sum(axis=1) > 1e-6) == 1
    rows, columns = np.indices(slant.shape) - slant.shape[0] // 2
    assert (slant * rows * columns).sum() < 0  # rows count downwards


@pytest.mark.parametrize("interpolation", psf.INTERPOLATIONS)
@pytest.mark.parametrize("factor", [2.0, 4.0])
def test_a_low_resolution_looks_most_like_the_gaussian_of_its_sigma(
    photo: Pixels, interpolation: str, factor: float
) -> None:
    image = photo[20:148, 150:278]
    low = psf.low_resolution(image, factor, interpolation)
    sigma_px = psf.resampled_sigma(128, factor, interpolation)

    candidates = np.linspace(0.5, 1.5, 41) * sigma_px
    errors = [
        np.square(psf.blur(image, psf.gaussian_kernel(sigma)).astype(np.float64) - low).mean()
        for sigma in candidates
    ]
    assert candidates[int(np.argmin(errors))] == pytest.approx(sigma_px, rel=0.25)


def test_a_resolution_that_is_not_lowered_is_no_blur(photo: Pixels) -> None:
    image = photo[:64, :64]

    assert psf.resampled_sigma(64, 1.0, "cubic") == 0.0
    assert np.array_equal(psf.low_resolution(image, 1.0, "cubic"), image)


def test_only_enlarging_blurs_and_more_of_it_blurs_more() -> None:
    assert psf.enlarged_sigma(0.3) == psf.enlarged_sigma(1.0) == 0.0
    assert np.all(np.diff([psf.enlarged_sigma(factor) for factor in (1.0, 1.2, 2.0, 4.0)]) > 0)
