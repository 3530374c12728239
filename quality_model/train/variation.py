"""More scenes out of few: clean images varied in ways that leave them clean.

Every variation keeps greys grey, so none is a colour cast; none enlarges, so none is a blur.
"""

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from quality_model.core.decoding import Pixels
from quality_model.degrade.randomness import Stream

_SHRUNK_SHARE: Final = 0.6
_TURNED_SHARE: Final = 0.15
_RECOLOURED_SHARE: Final = 0.4
_GREYED_SHARE: Final = 0.08
"""Of all, among the recoloured: black and white, which too few scenes are by themselves."""

_SWAPPED_SHARE: Final = 0.05
_RELIT_SHARE: Final = 0.5

# Mild: what tells a cast is which colours scenes have, and that must survive.
HUE_TURN_DEG: Final = 20.0
SATURATIONS: Final = (0.4, 1.3)
GAMMAS: Final = (0.65, 1.5)

_ORDERS: Final = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
_LUMA: Final = np.array([0.299, 0.587, 0.114])
"""Of the channels as they are (ITU-R BT.601)."""


def vary(clean: Pixels, side_px: int, stream: Stream) -> Pixels:
    """A random square of a clean image, mirrored, turned, recoloured or relit, or none of it.

    Args:
        clean: uint8 (S, S, 3).
        side_px: Side of the result; S or less.
        stream: Where every choice comes from.

    Returns:
        uint8 (side_px, side_px, 3).
    """
    image = _square(clean, side_px, stream)
    if stream.integer(0, 1):
        image = image[:, ::-1]
    if stream.uniform(0.0, 1.0) < _TURNED_SHARE:
        image = np.rot90(image, stream.integer(1, 3))
    if stream.uniform(0.0, 1.0) < _SWAPPED_SHARE:
        image = image[..., stream.choice(_ORDERS)]
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


def _square(clean: Pixels, side_px: int, stream: Stream) -> Pixels:
    """A crop as it is, or a larger one, up to the whole image, shrunk: scenes show their colours whole."""
    whole = clean.shape[0]
    zoom = (whole / side_px) ** stream.uniform(0.0, 1.0)
    shrunk = stream.uniform(0.0, 1.0) < _SHRUNK_SHARE
    side = min(whole, round(side_px * zoom)) if shrunk else side_px
    top, left = (stream.integer(0, whole - side) for _ in range(2))
    part = clean[top : top + side, left : left + side]
    if side == side_px:
        return part
    return np.asarray(cv2.resize(part, (side_px, side_px), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _recolouring(turn_deg: float, saturation: float) -> npt.NDArray[np.float64]:
    """Turns hues about the grey axis and scales the distance from it, (3, 3); rows add up to 1."""
    axis = np.ones(3) / 3**0.5
    cross = np.array([[0.0, -axis[2], axis[1]], [axis[2], 0.0, -axis[0]], [-axis[1], axis[0], 0.0]])
    angle = np.radians(turn_deg)
    turn = np.cos(angle) * np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * np.outer(axis, axis)
    grey = np.tile(_LUMA, (3, 1))
    return np.asarray((saturation * (np.eye(3) - grey) + grey) @ turn)
