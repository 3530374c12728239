"""What images undergo on their way to a user: recompression and slight rescaling.

No label changes by it, so that a model learns to ignore it.
"""

from typing import Final

import cv2
import numpy as np

from quality_model.core.decoding import Pixels
from quality_model.degrade.calibrated.point_spread import INTERPOLATIONS
from quality_model.degrade.profile import Facts
from quality_model.degrade.randomness import Stream

RECOMPRESSED_SHARE: Final = 0.5
RESCALED_SHARE: Final = 0.25
QUALITIES: Final = (60, 96)
"""Of JPEG; a lower quality would be a degradation: blocks and lost detail."""

SMALLEST_FACTOR: Final = 0.85
"""Shrinking further and enlarging again would be a blur."""

_SAMPLINGS: Final = {
    "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
}


def deliver(pixels: Pixels, stream: Stream) -> tuple[Pixels, Facts]:
    """Rescale slightly, recompress, both or neither, as drawn from the stream.

    Returns:
        uint8 (height, width, 3), and what was done, as JSON values.
    """
    # Everything is drawn first: the number of draws must not depend on what is done.
    rescaled, recompressed = stream.uniform(0.0, 1.0), stream.uniform(0.0, 1.0)
    factor, down, up = stream.uniform(SMALLEST_FACTOR, 1.0), stream.integer(0, 1), stream.integer(0, 2)
    quality, sampling = stream.integer(*QUALITIES), [*_SAMPLINGS][stream.integer(0, 1)]
    facts: Facts = {}
    if rescaled < RESCALED_SHARE:
        facts = {"factor": factor}
        interpolation = cv2.INTER_AREA if down else cv2.INTER_LANCZOS4
        pixels = _rescale(pixels, factor, interpolation, [*INTERPOLATIONS.values()][up])
    if recompressed < RECOMPRESSED_SHARE:
        facts |= {"quality": quality, "sampling": sampling}
        pixels = _recompress(pixels, quality, sampling)
    return pixels, facts


def _recompress(pixels: Pixels, quality: int, sampling: str) -> Pixels:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, _SAMPLINGS[sampling]]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    assert done
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB), dtype=np.uint8)


def _rescale(pixels: Pixels, factor: float, down: int, up: int) -> Pixels:
    """To a smaller side, 2 px at least, and back; ``down`` and ``up`` are OpenCV's interpolations."""
    height, width = pixels.shape[:2]
    reduced = (max(2, round(width * factor)), max(2, round(height * factor)))
    small = cv2.resize(pixels, reduced, interpolation=down)
    return np.asarray(cv2.resize(small, (width, height), interpolation=up), dtype=np.uint8)
