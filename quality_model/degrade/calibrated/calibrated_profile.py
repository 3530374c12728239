"""Label profile `calibrated`: a label says how much the image was changed, the same for every kind.

A sample gets a random number, 0 to 4, of degradations. They are applied in physical order:
optics (blur), sensor (noise), white balance (colour cast), and then the watermark. The strength
of each is drawn as a severity. Its effect is measured on this image, and the label is the
severity of the measure (`severity.SCALES`):

- blur: the equivalent sigma of the blur applied, combined with that of a soft source (variances add);
- noise: the RMS difference between the final image and the same image without noise;
- colour cast: the mean shift in the a*b* plane from the same image, watermark included, without cast;
- watermark: the RMS colour difference that the watermark makes.

Afterwards some samples are recompressed or slightly rescaled, as images are on their way to a user.
No label changes by it, so that a model learns to ignore it.
"""

from collections.abc import Mapping
from typing import ClassVar, Final

import cv2
import numpy as np

from quality_model.core.decoding import Pixels
from quality_model.degrade.calibrated import calibrated_plan, watermark_overlay
from quality_model.degrade.calibrated.calibrated_plan import Plan
from quality_model.degrade.calibrated.point_spread import INTERPOLATIONS
from quality_model.degrade.profile import AppliedDegradation, DegradedSample, Facts, Profile
from quality_model.degrade.randomness import SampleRandomness, Stream
from quality_model.degrade.seed.seed_kinds import recolour
from quality_model.degrade.severity import SCALES, SeverityScale, mean_shift_ab, rms_difference, to_lab
from quality_model.records import HEADS, REFERENCE_SIDE_PX, Head

ORDER: Final[tuple[Head, ...]] = ("blurriness", "noise", "color_cast", "watermark")

RECOMPRESSED_SHARE: Final = 0.5
RESCALED_SHARE: Final = 0.25
QUALITIES: Final = (60, 96)
"""Of JPEG; a lower quality would be a degradation: blocks and lost detail."""

SMALLEST_FACTOR: Final = 0.85
"""Shrinking further and enlarging again would be a blur."""

_SAMPLINGS: Final = {
    "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
}


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

    def keep(self, clean: Pixels, *, softness_px: float = 0.0) -> DegradedSample:
        """The clean image itself, labelled with the blur that it already has."""
        return DegradedSample(clean, _labelled(_soft_source(softness_px)))

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
    without: dict[Head, Pixels] = {}  # the same image without this one degradation
    found = _soft_source(softness_px)
    if plan.blur is not None:
        image = plan.blur.apply(image)
        total = float(np.hypot(plan.blur.facts["sigma_px"], softness_px))
        facts = {**plan.blur.facts, "sigma_px": total, "source_sigma_px": softness_px}
        found["blurriness"] = plan.blur.kind, facts
    if plan.noise is not None:
        without["noise"] = image
        image, facts = plan.noise.apply(image)
        found["noise"] = plan.noise.kind, facts
    if plan.cast is not None:
        table, before = plan.cast.table, image
        image = recolour(image, table)
        without = {head: recolour(other, table) for head, other in without.items()}
        without["color_cast"] = before
        found["color_cast"] = plan.cast.kind, dict(plan.cast.facts)
    if plan.watermark is not None:
        overlay, lab = plan.watermark.overlay, to_lab(image)
        opacity = plan.watermark.opacity(rms_difference(lab, overlay.stamp(image, 1.0)))
        image = overlay.stamp(image, opacity)
        without = {head: overlay.stamp(other, opacity) for head, other in without.items()}
        facts = {**overlay.facts, "opacity": opacity, "rms_difference": rms_difference(lab, image)}
        found["watermark"] = plan.watermark.kind, facts | _box(overlay.coverage)
    if "color_cast" in without:
        found["color_cast"][1]["shift_ab"] = mean_shift_ab(without["color_cast"], image)
    if "noise" in without:
        found["noise"][1]["rms_levels"] = _rms_levels(without["noise"], image)
    return DegradedSample(image, _labelled(found))


def _soft_source(softness_px: float) -> dict[Head, tuple[str, Facts]]:
    if softness_px <= 0.0:
        return {}
    return {"blurriness": ("soft_source", {"sigma_px": softness_px, "source_sigma_px": softness_px})}


def _labelled(found: Mapping[Head, tuple[str, Facts]]) -> tuple[AppliedDegradation, ...]:
    """Each kind and its parameters with the label of their measure, in the order of application."""
    applied = []
    for position, head in enumerate(head for head in ORDER if head in found):
        kind, facts = found[head]
        label = SCALES[head].severity(float(facts[SCALES[head].measure]))
        applied.append(AppliedDegradation(head, kind, facts, position, label))
    return tuple(applied)


def _box(coverage: Pixels) -> Facts:
    """Where the watermark is, in pixels of the sample; a crop's label is computed from it."""
    left, top, width, height = (int(edge) for edge in cv2.boundingRect(coverage))
    return {"left_px": left, "top_px": top, "width_px": width, "height_px": height}


def _rms_levels(without: Pixels, final: Pixels) -> float:
    difference = final.astype(np.float32) - without
    return float(np.sqrt(np.square(difference).mean(dtype=np.float64)))


def deliver(pixels: Pixels, stream: Stream) -> tuple[Pixels, Facts]:
    """Rescale slightly, recompress, both or neither, as drawn from the stream.

    Returns:
        uint8 (height, width, 3), and what was done, as JSON values.
    """
    # Everything is drawn first: the number of draws must not depend on what is done.
    rescaled, recompressed = stream.uniform(0.0, 1.0), stream.uniform(0.0, 1.0)
    factor, down, up = stream.uniform(SMALLEST_FACTOR, 1.0), stream.integer(0, 1), stream.integer(0, 2)
    quality, sampling = stream.integer(*QUALITIES), [*_SAMPLINGS][stream.integer(0, 1)]
    facts: Facts = {}
    if rescaled < RESCALED_SHARE:
        facts = {"factor": factor}
        interpolation = cv2.INTER_AREA if down else cv2.INTER_LANCZOS4
        pixels = _rescale(pixels, factor, interpolation, [*INTERPOLATIONS.values()][up])
    if recompressed < RECOMPRESSED_SHARE:
        facts |= {"quality": quality, "sampling": sampling}
        pixels = _recompress(pixels, quality, sampling)
    return pixels, facts


def _recompress(pixels: Pixels, quality: int, sampling: str) -> Pixels:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, _SAMPLINGS[sampling]]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    assert done
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB), dtype=np.uint8)


def _rescale(pixels: Pixels, factor: float, down: int, up: int) -> Pixels:
    """To a smaller side, 2 px at least, and back; ``down`` and ``up`` are OpenCV's interpolations."""
    height, width = pixels.shape[:2]
    reduced = (max(2, round(width * factor)), max(2, round(height * factor)))
    small = cv2.resize(pixels, reduced, interpolation=down)
    return np.asarray(cv2.resize(small, (width, height), interpolation=up), dtype=np.uint8)
