"""Severity ladders: clean images degraded step by step by a second implementation.

On a ladder only the strength changes, so a score that means severity has to rise with it,
whatever its scale. Two figures say whether it does, for images and kinds that the
generator of the training data cannot make (see `ladder_kinds`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from quality_model.core.decoding import Pixels
from quality_model.evaluate import ladder_kinds as kinds
from quality_model.evaluate import metrics
from quality_model.records import HEADS, Head

Score = Callable[[Pixels], npt.NDArray[np.float64]]
"""uint8 (n, S, S, 3) to scores (n, 4) in [0, 1], in the order of `HEADS`."""

TOLERANCE: Final = 0.005
"""A score that falls by less counts as level: half of what two decimals show."""

_IMAGES_AT_ONCE: Final = 16
"""Bounds memory: 16 images of 224 px are 2.4 MB, and as many go through the model."""


@dataclass(frozen=True, slots=True)
class Ladder:
    """One way to degrade, at rising levels.

    ``levels`` begin with 0, the clean image; ``degrade`` takes pixels, a level above 0 and
    a seed (see `ladder_kinds`); ``unit`` says what a level is.
    """

    name: str
    head: Head
    unit: str
    levels: tuple[float, ...]
    degrade: Callable[[Pixels, float, int], Pixels]

    def step(self, pixels: Pixels, level: float, seed: int) -> Pixels:
        """An image, uint8 (S, S, 3), at one level; level 0 is the image itself."""
        return self.degrade(pixels, level, seed) if level else pixels


_SIGMA = "sigma, grey levels"
_OPACITY = "opacity"

LADDERS: Final = (
    Ladder(
        "white_balance", "color_cast", "error, mired", (0, 13, 29, 51, 77, 107), kinds.cast_white_balance
    ),
    Ladder("lab_shift", "color_cast", "shift in a*b*", (0, 5, 9, 15, 23, 33), kinds.cast_lab_shift),
    Ladder(
        "photo_filter", "color_cast", "density", (0, 0.07, 0.15, 0.25, 0.37, 0.51), kinds.cast_photo_filter
    ),
    Ladder("pillow_gaussian", "blurriness", "sigma, px", (0, 0.9, 1.5, 2.5, 4.1, 6.7), kinds.blur_gaussian),
    Ladder(
        "hexagonal_aperture", "blurriness", "radius, px", (0, 2.1, 3.7, 5.9, 8.6, 12.3),
        kinds.blur_hexagonal_aperture,
    ),
    Ladder(
        "low_resolution", "blurriness", "times smaller", (0, 1.7, 2.6, 3.9, 5.9, 9.1),
        kinds.blur_low_resolution,
    ),
    Ladder("turned_text", "watermark", _OPACITY, (0, 0.12, 0.22, 0.37, 0.58, 0.83), kinds.mark_turned_text),
    Ladder("text_grid", "watermark", _OPACITY, (0, 0.09, 0.18, 0.31, 0.5, 0.74), kinds.mark_text_grid),
    Ladder("logo", "watermark", _OPACITY, (0, 0.14, 0.27, 0.44, 0.66, 0.92), kinds.mark_logo),
    Ladder("white_noise", "noise", _SIGMA, (0, 4.3, 9.1, 17.3, 28.9, 46.1), kinds.noise_gaussian),
    Ladder("film_grain", "noise", _SIGMA, (0, 4.7, 9.3, 16.9, 27.7, 43.3), kinds.noise_film_grain),
    Ladder("sensor_noise", "noise", _SIGMA, (0, 5.9, 11.3, 20.3, 33.7, 53.9), kinds.noise_sensor),
)  # fmt: skip
"""Three for each head."""


@dataclass(frozen=True, slots=True)
class ScoredLadder:
    """What a model said on a ladder: scores (images, levels, 4) in [0, 1], in the order of `HEADS`."""

    ladder: Ladder
    scores: npt.NDArray[np.float64]

    def measure(self) -> dict[str, Any]:
        """How the head's score follows the level.

        Returns:
            ``head``, ``unit``, ``levels``, ``mean_scores``, ``low_scores`` and ``high_scores``
            (quartiles) by level, empty without images; ``spearman`` of level and score over all
            images and levels; ``monotone_share``: the share of images on which the score falls
            from no level to the next by more than `TOLERANCE`, and the severest scores higher than
            the clean one by more than that (a constant score shows nothing); ``num_images``.
        """
        scores = self.scores[:, :, HEADS.index(self.ladder.head)]  # (images, levels)
        num_images = len(scores)
        levels = np.array(self.ladder.levels, dtype=np.float64)
        measured: dict[str, Any] = {
            "head": self.ladder.head,
            "unit": self.ladder.unit,
            "levels": levels.tolist(),
            "mean_scores": [],
            "low_scores": [],
            "high_scores": [],
            "spearman": metrics.spearman(np.tile(levels, num_images), scores.ravel()),
            "monotone_share": None,
            "num_images": num_images,
        }
        if num_images:
            low, high = np.quantile(scores, [0.25, 0.75], axis=0)
            falls_nowhere = (np.diff(scores, axis=1) >= -TOLERANCE).all(axis=1)
            rises = scores[:, -1] > scores[:, 0] + TOLERANCE
            measured |= {
                "mean_scores": scores.mean(axis=0).tolist(),
                "low_scores": low.tolist(),
                "high_scores": high.tolist(),
                "monotone_share": float((falls_nowhere & rises).mean()),
            }
        return measured


def score_ladders(
    score: Score,
    images: npt.NDArray[np.uint8],
    rows: npt.ArrayLike,
    *,
    seed: int,
    ladders: Sequence[Ladder] = LADDERS,
) -> list[ScoredLadder]:
    """Degrade images step by step and score every step, a block of images at a time.

    Args:
        score: The model.
        images: uint8 (N, S, S, 3), possibly a memory map.
        rows: (n,) which of them to use; they should be clean.
        seed: Of what a ladder leaves to chance; each image has its own, on every level the same.
        ladders: Which.
    """
    chosen = np.asarray(rows, dtype=np.int64)
    seeds = [int(np.random.SeedSequence([seed, place]).generate_state(1)[0]) for place in range(len(chosen))]
    found = {
        ladder.name: np.empty((len(chosen), len(ladder.levels), len(HEADS)), dtype=np.float64)
        for ladder in ladders
    }
    for start in range(0, len(chosen), _IMAGES_AT_ONCE):
        block = slice(start, start + _IMAGES_AT_ONCE)
        clean = np.asarray(images[chosen[block]])
        at_rest = score(clean)
        for ladder in ladders:
            scores = found[ladder.name]
            for position, level in enumerate(ladder.levels):
                if not level:
                    scores[block, position] = at_rest
                    continue
                steps = [
                    ladder.step(pixels, level, own) for pixels, own in zip(clean, seeds[block], strict=True)
                ]
                scores[block, position] = score(np.stack(steps))
    return [ScoredLadder(ladder, found[ladder.name]) for ladder in ladders]


def measure_ladders(scored: Sequence[ScoredLadder]) -> dict[str, dict[str, Any]]:
    """`ScoredLadder.measure` by the ladder's name."""
    return {one.ladder.name: one.measure() for one in scored}
