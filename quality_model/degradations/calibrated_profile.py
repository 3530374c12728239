"""Label profile `calibrated`: a label says what was done to the picture, the same for every kind.

A sample gets a random number, 0 to 4, of degradations. They are applied in the order of life:
optics (blur), sensor (noise), white balance (colour cast), and then the mark. How strong each
is to be is drawn as a severity; what it came to is measured on this picture, and the label is
the severity of the measure (`severity.SCALES`):

- blur: the equivalent sigma of what was applied, with that of a soft source added in squares;
- noise: the RMS difference between the final picture and the same one without noise;
- colour cast: the mean shift of the picture in the a*b* plane;
- watermark: the RMS colour difference that the mark makes.

Afterwards some samples are recompressed or slightly rescaled, which changes no label.
"""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from quality_model.degradations import color_cast, marks, noise, white_balance
from quality_model.degradations import point_spread as psf
from quality_model.degradations.delivery import deliver
from quality_model.degradations.profile import AppliedDegradation, DegradedSample
from quality_model.degradations.randomness import SampleRandomness, Stream
from quality_model.degradations.seed_profile import TINTS
from quality_model.degradations.severity import REFERENCE_SIDE_PX, SCALES, SeverityScale
from quality_model.images import Pixels
from quality_model.records import HEADS, Head

ORDER: Final[tuple[Head, ...]] = ("blurriness", "noise", "color_cast", "watermark")

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
_Step = tuple[Pixels, Facts]
"""The new picture, and what it was made with."""


class CalibratedProfile:
    """Severities measured on the picture (see the module)."""

    name: Final = "calibrated"
    kinds: Final[Mapping[Head, tuple[str, ...]]] = {
        "color_cast": ("daylight", "tint", "mixed", "veil"),
        "blurriness": ("gaussian", "box", "motion", "disc", "low_resolution"),
        "watermark": marks.KINDS,
        "noise": ("gaussian", "luminance", "salt_and_pepper", "poisson", "speckle"),
    }
    source_kinds: Final[Mapping[Head, tuple[str, ...]]] = {"blurriness": ("soft_source",)}
    label_ranges: Final[Mapping[Head, tuple[float, float]]] = dict.fromkeys(HEADS, (0.0, 1.0))
    scales: Final[Mapping[Head, SeverityScale]] = SCALES
    order: Final[tuple[Head, ...] | None] = ORDER
    untouched_share: Final = 1.0 / (len(HEADS) + 1)
    measures_softness: Final = True

    def keep(
        self, clean: Pixels, randomness: SampleRandomness, *, softness_px: float = 0.0
    ) -> DegradedSample:
        """The clean picture as it is, labelled with the blur that it brought along."""
        return DegradedSample(clean, _soft_source(softness_px))

    def degrade(
        self,
        clean: Pixels,
        randomness: SampleRandomness,
        *,
        softness_px: float = 0.0,
        scale: float | None = None,
    ) -> DegradedSample:
        """Apply 0 to 4 of the degradations; uint8 (side, side, 3) in and out."""
        scale = scale or clean.shape[0] / REFERENCE_SIDE_PX
        plan = randomness.stream("plan")
        chosen = plan.sample(HEADS, plan.integer(0, len(HEADS)))
        applied: dict[Head, AppliedDegradation] = {}
        for soft in _soft_source(softness_px):
            applied[soft.head] = soft
        image = clean
        without_noise: Pixels | None = None
        for head in (head for head in ORDER if head in chosen):
            stream = randomness.stream(head)
            kind = stream.choice(self.kinds[head])
            aim = SCALES[head].measure_at(stream.uniform(*DRAWN_SEVERITIES))
            before = image
            if head == "blurriness":
                image, facts = _blur(image, kind, aim, scale, stream)
                total = float(np.hypot(facts["sigma_px"], softness_px))  # variances of blurs add up
                facts = {**facts, "sigma_px": total, "source_sigma_px": softness_px}
            elif head == "noise":
                image, facts = _noise(image, kind, aim, stream)
                without_noise = before
            elif head == "color_cast":
                recolour, facts = _cast(kind, aim, stream)
                image = recolour(before)
                facts["shift_ab"] = white_balance.mean_shift_ab(before, image)
                without_noise = None if without_noise is None else recolour(without_noise)
            else:
                mark, opacity, facts = _mark(image, kind, aim, scale, stream)
                image = marks.stamp(image, mark, opacity)
                facts["rms_difference"] = _rms_difference(before, image)
                without_noise = None if without_noise is None else marks.stamp(without_noise, mark, opacity)
            measure = float(facts.get(SCALES[head].measure, 0.0))
            applied[head] = AppliedDegradation(head, kind, facts, 0, SCALES[head].severity(measure))
        if without_noise is not None:
            applied["noise"] = _with_measured_noise(applied["noise"], without_noise, image)
        image, delivery = deliver(image, randomness.stream("delivery"))
        return DegradedSample(image, _in_order(applied), delivery)


def _in_order(applied: Mapping[Head, AppliedDegradation]) -> tuple[AppliedDegradation, ...]:
    """Positions counted from 0 in the order of application."""
    found = [applied[head] for head in ORDER if head in applied]
    return tuple(
        AppliedDegradation(one.head, one.kind, one.parameters, position, one.label)
        for position, one in enumerate(found)
    )


def _soft_source(softness_px: float) -> tuple[AppliedDegradation, ...]:
    if softness_px <= 0.0:
        return ()
    label = SCALES["blurriness"].severity(softness_px)
    facts: Facts = {"sigma_px": softness_px, "source_sigma_px": softness_px}
    return (AppliedDegradation("blurriness", "soft_source", facts, 0, label),)


def _blur(pixels: Pixels, kind: str, sigma_224_px: float, scale: float, stream: Stream) -> _Step:
    """``sigma_px`` of the facts is at 224 px."""
    sigma_px = sigma_224_px * scale
    facts: Facts = {}
    if kind == "low_resolution":
        way = stream.choice([*psf.INTERPOLATIONS])
        factor = float(np.hypot(1.0, sigma_px / psf.RESAMPLED_SIGMAS[way]))
        image, actual_px = psf.low_resolution(pixels, factor, way)
        return image, {"factor": factor, "interpolation": way, "sigma_px": actual_px / scale}
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
    return psf.blur(pixels, kernel), {**facts, "sigma_px": psf.equivalent_sigma(kernel) / scale}


def _noise(pixels: Pixels, kind: str, std: float, stream: Stream) -> _Step:
    """Aims at an RMS change of ``std`` grey levels; the measure is taken later, from the final picture."""
    if kind in ("gaussian", "luminance"):
        grainy = stream.uniform(0.0, 1.0) < _GRAINY_SHARE
        grain_px = stream.uniform(*_GRAIN_SIGMAS_PX) if grainy else 0.0
        image = noise.grainy(pixels, std, stream, coloured=kind == "gaussian", grain_sigma_px=grain_px)
        return image, {"std": std, "grain_sigma_px": grain_px}
    levels = pixels.astype(np.float32)
    mean, mean_square = float(levels.mean()), float(np.square(levels).mean())
    if kind == "salt_and_pepper":
        change = (255.0**2 - 510.0 * mean + 2.0 * mean_square) / 2.0  # mean square of turning white or black
        share = min(_MOST_SALT_AND_PEPPER, std**2 / change)
        return noise.salt_and_pepper(pixels, share, stream), {"share": share}
    if kind == "poisson":
        wanted = np.log(max(1.0, 255.0 * mean) / std**2)
        peak = min(POISSON_PEAKS, key=lambda count: abs(np.log(count) - wanted))
        return noise.poisson(pixels, peak, stream), {"peak": peak}
    relative = min(_STRONGEST_SPECKLE, std / max(1.0, mean_square**0.5))
    return noise.speckle(pixels, relative, stream), {"relative_std": relative}


def _with_measured_noise(applied: AppliedDegradation, without: Pixels, final: Pixels) -> AppliedDegradation:
    difference = final.astype(np.float32) - without
    rms = float(np.sqrt(np.square(difference).mean(dtype=np.float64)))
    facts = {**applied.parameters, "rms_levels": rms}
    return AppliedDegradation("noise", applied.kind, facts, 0, SCALES["noise"].severity(rms))


def _cast(kind: str, shift_ab: float, stream: Stream) -> tuple[Callable[[Pixels], Pixels], Facts]:
    """A change of colours that moves a mid grey by ``shift_ab`` in the a*b* plane, if it can."""
    facts: Facts
    if kind == "veil":
        name = stream.choice([*TINTS])
        grey = np.full((1, 1, 3), 128, dtype=np.uint8)
        full = white_balance.mean_shift_ab(grey, color_cast.blend(grey, TINTS[name], 0.6))
        strength = min(0.6, 0.6 * shift_ab / full)
        facts = {"tint": name, "strength": strength}
        return lambda pixels: color_cast.blend(pixels, TINTS[name], strength), facts
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
    return lambda pixels: white_balance.apply_gains(pixels, gains), facts


def _mark(
    pixels: Pixels, kind: str, rms_difference: float, scale: float, stream: Stream
) -> tuple[marks.Mark, float, Facts]:
    """A mark, and the opacity at which it makes about this difference."""
    mark = marks.draw(kind, pixels.shape[0], scale, stream)
    full = _rms_difference(pixels, marks.stamp(pixels, mark, 1.0))
    opacity = min(1.0, max(_FAINTEST_OPACITY, rms_difference / max(full, 1e-6)))
    return mark, opacity, {**mark.facts, "opacity": opacity}


def _rms_difference(before: Pixels, after: Pixels) -> float:
    """RMS over the picture of the colour difference CIE 1976."""
    difference = white_balance.to_lab(after) - white_balance.to_lab(before)
    return float(np.sqrt(np.square(difference).sum(axis=2).mean(dtype=np.float64)))
