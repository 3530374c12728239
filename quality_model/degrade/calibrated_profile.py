"""Label profile `calibrated`: a label says what was done to the image, the same for every kind.

A sample gets a random number, 0 to 4, of degradations. They are applied in the order of life:
optics (blur), sensor (noise), white balance (colour cast), and then the mark. How strong each
is to be is drawn as a severity; what it came to is measured on this image, and the label is
the severity of the measure (`severity.SCALES`):

- blur: the equivalent sigma of what was applied, with that of a soft source added in squares;
- noise: the RMS difference between the final image and the same one without noise;
- colour cast: the mean shift in the a*b* plane from the same image without the cast, mark and all;
- watermark: the RMS colour difference that the mark makes.

Afterwards some samples are recompressed or slightly rescaled, which changes no label.
"""

from collections.abc import Mapping
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from quality_model.core.decoding import Pixels
from quality_model.degrade import calibrated_plan, marks, noise, white_balance
from quality_model.degrade import point_spread as psf
from quality_model.degrade.calibrated_plan import Blur, Facts, Noise, Plan
from quality_model.degrade.delivery import deliver
from quality_model.degrade.profile import AppliedDegradation, DegradedSample
from quality_model.degrade.randomness import SampleRandomness
from quality_model.degrade.severity import REFERENCE_SIDE_PX, SCALES, SeverityScale
from quality_model.records import HEADS, Head

ORDER: Final[tuple[Head, ...]] = ("blurriness", "noise", "color_cast", "watermark")


class CalibratedProfile:
    """Severities measured on the image (see the module)."""

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
        """The clean image as it is, labelled with the blur that it brought along."""
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
        side_px = clean.shape[0]
        scale = scale or side_px / REFERENCE_SIDE_PX
        plan = calibrated_plan.draw_plan(randomness, self.kinds, side_px=side_px, scale=scale)
        sample = self._carry_out(plan, clean, randomness, softness_px)
        image, delivery = deliver(sample.image, randomness.stream("delivery"))
        return DegradedSample(image, sample.applied, delivery)

    def _carry_out(
        self, plan: Plan, clean: Pixels, randomness: SampleRandomness, softness_px: float
    ) -> DegradedSample:
        """What comes between the plan and the delivery; the plan has drawn all that it needs."""
        return carry_out(plan, clean, softness_px=softness_px)


def carry_out(plan: Plan, clean: Pixels, *, softness_px: float = 0.0) -> DegradedSample:
    """Do to an image, uint8 (side, side, 3), what the plan says, and label it by what that came to."""
    applied: dict[Head, AppliedDegradation] = {}
    for soft in _soft_source(softness_px):
        applied[soft.head] = soft
    image = clean
    noise_facts: Facts = {}
    without_noise: Pixels | None = None
    without_cast: Pixels | None = None
    if plan.blur is not None:
        image = _blur(image, plan.blur)
        total = float(np.hypot(plan.blur.facts["sigma_px"], softness_px))  # variances of blurs add up
        facts = {**plan.blur.facts, "sigma_px": total, "source_sigma_px": softness_px}
        applied["blurriness"] = _labelled("blurriness", plan.blur.kind, facts)
    if plan.noise is not None:
        without_noise = image
        image, noise_facts = _noise(image, plan.noise)
    if plan.cast is not None:
        without_cast, image = image, _recolour(image, plan.cast.table)
        without_noise = None if without_noise is None else _recolour(without_noise, plan.cast.table)
    if plan.marking is not None:
        mark, lab = plan.marking.mark, white_balance.to_lab(image)
        full = marks.stamp(image, mark, 1.0)
        opacity = plan.marking.opacity(_rms_difference(lab, full))
        image = marks.stamp(image, mark, opacity)
        without_noise = None if without_noise is None else marks.stamp(without_noise, mark, opacity)
        without_cast = None if without_cast is None else marks.stamp(without_cast, mark, opacity)
        facts = {**mark.facts, "opacity": opacity, "rms_difference": _rms_difference(lab, image)}
        applied["watermark"] = _labelled("watermark", plan.marking.kind, facts)
    if plan.cast is not None and without_cast is not None:
        facts = {**plan.cast.facts, "shift_ab": white_balance.mean_shift_ab(without_cast, image)}
        applied["color_cast"] = _labelled("color_cast", plan.cast.kind, facts)
    if plan.noise is not None and without_noise is not None:
        facts = {**noise_facts, "rms_levels": _rms_levels(without_noise, image)}
        applied["noise"] = _labelled("noise", plan.noise.kind, facts)
    return DegradedSample(image, _in_order(applied))


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


def _labelled(head: Head, kind: str, facts: Facts) -> AppliedDegradation:
    measure = float(facts[SCALES[head].measure])
    return AppliedDegradation(head, kind, facts, 0, SCALES[head].severity(measure))


def _blur(pixels: Pixels, plan: Blur) -> Pixels:
    if plan.kernel is not None:
        return psf.blur(pixels, plan.kernel)
    return psf.low_resolution(pixels, plan.factor, plan.interpolation)


def _noise(pixels: Pixels, plan: Noise) -> tuple[Pixels, Facts]:
    """The image with noise, and what it was made with; it is measured later, on the final image."""
    levels = pixels.astype(np.float32)
    facts = plan.amount(float(levels.mean()), float(np.square(levels).mean()))
    match facts:
        case {"share": float(share)}:
            return noise.salt_and_pepper(pixels, share, plan.stream), facts
        case {"peak": int(peak)}:
            return noise.poisson(pixels, peak, plan.stream), facts
        case {"relative_std": float(relative_std)}:
            return noise.speckle(pixels, relative_std, plan.stream), facts
    coloured = plan.kind == "gaussian"
    image = noise.grainy(pixels, plan.std, plan.stream, coloured=coloured, grain_sigma_px=plan.grain_px)
    return image, facts


def _recolour(pixels: Pixels, table: Pixels) -> Pixels:
    return np.asarray(cv2.LUT(pixels, table[None]), dtype=np.uint8)


def _rms_levels(without: Pixels, final: Pixels) -> float:
    difference = final.astype(np.float32) - without
    return float(np.sqrt(np.square(difference).mean(dtype=np.float64)))


def _rms_difference(before_lab: npt.NDArray[np.float32], after: Pixels) -> float:
    """RMS over the image of the colour difference CIE 1976, from its Lab before."""
    difference = white_balance.to_lab(after)
    difference -= before_lab
    lightness, a, b = np.moveaxis(np.square(difference, out=difference), 2, 0)
    # As sum(axis=2) adds them, which is slow along so short an axis.
    return float(np.sqrt((lightness + a + b).mean(dtype=np.float64)))
