"""Watermarks of profile `seed`: grey text, half transparent, in one of four layouts.

The typeface is DejaVu Sans of the matplotlib package, laid out by Pillow's own basic
engine: the same pixels on every machine with the same locked versions.
"""

from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from quality_model.core.decoding import Pixels
from quality_model.errors import QualityModelError

Layout = Literal["centred", "diagonal", "tiled", "corner"]
LAYOUTS: Final[tuple[Layout, ...]] = get_args(Layout)

Corner = Literal["upper left", "upper right", "lower left", "lower right"]
CORNERS: Final[tuple[Corner, ...]] = get_args(Corner)

Coverage = npt.NDArray[np.uint8]
"""uint8 (height, width): how much of a pixel the text covers, 0 to 255."""


def stamp(pixels: Pixels, coverage: Coverage, opacity: float, grey: int) -> Pixels:
    """Lay a grey over the covered pixels: ``pixels * (1 - a) + grey * a``, a = opacity * coverage / 255.

    Args:
        pixels: uint8 (height, width, 3).
        coverage: uint8 (height, width).
        opacity: 0 is invisible, 1 hides the image below.
        grey: Grey level of the text, 0 to 255.

    Returns:
        uint8 (height, width, 3), within one grey level of the formula (exact where the
        coverage is 0 or 255).
    """
    result = pixels.copy()
    left, top, width, height = cv2.boundingRect(coverage)
    if width == 0:
        return result
    part = result[top : top + height, left : left + width]
    levels = np.arange(256) * (1.0 - opacity) + grey * opacity
    covered = cv2.LUT(part, np.floor(levels + 0.5).astype(np.uint8)).astype(np.uint16)
    weight = np.asarray(cv2.merge([coverage[top : top + height, left : left + width]] * 3), dtype=np.uint8)
    covered *= weight
    covered += part * (255 - weight).astype(np.uint16)
    covered += 127
    covered //= 255
    part[...] = covered
    return result


def lay_out(
    text: str, size_px: int, layout: Layout, side_px: int, *, corner: Corner, gap_px: int, margin_px: int
) -> Coverage:
    """Where the text covers a square image. Text that is too long is cut at the border.

    Args:
        text: The text.
        size_px: Size of the type (em).
        layout: In the centre; in the centre and rising by 45 degrees; repeated from the
            upper left; or in a corner.
        side_px: Side of the image.
        corner: Which corner, for layout ``corner``.
        gap_px: Space between repetitions, both ways.
        margin_px: Space between a corner's text and the border.

    Returns:
        uint8 (side_px, side_px).
    """
    canvas = np.zeros((side_px, side_px), dtype=np.uint8)
    inked = _rising(text, size_px, side_px) if layout == "diagonal" else _text(text, size_px)
    height, width = inked.shape
    if layout == "tiled":
        for top in range(0, side_px, height + gap_px):
            for left in range(0, side_px, width + gap_px):
                _place(canvas, inked, top, left)
    elif layout == "corner":
        top = margin_px if corner.startswith("upper") else side_px - margin_px - height
        left = margin_px if corner.endswith("left") else side_px - margin_px - width
        _place(canvas, inked, top, left)
    else:
        _place(canvas, inked, (side_px - height) // 2, (side_px - width) // 2)
    return canvas


def _place(canvas: Coverage, text: Coverage, top: int, left: int) -> None:
    """Put the text's upper left corner at (top, left), which may be outside; cut at the border."""
    y, x = max(top, 0), max(left, 0)
    part = text[y - top :, x - left :][: max(canvas.shape[0] - y, 0), : max(canvas.shape[1] - x, 0)]
    canvas[y : y + part.shape[0], x : x + part.shape[1]] = part


@lru_cache(maxsize=384)  # half of the texts and sizes of profile `seed`; up to 10 MB
def _text(text: str, size_px: int) -> Coverage:
    font = _font(size_px)
    left, top, right, bottom = (round(edge) for edge in font.getbbox(text))
    image = Image.new("L", (max(right - left, 1), max(bottom - top, 1)))
    ImageDraw.Draw(image).text((-left, -top), text, fill=255, font=font)
    return np.array(image)


@lru_cache(maxsize=64)
def _rising(text: str, size_px: int, side_px: int) -> Coverage:
    """The text turned by 45 degrees counter-clockwise about its centre, on a square canvas."""
    image = Image.fromarray(_text(text, size_px))
    half = min(side_px, int(np.ceil((image.width + image.height) / np.sqrt(2.0)))) / 2.0
    cosine = np.sqrt(0.5)
    # From a pixel of the result to where it comes from: x' = (x - y) / sqrt(2), y' = (x + y) / sqrt(2).
    back = (cosine, -cosine, image.width / 2.0, cosine, cosine, image.height / 2.0 - 2.0 * cosine * half)
    size = (int(2 * half), int(2 * half))
    return np.array(image.transform(size, Image.Transform.AFFINE, back, Image.Resampling.BILINEAR))


@lru_cache(maxsize=128)
def _font(size_px: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font_file(), size_px, layout_engine=ImageFont.Layout.BASIC)


@cache
def font_file() -> Path:
    """DejaVuSans.ttf within the matplotlib package, found without importing matplotlib.

    Raises:
        QualityModelError: The matplotlib package does not have it.
    """
    package = find_spec("matplotlib")
    for folder in (package.submodule_search_locations or []) if package else []:
        path = Path(folder) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if path.is_file():
            return path
    raise QualityModelError(
        "The typeface DejaVuSans.ttf is not in the matplotlib package.",
        "Install matplotlib in the version of requirements.lock.",
    )
