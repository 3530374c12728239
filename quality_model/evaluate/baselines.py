"""Zero-training baselines: what one classical measure of an image reaches on the test samples.

Each measure of `classical` becomes a label by a monotone curve that is fitted on samples of
the training groups, rising or falling as those say, and is then measured on the split like a
head of the model. A network that is not clearly better has learnt what was known before.

Measuring takes some milliseconds per image, so a split that is larger than ``max_samples`` is
represented by so many samples of it (`baseline_rows`), one from each of as many equal stretches.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from quality_model.data.split import stratified_subset
from quality_model.errors import UsageError
from quality_model.evaluate import metrics
from quality_model.evaluate.classical import CLASSICAL
from quality_model.records import HEADS, Split

if TYPE_CHECKING:
    from quality_model.data.dataset import TrainingSet

_log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]
Measures = dict[str, float | None]

BASELINE_VERSION: Final = 1
"""Raised with every change of a measure or of the calibration: runs of another version are others."""

_FEWEST: Final = 2
"""Samples that a curve needs."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """A monotone curve from a measure to a label.

    Attributes:
        measures: (k,), ascending, k >= 1.
        labels: (k,), rising or falling, in [0, 1]; straight between, constant beyond the ends.
        otherwise: The answer for a measure that is not finite: the mean training label.
    """

    measures: Floats
    labels: Floats
    otherwise: float

    def __call__(self, measured: Floats) -> Floats:
        """Labels (n,) in [0, 1] of measures (n,)."""
        finite = np.isfinite(measured)
        answers = np.interp(np.where(finite, measured, 0.0), self.measures, self.labels)
        return np.where(finite, answers, self.otherwise)


@dataclass(frozen=True, slots=True)
class Predictions:
    """What every baseline answers on some samples.

    Attributes:
        rows: int64 (n,), of the training dataset.
        scores: By head and baseline, (n,) in [0, 1].
    """

    rows: npt.NDArray[np.int64]
    scores: dict[str, dict[str, Floats]]


def measure_baselines(
    training_set: TrainingSet,
    *,
    split: Split = "test",
    max_samples: int,
    seed: int,
    excluded_groups: Collection[str] = (),
) -> dict[str, dict[str, Measures]]:
    """How well each baseline agrees with the labels of a split.

    Args:
        training_set: Holds pixels, labels and splits.
        split: Where they are measured; they are calibrated on ``train`` always.
        max_samples: Most samples of either that are used.
        seed: Of the choice of samples.
        excluded_groups: Groups of the split that are not measured on, see `measures.evaluate`.

    Returns:
        By head and baseline ``mse``, ``r2`` and ``spearman`` (see `quality_model.evaluate.metrics`).

    Raises:
        UsageError: A split has no samples.
    """
    predictions = predict_baselines(
        training_set, split=split, max_samples=max_samples, seed=seed, excluded_groups=excluded_groups
    )
    measured: dict[str, dict[str, Measures]] = {}
    for position, head in enumerate(HEADS):
        labels = _labels(training_set, predictions.rows, position)
        measured[head] = {
            name: {
                "mse": metrics.mse(labels, scores),
                "r2": metrics.r2(labels, scores),
                "spearman": metrics.spearman(labels, scores),
            }
            for name, scores in predictions.scores[head].items()
        }
    _log.info("Measured the baselines on %d samples of the split %s.", len(predictions.rows), split)
    return measured


def predict_baselines(
    training_set: TrainingSet,
    *,
    split: Split = "test",
    max_samples: int,
    seed: int,
    excluded_groups: Collection[str] = (),
) -> Predictions:
    """Calibrate each baseline on training samples and apply it to those of a split.

    Raises:
        UsageError: A split has no samples.
    """
    parts: tuple[tuple[Split, Collection[str]], ...] = (("train", ()), (split, excluded_groups))
    rows = [
        baseline_rows(training_set, part, max_samples=max_samples, seed=seed, excluded_groups=excluded)
        for part, excluded in parts
    ]
    scores: dict[str, dict[str, Floats]] = {}
    for position, head in enumerate(HEADS):
        training_labels = _labels(training_set, rows[0], position)
        scores[head] = {}
        for name, calc in CLASSICAL[head].items():
            seen, asked = (
                np.array([calc(np.array(training_set.images[row])) for row in part]) for part in rows
            )
            scores[head][name] = calibrate(seen, training_labels)(asked)
    return Predictions(rows[1], scores)


def calibrate(measured: Floats, labels: Floats) -> Calibration:
    """Fit the monotone curve of least squares (isotonic regression).

    Args:
        measured: (n,); what is not finite is left out.
        labels: (n,), in [0, 1], n >= 1.

    Returns:
        Rising where the rank correlation is positive, falling where it is negative, and the
        mean label always where fewer than two measures are finite.
    """
    from sklearn.isotonic import IsotonicRegression

    mean = float(labels.mean())
    finite = np.isfinite(measured)
    if finite.sum() < _FEWEST:
        return Calibration(np.zeros(1), np.array([mean]), mean)
    correlation = metrics.spearman(labels[finite], measured[finite])
    regression = IsotonicRegression(increasing=(correlation or 0.0) >= 0.0)
    regression.fit(measured[finite], labels[finite])
    return Calibration(
        np.asarray(regression.X_thresholds_, dtype=np.float64),
        np.asarray(regression.y_thresholds_, dtype=np.float64),
        mean,
    )


def baseline_rows(
    training_set: TrainingSet,
    split: Split,
    *,
    max_samples: int,
    seed: int,
    excluded_groups: Collection[str] = (),
) -> npt.NDArray[np.int64]:
    """The rows of a split, int64 (n,), that stand for it where baselines are measured.

    Raises:
        UsageError: The split has no samples.
    """
    indices = training_set.counted(split, excluded_groups)
    if len(indices) == 0:
        raise UsageError(
            f"The split {split} has no samples, so there is no baseline.", "Generate from more groups."
        )
    return stratified_subset(indices, max_samples, seed)


def _labels(training_set: TrainingSet, rows: npt.NDArray[np.int64], position: int) -> Floats:
    return np.asarray(training_set.labels[rows, position], dtype=np.float64)
