"""A label is the severity formula of what a view shows: at another size, with bars, in a part of the image.

Measures are taken anew from the pixels of the view, with and without the degradation, and put into the
formula of the documentation. White noise and thin lines are left out where they are averaged away: they are
weaker in a view that is shrunk, which is why noise is read from tiles.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageOps
from skimage.color import deltaE_cie76, rgb2lab

from quality_model.core import views
from quality_model.core.decoding import Pixels
from quality_model.core.views import ViewRecipe
from quality_model.records import Head

from .test_calibrated_profile import CALIBRATED, degraded, of

TOLERANCE = 0.07
FORMULA: dict[Head, tuple[float, float]] = {
    "blurriness": (0.5, 8.0),
    "noise": (5.0, 60.0),
    "color_cast": (10.0, 40.0),
    "watermark": (3.0, 30.0),
}


def formula(head: Head, measure: float) -> float:
    m0, m1 = FORMULA[head]
    return min(1.0, math.log(1.0 + measure / m0) / math.log(1.0 + m1 / m0))


def measured(head: Head, clean: Pixels, image: Pixels) -> float:
    """The measure of the documentation, by another library."""
    if head == "noise":
        return float(np.sqrt(np.mean((image.astype(np.float64) - clean) ** 2)))
    before, after = rgb2lab(clean), rgb2lab(image)
    if head == "watermark":
        return float(np.sqrt(np.mean(deltaE_cie76(before, after) ** 2)))
    return float(np.hypot(*(after - before)[..., 1:].reshape(-1, 2).mean(axis=0)))


def three_quarters(pixels: Pixels) -> Pixels:
    return views.resized(pixels, pixels.shape[1] * 3 // 4, pixels.shape[0] * 3 // 4)


def whole_view(pixels: Pixels) -> Pixels:
    return views.cut(pixels, 224, ViewRecipe()).whole


def with_bars(pixels: Pixels) -> Pixels:
    return np.array(ImageOps.expand(Image.fromarray(pixels), (0, pixels.shape[0] // 20), "black"))


def tile(pixels: Pixels) -> Pixels:
    return views.cut(pixels, 224, ViewRecipe(max_tiles=9)).tiles[0]


@pytest.fixture(scope="module")
def image(photo: Pixels) -> Pixels:
    return views.resized(photo, 384, 384)


SHRUNK = (three_quarters, whole_view, with_bars)
CASES = [
    *[("noise", kind, (with_bars,)) for kind in CALIBRATED.kinds["noise"]],
    *[("noise", kind, (tile,)) for kind in ("gaussian", "luminance", "salt_and_pepper")],
    *[("color_cast", kind, SHRUNK) for kind in CALIBRATED.kinds["color_cast"] if kind != "toned"],
    *[("watermark", kind, SHRUNK) for kind in CALIBRATED.kinds["watermark"] if kind != "lines"],
]


@pytest.mark.parametrize(
    ("head", "kind", "shown"), CASES, ids=[f"{case[1]} {len(case[2])}" for case in CASES]
)
def test_the_label_is_the_formula_of_what_the_view_shows(
    head: Head, kind: str, shown: tuple[Callable[[Pixels], Pixels], ...], image: Pixels
) -> None:
    for number in range(3):
        sample = degraded(image, number, {head: kind})
        label = of(sample, head).label
        assert formula(head, measured(head, image, sample.image)) == pytest.approx(label, abs=TOLERANCE)
        for view in shown:
            found = formula(head, measured(head, view(image), view(sample.image)))
            assert found == pytest.approx(label, abs=TOLERANCE), view.__name__


@pytest.mark.parametrize("kind", ["gaussian", "box", "motion", "disc", "shake"])
def test_a_blur_is_three_quarters_as_wide_at_three_quarters_of_the_size(kind: str) -> None:
    square = np.zeros((224, 224, 3), np.uint8)
    square[100:124, 100:124] = 255
    for number in range(8):
        sample = degraded(square, number, {"blurriness": kind})
        found = of(sample, "blurriness")
        sigma_px = float(found.parameters["sigma_px"])
        assert found.label == pytest.approx(formula("blurriness", sigma_px), abs=1e-6)
        if sigma_px > 1.0:  # less cannot be measured in whole levels
            for shown, scale in ((sample.image, 1.0), (three_quarters(sample.image), 0.75)):
                spread = formula("blurriness", spread_px(shown, 24 * scale))
                assert spread == pytest.approx(formula("blurriness", scale * sigma_px), abs=TOLERANCE)


def spread_px(pixels: Pixels, side_px: float) -> float:
    """Standard deviation of the blur of a white square, in each direction: what it adds to the variance."""
    light = pixels[..., 0].astype(np.float64)
    rows, columns = np.indices(light.shape) - (len(light) - 1) / 2
    variance = (light * (rows**2 + columns**2)).sum() / light.sum() / 2
    return math.sqrt(max(0.0, variance - (side_px**2 - 1) / 12))
