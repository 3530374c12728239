"""Watermarks as agencies, photographers and cameras make them, as overlays of colour and coverage.

A watermark belongs to a whole image, of which a view may show a part: it is drawn at the image's size and
cut by the view's border. Its effect on an image is measured, not assumed: a grey watermark on grey changes
nothing. Some kinds are drawn at an opacity that makes a wanted effect, others at the opacity that they have
in life: a small opaque badge is weak by the measure, and must be seen all the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from quality_model.core.pixels import Pixels
from quality_model.degrade.calibrated import lettering
from quality_model.degrade.calibrated.lettering import fitted, plate, turned
from quality_model.degrade.casts import Colour
from quality_model.degrade.randomness import Stream
from quality_model.degrade.severity import Facts

_STAMP_INKS: Final[tuple[Colour, ...]] = (
    *((255, 150, 40), (255, 190, 60), (255, 80, 50), (255, 230, 90), (255, 255, 255), (120, 255, 120)),
)
_MARGIN_SHARE: Final = 0.05
_SMALLEST_PX: Final = 10
"""Longest side below which nothing of a plate can be recognised."""


@dataclass(frozen=True, slots=True)
class Overlay:
    """``colour`` uint8 (side, side, 3) and ``coverage`` uint8 (side, side), 0 none to 255 full.

    ``opacity`` is what such a watermark has in life; None if any.
    """

    colour: Pixels
    coverage: npt.NDArray[np.uint8]
    facts: Facts
    opacity: float | None = None

    def stamp(self, pixels: Pixels, opacity: float) -> Pixels:
        """Lay it over an image: ``pixels * (1 - a) + colour * a``, a = opacity * coverage / 255."""
        result = pixels.copy()
        part, seen = result[self.covered], pixels[self.covered]
        weight = self.coverage[self.covered].astype(np.float32) * np.float32(opacity / 255.0)
        difference = (self.colour[self.covered].astype(np.float32) - seen) * weight[..., None]
        part[...] = np.rint(seen + difference)
        return result

    @property
    def covered(self) -> tuple[slice, slice]:
        """Rows and columns outside of which nothing is covered."""
        left, top, width, height = cv2.boundingRect(self.coverage)
        return slice(top, top + height), slice(left, left + width)


@dataclass(frozen=True, slots=True)
class _Canvas:
    """The whole image, a square of ``extent_px``, and the view of it, a square of ``side_px``.

    ``layer`` is the view's, in RGBA.
    """

    side_px: int
    extent_px: float
    layer: Image.Image
    stream: Stream

    def put(self, image: Image.Image, left: float, top: float) -> None:
        """Lay a plate at a place of the whole image, with the view somewhere over it."""
        room = self.extent_px - self.side_px
        starts = []
        for at, length in ((left, image.width), (top, image.height)):
            # Some of it is in the view, a tenth of the view at least where it is that large.
            shown = min(length, 0.1 * self.side_px)
            low, high = at + shown - self.side_px, at + length - shown
            starts.append(min(max(0.0, self.stream.uniform(min(low, high), max(low, high))), room))
        place = round(left - starts[0]), round(top - starts[1])
        clear = Image.new("RGBA", self.layer.size)
        clear.paste(image, place)
        self.layer.alpha_composite(clear)


Drawn = tuple[Facts, float | None]
"""Parameters, and the opacity of such a watermark in life."""


def draw(kind: str, side_px: int, extent_px: float, stream: Stream) -> Overlay:
    """Draw a watermark for a view of ``side_px``.

    Args:
        kind: One of `KINDS`.
        side_px: Side of the view.
        extent_px: Side of the whole image, in pixels of the view; no less than the view's.
        stream: Every choice is drawn from it.
    """
    canvas = _Canvas(side_px, max(extent_px, side_px), Image.new("RGBA", (side_px, side_px)), stream)
    facts, opacity = _KINDS[kind](canvas, stream)
    rgba = np.array(canvas.layer)
    colour = np.asarray(cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB), dtype=np.uint8)
    facts = {"extent_px": canvas.extent_px, **facts}
    return Overlay(colour, np.ascontiguousarray(rgba[..., 3]), facts, opacity)


def _tiled(canvas: _Canvas, stream: Stream) -> Drawn:
    """A plate repeated over the whole image, the pattern turned as one, with or without lines through it."""
    size_px = canvas.extent_px * stream.log_uniform(0.025, 0.13)
    one = fitted(plate(size_px, stream), 0.9 * canvas.extent_px)
    angle_deg = stream.choice((0.0, 30.0, 45.0, -30.0, -45.0, stream.uniform(-60.0, 60.0)))
    gaps = stream.log_uniform(0.1, 3.0), stream.log_uniform(0.2, 4.0)
    step_x, step_y = one.width + round(gaps[0] * one.height) + 2, one.height + round(gaps[1] * one.height) + 2
    reach = int(np.ceil(canvas.side_px * 2**0.5)) + 2
    layer, staggered = Image.new("RGBA", (reach, reach)), stream.chance(0.5)
    start_x, start_y = -round(stream.uniform(0.0, step_x)), -round(stream.uniform(0.0, step_y))
    if stream.chance(0.15):
        _hatch(layer, max(step_x, 8), lettering.colour(stream), stream)
    for row, top in enumerate(range(start_y, reach, step_y)):
        shift = step_x // 2 if staggered and row % 2 else 0
        for left in range(start_x - shift, reach, step_x):
            layer.paste(one, (left, top), one)
    start = (reach - canvas.side_px) // 2
    within = (start, start, start + canvas.side_px, start + canvas.side_px)
    canvas.layer.alpha_composite(layer.rotate(angle_deg, Image.Resampling.BILINEAR).crop(within))
    return {"size_px": size_px, "angle_deg": angle_deg}, None


def _hatch(layer: Image.Image, step_px: int, ink: Colour, stream: Stream) -> None:
    """Parallel lines over a layer, in one direction or two."""
    pen, side, width = ImageDraw.Draw(layer), layer.width, stream.integer(1, 2)
    both = stream.chance(0.5)
    for start in range(-side, side, step_px):
        pen.line((start, 0, start + side, side), fill=(*ink, 255), width=width)
        if both:
            pen.line((start + side, 0, start, side), fill=(*ink, 255), width=width)


def _words(canvas: _Canvas, stream: Stream) -> Drawn:
    """Large words across the image, thin ones too."""
    width = canvas.extent_px * stream.uniform(0.3, 0.95)
    text = lettering.words(stream)
    one = plate(width / max(4, 0.5 * len(text)), stream, text)
    angle_deg = stream.choice(
        (0.0, 0.0, stream.uniform(-10.0, 10.0), stream.uniform(20.0, 50.0), -45.0, 45.0)
    )
    one = fitted(turned(one, angle_deg), 0.97 * canvas.extent_px)
    room_x, room_y = canvas.extent_px - one.width, canvas.extent_px - one.height
    canvas.put(one, room_x * stream.uniform(0.3, 0.7), room_y * stream.uniform(0.2, 0.8))
    return {"text": text, "angle_deg": angle_deg}, None


def _logo(canvas: _Canvas, stream: Stream) -> Drawn:
    """A large logo or emblem, mostly in the middle."""
    size_px = canvas.extent_px * stream.log_uniform(0.1, 0.6)
    make = lettering.emblem if stream.chance(0.45) else lettering.logo
    one = turned(make(size_px, lettering.colour(stream), stream), 15.0 * stream.uniform(-1.0, 1.0))
    room = canvas.extent_px - max(one.size)
    canvas.put(one, room * stream.uniform(0.2, 0.8), room * stream.uniform(0.2, 0.8))
    return {"size_px": size_px}, None


def _corner(canvas: _Canvas, one: Image.Image, stream: Stream) -> None:
    """Put a plate near a corner, the lower ones first, or the middle of the lower edge."""
    margin = canvas.extent_px * stream.uniform(0.0, _MARGIN_SHARE)
    right, lower = canvas.extent_px - one.width - margin, canvas.extent_px - one.height - margin
    left = stream.choice((margin, right, right, (margin + right) / 2))
    canvas.put(one, max(0.0, left), max(0.0, lower if stream.chance(0.75) else margin))


def _badge(canvas: _Canvas, stream: Stream) -> Drawn:
    """A small plate in a corner, opaque or nearly so: logo and lettering, mostly outlined or in a box."""
    width = max(_SMALLEST_PX, canvas.extent_px * stream.log_uniform(0.05, 0.25))
    drawn = plate(max(6.0, width / 4), stream)
    _corner(canvas, fitted(drawn, width), stream)
    return {"width_px": width}, stream.uniform(0.6, 1.0)


def _signature(canvas: _Canvas, stream: Stream) -> Drawn:
    """A name in a corner, without anything around it."""
    text, ink = lettering.words(stream), lettering.colour(stream)
    size_px = canvas.extent_px * stream.log_uniform(0.02, 0.1)
    one = fitted(lettering.lettering(text, size_px, ink, stream), 0.6 * canvas.extent_px)
    _corner(canvas, turned(one, 10.0 * stream.uniform(-1.0, 1.0) if stream.chance(0.3) else 0.0), stream)
    return {"text": text, "size_px": size_px}, stream.uniform(0.3, 1.0)


def _stamp(canvas: _Canvas, stream: Stream) -> Drawn:
    """A date in a corner, in the colour of a digital display."""
    size_px = canvas.extent_px * stream.log_uniform(0.02, 0.06)
    text = lettering.date(stream)
    one = lettering.lettering(text, size_px, stream.choice(_STAMP_INKS), stream)
    _corner(canvas, fitted(one, 0.7 * canvas.extent_px), stream)
    return {"text": text, "size_px": size_px}, stream.uniform(0.7, 1.0)


def _strip(canvas: _Canvas, stream: Stream) -> Drawn:
    """A bar with text on it along an edge, half-transparent. (A bar without is a letterbox.)"""
    height = max(6, round(canvas.extent_px * stream.log_uniform(0.04, 0.16)))
    width = round(canvas.extent_px)
    ink = stream.choice(((0, 0, 0), (255, 255, 255), lettering.colour(stream)))
    bar = Image.new("RGBA", (width, height), (*ink, 255))
    text = lettering.words(stream)
    on: Colour = (255, 255, 255) if sum(ink) < 3 * 128 else (0, 0, 0)
    letters = fitted(lettering.lettering(text, 0.6 * height, on, stream), 0.9 * width)
    left = round((width - letters.width) * stream.choice((0.02, 0.5, 0.98)))
    bar.alpha_composite(letters, (max(0, left), max(0, (height - letters.height) // 2)))
    margin = canvas.extent_px * stream.choice((0.0, 0.0, 0.05, 0.4)) * stream.uniform(0.0, 1.0)
    top = canvas.extent_px - height - margin if stream.chance(0.8) else margin
    canvas.put(bar, 0.0, top)
    return {"text": text, "height_px": height}, stream.uniform(0.25, 0.95)


def _edge(canvas: _Canvas, stream: Stream) -> Drawn:
    """Small text along an edge, mostly upright ones."""
    size_px = max(6.0, canvas.extent_px * stream.log_uniform(0.015, 0.045))
    text = " ".join(lettering.words(stream) for _ in range(stream.integer(1, 2)))
    one = fitted(lettering.lettering(text, size_px, lettering.colour(stream), stream), 0.9 * canvas.extent_px)
    one = one.rotate(90, expand=True) if stream.chance(0.6) else one
    margin = canvas.extent_px * 0.02 * stream.uniform(0.0, 1.0)
    far_x, far_y = canvas.extent_px - one.width - margin, canvas.extent_px - one.height - margin
    if one.height > one.width:
        canvas.put(one, stream.choice((margin, far_x)), max(0.0, far_y * stream.uniform(0.0, 1.0)))
    else:
        canvas.put(one, max(0.0, far_x * stream.uniform(0.0, 1.0)), stream.choice((margin, far_y)))
    return {"text": text, "size_px": size_px}, stream.uniform(0.4, 1.0)


def _lines(canvas: _Canvas, stream: Stream) -> Drawn:
    """Lines from corner to corner, or a net of them; a plate in the middle or not."""
    ink, width = lettering.colour(stream), max(1, round(canvas.extent_px * stream.uniform(0.002, 0.012)))
    extent = round(canvas.extent_px)
    room = extent - canvas.side_px
    left, top = round(stream.uniform(0.0, 1.0) * room), round(stream.uniform(0.0, 1.0) * room)
    pen = ImageDraw.Draw(canvas.layer)
    if stream.chance(0.5):
        cross = ((0, 0, extent, extent), (0, extent, extent, 0))
        for x0, y0, x1, y1 in cross:
            pen.line((x0 - left, y0 - top, x1 - left, y1 - top), fill=(*ink, 255), width=width)
    else:
        _hatch(canvas.layer, max(10, round(extent * stream.log_uniform(0.06, 0.3))), ink, stream)
    if stream.chance(0.6):
        one = fitted(plate(extent * stream.log_uniform(0.04, 0.12), stream), 0.8 * extent)
        middle = (extent - one.width) // 2 - left, (extent - one.height) // 2 - top
        canvas.layer.paste(one, middle, one)
    return {"line_px": width}, None


def _several(canvas: _Canvas, stream: Stream) -> Drawn:
    """Two or three of the others at once."""
    kinds = stream.sample([*_SINGLE], stream.integer(2, 3))
    for kind in kinds:
        _SINGLE[kind](canvas, stream)
    return {"kinds": "+".join(kinds)}, stream.uniform(0.3, 1.0) if stream.chance(0.5) else None


_SINGLE: Final[dict[str, Callable[[_Canvas, Stream], Drawn]]] = {
    "tiled": _tiled,
    "words": _words,
    "logo": _logo,
    "badge": _badge,
    "signature": _signature,
    "stamp": _stamp,
    "strip": _strip,
    "edge": _edge,
    "lines": _lines,
}
_KINDS: Final = {**_SINGLE, "several": _several}
KINDS: Final = tuple(_KINDS)
