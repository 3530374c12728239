"""Colour differences between two images in CIELAB (D65)."""

import cv2
import numpy as np
import numpy.typing as npt

from quality_model.core.decoding import Pixels

Lab = npt.NDArray[np.float32]
"""float32 (height, width, 3): L* 0 to 100, a* and b* about -128 to 127."""


def to_lab(pixels: npt.NDArray[np.generic]) -> Lab:
    """sRGB, 0 to 255, (height, width, 3), to CIELAB. Computed in float32: OpenCV rounds uint8 to units."""
    return np.asarray(cv2.cvtColor(pixels.astype(np.float32) / np.float32(255.0), cv2.COLOR_RGB2LAB))


def mean_shift_ab(before: Pixels, after: Pixels) -> float:
    """Length of the mean shift in the a*b* plane, on every third pixel of every third row."""
    shift = to_lab(after[::3, ::3])[..., 1:] - to_lab(before[::3, ::3])[..., 1:]
    return float(np.hypot(*shift.reshape(-1, 2).mean(axis=0, dtype=np.float64)))


def rms_difference(before: Lab, after: Pixels) -> float:
    """RMS over the image of the colour difference CIE 1976; ``before`` is in CIELAB already."""
    difference = to_lab(after)
    difference -= before
    lightness, a, b = np.moveaxis(np.square(difference, out=difference), 2, 0)
    # The same sum as sum(axis=2), which is slow along so short an axis.
    return float(np.sqrt((lightness + a + b).mean(dtype=np.float64)))
