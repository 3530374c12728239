"""The degradations of a sample of profile `calibrated`, drawn before its pixels are touched.

Kinds, strengths, kernels, colour tables and watermarks depend on the randomness alone. Only the
amount of noise and the opacity of a watermark depend on the image too; both are functions of a
few of its measures.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from quality_model.core.pixels import Pixels
from quality_model.degrade import casts, noise
from quality_model.degrade.calibrated import point_spread as psf
from quality_model.degrade.calibrated import watermark_overlay
from quality_model.degrade.calibrated.watermark_overlay import Overlay
from quality_model.degrade.noise import Camera
from quality_model.degrade.randomness import SampleRandomness, Stream
from quality_model.degrade.severity import SCALES, Facts, mean_shift_ab
from quality_model.records import HEADS, REFERENCE_SIDE_PX, Head

Mask = npt.NDArray[np.float32]
"""float32 (height, width, 1), 0 to 1."""

DRAWN_SEVERITIES: Final = (0.05, 1.0)
"""Range of the severity that is aimed at; the label is the severity that is measured."""

_SKEW: Final = 1.2
"""A uniform number to this power is the place in that range: more are faint than strong, as in life."""

COUNTS: Final = (0, 1, 1, 1, 2, 2, 2, 3, 3, 4)
"""Numbers of degradations, all equally likely: more than in life, because a network learns from those."""

SEEN_SHARE: Final = 0.25
"""Of a view's pixels: as many may be sharper than the sigma that a blur counts with."""

POISSON_PEAKS: Final = tuple(round(3 * 2 ** (n / 2)) for n in range(20))
"""Mean counts of white that have tables: 3 to 2,172, each the root of 2 times the one before."""

_MOST_SALT_AND_PEPPER: Final = 0.3
_STRONGEST_SPECKLE: Final = 0.8
_GRAINY_SHARE: Final = 0.35
_GRAIN_SIGMAS_PX: Final = (0.4, 1.0)
_STRONGEST_CAMERA: Final = 0.85
_FILTERED_SHARE: Final = 0.15
_FAINTEST_OPACITY: Final = 0.04
_STRONGEST_VEIL: Final = 0.6
_DEEP_SHARE: Final = 0.45
_FAINTEST_CAST: Final = 0.02


@dataclass(frozen=True, slots=True)
class Blur:
    """A convolution with ``kernel``; without one, resampling by ``factor`` and ``interpolation``.

    ``depth`` says where the image is out of focus, and how much of the kernel's variance each place has.
    ``facts`` has the equivalent ``sigma_px`` in pixels of a 224 px image: with a depth, that of the sharper
    places (`SEEN_SHARE`), since an image with a sharp subject is sharp.
    """

    kind: str
    facts: Facts
    kernel: psf.Kernel | None = None
    factor: float = 1.0
    interpolation: str = ""
    depth: Mask | None = None

    def apply(self, pixels: Pixels) -> Pixels:
        """uint8 (height, width, 3) in and out."""
        if self.kernel is None:
            return psf.low_resolution(pixels, self.factor, self.interpolation)
        blurred = psf.blur(pixels, self.kernel)
        return blurred if self.depth is None else _mixed(pixels, blurred, self.depth)


@dataclass(frozen=True, slots=True)
class Noise:
    """Noise that aims at an RMS change of ``std`` grey levels; its bits come from ``stream``.

    ``filtered`` noise is smoothed afterwards where it does not look like an edge, as noise reduction does.
    """

    kind: str
    std: float
    grain_px: float
    stream: Stream
    camera: Camera | None = None
    filtered: bool = False

    def apply(self, pixels: Pixels) -> tuple[Pixels, Facts]:
        """The noisy image, uint8 (height, width, 3), and the parameters of the noise."""
        if self.camera is not None:
            field = self.camera.field(pixels, self.stream)
            noisy = np.clip(np.rint(pixels + np.float32(self.std) * field), 0, 255).astype(np.uint8)
            if self.filtered:
                noisy = np.asarray(cv2.bilateralFilter(noisy, 5, 2.0 * self.std, 1.2), dtype=np.uint8)
            return noisy, {"std": self.std, "filtered": int(self.filtered), **self.camera.facts()}
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
    """A change of colours: ``table``, uint8 (256, 3), has the new level of each level of each channel.

    ``lit`` says where a second light is, of which ``other`` is the table. ``toned`` is a cast of a
    black-and-white image: it has no other colours, but it is not neutral either.
    """

    kind: str
    facts: Facts
    table: Pixels
    other: Pixels | None = None
    lit: Mask | None = None
    toned: bool = False

    def apply(self, pixels: Pixels) -> Pixels:
        """uint8 (height, width, 3) in and out."""
        changed = casts.recolour(pixels, self.table)
        if self.other is None or self.lit is None:
            return changed
        return _mixed(changed, casts.recolour(pixels, self.other), self.lit)


@dataclass(frozen=True, slots=True)
class Watermark:
    """A watermark that aims at an RMS colour difference of ``rms_difference``, if its kind has no opacity."""

    kind: str
    overlay: Overlay
    rms_difference: float

    def opacity(self, opaque_difference: float) -> float:
        """Opacity in life, or what makes about the difference, given that of the opaque watermark."""
        if self.overlay.opacity is not None:
            return self.overlay.opacity
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
        kinds: The kinds to choose from; one that is named twice is drawn twice as often.
        side_px: Side of the view.
        scale: Pixels of this view per pixel of a 224 px image.
    """
    plan = randomness.stream("plan")
    chosen = plan.sample(HEADS, plan.choice(COUNTS))

    def begin(head: Head) -> tuple[str, float, Stream]:
        stream = randomness.stream(head)
        kind = stream.choice(kinds[head])
        low, high = DRAWN_SEVERITIES
        severity = low + (high - low) * stream.uniform(0.0, 1.0) ** _SKEW
        return kind, SCALES[head].measure_at(severity), stream

    return Plan(
        blur=_draw_blur(*begin("blurriness"), side_px, scale) if "blurriness" in chosen else None,
        noise=_draw_noise(*begin("noise")) if "noise" in chosen else None,
        cast=_draw_cast(*begin("color_cast"), side_px) if "color_cast" in chosen else None,
        watermark=_draw_watermark(*begin("watermark"), side_px, scale) if "watermark" in chosen else None,
    )


def _mixed(first: Pixels, second: Pixels, weight: Mask) -> Pixels:
    return np.rint(first + (second.astype(np.float32) - first) * weight).astype(np.uint8)


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
    elif kind == "shake":
        kernel = psf.narrowed(psf.shake_kernel(sigma_px, stream), sigma_px)
    else:
        width_px = facts["width_px"] = psf.width_for_sigma("disc" if kind == "defocus" else kind, sigma_px)
        if kind == "box":
            kernel = psf.box_kernel(width_px)
        elif kind in ("disc", "defocus"):
            kernel = psf.disc_kernel(width_px)
        else:
            angle_deg = facts["angle_deg"] = stream.uniform(0.0, 180.0)
            kernel = psf.motion_kernel(width_px, angle_deg)
        kernel = psf.narrowed(kernel, sigma_px)
    depth = None
    counted = 1.0
    if kind == "defocus" and stream.chance(_DEEP_SHARE):
        depth = _depth(side_px, stream)
        counted = float(np.sqrt(np.quantile(depth, SEEN_SHARE)))
    facts["sigma_px"] = counted * psf.equivalent_sigma(kernel) / scale
    return Blur(kind, facts, kernel, depth=depth)


def _depth(side_px: int, stream: Stream) -> Mask:
    """How far places are from the plane of focus, 0 to 1: a ramp over the ground, or a subject."""
    sharp = stream.choice((0.0, 0.0, stream.uniform(0.0, 0.8)))
    far = _gradient(side_px, stream) if stream.chance(0.5) else _subject(side_px, stream)
    return sharp + (1.0 - sharp) * far


def _gradient(side_px: int, stream: Stream) -> Mask:
    """From 0 to 1 along a direction, anywhere in the view."""
    y, x = np.mgrid[0:side_px, 0:side_px].astype(np.float32) / side_px - 0.5
    angle, steepness = stream.uniform(0.0, 2.0 * np.pi), stream.log_uniform(1.0, 6.0)
    along = np.cos(angle) * x + np.sin(angle) * y - stream.uniform(-0.35, 0.35)
    return np.asarray(np.clip(0.5 + steepness * along, 0.0, 1.0)[..., None], dtype=np.float32)


def _subject(side_px: int, stream: Stream) -> Mask:
    """0 in an ellipse and 1 far from it, or the other way round."""
    y, x = np.mgrid[0:side_px, 0:side_px].astype(np.float32) / side_px
    centre, radii = [stream.uniform(0.2, 0.8) for _ in "xy"], [stream.uniform(0.15, 0.5) for _ in "xy"]
    distance = np.hypot((x - centre[0]) / radii[0], (y - centre[1]) / radii[1])
    far = np.clip((distance - 1.0) * stream.log_uniform(1.0, 8.0) + 0.5, 0.0, 1.0)[..., None]
    return np.asarray(far if stream.chance(0.8) else 1.0 - far, dtype=np.float32)


def _draw_noise(kind: str, std: float, stream: Stream) -> Noise:
    if kind == "camera":
        most = SCALES["noise"].measure_at(_STRONGEST_CAMERA)
        filtered = stream.chance(_FILTERED_SHARE)
        return Noise(kind, min(std, most), 0.0, stream, Camera.draw(stream), filtered)
    grain_px = 0.0
    if kind in ("gaussian", "luminance"):
        grain_px = stream.uniform(*_GRAIN_SIGMAS_PX) if stream.chance(_GRAINY_SHARE) else 0.0
    return Noise(kind, std, grain_px, stream)


def _draw_cast(kind: str, shift_ab: float, stream: Stream, side_px: int) -> Cast:
    """Moves a mid grey by about ``shift_ab`` in the a*b* plane, or as far as the kind can."""
    facts: Facts
    if kind in ("veil", "water", "aged", "toned"):
        return _draw_table_cast(kind, shift_ab, stream)
    if kind == "mixed_light":
        angle_deg = stream.uniform(0.0, 360.0)
        first = casts.at_shift(casts.mixed_path(angle_deg), shift_ab)
        turn_deg, share = stream.uniform(-70.0, 70.0), stream.uniform(0.0, 0.8)
        second = casts.at_shift(casts.mixed_path(angle_deg + turn_deg), share * shift_ab)
        facts = {"angle_deg": angle_deg, "other_deg": angle_deg + turn_deg, "other_share": share}
        tables = [casts.gains_table(gains) for gains in (first, second)]
        lit = _gradient(side_px, stream) if stream.chance(0.5) else _subject(side_px, stream)
        return Cast(kind, facts, tables[0], tables[1], lit)
    if kind == "mixed":
        angle_deg = stream.uniform(0.0, 360.0)
        facts, path = {"angle_deg": angle_deg}, casts.mixed_path(angle_deg)
    elif kind == "tint":
        direction = stream.choice(("green", "magenta"))
        facts, path = {"direction": direction}, casts.tint_path(direction)
    else:
        direction = stream.choice(("warm", "cool"))
        facts, path = {"direction": direction}, casts.daylight_path(direction)
    gains = casts.at_shift(path, shift_ab)
    facts |= {f"gain_{name}": float(gain) for name, gain in zip("rgb", gains, strict=True)}
    return Cast(kind, facts, casts.gains_table(gains))


def _draw_table_cast(kind: str, shift_ab: float, stream: Stream) -> Cast:
    """Casts that tables make at a strength from 0 to 1, which is chosen for the shift."""
    toned = False
    if kind == "veil":
        name = stream.choice([*casts.TINTS])
        facts: Facts = {"tint": name}

        def table(strength: float) -> Pixels:
            return casts.blend_table(casts.TINTS[name], _STRONGEST_VEIL * strength)

    elif kind == "water":
        fading = np.array([stream.uniform(0.3, 2.2), stream.uniform(0.0, 0.6), stream.uniform(0.0, 0.9)])
        veil = np.array([stream.uniform(0, 50), stream.uniform(20, 150), stream.uniform(20, 160)])
        facts = {f"fading_{c}": float(f) for c, f in zip("rgb", fading, strict=True)}

        def table(strength: float) -> Pixels:
            return casts.veil_table(fading * strength, veil * strength)

    elif kind == "aged":
        exponents = np.array([stream.uniform(0.6, 1.3) for _ in range(3)])
        black = np.array([stream.uniform(0, 60), stream.uniform(0, 45), stream.uniform(0, 40)])
        white = np.array([stream.uniform(225, 255), stream.uniform(205, 250), stream.uniform(150, 240)])
        facts = {f"exponent_{c}": float(e) for c, e in zip("rgb", exponents, strict=True)}

        def table(strength: float) -> Pixels:
            faded = 255.0 + (white - 255.0) * strength
            return casts.gamma_table(exponents**strength, black * strength, faded)

    else:
        ink = np.array([stream.uniform(150, 240), stream.uniform(100, 190), stream.uniform(40, 140)])
        ink = ink if stream.chance(0.75) else ink[::-1]
        facts, toned = {"ink": "#" + "".join(f"{round(level):02x}" for level in ink)}, True

        def table(strength: float) -> Pixels:
            return casts.toning_table(ink, 1.2 * strength)

    strengths = np.linspace(0.0, 1.0, 9)
    grey = np.full((3, 3, 3), 128, dtype=np.uint8)
    moved = [mean_shift_ab(grey, casts.recolour(grey, table(strength))) for strength in strengths]
    strength = max(_FAINTEST_CAST, float(np.interp(shift_ab, np.maximum.accumulate(moved), strengths)))
    return Cast(kind, {**facts, "strength": strength}, table(strength), toned=toned)


def _draw_watermark(
    kind: str, rms_difference: float, stream: Stream, side_px: int, scale: float
) -> Watermark:
    zoom = 1.0 if stream.chance(0.5) else stream.log_uniform(1.0, 4.0)
    extent_px = max(side_px, REFERENCE_SIDE_PX * scale * zoom)
    return Watermark(kind, watermark_overlay.draw(kind, side_px, extent_px, stream), rms_difference)
