"""Which model scores, and the narrow interface through which it does."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from quality_model.core.engines import Engine
from quality_model.params import EngineName
from quality_model.records import Head

if TYPE_CHECKING:
    from quality_model.core.predict import MultiHeadQualityInference


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """The model whose scores a job writes; each row names it.

    ``sha256`` is that of its weights. ``version`` and ``run_id`` are None for a
    checkpoint file that no registry knows. ``image_size_px`` is the side it scores at.
    A score above its head's threshold is flagged; without ``thresholds`` none is. ``engine``
    is what runs it: engines agree, but not to the last bit. ``data_sha256`` is that of the training
    dataset and ``git_commit`` the code's that trained it, where the model's files say so.
    """

    name: str
    version: str | None
    run_id: str | None
    sha256: str
    image_size_px: int
    thresholds: Mapping[Head, float] | None
    engine: EngineName | None = None
    data_sha256: str | None = None
    git_commit: str | None = None

    @classmethod
    def of(cls, scorer: "MultiHeadQualityInference") -> "ModelIdentity":
        """The identity of a model that is loaded."""
        source = scorer.source
        return cls(
            name=source.name,
            version=source.version,
            run_id=source.run_id,
            sha256=source.sha256,
            image_size_px=scorer.image_size_px,
            thresholds=scorer.thresholds,
            engine=scorer.engine_name,
            data_sha256=scorer.facts.data_sha256,
            git_commit=scorer.facts.git_commit,
        )


class Scorer(Protocol):
    """What scoring needs of a model.

    Attributes:
        engine: What worker processes score with, each on its core; None if only this process
            can, as with an accelerator: `score_pixels` then gets batches.
    """

    @property
    def engine(self) -> Engine | None: ...

    def score_pixels(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 (N, S, S, 3) RGB -> float32 (N, 4) in [0, 1], in the order of `records.HEADS`."""
        ...
