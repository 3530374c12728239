"""Label profile `seed`: the original generator, with its ranges and its labels.

A sample gets a random number, 0 to 4, of distinct degradations in random order. The label
of each is its strength t, the same for every kind and whatever is applied after it.

Lengths are in pixels of a 224 px image, the original's size; for another size they are
scaled in proportion and rounded, at least 1 px.
"""

from collections.abc import Callable, Mapping
from typing import ClassVar, Final

from quality_model.core.decoding import Pixels
from quality_model.degrade import noise
from quality_model.degrade.profile import AppliedDegradation, DegradedSample, Facts, Profile
from quality_model.degrade.randomness import SampleRandomness, Stream
from quality_model.degrade.seed import seed_kinds
from quality_model.records import HEADS, REFERENCE_SIDE_PX, Head

STRENGTHS: Final[dict[Head, tuple[float, float]]] = {
    "color_cast": (0.1, 0.5),
    "blurriness": (0.1, 1.0),
    "watermark": (0.1, 0.5),
    "noise": (0.1, 1.0),
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


class SeedProfile(Profile):
    """The original generator (see the module)."""

    name: ClassVar[str] = "seed"
    kinds: ClassVar[Mapping[Head, tuple[str, ...]]] = {
        "color_cast": tuple(seed_kinds.TINTS),
        "blurriness": ("gaussian", "box", "motion"),
        "watermark": seed_kinds.LAYOUTS,
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
    return seed_kinds.blend(pixels, seed_kinds.TINTS[kind], t), {"strength": t}


def _blurriness(pixels: Pixels, kind: str, t: float, stream: Stream) -> _Outcome:
    if kind == "motion":
        taps = _scaled(int(5 + 15 * t), pixels)
        direction = stream.choice(seed_kinds.DIRECTIONS)
        return seed_kinds.motion_blur(pixels, taps, direction), {"taps": taps, "direction": direction}
    radius_px = _scaled(int(1 + 9 * t), pixels)
    if kind == "box":
        return seed_kinds.box_blur(pixels, radius_px), {"radius_px": radius_px}
    # Pillow, which the original used, calls a gaussian's standard deviation its radius.
    return seed_kinds.gaussian_blur(pixels, radius_px), {"radius_px": radius_px}


def _watermark(pixels: Pixels, kind: str, t: float, stream: Stream) -> _Outcome:
    text = stream.choice(TEXTS)
    size_px = _scaled(stream.integer(*TEXT_SIZES_PX), pixels)
    corner = stream.choice(seed_kinds.CORNERS)
    coverage = seed_kinds.lay_out(
        text,
        size_px,
        kind,
        pixels.shape[0],
        corner=corner,
        gap_px=_scaled(TILE_GAP_PX, pixels),
        margin_px=_scaled(CORNER_MARGIN_PX, pixels),
    )
    parameters: Facts = {"opacity": t, "text": text, "size_px": size_px}
    if kind == "corner":
        parameters["corner"] = corner
    return seed_kinds.stamp(pixels, coverage, t, TEXT_GREY), parameters


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
