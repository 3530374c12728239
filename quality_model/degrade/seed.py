"""Label profile `seed`: the original generator, with its ranges and its labels.

A sample gets a random number, 0 to 4, of distinct degradations in random order. The label
of each is its strength t, the same for every kind and whatever is applied after it.

Lengths are in pixels of a 224 px image, the original's size; for another size they are
scaled in proportion and rounded, at least 1 px.

The typeface is DejaVu Sans of the matplotlib package, laid out by Pillow's own basic
engine: the same pixels on every machine with the same locked versions.
"""

from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Final

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from quality_model.core.pixels import Pixels
from quality_model.degrade import casts, noise
from quality_model.degrade.randomness import SampleRandomness, Stream
from quality_model.degrade.severity import AppliedDegradation, DegradedSample, Facts, Profile
from quality_model.errors import QualityModelError
from quality_model.records import HEADS, REFERENCE_SIDE_PX, Head

Coverage = npt.NDArray[np.uint8]
"""uint8 (height, width): how much of a pixel the text covers, 0 to 255."""

DIRECTIONS: Final = ("horizontal", "vertical", "diagonal")
LAYOUTS: Final = ("centred", "diagonal", "tiled", "corner")
CORNERS: Final = ("upper left", "upper right", "lower left", "lower right")

_LARGEST_EXACT_SIGMA: Final = 2.5
"""Up to here a true gaussian kernel is as fast as box passes, and box passes are too coarse."""

STRENGTHS: Final[dict[Head, tuple[float, float]]] = {
    "color_cast": (0.1, 0.5),
    "blurriness": (0.1, 1.0),
    "watermark": (0.1, 0.5),
    "noise": (0.1, 1.0),
}

TEXTS: Final = (
    *("SAMPLE", "WATERMARK", "STOCK PHOTO", "© COPYRIGHT", "PREVIEW", "DRAFT", "DEMO"),
    *("www.example.com", "Shutterstock", "Getty Images"),
)
TEXT_SIZES_PX: Final = (20, 100)
TEXT_GREY: Final = 128
TILE_GAP_PX: Final = 50
CORNER_MARGIN_PX: Final = 10

_PEAK_STEP: Final = 4
"""Poisson peaks are multiples of this, so that few tables serve all; moves the noise by less than 1 %."""


class SeedProfile(Profile):
    """The original generator (see the module)."""

    name: ClassVar[str] = "seed"
    kinds: ClassVar[Mapping[Head, tuple[str, ...]]] = {
        "color_cast": tuple(casts.TINTS),
        "blurriness": ("gaussian", "box", "motion"),
        "watermark": LAYOUTS,
        "noise": ("gaussian", "salt_and_pepper", "poisson"),
    }
    label_ranges: ClassVar[Mapping[Head, tuple[float, float]]] = STRENGTHS

    def keep(self, clean: Pixels, *, softness_px: float = 0.0) -> DegradedSample:
        """The clean image itself, with labels of 0, soft or not."""
        return DegradedSample(clean, ())

    def degrade(
        self,
        clean: Pixels,
        randomness: SampleRandomness,
        *,
        softness_px: float = 0.0,
        scale: float | None = None,
    ) -> DegradedSample:
        """Apply 0 to 4 of the degradations; uint8 (side, side, 3) in and out; lengths go by the side."""
        plan = randomness.stream("plan")
        image, applied = clean, []
        for position, head in enumerate(plan.sample(HEADS, plan.integer(0, len(HEADS)))):
            stream = randomness.stream(head)
            strength = stream.uniform(*STRENGTHS[head])
            kind = stream.choice(self.kinds[head])
            image, parameters = STEPS[head](image, kind, strength, stream)
            applied.append(AppliedDegradation(head, kind, parameters, position, strength))
        return DegradedSample(image, tuple(applied))


_Outcome = tuple[Pixels, Facts]
"""The new image, and the parameters it was made with."""


def _color_cast(pixels: Pixels, kind: str, t: float, stream: Stream) -> _Outcome:
    return casts.recolour(pixels, casts.blend_table(casts.TINTS[kind], t)), {"strength": t}


def _blurriness(pixels: Pixels, kind: str, t: float, stream: Stream) -> _Outcome:
    if kind == "motion":
        taps = _scaled(int(5 + 15 * t), pixels)
        direction = stream.choice(DIRECTIONS)
        return motion_blur(pixels, taps, direction), {"taps": taps, "direction": direction}
    radius_px = _scaled(int(1 + 9 * t), pixels)
    if kind == "box":
        return box_blur(pixels, radius_px), {"radius_px": radius_px}
    # Pillow, which the original used, calls a gaussian's standard deviation its radius.
    return gaussian_blur(pixels, radius_px), {"radius_px": radius_px}


def _watermark(pixels: Pixels, kind: str, t: float, stream: Stream) -> _Outcome:
    text = stream.choice(TEXTS)
    size_px = _scaled(stream.integer(*TEXT_SIZES_PX), pixels)
    corner = stream.choice(CORNERS)
    gap_px, margin_px = _scaled(TILE_GAP_PX, pixels), _scaled(CORNER_MARGIN_PX, pixels)
    side_px = pixels.shape[0]
    coverage = lay_out(text, size_px, kind, side_px, corner=corner, gap_px=gap_px, margin_px=margin_px)
    parameters: Facts = {"opacity": t, "text": text, "size_px": size_px}
    if kind == "corner":
        parameters["corner"] = corner
    return stamp(pixels, coverage, t, TEXT_GREY), parameters


def _noise(pixels: Pixels, kind: str, t: float, stream: Stream) -> _Outcome:
    if kind == "gaussian":
        std = 10 + 40 * t
        return noise.gaussian(pixels, std, stream), {"std": std}
    if kind == "salt_and_pepper":
        share = 0.01 + 0.09 * t
        return noise.salt_and_pepper(pixels, share, stream), {"share": share}
    peak = poisson_peak(t)
    return noise.poisson(pixels, peak, stream), {"peak": peak}


def poisson_peak(t: float) -> int:
    """Mean count of white at strength t: ``255 * (1 - t / 2)``, to a multiple of 4.

    At t = 1 the noise of mid grey has a standard deviation of 16 grey levels, as measured on
    the original; at t = 0.1 it has 11.6.
    """
    return round(255 * (1 - t / 2) / _PEAK_STEP) * _PEAK_STEP


def _scaled(length_px: int, pixels: Pixels) -> int:
    """A length at 224 px, at the size of this image: rounded, at least 1 px."""
    return max(1, int(length_px * pixels.shape[0] / REFERENCE_SIDE_PX + 0.5))


STEPS: Final[dict[Head, Callable[[Pixels, str, float, Stream], _Outcome]]] = {
    "color_cast": _color_cast,
    "blurriness": _blurriness,
    "watermark": _watermark,
    "noise": _noise,
}
"""Each head's degradation: a function of pixels, kind, strength t and randomness."""


def gaussian_blur(pixels: Pixels, sigma_px: float) -> Pixels:
    """Blur with a gaussian; above a sigma of 2.5 px, with three box passes.

    Three boxes of odd widths a, b, c have the variance ``(a**2 + b**2 + c**2 - 3) / 12``
    (Kovesi, Fast almost-Gaussian filtering, 2010); their sigma is within 3 % of
    ``sigma_px``. As in all blurs here, the outermost pixels are repeated beyond the border.

    Args:
        pixels: uint8 (height, width, 3), as the result.
        sigma_px: Standard deviation of the kernel, above 0.
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
    """Average of ``taps`` copies, 1 to 257, each shifted one pixel further; uint8 (height, width, 3).

    The direction is one of `DIRECTIONS`; the diagonal one is from the upper left to the lower right.
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
    typeface = _typeface(size_px)
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
def _typeface(size_px: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font_folder() / "DejaVuSans.ttf", size_px, layout_engine=ImageFont.Layout.BASIC)


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
