"""Blurs of profile `seed`: gaussian, box and motion. The outermost pixels are repeated beyond the border."""

from functools import lru_cache
from typing import Final, Literal, get_args

import cv2
import numpy as np

from quality_model.core.decoding import Pixels

Direction = Literal["horizontal", "vertical", "diagonal"]
DIRECTIONS: Final[tuple[Direction, ...]] = get_args(Direction)

_LARGEST_EXACT_SIGMA: Final = 2.5
"""Up to here a true gaussian kernel is as fast as box passes, and box passes are too coarse."""


def gaussian(pixels: Pixels, sigma_px: float) -> Pixels:
    """Blur with a gaussian; above a sigma of 2.5 px, with three box passes.

    Three boxes of odd widths a, b, c have the variance ``(a**2 + b**2 + c**2 - 3) / 12``
    (Kovesi, Fast almost-Gaussian filtering, 2010); their sigma is within 3 % of
    ``sigma_px``.

    Args:
        pixels: uint8 (height, width, 3).
        sigma_px: Standard deviation of the kernel, above 0.

    Returns:
        uint8 (height, width, 3).
    """
    if sigma_px <= _LARGEST_EXACT_SIGMA:
        taps = 2 * int(np.ceil(3.0 * sigma_px)) + 1
        blurred = cv2.GaussianBlur(pixels, (taps, taps), sigma_px, borderType=cv2.BORDER_REPLICATE)
        return np.asarray(blurred, dtype=np.uint8)
    for width in box_widths(sigma_px):
        pixels = _average(pixels, width, width)
    return pixels


@lru_cache(maxsize=1024)
def box_widths(sigma_px: float) -> tuple[int, int, int]:
    """Odd widths of the three boxes whose variance is nearest to ``sigma_px ** 2``, of similar size."""
    target = 12.0 * sigma_px**2 + 3.0
    middle = int(np.sqrt(target / 3.0)) | 1
    widths = [w for w in range(middle - 6, middle + 8, 2) if w >= 1]
    triples = [(a, b, c) for a in widths for b in widths for c in widths if a <= b <= c <= a + 6]
    return min(triples, key=lambda t: (round(abs(sum(w * w for w in t) - target), 6), t[2] - t[0]))


def box(pixels: Pixels, radius_px: int) -> Pixels:
    """Average over a square of ``2 * radius_px + 1`` pixels a side; uint8 (height, width, 3)."""
    side = 2 * radius_px + 1
    return _average(pixels, side, side)


def motion(pixels: Pixels, taps: int, direction: Direction) -> Pixels:
    """Average of ``taps`` copies, each shifted one pixel further.

    Args:
        pixels: uint8 (height, width, 3).
        taps: Length of the path in pixels, 1 to 257.
        direction: Along the rows, along the columns, or from the upper left to the lower right.

    Returns:
        uint8 (height, width, 3).
    """
    if direction == "diagonal":
        return _diagonal(pixels, taps)
    return _average(pixels, taps, 1) if direction == "horizontal" else _average(pixels, 1, taps)


def _average(pixels: Pixels, width: int, height: int) -> Pixels:
    blurred = cv2.blur(pixels, (width, height), borderType=cv2.BORDER_REPLICATE)
    return np.asarray(blurred, dtype=np.uint8)


def _diagonal(pixels: Pixels, taps: int) -> Pixels:
    """Sum the shifted copies by doubling: sums of 1, 2, 4, ... copies, combined as taps' bits say."""
    height, width = pixels.shape[:2]
    before, after = taps // 2, taps - 1 - taps // 2
    padded = cv2.copyMakeBorder(pixels, before, after, before, after, cv2.BORDER_REPLICATE)
    power = padded.astype(np.uint16)  # at (y, x): the sum of `copies` copies from there
    copies, done = 1, 0
    total = np.zeros(pixels.shape, dtype=np.uint16)
    while True:
        if taps & copies:
            total += power[done : done + height, done : done + width]
            done += copies
        if done == taps:
            break
        power = power[:-copies, :-copies] + power[copies:, copies:]
        copies *= 2
    return ((total + taps // 2) // taps).astype(np.uint8)
