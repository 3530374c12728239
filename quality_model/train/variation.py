"""Variation of training samples: of clean images before they are degraded, and of stored samples.

A clean image may be varied in every way that keeps it clean. The variations here keep greys grey, so
none is a colour cast, and enlarge nothing that is large enough, so none is a blur.

A stored sample is already labelled, so its variation must not change what its labels mean. It is
mirrored, and a square is cut from it at its own scale:

- A mirror changes no label: each is computed from means over the pixels.
- A crop keeps the label of blur, whose kernel is the same everywhere.
- A crop keeps the labels of noise and colour cast in expectation; both are means over the image. In
  crops of 128 px of samples of 224 px, the severity of the crop differed by .010 and .028 on average.
- A crop changes the label of a watermark, which it may cut off. Its label is computed anew from the
  watermark's box (`WatermarkBoxes`): exact where the crop has all of the box or none of it; on
  average .014 off in the same crops, where the label of the whole sample would be .147 off.
"""

import json
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from quality_model.core import views
from quality_model.core.decoding import Pixels
from quality_model.data.dataset import TrainingSet
from quality_model.degrade.randomness import Stream
from quality_model.degrade.severity import SCALES
from quality_model.records import HEADS

Indices = npt.NDArray[np.int64]

WHOLE_SHARE: Final = 0.5
"""Of whole views; the others are tiles."""

_SHRUNK_SHARE: Final = 0.6
_SMALLEST_TILE: Final = 0.6
_SQUEEZED_SHARE: Final = 0.3
_LONGEST_SQUEEZE: Final = 0.6
"""Natural logarithm: width and height change by up to 1.35 against each other, as if squeezed."""

_TURNED_SHARE: Final = 0.15
_RECOLOURED_SHARE: Final = 0.4
_GREYED_SHARE: Final = 0.08
"""Of all images, among the recoloured: black and white, which are rare in collections of photographs."""

_RELIT_SHARE: Final = 0.5

# Mild: a cast is recognised by the colours that scenes usually have, so these must survive.
HUE_TURN_DEG: Final = 20.0
SATURATIONS: Final = (0.4, 1.3)
GAMMAS: Final = (0.65, 1.5)

_LUMA: Final = np.array([0.299, 0.587, 0.114])
"""Of the encoded channels (ITU-R BT.601)."""

_WATERMARK: Final = HEADS.index("watermark")


def vary(clean: Pixels, side_px: int, size_px: int, stream: Stream) -> Pixels:
    """A random square of a random view of a clean image, mirrored, turned, recoloured, relit, or as it is.

    Args:
        clean: uint8 (height, width, 3), at the size of use (see `core.views`).
        side_px: Side of the result.
        size_px: The model's image size.
        stream: Every choice is drawn from it.

    Returns:
        uint8 (side_px, side_px, 3).
    """
    image = _square_of_view(clean, side_px, size_px, stream)
    if stream.integer(0, 1):
        image = image[:, ::-1]
    if stream.uniform(0.0, 1.0) < _TURNED_SHARE:
        image = np.rot90(image, stream.integer(1, 3))
    image = np.ascontiguousarray(image)
    recoloured = stream.uniform(0.0, 1.0)
    if recoloured < _RECOLOURED_SHARE:
        turn_deg = HUE_TURN_DEG * stream.uniform(-1.0, 1.0)
        saturation = 0.0 if recoloured < _GREYED_SHARE else stream.uniform(*SATURATIONS)
        image = np.asarray(cv2.transform(image, _recolouring(turn_deg, saturation)))
    if stream.uniform(0.0, 1.0) < _RELIT_SHARE:
        low, high = np.log(GAMMAS)
        gamma = float(np.exp(stream.uniform(low, high)))
        table = np.rint(255.0 * (np.arange(256) / 255.0) ** gamma).astype(np.uint8)
        image = np.asarray(cv2.LUT(image, table))
    return image


def _square_of_view(clean: Pixels, side_px: int, size_px: int, stream: Stream) -> Pixels:
    """A square of the whole view, now and then squeezed, or of a tile, at the size of use or smaller."""
    height, width = clean.shape[:2]
    is_whole = stream.chance(WHOLE_SHARE)
    squeeze = stream.uniform(-1.0, 1.0) if stream.chance(_SQUEEZED_SHARE) else 0.0
    shrink = stream.uniform(_SMALLEST_TILE, 1.0) if stream.chance(_SHRUNK_SHARE) else 1.0
    if is_whole:
        wide, high = views.whole_size(width, height, size_px)
        factor = np.exp(0.5 * squeeze * _LONGEST_SQUEEZE)
        wide, high = round(wide * factor), round(high / factor)
    else:
        wide, high = round(width * shrink), round(height * shrink)
    enlarge = max(1.0, side_px / min(wide, high))  # a square of this side must fit
    view = views.resized(clean, *(max(side_px, round(side * enlarge)) for side in (wide, high)))
    top, left = (stream.integer(0, side - side_px) for side in view.shape[:2])
    return view[top : top + side_px, left : left + side_px]


def _recolouring(turn_deg: float, saturation: float) -> npt.NDArray[np.float64]:
    """Turns hues about the grey axis and scales the distance from it, (3, 3); rows add up to 1."""
    axis = np.ones(3) / 3**0.5
    cross = np.array([[0.0, -axis[2], axis[1]], [axis[2], 0.0, -axis[0]], [-axis[1], axis[0], 0.0]])
    angle = np.radians(turn_deg)
    turn = np.cos(angle) * np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * np.outer(axis, axis)
    grey = np.tile(_LUMA, (3, 1))
    return np.asarray((saturation * (np.eye(3) - grey) + grey) @ turn)


@dataclass(frozen=True, slots=True)
class Crops:
    """A square of each of n samples, at its own scale, some mirrored.

    ``tops`` and ``lefts`` are int64 (n,), ``mirrored`` is bool (n,).
    """

    side_px: int
    tops: Indices
    lefts: Indices
    mirrored: npt.NDArray[np.bool_]

    @classmethod
    def whole(cls, count: int, side_px: int) -> "Crops":
        """The samples as they are."""
        nothing = np.zeros(count, dtype=np.int64)
        return cls(side_px, nothing, nothing, nothing.astype(bool))

    @classmethod
    def draw(cls, count: int, whole_px: int, side_px: int, generator: np.random.Generator) -> "Crops":
        """Random squares of ``side_px`` of samples of ``whole_px``; half of them are mirrored."""
        tops, lefts = generator.integers(0, whole_px - side_px + 1, (2, count))
        return cls(side_px, tops, lefts, generator.integers(0, 2, count).astype(bool))


@dataclass(frozen=True, slots=True)
class WatermarkBoxes:
    """The strength and the box of the watermark of every sample of a dataset.

    Attributes:
        rms_difference: float64 (N,): RMS colour difference over the sample; 0 without a watermark.
        boxes: int64 (N, 4): left, top, right and bottom in pixels of the sample.
        whole_px: Side of the samples.
    """

    rms_difference: npt.NDArray[np.float64]
    boxes: Indices
    whole_px: int

    @classmethod
    def of(cls, training_set: TrainingSet, rows: Indices) -> "WatermarkBoxes | None":
        """Those of some rows; None if the manifest lacks the box of a sample with a watermark.

        Profile `seed` records none: its labels are opacities, which say nothing of a crop.
        """
        rms_difference = np.zeros(len(training_set))
        boxes = np.zeros((len(training_set), 4), dtype=np.int64)
        manifest = training_set.manifest
        for row in rows[training_set.labels[rows, _WATERMARK] > 0]:
            try:
                facts = json.loads(manifest["watermark_parameters"].iloc[row])
                left, top = facts["left_px"], facts["top_px"]
                boxes[row] = left, top, left + facts["width_px"], top + facts["height_px"]
                rms_difference[row] = facts["rms_difference"]
            except KeyError:
                return None
        return cls(rms_difference, boxes, training_set.image_size_px)

    def labels(self, rows: Indices, crops: Crops) -> npt.NDArray[np.float32]:
        """The watermark's severity in each crop, float32 (n,).

        The squared difference is taken to be spread evenly over the box.
        """
        left, top, right, bottom = self.boxes[rows].T
        width = np.minimum(right, crops.lefts + crops.side_px) - np.maximum(left, crops.lefts)
        height = np.minimum(bottom, crops.tops + crops.side_px) - np.maximum(top, crops.tops)
        inside = np.maximum(width, 0) * np.maximum(height, 0) / np.maximum((right - left) * (bottom - top), 1)
        measures = self.rms_difference[rows] * np.sqrt(inside) * self.whole_px / crops.side_px
        return np.array([SCALES["watermark"].severity(measure) for measure in measures], dtype=np.float32)
