"""Profile `calibrated` with one known defect of the original put back, to measure what that defect costs.

Nothing else changes: the other heads keep their kinds, their order and their measured labels.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

import cv2
import numpy as np

from quality_model.core.decoding import Pixels
from quality_model.degrade import seed
from quality_model.degrade.calibrated.calibrated_plan import Plan
from quality_model.degrade.calibrated.calibrated_profile import ORDER, CalibratedProfile, carry_out
from quality_model.degrade.calibrated.clean_variation import Frame
from quality_model.degrade.randomness import SampleRandomness, Stream
from quality_model.degrade.severity import AppliedDegradation, DegradedSample
from quality_model.records import HEADS, REFERENCE_SIDE_PX, Head
from quality_model.train.variation import vary

_NOTHING: Final = Plan(None, None, None, None)
_SOFT_SHARE: Final = 0.5
_SOFT_SIDE_PX: Final = 64


@dataclass(frozen=True)
class Defective(CalibratedProfile):
    """Degrades as `calibrated` does, save for one of the defects.

    ``seed_head`` is degraded and labelled by profile `seed`, in its place of the order. With
    ``random_order`` every head is degraded in turn, in random order, and labelled at once, so
    that a label says nothing of what came after it.
    """

    seed_head: Head | None = None
    random_order: bool = False

    def _carry_out(
        self,
        plan: Plan,
        clean: Pixels,
        randomness: SampleRandomness,
        softness_px: float,
        frame: Frame | None,
    ) -> DegradedSample:
        image, applied = clean, list[AppliedDegradation]()
        for heads in self._turns(randomness):
            part_plan = _only(plan, heads)
            if heads != [self.seed_head]:
                soft_px = softness_px if "blurriness" in heads else 0.0
                part = carry_out(part_plan, image, softness_px=soft_px)
                image, applied = part.image, [*applied, *part.applied]
            elif part_plan != _NOTHING:
                image, label = _as_seed(heads[0], image, randomness)
                applied.append(AppliedDegradation(heads[0], "seed", {}, 0, label))
        return DegradedSample(image if frame is None else frame(image), tuple(applied))

    def _turns(self, randomness: SampleRandomness) -> list[list[Head]]:
        """Heads that are degraded together, in order."""
        if self.random_order:
            return [[head] for head in randomness.stream("order").sample(HEADS, len(HEADS))]
        if self.seed_head is None:
            return [list(ORDER)]
        place = ORDER.index(self.seed_head)
        return [list(ORDER[:place]), [self.seed_head], list(ORDER[place + 1 :])]


def vary_enlarging(clean: Pixels, side_px: int, size_px: int, stream: Stream) -> Pixels:
    """As `vary`; but half of the images were 64 px at 224 px, and were enlarged: soft, and called clean."""
    image = vary(clean, side_px, size_px, stream)
    if stream.uniform(0.0, 1.0) >= _SOFT_SHARE:
        return image
    small_px = max(1, round(side_px * _SOFT_SIDE_PX / REFERENCE_SIDE_PX))
    small = cv2.resize(image, (small_px, small_px), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (side_px, side_px), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def _only(plan: Plan, heads: Iterable[Head | None]) -> Plan:
    return replace(
        plan,
        blur=plan.blur if "blurriness" in heads else None,
        noise=plan.noise if "noise" in heads else None,
        cast=plan.cast if "color_cast" in heads else None,
        watermark=plan.watermark if "watermark" in heads else None,
    )


def _as_seed(head: Head, image: Pixels, randomness: SampleRandomness) -> tuple[Pixels, float]:
    """The head's degradation and label of profile `seed`."""
    stream = randomness.stream(head)
    strength = stream.uniform(*seed.STRENGTHS[head])
    kind = stream.choice(seed.SeedProfile.kinds[head])
    return seed.STEPS[head](image, kind, strength, stream)[0], strength
