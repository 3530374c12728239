"""How blurred an image is before any degradation, estimated from its own sharpest edges."""

from typing import Final

import cv2
import numpy as np

from quality_model.core.decoding import Pixels
from quality_model.degrade.calibrated.point_spread import enlarged_sigma

SHARPEST_SHARE: Final = 0.002
"""Share of the pixels, those with the strongest edges, that are measured."""

SOFT_SIGMA_PX: Final = 0.8
"""Sigma above which an image does not count as clean. Of 200 crops of photographs known
to be sharp the softest measured 0.40; blurred by a sigma of 1.0 their median measured 0.9."""

_TEXTURE: Final = 1.4
"""Measured on those crops: texture and neighbouring edges make the ratio this much too small."""


def source_softness(pixels: Pixels, *, enlarged_by: float) -> float:
    """Sigma, in pixels of the image, of its blur before any degradation.

    The blur of enlarging, or that of its edges if it is more; 0 for a sharp image.

    Args:
        pixels: uint8 (height, width, 3), as resized.
        enlarged_by: Factor of the resizing; 1 or less if it was shrunk.
    """
    measured = edge_sigma(pixels)
    return max(enlarged_sigma(enlarged_by), measured if measured > SOFT_SIGMA_PX else 0.0)


def edge_sigma(pixels: Pixels) -> float:
    """Sigma of the blur of the sharpest edges, in pixels; 0 without edges.

    A step edge blurred by a gaussian of standard deviation s has a first derivative that peaks
    at A / (s sqrt(2 pi)) and a second one at A / (s^2 sqrt(2 pi e)): their ratio is s sqrt(e).
    Both peaks are quantiles over the image. Derivatives are central differences, which add a
    variance of about a quarter of a pixel; it is subtracted.

    Args:
        pixels: uint8 (height, width, 3).
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    first, second = [], []
    for axis in (0, 1):
        d1 = np.abs(np.gradient(grey, axis=axis))
        d2 = np.abs(np.diff(grey, n=2, axis=axis))
        first.append(d1.ravel())
        second.append(d2.ravel())
    slope = float(np.quantile(np.concatenate(first), 1.0 - SHARPEST_SHARE))
    bend = float(np.quantile(np.concatenate(second), 1.0 - SHARPEST_SHARE))
    if slope < 2.0 or bend <= 0.0:
        return 0.0
    return _TEXTURE * float(np.sqrt(max(0.0, (slope / bend) ** 2 / np.e - 0.25)))
