"""Colour casts: the image seen through a tint."""

from functools import cache

import cv2
import numpy as np

from quality_model.core.decoding import Pixels

Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255 each."""


def blend(pixels: Pixels, tint: Colour, strength: float) -> Pixels:
    """Blend with a plain colour: ``pixels * (1 - strength) + tint * strength``, rounded to nearest.

    Args:
        pixels: uint8 (height, width, 3), RGB.
        tint: The colour at strength 1.
        strength: 0 changes nothing, 1 leaves the tint alone.

    Returns:
        uint8 (height, width, 3).
    """
    return np.asarray(cv2.LUT(pixels, table(tint, strength)[None]), dtype=np.uint8)


def table(tint: Colour, strength: float) -> Pixels:
    """What each level of each channel becomes, uint8 (256, 3)."""
    mixed = _levels() * (1.0 - strength) + np.array(tint, dtype=np.float64) * strength
    return np.floor(mixed + 0.5).astype(np.uint8)


@cache
def _levels() -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return np.repeat(np.arange(256, dtype=np.float64)[:, None], 3, axis=1)
