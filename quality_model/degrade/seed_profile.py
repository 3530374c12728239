"""Label profile `seed`: the original generator, with its ranges and its labels.

A sample gets a random number, 0 to 4, of distinct degradations in random order. The label
of each is its strength t, whatever the kind and whatever was applied after it.

Lengths are in pixels of a 224 px image, the original's size; for another size they are
scaled in proportion and rounded, to 1 px at least.
"""

from collections.abc import Callable, Mapping
from typing import Final

from quality_model.core.decoding import Pixels
from quality_model.degrade import blur, color_cast, noise, watermark
from quality_model.degrade.profile import AppliedDegradation, DegradedSample
from quality_model.degrade.randomness import SampleRandomness, Stream
from quality_model.degrade.severity import REFERENCE_SIDE_PX, SeverityScale
from quality_model.records import HEADS, Head

STRENGTHS: Final[dict[Head, tuple[float, float]]] = {
    "color_cast": (0.1, 0.5),
    "blurriness": (0.1, 1.0),
    "watermark": (0.1, 0.5),
    "noise": (0.1, 1.0),
}

TINTS: Final[dict[str, color_cast.Colour]] = {
    "red": (255, 200, 200),
    "green": (200, 255, 200),
    "blue": (200, 200, 255),
    "yellow": (255, 255, 200),
    "magenta": (255, 200, 255),
    "cyan": (200, 255, 255),
    "warm": (255, 220, 180),
    "cool": (180, 200, 255),
}

TEXTS: Final = (
    "SAMPLE",
    "WATERMARK",
    "STOCK PHOTO",
    "© COPYRIGHT",
    "PREVIEW",
    "DRAFT",
    "DEMO",
    "www.example.com",
    "Shutterstock",
    "Getty Images",
)
TEXT_SIZES_PX: Final = (20, 100)
TEXT_GREY: Final = 128
TILE_GAP_PX: Final = 50
CORNER_MARGIN_PX: Final = 10

_PEAK_STEP: Final = 4
"""Poisson peaks are multiples of this, so that few tables serve all; moves the noise by less than 1 %."""


class SeedProfile:
    """The original generator (see the module)."""

    name: Final = "seed"
    kinds: Final[Mapping[Head, tuple[str, ...]]] = {
        "color_cast": tuple(TINTS),
        "blurriness": ("gaussian", "box", "motion"),
        "watermark": watermark.LAYOUTS,
        "noise": ("gaussian", "salt_and_pepper", "poisson"),
    }
    label_ranges: Final[Mapping[Head, tuple[float, float]]] = STRENGTHS
    source_kinds: Final[Mapping[Head, tuple[str, ...]]] = {}
    scales: Final[Mapping[Head, SeverityScale]] = {}
    order: Final[tuple[Head, ...] | None] = None
    untouched_share: Final = 1.0 / (len(HEADS) + 1)
    measures_softness: Final = False

    def keep(
        self, clean: Pixels, randomness: SampleRandomness, *, softness_px: float = 0.0
    ) -> DegradedSample:
        """The clean image as it is, with labels of 0, soft or not."""
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


_Outcome = tuple[Pixels, dict[str, str | int | float]]
"""The new image, and the parameters it was made with."""


def _color_cast(pixels: Pixels, kind: str, t: float, stream: Stream) -> _Outcome:
    return color_cast.blend(pixels, TINTS[kind], t), {"strength": t}


def _blurriness(pixels: Pixels, kind: str, t: float, stream: Stream) -> _Outcome:
    if kind == "motion":
        taps = _scaled(int(5 + 15 * t), pixels)
        direction = stream.choice(blur.DIRECTIONS)
        return blur.motion(pixels, taps, direction), {"taps": taps, "direction": direction}
    radius_px = _scaled(int(1 + 9 * t), pixels)
    if kind == "box":
        return blur.box(pixels, radius_px), {"radius_px": radius_px}
    # Pillow, which the original used, calls a gaussian's standard deviation its radius.
    return blur.gaussian(pixels, radius_px), {"radius_px": radius_px}


def _watermark(pixels: Pixels, kind: str, t: float, stream: Stream) -> _Outcome:
    text = stream.choice(TEXTS)
    size_px = _scaled(stream.integer(*TEXT_SIZES_PX), pixels)
    corner = stream.choice(watermark.CORNERS)
    layout = next(layout for layout in watermark.LAYOUTS if layout == kind)
    coverage = watermark.lay_out(
        text,
        size_px,
        layout,
        pixels.shape[0],
        corner=corner,
        gap_px=_scaled(TILE_GAP_PX, pixels),
        margin_px=_scaled(CORNER_MARGIN_PX, pixels),
    )
    parameters: dict[str, str | int | float] = {"opacity": t, "text": text, "size_px": size_px}
    if layout == "corner":
        parameters["corner"] = corner
    return watermark.stamp(pixels, coverage, t, TEXT_GREY), parameters


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

    At t = 1 the noise of mid grey has a standard deviation of 16 grey levels, which is
    what was measured of the original; at t = 0.1 it has 11.6.
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
"""What does each head's degradation: of pixels, kind, strength t and randomness."""
