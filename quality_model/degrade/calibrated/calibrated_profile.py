"""Label profile `calibrated`: a label says how much the image was changed, the same for every kind.

A sample gets a random number, 0 to 4, of degradations. They are applied in physical order:
optics (blur), sensor (noise), white balance (colour cast), and then the watermark. The strength
of each is drawn as a severity. Its effect is measured on this image, and the label is the
severity of the measure (`severity.SCALES`):

- blur: the equivalent sigma of the blur applied, combined with that of a soft source (variances add);
- noise: the RMS difference between the final image and the same image without noise;
- colour cast: the mean shift in the a*b* plane from the same image, watermark included, without cast;
- watermark: the RMS colour difference that the watermark makes.

Afterwards some samples are recompressed or slightly rescaled, which changes no label.
"""

from collections.abc import Mapping
from typing import ClassVar, Final

import cv2
import numpy as np

from quality_model.core.decoding import Pixels
from quality_model.degrade.calibrated import calibrated_plan, watermark_overlay
from quality_model.degrade.calibrated.calibrated_plan import Plan
from quality_model.degrade.calibrated.delivery import deliver
from quality_model.degrade.cielab import mean_shift_ab, rms_difference, to_lab
from quality_model.degrade.profile import AppliedDegradation, DegradedSample, Facts, Profile
from quality_model.degrade.randomness import SampleRandomness
from quality_model.degrade.seed.tints import recolour
from quality_model.degrade.severity import SCALES, SeverityScale
from quality_model.records import HEADS, REFERENCE_SIDE_PX, Head

ORDER: Final[tuple[Head, ...]] = ("blurriness", "noise", "color_cast", "watermark")


class CalibratedProfile(Profile):
    """Severities measured on the image (see the module)."""

    name: ClassVar[str] = "calibrated"
    kinds: ClassVar[Mapping[Head, tuple[str, ...]]] = {
        "color_cast": ("daylight", "tint", "mixed", "veil"),
        "blurriness": ("gaussian", "box", "motion", "disc", "low_resolution"),
        "watermark": watermark_overlay.KINDS,
        "noise": ("gaussian", "luminance", "salt_and_pepper", "poisson", "speckle"),
    }
    source_kinds: ClassVar[Mapping[Head, tuple[str, ...]]] = {"blurriness": ("soft_source",)}
    label_ranges: ClassVar[Mapping[Head, tuple[float, float]]] = dict.fromkeys(HEADS, (0.0, 1.0))
    scales: ClassVar[Mapping[Head, SeverityScale]] = SCALES
    order: ClassVar[tuple[Head, ...] | None] = ORDER
    measures_softness: ClassVar[bool] = True

    def keep(
        self, clean: Pixels, randomness: SampleRandomness, *, softness_px: float = 0.0
    ) -> DegradedSample:
        """The clean image itself, labelled with the blur that it already has."""
        return DegradedSample(clean, _in_order(_soft_source(softness_px)))

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
        """The degradations, after they are drawn and before the delivery; a benchmark replaces it."""
        return carry_out(plan, clean, softness_px=softness_px)


def carry_out(plan: Plan, clean: Pixels, *, softness_px: float = 0.0) -> DegradedSample:
    """Degrade an image, uint8 (side, side, 3), as the plan says, and label it by the measured effects."""
    image = clean
    without_noise: Pixels | None = None  # the same image without this one degradation
    without_cast: Pixels | None = None
    noise_facts: Facts = {}
    applied = _soft_source(softness_px)
    if plan.blur is not None:
        image = plan.blur.apply(image)
        total = float(np.hypot(plan.blur.facts["sigma_px"], softness_px))
        facts = {**plan.blur.facts, "sigma_px": total, "source_sigma_px": softness_px}
        applied["blurriness"] = _labelled("blurriness", plan.blur.kind, facts)
    if plan.noise is not None:
        without_noise = image
        image, noise_facts = plan.noise.apply(image)
    if plan.cast is not None:
        without_cast, image = image, recolour(image, plan.cast.table)
        without_noise = None if without_noise is None else recolour(without_noise, plan.cast.table)
    if plan.watermark is not None:
        overlay, lab = plan.watermark.overlay, to_lab(image)
        opacity = plan.watermark.opacity(rms_difference(lab, overlay.stamp(image, 1.0)))
        image = overlay.stamp(image, opacity)
        without_noise = None if without_noise is None else overlay.stamp(without_noise, opacity)
        without_cast = None if without_cast is None else overlay.stamp(without_cast, opacity)
        facts = {**overlay.facts, "opacity": opacity, "rms_difference": rms_difference(lab, image)}
        applied["watermark"] = _labelled("watermark", plan.watermark.kind, facts | _box(overlay.coverage))
    if plan.cast is not None and without_cast is not None:
        facts = {**plan.cast.facts, "shift_ab": mean_shift_ab(without_cast, image)}
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


def _soft_source(softness_px: float) -> dict[Head, AppliedDegradation]:
    if softness_px <= 0.0:
        return {}
    facts: Facts = {"sigma_px": softness_px, "source_sigma_px": softness_px}
    return {"blurriness": _labelled("blurriness", "soft_source", facts)}


def _labelled(head: Head, kind: str, facts: Facts) -> AppliedDegradation:
    measure = float(facts[SCALES[head].measure])
    return AppliedDegradation(head, kind, facts, 0, SCALES[head].severity(measure))


def _box(coverage: Pixels) -> Facts:
    """Where the watermark is, in pixels of the sample; a crop's label is computed from it."""
    left, top, width, height = (int(edge) for edge in cv2.boundingRect(coverage))
    return {"left_px": left, "top_px": top, "width_px": width, "height_px": height}


def _rms_levels(without: Pixels, final: Pixels) -> float:
    difference = final.astype(np.float32) - without
    return float(np.sqrt(np.square(difference).mean(dtype=np.float64)))
