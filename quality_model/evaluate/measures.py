"""The evaluation of a model on one split: per head, per kind, with intervals and evidence.

Slices. Beside all samples of the split, each head is measured on
- every kind of its degradation: the samples that have this kind and no others, so that the
  kinds do not share samples and a weak kind is not diluted by an easy remainder;
- ``absent``: the samples without this degradation, whatever else they suffer from, and
- ``clean``: the untouched images.
The last two are the reference for the kinds. Their labels are all 0, so correlations and R2
are not defined there; ``mean_score`` is what the head answers where there is nothing to find.

The constant predictor of a slice answers the mean of the *training* labels of the same
slice, so ``constant_mse`` is what someone who knows only the slice would reach.

Evidence. Beside the split itself, what the gate asks of a model: `ladders` of degradations by
other software with the `cross_talk` they show, and `clean_flags`. Slices by severity,
brightness, detail and source are in `slices`; they come without intervals, which would cost
more than all the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from quality_model.core import storage
from quality_model.data.split import stratified_subset
from quality_model.errors import UsageError
from quality_model.evaluate import metrics
from quality_model.evaluate.baselines import BASELINE_VERSION, baseline_rows
from quality_model.evaluate.clean_flags import clean_flags
from quality_model.evaluate.cross_talk import cross_talk, largest_movement
from quality_model.evaluate.ladders import measure_ladders, score_ladders
from quality_model.evaluate.predictions import (
    STATISTICS,
    predict_pixels,
    predict_scores,
    predictions_table,
)
from quality_model.evaluate.slices import FEWEST_SAMPLES, slice_masks
from quality_model.records import HEADS, Head, Split

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from quality_model.data.dataset import TrainingSet
    from quality_model.networks.checkpoints import LoadedModel
    from quality_model.params import EvaluateParams

_log = logging.getLogger(__name__)

METRICS_NAME: Final = "metrics.json"
DETAILS_NAME: Final = "evaluation.json"
PREDICTIONS_NAME: Final = "predictions.csv"

MEASURES_VERSION: Final = 2
"""Raised with every change of a ladder or of what a figure means: older evidence is measured again."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How one model did on one split.

    Attributes:
        metrics: JSON-able: ``split``, ``data_sha256`` (of the training dataset), ``model_sha256`` (of the
            model's folder, None if not known), ``measuring`` (see `measuring`), ``num_samples``,
            ``num_groups``, ``num_counted_groups`` and ``excluded_groups`` (see `evaluate`), ``loss`` and,
            under ``heads``, a slice of all samples for each head with
            further slices in it: ``kinds`` by name, ``absent``, ``clean`` and ``slices`` by dimension
            and name. A slice holds ``num_samples``, ``num_groups``, ``mean_label``, ``mean_score``,
            every one of `metrics.MEASURES` (None where it is not defined) and ``intervals``:
            ``[low, high]`` or None for each; those of ``slices`` that are too small hold
            ``num_samples`` alone.
            A head also has ``r2_beside_baselines``: its R2 on the `baseline_rows` alone, which is what
            compares with theirs.
            The evidence: ``ladders`` by name (see `ScoredLadder.measure`), ``cross_talk`` by degraded
            and moved head, ``clean_flags`` by head, and ``baselines`` by head and name, empty where
            none were measured.
        predictions: See `predictions_table`.
    """

    metrics: dict[str, Any]
    predictions: pd.DataFrame

    def summary(self) -> dict[str, Any]:
        """The few numbers that ``dvc metrics show`` prints: the loss, and the measures of each head.

        With them the evidence in one number each: ``worst_ladder_spearman``, the lowest of the
        head's ladders, ``largest_cross_talk``, see `largest_movement`, and ``clean_flag_share``.
        """
        heads = self.metrics["heads"]
        return {
            "loss": self.metrics["loss"],
            **{
                head: {name: heads[head][name] for name in metrics.MEASURES} | self._evidence(head)
                for head in HEADS
            },
        }

    def _evidence(self, head: str) -> dict[str, float | None]:
        ladders = self.metrics["ladders"].values()
        correlations = [ladder["spearman"] for ladder in ladders if ladder["head"] == head]
        return {
            "worst_ladder_spearman": None if None in correlations else min(correlations, default=None),
            "largest_cross_talk": largest_movement(self.metrics["cross_talk"], head),
            "clean_flag_share": self.metrics["clean_flags"][head]["flagged_share"],
        }


def evaluate(
    section: EvaluateParams,
    model: torch.nn.Module,
    training_set: TrainingSet,
    *,
    loss_weights: Mapping[Head, float] | Mapping[str, float],
    split: Split = "test",
    thresholds: Mapping[Head, float] | None = None,
    baselines: Mapping[str, Any] | None = None,
    model_sha256: str | None = None,
    excluded_groups: Collection[str] = (),
) -> Evaluation:
    """Score a split and measure the scores, and take the evidence on the split's clean images.

    Args:
        section: Batch size, device, bootstrap, images of the ladders.
        model: Is moved to the section's device.
        training_set: Holds the split.
        loss_weights: Weight of each head's MSE in the loss, as in training.
        split: Which samples.
        thresholds: Of the model's flags; None if it has none.
        baselines: What was measured of them on this split, taken over as it is; None: not measured.
        model_sha256: Hash of the model's folder, kept with the measures; None if it has none.
        excluded_groups: Groups of the split that count in no figure (see `training_set.seen`). If they
            are all there is, the figures are of all groups, and ``num_counted_groups`` is 0: they
            are for looking at, and no evidence.

    Raises:
        UsageError: The split has no samples.
        CheckpointError: See `predict_scores`.
        DeviceUnavailableError: The section's device is not there.
    """
    from quality_model.core.device import choose_device

    predictions = score_split(section, model, training_set, split=split, excluded_groups=excluded_groups)
    heads = measure_heads(section, predictions, training_labels(training_set))
    shared = baseline_rows(
        training_set,
        split,
        max_samples=section.baseline_samples,
        seed=section.seed,
        excluded_groups=excluded_groups,
    )
    beside = predictions[predictions["row"].isin(shared)]
    for head in HEADS:
        heads[head]["r2_beside_baselines"] = metrics.r2(
            beside[f"{head}_label"].to_numpy(), beside[f"{head}_score"].to_numpy()
        )
    clean = predictions[predictions["is_clean"]]
    ladders = score_ladders(
        partial(predict_pixels, model, batch_size=section.batch_size, device=choose_device(section.device)),
        training_set.images,
        stratified_subset(clean["row"].to_numpy(), section.ladder_images, section.seed),
        seed=section.seed,
    )
    losses = [loss_weights[head] * heads[head]["mse"] for head in HEADS]
    _log.info("Evaluated %d samples of the split %s.", len(predictions), split)
    return Evaluation(
        metrics={
            "split": split,
            "data_sha256": training_set.data_sha256,
            "model_sha256": model_sha256,
            "measuring": measuring(section),
            "num_samples": len(predictions),
            "num_groups": int(predictions["group"].nunique()),
            "num_counted_groups": len({*predictions["group"]} - {*excluded_groups}),
            "excluded_groups": sorted(excluded_groups),
            "loss": float(np.mean(losses)),
            "heads": heads,
            "baselines": dict(baselines or {}),
            "ladders": measure_ladders(ladders),
            "cross_talk": cross_talk(ladders),
            "clean_flags": clean_flags(clean[[f"{head}_score" for head in HEADS]].to_numpy(), thresholds),
        },
        predictions=predictions,
    )


def measuring(section: EvaluateParams) -> dict[str, Any]:
    """What decides about the figures besides model and data: parameters and versions."""
    return {
        **section.model_dump(exclude={"batch_size", "device"}),
        "measures_version": MEASURES_VERSION,
        "baseline_version": BASELINE_VERSION,
    }


def score_split(
    section: EvaluateParams,
    model: torch.nn.Module,
    training_set: TrainingSet,
    *,
    split: Split = "test",
    excluded_groups: Collection[str] = (),
) -> pd.DataFrame:
    """Score the samples of a split, see `predictions_table`; the model is moved to the section's device.

    Those of ``excluded_groups`` are left out, as in `evaluate`.

    Raises:
        UsageError: The split has no samples.
        CheckpointError: See `predict_scores`.
        DeviceUnavailableError: The section's device is not there.
    """
    from quality_model.core.device import choose_device

    indices = training_set.counted(split, excluded_groups)
    if len(indices) == 0:
        raise UsageError(
            f"The split {split} has no samples.",
            f"Raise generate.{split}_share, or generate from more groups.",
        )
    device = choose_device(section.device)
    scores = predict_scores(
        model.to(device), training_set, indices, batch_size=section.batch_size, device=device
    )
    return predictions_table(training_set, indices, scores)


def require_size(loaded: LoadedModel, training_set: TrainingSet) -> None:
    """Make sure that a model is measured on images of the size it scores at.

    Raises:
        UsageError: It works at another size than this set's.
    """
    if loaded.image_size_px != training_set.image_size_px:
        raise UsageError(
            f"The model works at {loaded.image_size_px} px, the training dataset has "
            f"{training_set.image_size_px} px.",
            "Name the training dataset it was made for, or generate one of its size.",
        )


def measure_heads(
    section: EvaluateParams, predictions: pd.DataFrame, training: pd.DataFrame
) -> dict[str, dict[str, Any]]:
    """Measure each head on all samples and on its slices.

    Args:
        section: Bootstrap.
        predictions: See `predictions_table`.
        training: Labels of the training split, see `training_labels`.

    Returns:
        The ``heads`` of `Evaluation.metrics`.
    """
    heads: dict[str, dict[str, Any]] = {}
    for head in HEADS:
        kinds = sorted({*predictions[f"{head}_kind"].dropna(), *training[f"{head}_kind"].dropna()})
        seen = _slices(training, head, kinds)
        measured = {
            name: _measure_slice(section, predictions[mask], head, _mean(training[seen[name]], head, "label"))
            for name, mask in _slices(predictions, head, kinds).items()
        }
        heads[head] = {
            **measured["all"],
            "kinds": {kind: measured[f"kind {kind}"] for kind in kinds},
            "absent": measured["absent"],
            "clean": measured["clean"],
            "slices": _measure_finer(predictions, training, head),
        }
    return heads


def training_labels(training_set: TrainingSet) -> pd.DataFrame:
    """``group``, ``is_clean``, each head's ``{head}_kind`` and ``{head}_label``, and the
    `STATISTICS` where the manifest has them, of the training split.
    """
    rows = training_set.representative("train")
    columns = ["group", *(f"{head}_kind" for head in HEADS)]
    columns += [name for name in STATISTICS if name in training_set.manifest]
    table: pd.DataFrame = training_set.manifest.iloc[rows][columns].copy()
    table["is_clean"] = training_set.is_untouched[rows]
    for position, head in enumerate(HEADS):
        table[f"{head}_label"] = np.asarray(training_set.labels[rows, position], dtype=np.float64)
    return table


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write metrics.json (the summary), evaluation.json (all of it) and predictions.csv (for plots)."""
    storage.write_json(folder / METRICS_NAME, evaluation.summary())
    storage.write_json(folder / DETAILS_NAME, evaluation.metrics)
    with storage.staged(folder / PREDICTIONS_NAME) as path:
        evaluation.predictions.to_csv(path, index=False, float_format="%.6f", lineterminator="\n")


def _slices(table: pd.DataFrame, head: str, kinds: list[str]) -> dict[str, npt.NDArray[np.bool_]]:
    """Which rows of ``table`` belong to each slice of a head."""
    column = table[f"{head}_kind"]
    return {
        "all": np.ones(len(table), dtype=bool),
        "absent": column.isna().to_numpy(dtype=bool),
        "clean": table["is_clean"].to_numpy(dtype=bool),
        **{f"kind {kind}": (column == kind).to_numpy(dtype=bool) for kind in kinds},
    }


def _measure_finer(predictions: pd.DataFrame, training: pd.DataFrame, head: str) -> dict[str, Any]:
    """The slices of `slice_masks`, measured where they have enough samples."""
    seen = slice_masks(training, head)
    measured: dict[str, Any] = {}
    for dimension, masks in slice_masks(predictions, head).items():
        measured[dimension] = {}
        for name, mask in masks.items():
            table, known = predictions[mask], seen[dimension].get(name)
            constant = None if known is None else _mean(training[known], head, "label")
            measured[dimension][name] = (
                _measure_slice(None, table, head, constant)
                if len(table) >= FEWEST_SAMPLES
                else {"num_samples": len(table)}
            )
    return measured


def _measure_slice(
    section: EvaluateParams | None, table: pd.DataFrame, head: str, constant: float | None
) -> dict[str, Any]:
    """The measures of a slice; without a section no intervals."""
    labels, scores = table[f"{head}_label"].to_numpy(), table[f"{head}_score"].to_numpy()
    groups = table["group"].to_numpy()
    intervals: dict[str, metrics.Interval | None] = dict.fromkeys(metrics.MEASURES)
    if section is not None:
        intervals = metrics.bootstrap_intervals(
            labels,
            scores,
            groups,
            constant=constant,
            samples=section.bootstrap_samples,
            confidence=section.confidence,
            seed=section.seed,
        )
    return {
        "num_samples": len(table),
        "num_groups": len(set(groups)),
        "mean_label": _mean(table, head, "label"),
        "mean_score": _mean(table, head, "score"),
        **metrics.measure(labels, scores, constant=constant),
        "intervals": {name: None if ends is None else list(ends) for name, ends in intervals.items()},
    }


def _mean(table: pd.DataFrame, head: str, column: str) -> float | None:
    return float(table[f"{head}_{column}"].mean()) if len(table) else None
