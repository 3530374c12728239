"""Watermarks of many kinds: text in words, typefaces, colours, outlines, angles and sizes; logos; boxes.

A watermark is drawn as an overlay of colour and coverage. Its effect on an image is measured, not
assumed: a grey watermark on grey changes nothing. Single watermarks are wholly inside the image;
tiles and bars run over its border, as those of real stock images do.

Typefaces are the DejaVu families of the matplotlib package, laid out by Pillow's basic engine:
the same pixels on every machine with the same locked versions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from quality_model.core.decoding import Pixels
from quality_model.degrade.profile import Facts
from quality_model.degrade.randomness import Stream
from quality_model.degrade.seed.seed_kinds import CORNERS, Colour, font

WORDS: Final = (
    *("SAMPLE", "PREVIEW", "DRAFT", "DEMO", "PROOF", "COPY", "WATERMARK", "CONFIDENTIAL", "DO NOT COPY"),
    *("Stock Photo", "All rights reserved", "Photography", "Studio", "Original", "for review only", "TRIAL"),
    *("www.example.com", "photos.example.org", "@image.daily", "#sunset", "image bank", "Archive", "Media"),
)
_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_TYPEFACES: Final = (
    *("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSans-Oblique.ttf", "DejaVuSans-BoldOblique.ttf"),
    *("DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSerif-Italic.ttf", "DejaVuSansMono-Bold.ttf"),
)
TEXT_SIZES_PX: Final = (9, 72)
"""Sizes of the type at 224 px."""

KINDS: Final = ("text_tiled", "text_diagonal", "text_centred", "text_corner", "logo", "box")

_LARGEST_SHARE: Final = 0.92
"""Of the side: the most that a single watermark may take."""


@dataclass(frozen=True, slots=True)
class Overlay:
    """``colour`` uint8 (side, side, 3) and ``coverage`` uint8 (side, side), 0 none to 255 full."""

    colour: Pixels
    coverage: npt.NDArray[np.uint8]
    facts: Facts

    def stamp(self, pixels: Pixels, opacity: float) -> Pixels:
        """Lay it over an image: ``pixels * (1 - a) + colour * a``, a = opacity * coverage / 255."""
        weight = self.coverage.astype(np.float32) * np.float32(opacity / 255.0)
        difference = (self.colour.astype(np.float32) - pixels) * weight[..., None]
        return np.rint(pixels + difference).astype(np.uint8)


def draw(kind: str, side_px: int, scale: float, stream: Stream) -> Overlay:
    """Draw a watermark for an image of ``side_px``.

    Args:
        kind: One of `KINDS`.
        side_px: Side of the image.
        scale: Pixels of this image per pixel of a 224 px image.
        stream: Every choice is drawn from it.
    """
    return _KINDS[kind](side_px, scale, stream)


def _text(layout: str) -> Callable[[int, float, Stream], Overlay]:
    def draw_text(side_px: int, scale: float, stream: Stream) -> Overlay:
        text, colour, size_px = _words(stream), _colour(stream), _size(scale, stream)
        outline = stream.uniform(0.0, 1.0) < 0.3
        plate = _lettering(text, stream.choice(_TYPEFACES), size_px, colour, outline)
        angle_deg = _angle(layout, stream)
        facts: Facts = {"text": text, "size_px": size_px, "angle_deg": angle_deg}
        if layout == "tiled":
            gaps = stream.uniform(0.15, 1.6), stream.uniform(0.3, 2.5)
            layer = _tiles(plate, side_px, angle_deg, gaps, stagger=stream.uniform(0.0, 1.0) < 0.5)
        else:
            plate = plate.rotate(angle_deg, Image.Resampling.BILINEAR, expand=True)
            plate = _fitted(plate, side_px * (0.6 if layout == "corner" else _LARGEST_SHARE))
            layer = _placed(plate, side_px, *_position(layout, plate, side_px, stream))
        return _to_overlay(layer, facts)

    return draw_text


def _angle(layout: str, stream: Stream) -> float:
    drawn = stream.uniform(-1.0, 1.0)
    match layout:
        case "diagonal":
            return 45.0 + 20.0 * drawn if stream.integer(0, 1) else -45.0 + 20.0 * drawn
        case "tiled":
            return 45.0 * drawn
    return 90.0 if stream.integer(0, 11) == 0 else 6.0 * drawn


def _position(layout: str, plate: Image.Image, side_px: int, stream: Stream) -> tuple[int, int]:
    """Left and top of the plate, wholly inside the image."""
    room_x, room_y = side_px - plate.width, side_px - plate.height
    if layout == "corner":
        margin = int(stream.uniform(0.0, 0.06) * side_px)
        corner = stream.choice(CORNERS)
        left = min(margin, room_x) if corner.endswith("left") else max(0, room_x - margin)
        return left, (min(margin, room_y) if corner.startswith("upper") else max(0, room_y - margin))
    return int(room_x * stream.uniform(0.35, 0.65)), int(room_y * stream.uniform(0.25, 0.75))


def _logo(side_px: int, scale: float, stream: Stream) -> Overlay:
    """A ring, disc, star, shield or bars with initials, anywhere on the image."""
    size = int(max(12.0, stream.uniform(0.1, 0.45) * side_px))
    first, second = _colour(stream), _colour(stream)
    shape = stream.choice(("ring", "disc", "star", "shield", "bars"))
    plate = Image.new("RGBA", (size, size))
    pen = ImageDraw.Draw(plate)
    line = max(1, size // 12)
    middle, reach = (size - 1) / 2.0, (size - 1) / 2.0 - 1.0
    box = (1, 1, size - 2, size - 2)
    if shape == "ring":
        pen.ellipse(box, outline=(*first, 255), width=line)
    elif shape == "disc":
        pen.ellipse(box, fill=(*first, 255))
    elif shape == "star":
        corners = stream.integer(4, 8) * 2
        radii = [reach if n % 2 == 0 else reach * 0.5 for n in range(corners)]
        turn = [2.0 * np.pi * n / corners for n in range(corners)]
        points = [(middle + r * np.sin(t), middle - r * np.cos(t)) for r, t in zip(radii, turn, strict=True)]
        pen.polygon(points, fill=(*first, 255))
    elif shape == "shield":
        pen.rounded_rectangle(box, radius=size // 5, outline=(*first, 255), width=line)
    else:
        for n in range(3):
            pen.rectangle((1, 1 + n * size // 3, size - 2, n * size // 3 + size // 6), fill=(*first, 255))
    initials = "".join(stream.choice(_LETTERS[:26]) for _ in range(stream.integer(0, 3)))
    if initials:
        letters = _lettering(initials, stream.choice(_TYPEFACES), max(7, size // 3), second, outline=False)
        letters = _fitted(letters, size)
        plate.alpha_composite(letters, ((size - letters.width) // 2, (size - letters.height) // 2))
    plate = plate.rotate(15.0 * stream.uniform(-1.0, 1.0), Image.Resampling.BILINEAR, expand=True)
    plate = _fitted(plate, side_px * _LARGEST_SHARE)
    left = int((side_px - plate.width) * stream.uniform(0.0, 1.0))
    top = int((side_px - plate.height) * stream.uniform(0.0, 1.0))
    return _to_overlay(_placed(plate, side_px, left, top), {"shape": shape, "size_px": size})


def _box(side_px: int, scale: float, stream: Stream) -> Overlay:
    """A half-transparent bar across the image, or a plate, mostly with text on it."""
    bar = stream.integer(0, 1) == 1
    width = side_px if bar else int(side_px * stream.uniform(0.3, 0.8))
    height = int(side_px * stream.uniform(0.08, 0.25))
    plate = Image.new("RGBA", (width, height), (*_colour(stream), 255))
    text = _words(stream) if stream.uniform(0.0, 1.0) < 0.75 else ""
    if text:
        lettering = _lettering(
            text, stream.choice(_TYPEFACES), max(8, int(height * 0.6)), _colour(stream), outline=False
        )
        lettering = _fitted(lettering, min(width, 6 * height) * _LARGEST_SHARE, highest=height)
        plate.alpha_composite(lettering, ((width - lettering.width) // 2, (height - lettering.height) // 2))
    left = int((side_px - width) * stream.uniform(0.0, 1.0))
    top = int((side_px - height) * stream.uniform(0.0, 1.0))
    return _to_overlay(_placed(plate, side_px, left, top), {"text": text, "bar": int(bar)})


def _words(stream: Stream) -> str:
    """A phrase, sometimes with a copyright sign, a year or letters that mean nothing."""
    pick = stream.integer(0, 9)
    if pick <= 5:
        return stream.choice(WORDS)
    if pick <= 7:
        return "".join(stream.choice(_LETTERS) for _ in range(stream.integer(3, 12)))
    return f"© {stream.integer(1990, 2030)} {stream.choice(WORDS)}"


def _colour(stream: Stream) -> Colour:
    """White most often, then black, any grey, any colour."""
    pick = stream.uniform(0.0, 1.0)
    grey = stream.integer(0, 255)
    if pick < 0.4:
        return (255, 255, 255)
    if pick < 0.55:
        return (0, 0, 0)
    return (grey, grey, grey) if pick < 0.7 else (grey, stream.integer(0, 255), stream.integer(0, 255))


def _size(scale: float, stream: Stream) -> int:
    low, high = np.log(TEXT_SIZES_PX)
    return max(6, round(float(np.exp(stream.uniform(low, high))) * scale))


def _lettering(text: str, typeface: str, size_px: int, colour: Colour, outline: bool) -> Image.Image:
    """The text in RGBA, cut close."""
    letters = font(typeface, size_px)
    stroke = max(1, size_px // 14) if outline else 0
    left, top, right, bottom = (round(edge) for edge in letters.getbbox(text, stroke_width=stroke))
    plate = Image.new("RGBA", (max(1, right - left), max(1, bottom - top)), (*colour, 0))
    dark = sum(colour) < 3 * 128
    ImageDraw.Draw(plate).text(
        (-left, -top),
        text,
        fill=(*colour, 255),
        font=letters,
        stroke_width=stroke,
        stroke_fill=(255, 255, 255, 255) if dark else (0, 0, 0, 255),
    )
    return plate


def _fitted(plate: Image.Image, longest: float, highest: float | None = None) -> Image.Image:
    """Shrunk, if necessary, so that it is wholly inside the image."""
    factor = min(1.0, longest / plate.width, (highest or longest) / plate.height)
    if factor >= 1.0:
        return plate
    size = max(1, int(plate.width * factor)), max(1, int(plate.height * factor))
    return plate.resize(size, Image.Resampling.BILINEAR)


def _placed(plate: Image.Image, side_px: int, left: int, top: int) -> Image.Image:
    layer = Image.new("RGBA", (side_px, side_px))
    layer.paste(plate, (left, top))
    return layer


def _tiles(
    plate: Image.Image, side_px: int, angle_deg: float, gaps: tuple[float, float], *, stagger: bool
) -> Image.Image:
    """The plate repeated over the whole image, the pattern turned as one."""
    plate = _fitted(plate, side_px * _LARGEST_SHARE)
    reach = int(np.ceil(side_px * 2**0.5))
    layer = Image.new("RGBA", (reach, reach))
    step_x = plate.width + max(2, int(gaps[0] * plate.height))
    step_y = plate.height + max(2, int(gaps[1] * plate.height))
    for row, top in enumerate(range(0, reach, step_y)):
        shift = step_x // 2 if stagger and row % 2 else 0
        for left in range(-shift, reach, step_x):
            layer.paste(plate, (left, top))
    turned = layer.rotate(angle_deg, Image.Resampling.BILINEAR)
    start = (reach - side_px) // 2
    return turned.crop((start, start, start + side_px, start + side_px))


def _to_overlay(layer: Image.Image, facts: Facts) -> Overlay:
    rgba = np.array(layer)
    colour = np.asarray(cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB), dtype=np.uint8)
    return Overlay(colour, np.ascontiguousarray(rgba[..., 3]), facts)


_KINDS: Final[dict[str, Callable[[int, float, Stream], Overlay]]] = {
    "text_tiled": _text("tiled"),
    "text_diagonal": _text("diagonal"),
    "text_centred": _text("centred"),
    "text_corner": _text("corner"),
    "logo": _logo,
    "box": _box,
}
