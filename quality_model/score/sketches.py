"""From the pixels and scores of one image to its thumbnail, if it is wanted.

Worker processes import this module, without PyArrow.
"""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from quality_model.core import views
from quality_model.core.decoding import DecodedImage
from quality_model.core.pixels import Pixels
from quality_model.core.views import WHOLE_AREA, Area, ViewRecipe, Views
from quality_model.records import HEADS, Head

SIDE_PX: Final = 256
"""Longest side of a thumbnail."""

_JPEG_QUALITY: Final = 80

Rank = tuple[float, int]
"""A place in a selection, which keeps the lowest: a value, and of equal ones the order of the key."""


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small copy of an image, and where what decided about its scores is.

    Attributes:
        key: Of the image's row.
        jpeg: The whole image, upright, with its borders: at most `SIDE_PX` a side, never enlarged.
        boxes: Of each head the part of the image whose view decided the score: left, top, right and bottom,
            as fractions of width and height; None for the whole view.
    """

    key: str
    jpeg: bytes
    boxes: Mapping[Head, Area | None]


def order_of(key: str) -> int:
    """The place of a key in a random order that is the same everywhere: 64 bits of its SHA-256."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")


def values_of(
    scores: npt.NDArray[np.float32], thresholds: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """What ranks images, float64 (..., 9), of their scores, float32 (..., 4).

    The lowest are the worst of each head; the nearest to its threshold, float64 (4,), infinity without one;
    and, as the last is always 0, the first in the order of keys.
    """
    exact = scores.astype(np.float64)
    return np.concatenate([-exact, np.abs(exact - thresholds), np.zeros_like(exact[..., :1])], axis=-1)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which scores put an image of this key into a selection, as the selections were when it was read.

    ``order`` is that of the key (`order_of`), ``thresholds`` is float64 (4,), as of `values_of`; ``cutoffs``
    has the first rank that is outside of each selection.
    """

    key: str
    order: int
    thresholds: npt.NDArray[np.float64]
    cutoffs: tuple[Rank, ...]

    def admits(self, scores: npt.NDArray[np.float32]) -> bool:
        """Whether an image with these scores, float32 (4,), is among those to keep."""
        values = values_of(scores, self.thresholds).tolist()
        return any((value, self.order) < cutoff for value, cutoff in zip(values, self.cutoffs, strict=True))


@dataclass(frozen=True, slots=True)
class Sketch:
    """What a thumbnail is made of once the image has scores.

    Attributes:
        wanted: Whether it will be.
        pixels: uint8 (height, width, 3), the whole image at another size and ratio; the whole view where that
            shows all of it.
        width, height: Of the image, in pixels.
        areas: What each view shows.
    """

    wanted: Wanted
    pixels: Pixels
    width: int
    height: int
    areas: list[Area]

    @classmethod
    def of(cls, decoded: DecodedImage, seen: Views, wanted: Wanted) -> "Sketch":
        width, height = decoded.width, decoded.height
        is_whole = seen.areas[0] == WHOLE_AREA
        pixels = seen.whole if is_whole else views.resized(decoded.pixels, *_size(width, height))
        return cls(wanted, pixels, width, height, seen.areas)

    def thumbnail(self, of_views: npt.NDArray[np.float32], recipe: ViewRecipe) -> Thumbnail:
        """The thumbnail, given the scores of the views, float32 (n, 4)."""
        small = views.resized(self.pixels, *_size(self.width, self.height))
        deciding = zip(HEADS, views.deciding(of_views, recipe), strict=True)
        boxes = {head: self.areas[at] if at else None for head, at in deciding}
        return Thumbnail(self.wanted.key, jpeg_of(small), boxes)


def jpeg_of(pixels: Pixels) -> bytes:
    """The bytes of a JPEG file of an image, uint8 (height, width, 3)."""
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "JPEG", quality=_JPEG_QUALITY)
    return target.getvalue()


def _size(width: int, height: int) -> tuple[int, int]:
    scale = min(1.0, SIDE_PX / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))
