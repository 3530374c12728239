"""What profile `calibrated` does to an image, drawn before any of its pixels are touched.

Kinds, strengths, kernels, colour tables and marks hang on the randomness alone; only how much
noise and how opaque a mark is hang on the image too, and these are functions of a few of its
measures. So whoever applies a plan, image by image or in batches on a device, decides nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from quality_model.degrade import color_cast, marks, white_balance
from quality_model.degrade import point_spread as psf
from quality_model.degrade.randomness import SampleRandomness, Stream
from quality_model.degrade.seed_profile import TINTS
from quality_model.degrade.severity import SCALES
from quality_model.records import HEADS, Head

DRAWN_SEVERITIES: Final = (0.1, 1.0)
"""What is aimed at, uniformly; what it comes to is measured."""

POISSON_PEAKS: Final = tuple(round(3 * 2 ** (n / 2)) for n in range(20))
"""Mean counts of white that there are tables for: 3 to 2,172, each the root of 2 times the one before."""

_MOST_SALT_AND_PEPPER: Final = 0.3
_STRONGEST_SPECKLE: Final = 0.8
_GRAINY_SHARE: Final = 0.35
_GRAIN_SIGMAS_PX: Final = (0.4, 1.0)
_FAINTEST_OPACITY: Final = 0.06

Facts = dict[str, str | int | float]


@dataclass(frozen=True, slots=True)
class Blur:
    """A convolution with ``kernel``; without one, resampling by ``factor`` and ``interpolation``.

    ``facts`` has the ``sigma_px`` that it comes to, at 224 px.
    """

    kind: str
    facts: Facts
    kernel: psf.Kernel | None = None
    factor: float = 1.0
    interpolation: str = ""


@dataclass(frozen=True, slots=True)
class Noise:
    """Noise that aims at an RMS change of ``std`` grey levels; ``stream`` is where its bits come from."""

    kind: str
    std: float
    grain_px: float
    stream: Stream

    def amount(self, mean: float, mean_square: float) -> Facts:
        """What its kind takes for this aim on an image with these moments of its grey levels."""
        if self.kind == "salt_and_pepper":
            change = (255.0**2 - 510.0 * mean + 2.0 * mean_square) / 2.0  # of turning white or black, squared
            return {"share": min(_MOST_SALT_AND_PEPPER, self.std**2 / change)}
        if self.kind == "poisson":
            wanted = np.log(max(1.0, 255.0 * mean) / self.std**2)
            return {"peak": min(POISSON_PEAKS, key=lambda count: abs(np.log(count) - wanted))}
        if self.kind == "speckle":
            return {"relative_std": min(_STRONGEST_SPECKLE, self.std / max(1.0, mean_square**0.5))}
        return {"std": self.std, "grain_sigma_px": self.grain_px}


@dataclass(frozen=True, slots=True)
class Cast:
    """A change of colours: ``table``, uint8 (256, 3), has what each level of each channel becomes."""

    kind: str
    facts: Facts
    table: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Marking:
    """A mark that aims at an RMS colour difference of ``rms_difference``."""

    kind: str
    mark: marks.Mark
    rms_difference: float

    def opacity(self, opaque_difference: float) -> float:
        """Opacity that makes about this difference, if the mark makes that one when opaque."""
        return min(1.0, max(_FAINTEST_OPACITY, self.rms_difference / max(opaque_difference, 1e-6)))


@dataclass(frozen=True, slots=True)
class Plan:
    """The degradations of one sample; None for those that it is spared."""

    blur: Blur | None
    noise: Noise | None
    cast: Cast | None
    marking: Marking | None


def draw_plan(
    randomness: SampleRandomness, kinds: Mapping[Head, tuple[str, ...]], *, side_px: int, scale: float
) -> Plan:
    """Draw 0 to 4 degradations.

    Args:
        randomness: Of the sample.
        kinds: Those to choose from.
        side_px: Side of the image.
        scale: Pixels of this image to one of a 224 px image.
    """
    plan = randomness.stream("plan")
    chosen = plan.sample(HEADS, plan.integer(0, len(HEADS)))

    def begin(head: Head) -> tuple[str, float, Stream]:
        stream = randomness.stream(head)
        kind = stream.choice(kinds[head])
        return kind, SCALES[head].measure_at(stream.uniform(*DRAWN_SEVERITIES)), stream

    return Plan(
        blur=_draw_blur(*begin("blurriness"), side_px, scale) if "blurriness" in chosen else None,
        noise=_draw_noise(*begin("noise")) if "noise" in chosen else None,
        cast=_draw_cast(*begin("color_cast")) if "color_cast" in chosen else None,
        marking=_draw_marking(*begin("watermark"), side_px, scale) if "watermark" in chosen else None,
    )


def _draw_blur(kind: str, sigma_224_px: float, stream: Stream, side_px: int, scale: float) -> Blur:
    sigma_px = sigma_224_px * scale
    facts: Facts = {}
    if kind == "low_resolution":
        way = stream.choice([*psf.INTERPOLATIONS])
        factor = float(np.hypot(1.0, sigma_px / psf.RESAMPLED_SIGMAS[way]))
        actual_px = psf.resampled_sigma(side_px, factor, way)
        facts = {"factor": factor, "interpolation": way, "sigma_px": actual_px / scale}
        return Blur(kind, facts, factor=factor, interpolation=way)
    if kind == "gaussian":
        kernel = psf.gaussian_kernel(sigma_px)
    else:
        width_px = facts["width_px"] = psf.width_for_sigma(kind, sigma_px)
        if kind == "box":
            kernel = psf.box_kernel(width_px)
        elif kind == "disc":
            kernel = psf.disc_kernel(width_px)
        else:
            angle_deg = facts["angle_deg"] = stream.uniform(0.0, 180.0)
            kernel = psf.motion_kernel(width_px, angle_deg)
        kernel = psf.narrowed(kernel, sigma_px)
    return Blur(kind, {**facts, "sigma_px": psf.equivalent_sigma(kernel) / scale}, kernel)


def _draw_noise(kind: str, std: float, stream: Stream) -> Noise:
    grain_px = 0.0
    if kind in ("gaussian", "luminance"):
        grainy = stream.uniform(0.0, 1.0) < _GRAINY_SHARE
        grain_px = stream.uniform(*_GRAIN_SIGMAS_PX) if grainy else 0.0
    return Noise(kind, std, grain_px, stream)


def _draw_cast(kind: str, shift_ab: float, stream: Stream) -> Cast:
    """Moves a mid grey by ``shift_ab`` in the a*b* plane, if it can."""
    facts: Facts
    if kind == "veil":
        name = stream.choice([*TINTS])
        grey = np.full((1, 1, 3), 128, dtype=np.uint8)
        full = white_balance.mean_shift_ab(grey, color_cast.blend(grey, TINTS[name], 0.6))
        strength = min(0.6, 0.6 * shift_ab / full)
        return Cast(kind, {"tint": name, "strength": strength}, color_cast.table(TINTS[name], strength))
    if kind == "mixed":
        angle_deg = stream.uniform(0.0, 360.0)
        facts, path = {"angle_deg": angle_deg}, white_balance.mixed_path(angle_deg)
    elif kind == "tint":
        direction = stream.choice(("green", "magenta"))
        facts, path = {"direction": direction}, white_balance.tint_path(direction)
    else:
        direction = stream.choice(("warm", "cool"))
        facts, path = {"direction": direction}, white_balance.daylight_path(direction)
    gains = white_balance.at_shift(path, shift_ab)
    facts |= {f"gain_{name}": float(gain) for name, gain in zip("rgb", gains, strict=True)}
    return Cast(kind, facts, white_balance.table(gains))


def _draw_marking(kind: str, rms_difference: float, stream: Stream, side_px: int, scale: float) -> Marking:
    return Marking(kind, marks.draw(kind, side_px, scale, stream), rms_difference)
