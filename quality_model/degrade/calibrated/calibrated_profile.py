"""Label profile `calibrated`: a label says how much the image was changed, the same for every kind.

A sample gets a random number, 0 to 4, of degradations. First its scene is varied in ways that are no
degradation (`clean_variation`). Then they are applied in physical order: optics (blur), sensor (noise),
white balance (colour cast), now and then a frame, and the watermark. The strength of each is drawn as a
severity. Its effect is measured on this view, and the label is the severity of the measure
(`severity.SCALES`):

- blur: the equivalent sigma of the blur applied, combined with that of a soft source (variances add);
- noise: the RMS difference between the final image and the same image without noise;
- colour cast: the mean shift in the a*b* plane from the same image, watermark included, without cast; sepia
  and other toning of black-and-white images count, against the neutral image;
- watermark: the RMS colour difference that the watermark makes.

Afterwards many samples are recompressed, sharpened or slightly rescaled, as images are on their way to a
user. No label changes by it, so that a model learns to ignore it.
"""

from collections.abc import Mapping
from typing import ClassVar, Final

import cv2
import numpy as np
import numpy.typing as npt

from quality_model.core.pixels import Pixels
from quality_model.degrade.calibrated import calibrated_plan, clean_variation, watermark_overlay
from quality_model.degrade.calibrated.calibrated_plan import Plan
from quality_model.degrade.calibrated.point_spread import INTERPOLATIONS
from quality_model.degrade.calibrated.watermark_overlay import Overlay
from quality_model.degrade.randomness import SampleRandomness, Stream
from quality_model.degrade.severity import (
    SCALES,
    AppliedDegradation,
    DegradedSample,
    Facts,
    LookAlike,
    Profile,
    SeverityScale,
    colour_differences,
    mean_shift_ab,
    rms_of,
    to_lab,
)
from quality_model.records import HEADS, REFERENCE_SIDE_PX, Head

ORDER: Final[tuple[Head, ...]] = ("blurriness", "noise", "color_cast", "watermark")

RECOMPRESSED_SHARE: Final = 0.6
RESCALED_SHARE: Final = 0.2
SHARPENED_SHARE: Final = 0.12
WEBP_SHARE: Final = 0.15
"""Of the recompressed ones."""

QUALITIES: Final = (60, 98)
"""Of JPEG and WebP; a lower quality would be a degradation: blocks and lost detail."""

SMALLEST_FACTOR: Final = 0.85
"""Shrinking further and enlarging again would be a blur."""

SHARPENINGS: Final = (0.15, 0.8)
"""Amount of the unsharp mask."""

CELL_PX: Final = 16
"""Side of the cells of the map of watermarks, which is the stride of the network's map."""

_SAMPLINGS: Final = {
    "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
}


class CalibratedProfile(Profile):
    """Severities measured on the view (see the module)."""

    name: ClassVar[str] = "calibrated"
    kinds: ClassVar[Mapping[Head, tuple[str, ...]]] = {
        "color_cast": ("daylight", "tint", "mixed", "veil", "mixed_light", "water", "aged", "toned"),
        "blurriness": ("gaussian", "box", "motion", "disc", "low_resolution", "defocus", "shake"),
        "watermark": watermark_overlay.KINDS,
        "noise": ("gaussian", "luminance", "salt_and_pepper", "poisson", "speckle", "camera"),
    }
    shares: ClassVar[Mapping[str, int]] = {
        "defocus": 3,
        "shake": 2,
        "camera": 5,
        "tiled": 3,
        "badge": 2,
        "words": 3,
        "logo": 2,
    }
    source_kinds: ClassVar[Mapping[Head, tuple[str, ...]]] = {"blurriness": ("soft_source",)}
    label_ranges: ClassVar[Mapping[Head, tuple[float, float]]] = dict.fromkeys(HEADS, (0.0, 1.0))
    scales: ClassVar[Mapping[Head, SeverityScale]] = SCALES
    order: ClassVar[tuple[Head, ...] | None] = ORDER
    untouched_share: ClassVar[float] = calibrated_plan.COUNTS.count(0) / len(calibrated_plan.COUNTS)
    measures_softness: ClassVar[bool] = True
    has_tiles: ClassVar[bool] = True

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
        drawn = {
            head: tuple(kind for kind in kinds for _ in range(self.shares.get(kind, 1)))
            for head, kinds in self.kinds.items()
        }
        plan = calibrated_plan.draw_plan(randomness, drawn, side_px=side_px, scale=scale)
        varied, scene = clean_variation.scene(clean, randomness.stream("scene"))
        frame, framed = clean_variation.frame(randomness.stream("frame"), side_px)
        sample = self._carry_out(plan, varied, randomness, softness_px, frame)
        image, delivery = deliver(sample.image, randomness.stream("delivery"))
        delivery = {"scene": scene, "frame": framed, **delivery}
        known = {name: value for name, value in delivery.items() if value != ""}
        return DegradedSample(image, sample.applied, known, sample.watermark_map)

    def look_alike(self, clean: Pixels, randomness: SampleRandomness) -> LookAlike:
        """See `Profile.look_alike`: a variation of the scene, or a frame."""
        stream = randomness.stream("scene")
        lay, kind = clean_variation.frame(stream, clean.shape[0], share=0.3)
        return LookAlike(*((lay(clean), kind) if lay else clean_variation.scene(clean, stream, share=1.0)))

    def _carry_out(
        self,
        plan: Plan,
        clean: Pixels,
        randomness: SampleRandomness,
        softness_px: float,
        frame: clean_variation.Frame | None,
    ) -> DegradedSample:
        """The degradations, after they are drawn and before the delivery; a benchmark replaces it."""
        return carry_out(plan, clean, softness_px=softness_px, frame=frame)


def carry_out(
    plan: Plan, clean: Pixels, *, softness_px: float = 0.0, frame: clean_variation.Frame | None = None
) -> DegradedSample:
    """Degrade an image, uint8 (side, side, 3), as the plan says, and label it by the measured effects."""
    image = clean
    without: dict[Head, Pixels] = {}  # the same image without this one degradation
    found = _soft_source(softness_px)
    watermark_map = None
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
        if plan.cast.toned:
            image = clean_variation.grey(image)
            without = {head: clean_variation.grey(other) for head, other in without.items()}
        before = image
        image = plan.cast.apply(image)
        without = {head: plan.cast.apply(other) for head, other in without.items()}
        without["color_cast"] = before
        found["color_cast"] = plan.cast.kind, dict(plan.cast.facts)
    if frame is not None:
        image, without = frame(image), {head: frame(other) for head, other in without.items()}
    if plan.watermark is not None:
        overlay, before = plan.watermark.overlay, image
        opaque = rms_of(_differences(before, overlay.stamp(image, 1.0), overlay))
        opacity = plan.watermark.opacity(opaque)
        image = overlay.stamp(image, opacity)
        without = {head: overlay.stamp(other, opacity) for head, other in without.items()}
        differences = _differences(before, image, overlay)
        facts = {**overlay.facts, "opacity": opacity, "rms_difference": rms_of(differences)}
        left, top, width, height = (int(edge) for edge in cv2.boundingRect(overlay.coverage))
        box = {"left_px": left, "top_px": top, "width_px": width, "height_px": height}  # for labels of crops
        found["watermark"] = plan.watermark.kind, facts | box
        watermark_map = _severity_map(differences)
    if "color_cast" in without:
        found["color_cast"][1]["shift_ab"] = mean_shift_ab(without["color_cast"], image)
    if "noise" in without:
        change = image.astype(np.float32) - without["noise"]
        found["noise"][1]["rms_levels"] = rms_of(np.square(change))
    return DegradedSample(image, _labelled(found), watermark_map=watermark_map)


def _differences(before: Pixels, after: Pixels, overlay: Overlay) -> npt.NDArray[np.float32]:
    """Squared colour differences that a watermark makes, float32 (H, W): 0 where it is not."""
    differences = np.zeros(before.shape[:2], np.float32)
    if overlay.coverage.any():
        within = overlay.covered
        differences[within] = colour_differences(to_lab(before[within]), after[within])
    return differences


def _severity_map(differences: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The watermark's severity in each cell, float32 (H / 16, W / 16), from squared differences (H, W)."""
    height, width = (side // CELL_PX * CELL_PX for side in differences.shape)
    cells = differences[:height, :width].reshape(height // CELL_PX, CELL_PX, width // CELL_PX, CELL_PX)
    scale, rms = SCALES["watermark"], np.sqrt(cells.mean(axis=(1, 3)))
    severity = np.log1p(rms / scale.knee) / np.log1p(scale.worst / scale.knee)
    return np.asarray(np.minimum(1.0, severity), dtype=np.float32)


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


def deliver(pixels: Pixels, stream: Stream) -> tuple[Pixels, Facts]:
    """Rescale slightly, sharpen, recompress, as drawn from the stream; any of them or none.

    Returns:
        uint8 (height, width, 3), and what was done, as JSON values.
    """
    # Everything is drawn first: the number of draws must not depend on what is done.
    rescaled, sharpened, recompressed = (stream.uniform(0.0, 1.0) for _ in range(3))
    factor, down, up = stream.uniform(SMALLEST_FACTOR, 1.0), stream.integer(0, 1), stream.integer(0, 2)
    amount, radius_px = stream.uniform(*SHARPENINGS), stream.uniform(0.5, 1.2)
    quality, sampling = stream.integer(*QUALITIES), [*_SAMPLINGS][stream.integer(0, 1)]
    webp = stream.chance(WEBP_SHARE)
    facts: Facts = {}
    if rescaled < RESCALED_SHARE:
        facts = {"factor": factor}
        interpolation = cv2.INTER_AREA if down else cv2.INTER_LANCZOS4
        pixels = _rescale(pixels, factor, interpolation, [*INTERPOLATIONS.values()][up])
    if sharpened < SHARPENED_SHARE:
        facts |= {"sharpening": amount, "radius_px": radius_px}
        smooth = cv2.GaussianBlur(pixels, (0, 0), radius_px)
        pixels = np.asarray(cv2.addWeighted(pixels, 1.0 + amount, smooth, -amount, 0.0), dtype=np.uint8)
    if recompressed < RECOMPRESSED_SHARE:
        facts |= {"quality": quality} | ({"format": "WEBP"} if webp else {"sampling": sampling})
        in_jpeg = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, _SAMPLINGS[sampling]]
        suffix, options = (".webp", [cv2.IMWRITE_WEBP_QUALITY, quality]) if webp else (".jpg", in_jpeg)
        done, data = cv2.imencode(suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
        assert done
        pixels = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB), dtype=np.uint8)
    return pixels, facts


def _rescale(pixels: Pixels, factor: float, down: int, up: int) -> Pixels:
    """To a smaller side, 2 px at least, and back; ``down`` and ``up`` are OpenCV's interpolations."""
    height, width = pixels.shape[:2]
    reduced = (max(2, round(width * factor)), max(2, round(height * factor)))
    small = cv2.resize(pixels, reduced, interpolation=down)
    return np.asarray(cv2.resize(small, (width, height), interpolation=up), dtype=np.uint8)
