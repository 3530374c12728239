"""Severity sweeps: clean images degraded in rising steps by other software than the training data.

Only the strength changes along a sweep. So a score that means severity has to rise with it, whatever its
scale, for images and kinds that the generator of the training data cannot make (see `sweep_kinds`). The
same scores show cross-talk: how far the other heads move.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from quality_model.core.decoding import Pixels
from quality_model.evaluate import sweep_kinds as kinds
from quality_model.evaluate.evidence import Estimate, Sweep, decisive
from quality_model.evaluate.metrics import Bootstrap
from quality_model.records import HEADS, Head

Score = Callable[[Pixels], npt.NDArray[np.float64]]
"""uint8 (n, S, S, 3) to scores (n, 4) in [0, 1], in the order of `HEADS`."""

TOLERANCE: Final = 0.005
"""A score that falls by less counts as level: half of what two decimals show."""

_IMAGES_AT_ONCE: Final = 16
"""Bounds memory: 16 images of 224 px are 2.4 MB, and as many go through the model."""


@dataclass(frozen=True, slots=True)
class SeveritySweep:
    """One way to degrade, at rising levels.

    ``levels`` begin with 0, the clean image. ``degrade`` takes pixels, a level above 0 and a seed (see
    `sweep_kinds`); its name is the sweep's. ``unit`` is that of a level.
    """

    head: Head
    unit: str
    levels: tuple[float, ...]
    degrade: Callable[[Pixels, float, int], Pixels]

    @property
    def name(self) -> str:
        return self.degrade.__name__

    def step(self, pixels: Pixels, level: float, seed: int) -> Pixels:
        """An image, uint8 (S, S, 3), at one level; level 0 is the image itself."""
        return self.degrade(pixels, level, seed) if level else pixels


SWEEPS: Final = (
    SeveritySweep("color_cast", "error, mired", (0, 13, 29, 51, 77, 107), kinds.white_balance),
    SeveritySweep("color_cast", "shift in a*b*", (0, 5, 9, 15, 23, 33), kinds.lab_shift),
    SeveritySweep("color_cast", "density", (0, 0.07, 0.15, 0.25, 0.37, 0.51), kinds.photo_filter),
    SeveritySweep("blurriness", "sigma, px", (0, 0.9, 1.5, 2.5, 4.1, 6.7), kinds.pillow_gaussian),
    SeveritySweep("blurriness", "radius, px", (0, 2.1, 3.7, 5.9, 8.6, 12.3), kinds.hexagonal_aperture),
    SeveritySweep("blurriness", "times smaller", (0, 1.7, 2.6, 3.9, 5.9, 9.1), kinds.low_resolution),
    SeveritySweep("watermark", "opacity", (0, 0.12, 0.22, 0.37, 0.58, 0.83), kinds.turned_text),
    SeveritySweep("watermark", "opacity", (0, 0.09, 0.18, 0.31, 0.5, 0.74), kinds.text_grid),
    SeveritySweep("watermark", "opacity", (0, 0.14, 0.27, 0.44, 0.66, 0.92), kinds.logo),
    SeveritySweep("noise", "sigma, grey levels", (0, 4.3, 9.1, 17.3, 28.9, 46.1), kinds.white_noise),
    SeveritySweep("noise", "sigma, grey levels", (0, 4.7, 9.3, 16.9, 27.7, 43.3), kinds.film_grain),
    SeveritySweep("noise", "sigma, grey levels", (0, 5.9, 11.3, 20.3, 33.7, 53.9), kinds.sensor_noise),
)
"""Three for each head."""


@dataclass(frozen=True, slots=True)
class ScoredSweep:
    """A model's scores on a sweep.

    Attributes:
        sweep: Which.
        scores: (images, levels, 4) in [0, 1], in the order of `HEADS`.
        groups: (images,) the group of each image.
    """

    sweep: SeveritySweep
    scores: npt.NDArray[np.float64]
    groups: npt.NDArray[np.object_]

    def measure(self, bootstrap: Bootstrap) -> Sweep:
        """How the score of the sweep's head follows the level.

        ``monotone_share`` counts the images on which the score falls from no level to the next by more than
        `TOLERANCE`, and the severest level scores higher than the clean image by more than that: a constant
        score shows nothing.
        """
        scores = self.scores[:, :, HEADS.index(self.sweep.head)]  # (images, levels)
        num_images, num_levels = scores.shape
        levels = np.array(self.sweep.levels, dtype=np.float64)
        means, low, high, monotone = (), (), (), None
        if num_images:
            means = tuple(scores.mean(axis=0).tolist())
            low, high = (tuple(ends) for ends in np.quantile(scores, [0.25, 0.75], axis=0).tolist())
            falls_nowhere = (np.diff(scores, axis=1) >= -TOLERANCE).all(axis=1)
            rises = scores[:, -1] > scores[:, 0] + TOLERANCE
            monotone = float((falls_nowhere & rises).mean())
        measures = bootstrap.measures(
            np.tile(levels, num_images), scores.ravel(), np.repeat(self.groups, num_levels), constant=None
        )
        return Sweep(
            head=self.sweep.head,
            unit=self.sweep.unit,
            levels=tuple(levels.tolist()),
            mean_scores=means,
            low_scores=low,
            high_scores=high,
            spearman=measures.spearman,
            monotone_share=monotone,
            num_images=num_images,
        )


def score_sweeps(
    score: Score,
    images: npt.NDArray[np.uint8],
    rows: npt.ArrayLike,
    groups: npt.ArrayLike,
    *,
    seed: int,
    sweeps: Sequence[SeveritySweep] = SWEEPS,
) -> list[ScoredSweep]:
    """Degrade images step by step and score every step, a block of images at a time.

    Args:
        score: The model.
        images: uint8 (N, S, S, 3), possibly a memory map.
        rows: (n,) which of them to use; they should be clean.
        groups: (n,) the group of each.
        seed: Of what a sweep leaves to chance; each image has its own, the same on every level.
        sweeps: Which.
    """
    chosen = np.asarray(rows, dtype=np.int64)
    seeds = [int(np.random.SeedSequence([seed, place]).generate_state(1)[0]) for place in range(len(chosen))]
    scores = [np.empty((len(chosen), len(sweep.levels), len(HEADS))) for sweep in sweeps]
    for start in range(0, len(chosen), _IMAGES_AT_ONCE):
        block = slice(start, start + _IMAGES_AT_ONCE)
        clean = np.asarray(images[chosen[block]])
        at_rest = score(clean)
        for sweep, found in zip(sweeps, scores, strict=True):
            found[block, 0] = at_rest
            for position, level in enumerate(sweep.levels[1:], start=1):
                steps = [
                    sweep.step(pixels, level, own) for pixels, own in zip(clean, seeds[block], strict=True)
                ]
                found[block, position] = score(np.stack(steps))
    of_images = np.asarray(groups, dtype=object)
    return [ScoredSweep(sweep, found, of_images) for sweep, found in zip(sweeps, scores, strict=True)]


def rise(scored: Sequence[ScoredSweep], head: Head, bootstrap: Bootstrap) -> Estimate:
    """How far a head's mean score rises from clean to severest, on its sweep on which it rises least."""
    return _worst_movement(scored, head, head, bootstrap)


def cross_talk(scored: Sequence[ScoredSweep], head: Head, bootstrap: Bootstrap) -> dict[Head, Estimate]:
    """How far a head moves while another degradation goes from nothing to severe, by that degradation.

    The movement is the mean over images of the absolute difference of the head's scores, in [0, 1], so images
    that move up do not make up for those that move down. The sweep on which it is largest counts.
    """
    return {other: _worst_movement(scored, other, head, bootstrap) for other in HEADS if other != head}


def _worst_movement(
    scored: Sequence[ScoredSweep], degraded: Head, moved: Head, bootstrap: Bootstrap
) -> Estimate:
    found = {}
    for one in scored:
        if one.sweep.head == degraded:
            movement = (one.scores[:, -1] - one.scores[:, 0])[:, HEADS.index(moved)]  # (images,)
            values = movement if moved == degraded else np.abs(movement)
            found[one.sweep.name] = bootstrap.mean(values, one.groups)
    worst = decisive(found, min if moved == degraded else max)
    return worst[1] if worst else bootstrap.mean((), ())
