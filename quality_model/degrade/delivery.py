"""What happens to images on their way, and is no degradation of ours: recompression, slight rescaling.

Labels do not change by it: it is there so that a model learns to ignore it.
"""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from quality_model.core.decoding import Pixels
from quality_model.degrade.point_spread import INTERPOLATIONS
from quality_model.degrade.randomness import Stream

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


@dataclass(frozen=True, slots=True)
class Delivery:
    """What happens to one image on its way: rescaling, recompression, both or neither.

    Attributes:
        factor: Of the rescaling; None for none.
        down: OpenCV's interpolation to the smaller side; ``up``: the one back.
        quality: Of JPEG; None for no recompression.
        sampling: Of its colours.
    """

    factor: float | None
    down: int
    up: int
    quality: int | None
    sampling: str

    def facts(self) -> Facts:
        """JSON values of what is done."""
        facts: Facts = {} if self.factor is None else {"factor": self.factor}
        if self.quality is not None:
            facts |= {"quality": self.quality, "sampling": self.sampling}
        return facts


def draw_delivery(stream: Stream) -> Delivery:
    """Decide by the stream; no pixels are needed."""
    rescaled, recompressed = stream.uniform(0.0, 1.0), stream.uniform(0.0, 1.0)
    factor, down, up = stream.uniform(SMALLEST_FACTOR, 1.0), stream.integer(0, 1), stream.integer(0, 2)
    quality, sampling = stream.integer(*QUALITIES), stream.integer(0, 1)
    return Delivery(
        factor=factor if rescaled < RESCALED_SHARE else None,
        down=cv2.INTER_AREA if down else cv2.INTER_LANCZOS4,
        up=[*INTERPOLATIONS.values()][up],
        quality=quality if recompressed < RECOMPRESSED_SHARE else None,
        sampling=[*_SAMPLINGS][sampling],
    )


def deliver(pixels: Pixels, stream: Stream) -> tuple[Pixels, Facts]:
    """Rescale slightly, recompress, both or neither, as the stream says.

    Returns:
        uint8 (height, width, 3), and what was done.
    """
    drawn = draw_delivery(stream)
    if drawn.factor is not None:
        pixels = _rescale(pixels, drawn.factor, drawn.down, drawn.up)
    if drawn.quality is not None:
        pixels = recompress(pixels, drawn.quality, drawn.sampling)
    return pixels, drawn.facts()


def recompress(pixels: Pixels, quality: int, sampling: str) -> Pixels:
    """Through JPEG and back; uint8 (height, width, 3) RGB in and out."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, _SAMPLINGS[sampling]]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    assert done
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB), dtype=np.uint8)


def rescaled_side(side_px: int, factor: float) -> int:
    """The side in between, 2 px at least."""
    return max(2, round(side_px * factor))


def _rescale(pixels: Pixels, factor: float, down: int, up: int) -> Pixels:
    height, width = pixels.shape[:2]
    reduced = (rescaled_side(width, factor), rescaled_side(height, factor))
    small = cv2.resize(pixels, reduced, interpolation=down)
    return np.asarray(cv2.resize(small, (width, height), interpolation=up), dtype=np.uint8)
