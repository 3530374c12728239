"""The scale of scores: a monotone map per head from a model's scores to those of the champion before it.

Two models of one scale version predict the same severities, and still err differently: a threshold would flag
another share of images with each. So a new model is given a map to the scale of the champion, fitted by
matching quantiles: of the images that both scored, as many are above a score with the one as with the other.
It is strictly increasing, so that no order of images and no area under a ROC curve changes. It is a part of
the recipe of views (`views.ViewRecipe.scale`), which says how scores of views become an image's.
"""

from typing import Annotated, Final, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from quality_model.errors import UsageError
from quality_model.records import HEADS, Head

FEWEST_IMAGES: Final = 200
"""That a map is fitted on: fewer say too little of how often a threshold flags."""

_STEPS: Final = 32
_SHARES: Final = 8
"""Knots are at multiples of 1 / 32 of the champion's score, and where it parts its images into eighths."""

_FEWEST_BETWEEN: Final = 5
"""Images between two knots, and beyond the outermost ones."""

_LEAST_GAP: Final = 1e-3
"""Between two knots, of both scores: a map has no steps and no plateaus."""

Scores = npt.NDArray[np.float32]
Knots = Annotated[
    list[Annotated[float, Field(ge=0.0, le=1.0)]], Field(min_length=2, max_length=_STEPS + _SHARES)
]


class HeadScale(BaseModel):
    """A strictly increasing map of [0, 1] onto itself, linear between its knots.

    Attributes:
        scores: Of the network, from 0 to 1, rising.
        to: What each becomes, from 0 to 1, rising.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    scores: Knots = [0.0, 1.0]
    to: Knots = [0.0, 1.0]

    @model_validator(mode="after")
    def _is_a_map(self) -> Self:
        ends = [knots[at] for knots in (self.scores, self.to) for at in (0, -1)]
        rises = all((np.diff(knots) > 0).all() for knots in (self.scores, self.to))
        if len(self.scores) != len(self.to) or ends != [0.0, 1.0, 0.0, 1.0] or not rises:
            raise ValueError("a map of scores has as many values as knots, and both rise from 0 to 1")
        return self

    def of(self, scores: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Scores of the network on the scale, of any shape, in [0, 1]."""
        return np.interp(np.asarray(scores, np.float64), self.scores, self.to)

    def undone(self, scores: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """The network's scores of those on the scale."""
        return np.interp(np.asarray(scores, np.float64), self.to, self.scores)


class ScaleMap(BaseModel):
    """The map of each head, as a model's files keep it.

    Attributes:
        champion_sha256: Hash of the weights whose scale it leads to.
        num_images: That it was fitted on.
        heads: By head.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    champion_sha256: str
    num_images: int
    heads: dict[Head, HeadScale]

    def of(self, scores: Scores) -> Scores:
        """Scores of images, float32 (n, 4) or (4,), on the scale."""
        columns = [self.heads[head].of(scores[..., at]) for at, head in enumerate(HEADS)]
        return np.stack(columns, axis=-1).astype(np.float32)


def fit_scale(scores: Scores, of_champion: Scores, champion_sha256: str) -> ScaleMap:
    """The map from a model's scores to the scale of the champion.

    Args:
        scores: Of the model without a map, float32 (n, 4) in [0, 1], in the order of `HEADS`; of clean and
            degraded images.
        of_champion: Of the same images, on its scale.
        champion_sha256: Hash of its weights.

    Raises:
        UsageError: There are fewer than `FEWEST_IMAGES` images.
    """
    if len(scores) < FEWEST_IMAGES:
        raise UsageError(
            f"{len(scores)} scored images are too few for a map to the champion's scale:"
            f" it takes {FEWEST_IMAGES}.",
            "Give the validation split more images (source.num_images, generate.validation_share).",
        )
    heads = {head: _fit(scores[:, at], of_champion[:, at]) for at, head in enumerate(HEADS)}
    return ScaleMap(champion_sha256=champion_sha256, num_images=len(scores), heads=heads)


def _fit(scores: Scores, of_champion: Scores) -> HeadScale:
    ours, theirs = (np.sort(np.asarray(one, np.float64)) for one in (scores, of_champion))
    at_steps, at_shares = (np.arange(1, count) / count for count in (_STEPS, _SHARES))
    knots, to, last = [0.0], [0.0], 0
    for target in map(float, np.unique([*at_steps, *np.quantile(theirs, at_shares)])):
        rank = int(np.searchsorted(theirs, target, side="right"))  # so many are not above
        if min(rank - last, len(theirs) - rank) < _FEWEST_BETWEEN:
            continue
        knot = float(ours[rank - 1 : rank + 1].mean())
        is_apart = min(knot - knots[-1], target - to[-1], 1.0 - knot, 1.0 - target) > _LEAST_GAP
        if is_apart:
            knots, to, last = [*knots, knot], [*to, target], rank
    return HeadScale(scores=[*knots, 1.0], to=[*to, 1.0])
