"""Colour casts of profile `seed`: the image blended with a tint."""

from functools import cache
from typing import Final

import cv2
import numpy as np

from quality_model.core.decoding import Pixels

Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255 each."""

TINTS: Final[dict[str, Colour]] = {
    "red": (255, 200, 200),
    "green": (200, 255, 200),
    "blue": (200, 200, 255),
    "yellow": (255, 255, 200),
    "magenta": (255, 200, 255),
    "cyan": (200, 255, 255),
    "warm": (255, 220, 180),
    "cool": (180, 200, 255),
}


def blend(pixels: Pixels, tint: Colour, strength: float) -> Pixels:
    """Blend with a plain colour: ``pixels * (1 - strength) + tint * strength``, rounded to nearest.

    Args:
        pixels: uint8 (height, width, 3), RGB.
        tint: The colour at strength 1.
        strength: 0 changes nothing; 1 leaves only the tint.

    Returns:
        uint8 (height, width, 3).
    """
    return recolour(pixels, blend_table(tint, strength))


def blend_table(tint: Colour, strength: float) -> Pixels:
    """The table of `blend`, for `recolour`."""
    mixed = _levels() * (1.0 - strength) + np.array(tint, dtype=np.float64) * strength
    return np.floor(mixed + 0.5).astype(np.uint8)


def recolour(pixels: Pixels, table: Pixels) -> Pixels:
    """Replace each level of each channel by its entry in ``table``, uint8 (256, 3)."""
    return np.asarray(cv2.LUT(pixels, table[None]), dtype=np.uint8)


@cache
def _levels() -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return np.repeat(np.arange(256, dtype=np.float64)[:, None], 3, axis=1)
