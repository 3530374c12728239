"""What happens to pictures on their way, and is no degradation of ours: recompression, slight rescaling.

Labels do not change by it: it is there so that a model learns to ignore it.
"""

from typing import Final

import cv2
import numpy as np

from quality_model.degradations.point_spread import INTERPOLATIONS
from quality_model.degradations.randomness import Stream
from quality_model.images import Pixels

RECOMPRESSED_SHARE: Final = 0.5
RESCALED_SHARE: Final = 0.25
QUALITIES: Final = (60, 96)
"""Of JPEG; below, blocks and lost detail would be a degradation."""

SMALLEST_FACTOR: Final = 0.85
"""Shrinking further and enlarging again would be a blur."""

_SAMPLINGS: Final = {
    "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
}

Facts = dict[str, str | int | float]


def deliver(pixels: Pixels, stream: Stream) -> tuple[Pixels, Facts]:
    """Rescale slightly, recompress, both or neither, as the stream says.

    Returns:
        uint8 (height, width, 3), and what was done.
    """
    facts: Facts = {}
    rescaled, recompressed = stream.uniform(0.0, 1.0), stream.uniform(0.0, 1.0)
    factor, down, up = stream.uniform(SMALLEST_FACTOR, 1.0), stream.integer(0, 1), stream.integer(0, 2)
    quality, sampling = stream.integer(*QUALITIES), stream.integer(0, 1)
    if rescaled < RESCALED_SHARE:
        facts["factor"] = factor
        pixels = _rescale(pixels, factor, cv2.INTER_AREA if down else cv2.INTER_LANCZOS4, up)
    if recompressed < RECOMPRESSED_SHARE:
        facts |= {"quality": quality, "sampling": [*_SAMPLINGS][sampling]}
        pixels = recompress(pixels, quality, [*_SAMPLINGS][sampling])
    return pixels, facts


def recompress(pixels: Pixels, quality: int, sampling: str) -> Pixels:
    """Through JPEG and back; uint8 (height, width, 3) RGB in and out."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, _SAMPLINGS[sampling]]
    done, data = cv2.imencode(".jpg", pixels[..., ::-1], options)
    assert done
    decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.uint8)
    return np.ascontiguousarray(decoded[..., ::-1])


def _rescale(pixels: Pixels, factor: float, down: int, up: int) -> Pixels:
    height, width = pixels.shape[:2]
    reduced = (max(2, round(width * factor)), max(2, round(height * factor)))
    small = cv2.resize(pixels, reduced, interpolation=down)
    way = [*INTERPOLATIONS.values()][up]
    return np.asarray(cv2.resize(small, (width, height), interpolation=way), dtype=np.uint8)
