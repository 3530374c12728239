"""Variations of clean images leave them clean: no cast, no blur."""

import numpy as np
import pytest

from quality_model.core.decoding import Pixels
from quality_model.degrade.randomness import Stream
from quality_model.train.variation import vary

NUMBERS = range(60)


@pytest.mark.parametrize("side_px", [32, 48, 64])
def test_a_variation_has_the_side_that_was_asked_for_and_leaves_its_image_alone(
    photo: Pixels, side_px: int
) -> None:
    clean = photo[:64, 200:264].copy()
    before = clean.copy()
    for number in NUMBERS:
        varied = vary(clean, side_px, Stream(f"{number}"))
        assert varied.shape == (side_px, side_px, 3)
        assert varied.dtype == np.uint8
    assert np.array_equal(clean, before)


def test_greys_stay_grey(photo: Pixels) -> None:
    grey = np.repeat(photo[:64, 200:264, :1], 3, axis=2)
    for number in NUMBERS:
        varied = vary(grey, 40, Stream(f"{number}"))
        assert np.array_equal(varied, np.repeat(varied[..., :1], 3, axis=2))


@pytest.mark.parametrize("side_px", [32, 64])
def test_a_sharp_edge_stays_sharp(side_px: int) -> None:
    """Shrunk, an edge is at most one pixel between black and white; enlarged, it would be more."""
    edge = np.zeros((64, 64, 3), dtype=np.uint8)
    edge[:, 31:] = 255
    seen = 0
    for number in NUMBERS:
        varied = vary(edge, side_px, Stream(f"{number}"))[..., 1]
        for lines in (varied, varied.T):
            between = ((lines > 0) & (lines < 255)).sum(axis=1)
            if lines.min(axis=1).max() == 0 and lines.max(axis=1).min() == 255:  # lines across the edge
                seen += 1
                assert between.max() <= 1
    assert seen > len(NUMBERS) / 2


def test_variations_are_many_and_the_same_for_the_same_stream(photo: Pixels) -> None:
    clean = photo[:64, 200:264]
    varied = [vary(clean, 48, Stream(f"{number}")) for number in NUMBERS]

    assert len({image.tobytes() for image in varied}) > 0.9 * len(varied)
    assert np.array_equal(vary(clean, 48, Stream("7")), varied[7])


def test_black_and_white_stay_black_and_white() -> None:
    for level in (0, 255):
        flat = np.full((40, 40, 3), level, dtype=np.uint8)
        assert all(np.all(vary(flat, 32, Stream(f"{number}")) == level) for number in NUMBERS)


def test_some_variations_are_black_and_white_and_most_are_not() -> None:
    colourful = np.zeros((40, 40, 3), dtype=np.uint8)
    colourful[..., 0] = 200
    varied = [vary(colourful, 32, Stream(f"{number}")) for number in range(300)]
    grey = sum(bool(np.all(image == image[..., :1])) for image in varied)
    assert 0.04 * len(varied) < grey < 0.15 * len(varied)
