"""The evaluation of a model on one split: per head and slice, with intervals and evidence for the gate.

Slices. Beside all samples of the split, each head is measured on
- every kind of its degradation: the samples that have this kind and no others, so that the kinds do not
  share samples and a weak kind is not diluted by an easy remainder;
- ``absent``: the samples without this degradation, whatever else they suffer from;
- ``clean``: the untouched images.
The labels of the last two are all 0, so correlations and R2 are not defined there.

Finer slices come without intervals, which would cost more than all the rest. Their edges are fixed and not
quantiles of the split, so that a slice means the same for every training dataset:
- ``severity``: label of the samples that have the degradation, in quarters;
- ``brightness``: mean of the grey sample, in thirds;
- ``detail``: standard deviation of the grey sample. Photographs are around 0.2; below 0.15 are fog, sky and
  studio backgrounds, above 0.25 hard light and much structure. Blur lowers it and noise raises it, so these
  are slices of what the model sees, not of the scene;
- ``source``: what is before the first ``/`` of the group, where groups have one.

The constant predictor of a slice answers the mean of the *training* labels of the same slice, so
``constant_mse`` is what someone who knows only the slice would reach.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from quality_model.core.torch_engine import choose_device
from quality_model.data.split import stratified_subset
from quality_model.errors import UsageError
from quality_model.evaluate import metrics, sweeps
from quality_model.evaluate.baselines import baseline_rows, predict_baselines
from quality_model.evaluate.evidence import (
    FORMAT_VERSION,
    Baseline,
    CleanFlags,
    Evaluated,
    HeadEvidence,
    Slice,
    SmallSlice,
)
from quality_model.evaluate.metrics import Bootstrap
from quality_model.evaluate.predictions import STATISTICS, predict_scores, predictions_table
from quality_model.records import HEADS, Head, Split

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from quality_model.data.dataset import TrainingSet
    from quality_model.params import EvaluateParams

_log = logging.getLogger(__name__)

Mask = npt.NDArray[np.bool_]

MEASURES_VERSION: Final = 3
"""Raised with every change of a sweep, of a baseline or of what a figure means: older evidence is stale."""

FEWEST_SAMPLES: Final = 5
"""A finer slice with fewer has no measures."""

_SEVERITY: Final = ("0-0.25", "0.25-0.5", "0.5-0.75", "0.75-1")
_BRIGHTNESS: Final = ("dark", "middle", "bright")
_DETAIL: Final = ("plain", "middle", "detailed")
_ALL_SOURCES: Final = "all"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured, and the predictions it was measured on (see `predictions_table`)."""

    measured: Evaluated
    predictions: pd.DataFrame


def evaluate(
    section: EvaluateParams,
    model: torch.nn.Module,
    training_set: TrainingSet,
    *,
    loss_weights: Mapping[str, float],
    split: Split = "test",
    thresholds: Mapping[Head, float] | None = None,
    with_baselines: bool = True,
    model_sha256: str | None = None,
    excluded_groups: Collection[str] = (),
) -> Evaluation:
    """Score a split, measure the scores, and gather the evidence on the split's clean images.

    Args:
        section: Batch size, device, bootstrap, images of the severity sweeps.
        model: Is moved to the section's device.
        training_set: Holds the split.
        loss_weights: Weight of each head's MSE in the loss, as in training.
        split: Which samples.
        thresholds: Of the model's flags; None if it has none.
        with_baselines: Whether the baselines are measured beside the model.
        model_sha256: Hash of the model's folder; None if it has none.
        excluded_groups: Groups of the split that count in no figure (see `data.split`). If they are
            all there is, the figures are of all groups, and ``num_counted_groups`` is 0: they are for
            information and no evidence.

    Raises:
        UsageError: The split, or with baselines the train split, has no samples.
        CheckpointError: See `predict_scores`.
        DeviceUnavailableError: The section's device is not there.
    """
    device = choose_device(section.device)
    bootstrap = bootstrap_of(section)
    predictions = score_split(section, model, training_set, split=split, excluded_groups=excluded_groups)
    training = _training_labels(training_set)
    options = {"max_samples": section.baseline_samples, "seed": section.seed}
    shared = baseline_rows(training_set, split, excluded_groups=excluded_groups, **options)
    beside = predictions.set_index("row").loc[shared]
    baselines = (
        predict_baselines(training_set, split=split, excluded_groups=excluded_groups, **options)
        if with_baselines
        else {}
    )
    clean = predictions[predictions["is_clean"]]
    chosen = clean.iloc[stratified_subset(np.arange(len(clean)), section.sweep_images, section.seed)]
    scored = sweeps.score_sweeps(
        lambda pixels: predict_scores(
            model, pixels, np.arange(len(pixels)), batch_size=section.batch_size, device=device
        ).astype(np.float64),
        training_set.images,
        chosen["row"],
        chosen["group"],
        seed=section.seed,
    )
    heads = {
        head: HeadEvidence(
            **_measure_slices(bootstrap, predictions, training, head),
            r2_beside_baselines=metrics.measure(beside[f"{head}_label"], beside[f"{head}_score"])["r2"],
            baselines=_measure_baselines(bootstrap, beside, baselines.get(head, {}), head),
            clean_flags=measure_flags(bootstrap, clean, (thresholds or {}).get(head), head),
            rise=sweeps.rise(scored, head, bootstrap),
            cross_talk=sweeps.cross_talk(scored, head, bootstrap),
        )
        for head in HEADS
    }
    errors = np.array([heads[head].all.measures.mse.value for head in HEADS], dtype=np.float64)
    _log.info("Evaluated %d samples of the split %s.", len(predictions), split)
    groups = {*predictions["group"]}
    measured = Evaluated(
        format_version=FORMAT_VERSION,
        split=split,
        data_sha256=training_set.data_sha256,
        model_sha256=model_sha256,
        measuring=measuring(section),
        num_samples=len(predictions),
        num_groups=len(groups),
        num_counted_groups=len(groups - {*excluded_groups}),
        excluded_groups=tuple(sorted(excluded_groups)),
        loss=float(np.mean(errors * [loss_weights[head] for head in HEADS])),
        heads=heads,
        sweeps={one.sweep.name: one.measure(bootstrap) for one in scored},
    )
    return Evaluation(measured, predictions)


def measuring(section: EvaluateParams) -> dict[str, int | float]:
    """What decides about the figures besides model and data: parameters and the version of the measures."""
    return {
        **section.model_dump(exclude={"batch_size", "device"}),
        "measures_version": MEASURES_VERSION,
    }


def bootstrap_of(section: EvaluateParams) -> Bootstrap:
    """The intervals that the parameters ask for."""
    return Bootstrap(section.bootstrap_samples, section.confidence, section.seed)


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
    indices = training_set.counted(split, excluded_groups)
    if len(indices) == 0:
        raise UsageError(
            f"The split {split} has no samples.",
            f"Raise generate.{split}_share, or generate from more groups.",
        )
    device = choose_device(section.device)
    scores = predict_scores(
        model.to(device), training_set.images, indices, batch_size=section.batch_size, device=device
    )
    return predictions_table(training_set, indices, scores)


def _training_labels(training_set: TrainingSet) -> pd.DataFrame:
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


def _measure_slices(
    bootstrap: Bootstrap, predictions: pd.DataFrame, training: pd.DataFrame, head: Head
) -> dict[str, Any]:
    """A head on all samples and on its slices: those fields of `HeadEvidence`."""
    kinds = sorted({*predictions[f"{head}_kind"].dropna(), *training[f"{head}_kind"].dropna()})
    masks, seen = (_masks(table, head, kinds) for table in (predictions, training))

    def measured(name: str) -> Slice:
        return _measure(bootstrap, predictions[masks[name]], training[seen[name]], head)

    return {
        "all": measured("all"),
        "kinds": {kind: measured(f"kind {kind}") for kind in kinds},
        "absent": measured("absent"),
        "clean": measured("clean"),
        "slices": _measure_finer(predictions, training, head),
    }


def finer_slices(table: pd.DataFrame, head: Head) -> dict[str, dict[str, Mask]]:
    """The rows of each finer slice of a head, by dimension and name.

    Args:
        table: ``group``, ``{head}_kind``, ``{head}_label`` and, where they are known, ``mean_brightness``
            and ``brightness_std``, each in [0, 1]. A dimension whose column is missing has no slices.
        head: Which.
    """
    present = table[f"{head}_kind"].notna().to_numpy(dtype=bool)
    severity = _bands(table[f"{head}_label"], (0.25, 0.5, 0.75), _SEVERITY)
    sources = np.array([group.partition("/")[0] if "/" in group else "" for group in table["group"]])
    by_source = {str(name): np.asarray(sources == name) for name in np.unique(sources)}
    return {
        "severity": {name: mask & present for name, mask in severity.items()},
        "brightness": _bands(table.get("mean_brightness"), (0.33, 0.66), _BRIGHTNESS),
        "detail": _bands(table.get("brightness_std"), (0.15, 0.25), _DETAIL),
        "source": {name or _ALL_SOURCES: mask for name, mask in by_source.items()},
    }


def measure_flags(
    bootstrap: Bootstrap, clean: pd.DataFrame, threshold: float | None, head: Head
) -> CleanFlags:
    """The share of clean images that a head flags; not defined without images or a threshold.

    An image counts once as it is, and once for each of its samples to which nothing was added, which are
    recompressed or rescaled.
    """
    flagged = np.full(len(clean), np.nan) if threshold is None else clean[f"{head}_score"] > threshold
    return CleanFlags(
        threshold=threshold, num_images=len(clean), flagged_share=bootstrap.mean(flagged, clean["group"])
    )


def _measure_baselines(
    bootstrap: Bootstrap, beside: pd.DataFrame, scores: Mapping[str, metrics.Floats], head: Head
) -> dict[str, Baseline]:
    labels, ours = beside[f"{head}_label"], beside[f"{head}_score"]
    found = {}
    for name, answers in scores.items():
        measured = metrics.measure(labels, answers)
        lead = bootstrap.lead(labels, ours, answers, beside["group"])
        found[name] = Baseline(lead=lead, **{key: measured[key] for key in ("mse", "r2", "spearman")})
    return found


def _masks(table: pd.DataFrame, head: Head, kinds: Collection[str]) -> dict[str, Mask]:
    """Which rows of ``table`` belong to each slice of a head."""
    column = table[f"{head}_kind"]
    return {
        "all": np.ones(len(table), dtype=bool),
        "absent": column.isna().to_numpy(dtype=bool),
        "clean": table["is_clean"].to_numpy(dtype=bool),
        **{f"kind {kind}": (column == kind).to_numpy(dtype=bool) for kind in kinds},
    }


def _measure_finer(
    predictions: pd.DataFrame, training: pd.DataFrame, head: Head
) -> dict[str, dict[str, Slice | SmallSlice]]:
    without_intervals = Bootstrap(samples=0, confidence=0.0, seed=0)
    seen = finer_slices(training, head)
    measured: dict[str, dict[str, Slice | SmallSlice]] = {}
    for dimension, masks in finer_slices(predictions, head).items():
        measured[dimension] = {}
        for name, mask in masks.items():
            known = training[seen[dimension].get(name, np.zeros(len(training), dtype=bool))]
            measured[dimension][name] = (
                _measure(without_intervals, predictions[mask], known, head)
                if mask.sum() >= FEWEST_SAMPLES
                else SmallSlice(num_samples=int(mask.sum()))
            )
    return measured


def _measure(bootstrap: Bootstrap, table: pd.DataFrame, training: pd.DataFrame, head: Head) -> Slice:
    labels, scores = table[f"{head}_label"], table[f"{head}_score"]
    constant = float(training[f"{head}_label"].mean()) if len(training) else None
    return Slice(
        num_samples=len(table),
        mean_label=float(labels.mean()) if len(table) else None,
        mean_score=float(scores.mean()) if len(table) else None,
        measures=bootstrap.measures(labels, scores, table["group"], constant=constant),
    )


def _bands(values: pd.Series | None, edges: tuple[float, ...], names: tuple[str, ...]) -> dict[str, Mask]:
    """Which values are in which band; a value on an edge is in the lower one."""
    if values is None:
        return {}
    places = np.searchsorted(edges, values.to_numpy(dtype=np.float64), side="left")
    return {name: np.asarray(places == place) for place, name in enumerate(names)}
