"""Resizing by matrix products gives Pillow's pixels."""

import numpy as np
import pytest
from PIL import Image

from quality_model import lanczos
from quality_model.images import Pixels, resize


def by_pillow(pixels: Pixels, size_px: int) -> Pixels:
    return np.array(Image.fromarray(pixels).resize((size_px, size_px), Image.Resampling.LANCZOS))


@pytest.mark.parametrize(
    ("height", "width", "size_px"),
    [(375, 500, 224), (512, 512, 224), (64, 64, 224), (100, 300, 224), (480, 640, 64), (90, 91, 90)],
)
def test_a_photograph_has_the_pixels_that_pillow_gives_it(
    photo: Pixels, height: int, width: int, size_px: int
) -> None:
    window = np.resize(photo, (max(512, height), max(640, width), 3))[:height, :width]
    assert np.array_equal(lanczos.resize(window, size_px), by_pillow(window, size_px))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 300), (2, 3), (7, 1000), (333, 333)])
def test_pure_black_and_white_at_random_is_rounded_and_cut_as_by_pillow(height: int, width: int) -> None:
    extremes = np.random.default_rng(7).integers(0, 2, (height, width, 3), dtype=np.uint8) * np.uint8(255)
    for size_px in (1, 50, 224):
        assert np.array_equal(lanczos.resize(extremes, size_px), by_pillow(extremes, size_px))


def test_a_plain_grey_whose_sums_lie_on_a_half_is_made_anew_in_integers() -> None:
    halves = np.indices((40, 80)).sum(axis=0) % 2 * 255
    stripes = np.repeat(halves[..., None], 3, axis=2).astype(np.uint8)
    assert np.array_equal(lanczos.resize(stripes, 20), by_pillow(stripes, 20))


@pytest.mark.parametrize(("height", "width"), [(500, 375), (640, 100), (300, 299)])
def test_a_tall_picture_has_the_pixels_that_pillow_gives_it(photo: Pixels, height: int, width: int) -> None:
    window = np.resize(photo, (640, 512, 3))[:height, :width]
    assert np.array_equal(resize(window, 224), by_pillow(window, 224))
