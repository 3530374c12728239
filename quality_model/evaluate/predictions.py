"""A model's scores of the test split, and the thresholds and intervals that scores give."""

import math
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from quality_model.core.processes import Executor, Failure, InThisProcess
from quality_model.core.provenance import HeadIntervals, Intervals
from quality_model.core.ray_nodes import lost_error
from quality_model.core.torch_engine import choose_device
from quality_model.data.dataset import IMAGES_NAME, TrainingSet
from quality_model.errors import UsageError
from quality_model.networks.model import LoadedModel, predict_scores
from quality_model.params import EvaluateParams
from quality_model.records import HEADS, Head

CONFIDENCE: Final = 0.9
"""Share of images whose severity is in the interval around their score."""

_BATCHES_AT_ONCE: Final = 16
"""Batches of samples that are scored together, on one node where there are several."""

MOST_BINS: Final = 4
FEWEST_IN_BIN: Final = 20
"""Scores are binned by their quartiles, or by fewer quantiles if a bin had fewer images."""


def score_split(
    section: EvaluateParams,
    loaded: LoadedModel,
    training_set: TrainingSet,
    *,
    excluded_groups: Collection[str] = (),
    executor: Executor | None = None,
) -> pd.DataFrame:
    """Score the samples of the test split, see `TrainingSet.scored`; arguments as of `measure.evaluate`.

    Raises:
        UsageError: The split has none.
        CheckpointError: As of `predict_scores`.
    """
    rows = training_set.counted("test", excluded_groups)
    if len(rows) == 0:
        raise UsageError(
            "The split test has no samples.", "Raise generate.test_share, or generate from more groups."
        )
    size = section.batch_size * _BATCHES_AT_ONCE
    blocks = [rows[start : start + size] for start in range(0, len(rows), size)]
    work = _SplitWork(section, loaded, training_set.folder.absolute())
    with closing((executor or InThisProcess()).run(work, blocks)) as results:
        scores = [found for found in results if not isinstance(found, Failure)]
    if len(scores) < len(blocks):
        raise lost_error()
    return training_set.scored(rows, np.concatenate(scores))


@dataclass(frozen=True, slots=True)
class _SplitWork:
    """Scores samples of a training dataset, which are whole batches; see `score_rows`."""

    section: EvaluateParams
    loaded: LoadedModel
    folder: Path

    def __call__(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        images = np.load(self.folder / IMAGES_NAME, mmap_mode="r")
        return score_rows(self.section, self.loaded, images, rows)


def score_rows(
    section: EvaluateParams,
    loaded: LoadedModel,
    images: npt.NDArray[np.uint8],
    rows: npt.ArrayLike | None = None,
) -> npt.NDArray[np.float32]:
    """Score some images, as `predict_scores`, on the section's device and the model's scale."""
    device = choose_device(section.device)
    model = loaded.model.to(device)
    scores = predict_scores(model, images, rows, batch_size=section.batch_size, device=device)
    return loaded.views.on_scale(scores)


def calibrate_thresholds(scores: npt.ArrayLike, share: float) -> dict[Head, float] | None:
    """The smallest threshold of each head that flags at most ``share`` of clean images.

    A head flags an image whose score is above its threshold. A false alarm costs a good image, so thresholds
    are set by their share on clean images: on the validation split, because they are a choice.

    Args:
        scores: (n, 4) scores of clean images, in the order of `HEADS`.
        share: In [0, 1]. At most floor(share * n) images are flagged, which is none below 1 / share images.

    Returns:
        By head, in [0, 1]; None without images.
    """
    values = np.sort(np.asarray(scores, dtype=np.float64).reshape(-1, len(HEADS)), axis=0)
    if len(values) == 0:
        return None
    allowed = min(int(share * len(values) + 1e-9), len(values) - 1)  # 0.02 * 50 is 1, not 0.99...
    return {head: float(values[-1 - allowed, position]) for position, head in enumerate(HEADS)}


def calibrate_intervals(scores: npt.ArrayLike, labels: npt.ArrayLike) -> Intervals | None:
    """Split-conformal prediction intervals around scores, in bins of the score.

    The half-width of a bin with n images is the one of rank ceil((n + 1) * `CONFIDENCE`) of their
    |label - score|, and 1, which is every severity, where n is less than that. So of images like these about
    that share have their label in the interval, in each bin. Source: Angelopoulos and Bates, A gentle
    introduction to conformal prediction, arXiv 2107.07511, sections 1 and 4.1 (group-balanced).

    Args:
        scores: (n, 4) in [0, 1], in the order of `HEADS`, of images that the weights were not trained on.
        labels: (n, 4) of the same images.

    Returns:
        None without images.
    """
    ours, truth = (np.asarray(one, dtype=np.float64).reshape(-1, len(HEADS)) for one in (scores, labels))
    if len(ours) == 0:
        return None
    num_bins = int(np.clip(len(ours) // FEWEST_IN_BIN, 1, MOST_BINS))
    heads: dict[Head, HeadIntervals] = {}
    for head, score, label in zip(HEADS, ours.T, truth.T, strict=True):
        edges = np.unique(np.quantile(score, np.arange(1, num_bins) / num_bins))
        places = np.searchsorted(edges, score, side="right")
        residuals = np.abs(label - score)
        widths = [_conformal_quantile(residuals[places == place]) for place in range(len(edges) + 1)]
        heads[head] = HeadIntervals(edges=edges.tolist(), half_widths=widths)
    return Intervals(confidence=CONFIDENCE, num_images=len(ours), heads=heads)


def _conformal_quantile(residuals: npt.NDArray[np.float64]) -> float:
    rank = math.ceil((len(residuals) + 1) * CONFIDENCE)
    return float(np.sort(residuals)[rank - 1]) if rank <= len(residuals) else 1.0
