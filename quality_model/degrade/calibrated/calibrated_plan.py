"""The degradations of a sample of profile `calibrated`, drawn before its pixels are touched.

Kinds, strengths, kernels, colour tables and watermarks depend on the randomness alone. Only the
amount of noise and the opacity of a watermark depend on the image too; both are functions of a
few of its measures.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from quality_model.core.decoding import Pixels
from quality_model.degrade import noise
from quality_model.degrade.calibrated import point_spread as psf
from quality_model.degrade.calibrated import watermark_overlay, white_balance
from quality_model.degrade.calibrated.watermark_overlay import Overlay
from quality_model.degrade.profile import Facts
from quality_model.degrade.randomness import SampleRandomness, Stream
from quality_model.degrade.seed import seed_kinds
from quality_model.degrade.severity import SCALES, mean_shift_ab
from quality_model.records import HEADS, Head

DRAWN_SEVERITIES: Final = (0.1, 1.0)
"""Range of the severity that is aimed at, uniformly; the label is the severity that is measured."""

POISSON_PEAKS: Final = tuple(round(3 * 2 ** (n / 2)) for n in range(20))
"""Mean counts of white that have tables: 3 to 2,172, each the root of 2 times the one before."""

_MOST_SALT_AND_PEPPER: Final = 0.3
_STRONGEST_SPECKLE: Final = 0.8
_GRAINY_SHARE: Final = 0.35
_GRAIN_SIGMAS_PX: Final = (0.4, 1.0)
_FAINTEST_OPACITY: Final = 0.06
_STRONGEST_VEIL: Final = 0.6


@dataclass(frozen=True, slots=True)
class Blur:
    """A convolution with ``kernel``; without one, resampling by ``factor`` and ``interpolation``.

    ``facts`` has its equivalent ``sigma_px``, in pixels of a 224 px image.
    """

    kind: str
    facts: Facts
    kernel: psf.Kernel | None = None
    factor: float = 1.0
    interpolation: str = ""

    def apply(self, pixels: Pixels) -> Pixels:
        """uint8 (height, width, 3) in and out."""
        if self.kernel is not None:
            return psf.blur(pixels, self.kernel)
        return psf.low_resolution(pixels, self.factor, self.interpolation)


@dataclass(frozen=True, slots=True)
class Noise:
    """Noise that aims at an RMS change of ``std`` grey levels; its bits come from ``stream``."""

    kind: str
    std: float
    grain_px: float
    stream: Stream

    def apply(self, pixels: Pixels) -> tuple[Pixels, Facts]:
        """The noisy image, uint8 (height, width, 3), and the parameters of the noise."""
        levels = pixels.astype(np.float32)
        mean, mean_square = float(levels.mean()), float(np.square(levels).mean())
        if self.kind == "salt_and_pepper":
            change = (255.0**2 - 510.0 * mean + 2.0 * mean_square) / 2.0  # of turning white or black, squared
            share = min(_MOST_SALT_AND_PEPPER, self.std**2 / change)
            return noise.salt_and_pepper(pixels, share, self.stream), {"share": share}
        if self.kind == "poisson":
            wanted = np.log(max(1.0, 255.0 * mean) / self.std**2)
            peak = min(POISSON_PEAKS, key=lambda count: abs(np.log(count) - wanted))
            return noise.poisson(pixels, peak, self.stream), {"peak": peak}
        if self.kind == "speckle":
            relative_std = min(_STRONGEST_SPECKLE, self.std / max(1.0, mean_square**0.5))
            return noise.speckle(pixels, relative_std, self.stream), {"relative_std": relative_std}
        coloured = self.kind == "gaussian"
        noisy = noise.gaussian(pixels, self.std, self.stream, coloured=coloured, grain_sigma_px=self.grain_px)
        return noisy, {"std": self.std, "grain_sigma_px": self.grain_px}


@dataclass(frozen=True, slots=True)
class Cast:
    """A change of colours: ``table``, uint8 (256, 3), has the new level of each level of each channel."""

    kind: str
    facts: Facts
    table: Pixels


@dataclass(frozen=True, slots=True)
class Watermark:
    """A watermark that aims at an RMS colour difference of ``rms_difference``."""

    kind: str
    overlay: Overlay
    rms_difference: float

    def opacity(self, opaque_difference: float) -> float:
        """Opacity that makes about this difference, given the difference that the opaque watermark makes."""
        return min(1.0, max(_FAINTEST_OPACITY, self.rms_difference / max(opaque_difference, 1e-6)))


@dataclass(frozen=True, slots=True)
class Plan:
    """The degradations of one sample; None for those that are not applied."""

    blur: Blur | None
    noise: Noise | None
    cast: Cast | None
    watermark: Watermark | None


def draw_plan(
    randomness: SampleRandomness, kinds: Mapping[Head, tuple[str, ...]], *, side_px: int, scale: float
) -> Plan:
    """Draw 0 to 4 degradations.

    Args:
        randomness: Of the sample.
        kinds: The kinds to choose from.
        side_px: Side of the image.
        scale: Pixels of this image per pixel of a 224 px image.
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
        watermark=_draw_watermark(*begin("watermark"), side_px, scale) if "watermark" in chosen else None,
    )


def _draw_blur(kind: str, sigma_224_px: float, stream: Stream, side_px: int, scale: float) -> Blur:
    sigma_px = sigma_224_px * scale
    facts: Facts = {}
    if kind == "low_resolution":
        interpolation = stream.choice([*psf.INTERPOLATIONS])
        factor = float(np.hypot(1.0, sigma_px / psf.RESAMPLED_SIGMAS[interpolation]))
        actual_px = psf.resampled_sigma(side_px, factor, interpolation)
        facts = {"factor": factor, "interpolation": interpolation, "sigma_px": actual_px / scale}
        return Blur(kind, facts, factor=factor, interpolation=interpolation)
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
    """Moves a mid grey by ``shift_ab`` in the a*b* plane, or as far as the kind can."""
    facts: Facts
    if kind == "veil":
        name = stream.choice([*seed_kinds.TINTS])
        grey = np.full((1, 1, 3), 128, dtype=np.uint8)
        full = mean_shift_ab(grey, seed_kinds.blend(grey, seed_kinds.TINTS[name], _STRONGEST_VEIL))
        strength = min(_STRONGEST_VEIL, _STRONGEST_VEIL * shift_ab / full)
        table = seed_kinds.blend_table(seed_kinds.TINTS[name], strength)
        return Cast(kind, {"tint": name, "strength": strength}, table)
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
    return Cast(kind, facts, white_balance.gains_table(gains))


def _draw_watermark(
    kind: str, rms_difference: float, stream: Stream, side_px: int, scale: float
) -> Watermark:
    return Watermark(kind, watermark_overlay.draw(kind, side_px, scale, stream), rms_difference)
