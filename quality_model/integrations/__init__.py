"""Adapters to the data pipelines of others. Each needs its package, and a `Scorer` in each worker.

Each keeps or drops by one rule, `Limits`, and leaves the scores beside the image.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from quality_model.core.predict import ImageInput, Scorer
from quality_model.errors import ImageError, UsageError
from quality_model.records import HEADS, SCORE_COLUMNS, QualityScores


@dataclass
class Limits:
    """Which images are kept, and the model that says so; it is loaded on first use, once a process.

    Attributes:
        model: See `Scorer`.
        limits: By head, or ``worst_score``, the highest score that is kept; by default what the model flags
            is dropped.
        keep_unreadable: Whether an image that cannot be read is kept.

    Raises:
        UsageError: A limit has no such head, or is not in [0, 1].
    """

    model: str = "auto"
    limits: Mapping[str, float] | None = None
    keep_unreadable: bool = False
    _scorer: Scorer | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, limit in (self.limits or {}).items():
            if name not in (*HEADS, "worst_score") or not 0.0 <= limit <= 1.0:
                raise UsageError(
                    f"The limit {name}={limit} means nothing.",
                    f"Name one of {', '.join(HEADS)} or worst_score, and a score from 0 to 1.",
                )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_scorer": None}  # the next process loads its own

    @property
    def scorer(self) -> Scorer:
        if self._scorer is None:
            self._scorer = Scorer(self.model)
        return self._scorer

    def score(self, images: list[ImageInput]) -> list[QualityScores | ImageError]:
        """The scores of images in their order, or why there are none."""
        return self.scorer.predict_batch(images, errors="return")

    def faults(self, result: QualityScores | ImageError) -> tuple[str, ...]:
        """Why an image is dropped: its heads above their limits, or its error code; nothing if it is kept."""
        if isinstance(result, ImageError):
            return () if self.keep_unreadable else (result.reason,)
        if self.limits is None:
            return result.flags
        found = scores_of(result)
        return tuple(name for name, limit in self.limits.items() if found[name] > limit)


def scores_of(result: QualityScores | ImageError) -> dict[str, float]:
    """Plain numbers by name: the four heads, ``overall`` and ``worst_score``; NaN for what has no scores."""
    if isinstance(result, ImageError):
        return dict.fromkeys(SCORE_COLUMNS, float("nan"))
    values = {name: value for name, value in asdict(result).items() if name in (*HEADS, "overall")}
    return {**values, "worst_score": max(values[head] for head in HEADS)}
