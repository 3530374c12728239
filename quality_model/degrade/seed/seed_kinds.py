"""What profile `seed` does to pixels: casts of a tint, three blurs, and grey text.

The typeface is DejaVu Sans of the matplotlib package, laid out by Pillow's own basic
engine: the same pixels on every machine with the same locked versions.
"""

from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from quality_model.core.decoding import Pixels
from quality_model.errors import QualityModelError

Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255 each."""

Coverage = npt.NDArray[np.uint8]
"""uint8 (height, width): how much of a pixel the text covers, 0 to 255."""

TINTS: Final[dict[str, Colour]] = {
    "red": (255, 200, 200),
    "green": (200, 255, 200),
    "blue": (200, 200, 255),
    "yellow": (255, 255, 200),
    "magenta": (255, 200, 255),
    "cyan": (200, 255, 255),
    "warm": (255, 220, 180),
    "cool": (180, 200, 255),
}
DIRECTIONS: Final = ("horizontal", "vertical", "diagonal")
LAYOUTS: Final = ("centred", "diagonal", "tiled", "corner")
CORNERS: Final = ("upper left", "upper right", "lower left", "lower right")

_LARGEST_EXACT_SIGMA: Final = 2.5
"""Up to here a true gaussian kernel is as fast as box passes, and box passes are too coarse."""


def blend(pixels: Pixels, tint: Colour, strength: float) -> Pixels:
    """Blend with a plain colour: ``pixels * (1 - strength) + tint * strength``, rounded to nearest.

    Args:
        pixels: uint8 (height, width, 3), RGB.
        tint: The colour at strength 1.
        strength: 0 changes nothing; 1 leaves only the tint.

    Returns:
        uint8 (height, width, 3).
    """
    return recolour(pixels, blend_table(tint, strength))


def blend_table(tint: Colour, strength: float) -> Pixels:
    """The table of `blend`, for `recolour`."""
    mixed = np.arange(256.0)[:, None] * (1.0 - strength) + np.array(tint, dtype=np.float64) * strength
    return np.floor(mixed + 0.5).astype(np.uint8)


def recolour(pixels: Pixels, table: Pixels) -> Pixels:
    """Replace each level of each channel by its entry in ``table``, uint8 (256, 3)."""
    return np.asarray(cv2.LUT(pixels, table[None]), dtype=np.uint8)


def gaussian_blur(pixels: Pixels, sigma_px: float) -> Pixels:
    """Blur with a gaussian; above a sigma of 2.5 px, with three box passes.

    Three boxes of odd widths a, b, c have the variance ``(a**2 + b**2 + c**2 - 3) / 12``
    (Kovesi, Fast almost-Gaussian filtering, 2010); their sigma is within 3 % of
    ``sigma_px``. As in all blurs here, the outermost pixels are repeated beyond the border.

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
    for width in _box_widths(sigma_px):
        pixels = _average(pixels, width, width)
    return pixels


@lru_cache(maxsize=1024)
def _box_widths(sigma_px: float) -> tuple[int, int, int]:
    """Odd widths of the three boxes whose variance is nearest to ``sigma_px ** 2``, of similar size."""
    target = 12.0 * sigma_px**2 + 3.0
    middle = int(np.sqrt(target / 3.0)) | 1
    widths = [w for w in range(middle - 6, middle + 8, 2) if w >= 1]
    triples = [(a, b, c) for a in widths for b in widths for c in widths if a <= b <= c <= a + 6]
    return min(triples, key=lambda t: (round(abs(sum(w * w for w in t) - target), 6), t[2] - t[0]))


def box_blur(pixels: Pixels, radius_px: int) -> Pixels:
    """Average over a square of ``2 * radius_px + 1`` pixels a side; uint8 (height, width, 3)."""
    side = 2 * radius_px + 1
    return _average(pixels, side, side)


def motion_blur(pixels: Pixels, taps: int, direction: str) -> Pixels:
    """Average of ``taps`` copies, each shifted one pixel further.

    Args:
        pixels: uint8 (height, width, 3).
        taps: Length of the path in pixels, 1 to 257.
        direction: One of `DIRECTIONS`: along the rows, along the columns, or from the upper left to
            the lower right.

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
    text: str, size_px: int, layout: str, side_px: int, *, corner: str, gap_px: int, margin_px: int
) -> Coverage:
    """Where the text covers a square image. Text that is too long is cut at the border.

    Args:
        text: The text.
        size_px: Size of the type (em).
        layout: One of `LAYOUTS`: in the centre; in the centre and rising by 45 degrees; repeated
            from the upper left; or in a corner.
        side_px: Side of the image.
        corner: One of `CORNERS`, for layout ``corner``.
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


@lru_cache(maxsize=384)  # half of the texts and sizes of the profile; up to 10 MB
def _text(text: str, size_px: int) -> Coverage:
    typeface = font("DejaVuSans.ttf", size_px)
    left, top, right, bottom = (round(edge) for edge in typeface.getbbox(text))
    image = Image.new("L", (max(right - left, 1), max(bottom - top, 1)))
    ImageDraw.Draw(image).text((-left, -top), text, fill=255, font=typeface)
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


@lru_cache(maxsize=512)
def font(typeface: str, size_px: int) -> ImageFont.FreeTypeFont:
    """A typeface of the matplotlib package, by the name of its file.

    Raises:
        QualityModelError: The matplotlib package does not have it.
    """
    return ImageFont.truetype(font_folder() / typeface, size_px, layout_engine=ImageFont.Layout.BASIC)


@cache
def font_folder() -> Path:
    """The DejaVu typefaces within the matplotlib package, found without importing matplotlib.

    Raises:
        QualityModelError: The matplotlib package does not have them.
    """
    package = find_spec("matplotlib")
    for folder in (package.submodule_search_locations or []) if package else []:
        fonts = Path(folder) / "mpl-data" / "fonts" / "ttf"
        if (fonts / "DejaVuSans.ttf").is_file():
            return fonts
    raise QualityModelError(
        "The typeface DejaVuSans.ttf is not in the matplotlib package.",
        "Install matplotlib in the version of requirements.lock.",
    )
