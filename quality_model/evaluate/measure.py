"""The evaluation of a model on the test split: per head and slice, with intervals and evidence for the gate.

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

Severity sweeps (`sweeps`) start from the split's clean images. Along one, only the strength changes. So a
score that means severity has to rise with it, whatever its scale. The same scores show cross-talk: how far
the other heads move.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from quality_model.core.decoding import Pixels
from quality_model.core.processes import Executor
from quality_model.core.torch_engine import choose_device
from quality_model.data.dataset import TrainingSet, stratified_subset
from quality_model.evaluate import metrics
from quality_model.evaluate.baselines import baseline_rows, predict_baselines
from quality_model.evaluate.evidence import (
    FORMAT_VERSION,
    Baseline,
    Estimate,
    Evaluated,
    HeadEvidence,
    Slice,
    SmallSlice,
    Sweep,
    decisive,
)
from quality_model.evaluate.metrics import Bootstrap, Floats, measure_coverage, measure_flags
from quality_model.evaluate.predictions import score_rows, score_split
from quality_model.evaluate.sweeps import SWEEPS, SeveritySweep
from quality_model.evaluate.whole_images import score_whole_images, scored_samples
from quality_model.networks.model import LoadedModel
from quality_model.params import WITHOUT_PROJECT, EvaluateParams, LimitsParams, PerHead
from quality_model.records import HEADS, Head

_log = logging.getLogger(__name__)

Mask = npt.NDArray[np.bool_]
Score = Callable[[Pixels], Floats]
"""uint8 (n, S, S, 3) to scores (n, 4) in [0, 1], in the order of `HEADS`."""

MEASURES_VERSION: Final = 5
"""Raised with every change of a sweep, of a baseline or of what a figure means: older evidence is stale."""

FEWEST_SAMPLES: Final = 5
"""A finer slice with fewer has no measures."""

TOLERANCE: Final = 0.005
"""A score that falls by less counts as level: half of what two decimals show."""

_SEVERITY: Final = {"0-0.25": 0.25, "0.25-0.5": 0.5, "0.5-0.75": 0.75, "0.75-1": 1.0}
_BRIGHTNESS: Final = {"dark": 0.33, "middle": 0.66, "bright": 1.0}
_DETAIL: Final = {"plain": 0.15, "middle": 0.25, "detailed": 1.0}
"""Upper edges of the finer slices; a value on an edge is in the lower one."""

_ALL_SOURCES: Final = "all"

_IMAGES_AT_ONCE: Final = 16
"""Bounds memory: 16 images of 224 px are 2.4 MB, and as many go through the model."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured, and the predictions it was measured on (see `TrainingSet.scored`)."""

    measured: Evaluated
    predictions: pd.DataFrame


def evaluate(
    section: EvaluateParams,
    loaded: LoadedModel,
    training_set: TrainingSet,
    *,
    loss_weights: PerHead,
    excluded_groups: Collection[str] = (),
    images: Path | None = None,
    limits: LimitsParams = WITHOUT_PROJECT.limits,
    executor: Executor | None = None,
) -> Evaluation:
    """Score the test split, measure the scores, and gather the evidence on the split's clean images.

    Args:
        section: Batch size, device, bootstrap, images of the severity sweeps.
        loaded: The model, which is moved to the section's device, with the thresholds of its flags.
        training_set: Holds the split.
        loss_weights: Weight of each head's MSE in the loss, as in training.
        excluded_groups: Groups of the split that count in no figure (see `data.dataset`). If they are
            all there is, the figures are of all groups, and ``num_counted_groups`` is 0: they are for
            information and no evidence.
        images, limits: As of `score_whole_images`: flags and intervals are measured there, or on samples.
        executor: Where images and samples of the split are scored; by default in this process. The rest takes
            the same time for any split.

    Raises:
        UsageError: The test or the train split has no samples.
        CheckpointError: See `predict_scores`.
        DeviceUnavailableError: The section's device is not there.
    """
    bootstrap = bootstrap_of(section)
    predictions = score_split(
        section, loaded, training_set, excluded_groups=excluded_groups, executor=executor
    )
    rows = training_set.representative("train")
    training = training_set.scored(rows, np.zeros((len(rows), len(HEADS)), np.float32))
    size, seed = section.baseline_samples, section.seed
    known = baseline_rows(training_set, "train", max_samples=size, seed=seed)
    compared = baseline_rows(
        training_set, "test", max_samples=size, seed=seed, excluded_groups=excluded_groups
    )
    baselines = predict_baselines(training_set, known, compared)
    beside = predictions.set_index("row").loc[compared]
    clean = predictions[predictions["is_clean"]]
    chosen = clean.iloc[stratified_subset(np.arange(len(clean)), section.sweep_images, seed)]
    scores = score_sweeps(
        lambda pixels: score_rows(section, loaded, pixels).astype(np.float64),
        training_set.images[chosen["row"].to_numpy()],
        seed=seed,
    )
    groups = chosen["group"].to_numpy()
    sweeps = {sweep: measure_sweep(sweep, found, groups, bootstrap) for sweep, found in scores.items()}
    scored = score_whole_images(
        loaded.model,
        training_set,
        "test",
        [loaded.views],
        images=images,
        limits=limits,
        seed=seed,
        device=choose_device(section.device),
        excluded_groups=excluded_groups,
        executor=executor,
    ) or scored_samples(predictions)
    thresholds = loaded.facts.thresholds if scored.of_images else loaded.thresholds
    intervals = loaded.facts.intervals if scored.of_images or loaded.views.squeezed else None
    heads = {}
    for head in HEADS:
        slices = _measure_slices(bootstrap, predictions, training, head)
        heads[head] = HeadEvidence(
            **slices.pop("whole"),
            kinds=slices.pop("kinds"),
            slices=slices,
            r2_beside_baselines=metrics.measure(beside[f"{head}_label"], beside[f"{head}_score"])["r2"],
            baselines=_measure_baselines(bootstrap, beside, baselines[head], head),
            clean_flags=measure_flags(bootstrap, scored.clean, thresholds, head),
            coverage=measure_coverage(bootstrap, scored.degraded, intervals, head),
            rise=worst_movement(scores, groups, bootstrap, degraded=head, moved=head),
            cross_talk={
                other: worst_movement(scores, groups, bootstrap, degraded=other, moved=head)
                for other in HEADS
                if other != head
            },
        )
    errors = np.array([heads[head].all.measures.mse.value for head in HEADS], dtype=np.float64)
    _log.info("Evaluated %d samples of the split test.", len(predictions))
    counted = {*predictions["group"]}
    measured = Evaluated(
        format_version=FORMAT_VERSION,
        split="test",
        data_sha256=training_set.data_sha256,
        model_sha256=loaded.folder_sha256,
        measuring=measuring(section),
        num_samples=len(predictions),
        num_groups=len(counted),
        num_counted_groups=len(counted - {*excluded_groups}),
        excluded_groups=tuple(sorted(excluded_groups)),
        flags_of="images" if scored.of_images else "samples",
        loss=float(np.mean(errors * [*loss_weights.as_dict().values()])),
        heads=heads,
        sweeps={sweep.name: found for sweep, found in sweeps.items()},
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


def _measure_slices(
    bootstrap: Bootstrap, predictions: pd.DataFrame, training: pd.DataFrame, head: Head
) -> dict[str, dict[str, Any]]:
    """A head on each of its slices, a `Slice` or `SmallSlice` by dimension and name."""
    kinds = sorted({*predictions[f"{head}_kind"].dropna(), *training[f"{head}_kind"].dropna()})
    seen = slices_of(training, head, kinds)
    measured: dict[str, dict[str, Any]] = {}
    for dimension, masks in slices_of(predictions, head, kinds).items():
        is_finer = dimension not in ("whole", "kinds")
        used = replace(bootstrap, samples=0) if is_finer else bootstrap
        measured[dimension] = {}
        for name, mask in masks.items():
            known = seen[dimension].get(name, np.zeros(len(training), dtype=bool))
            if is_finer and mask.sum() < FEWEST_SAMPLES:
                measured[dimension][name] = SmallSlice(num_samples=int(mask.sum()))
            else:
                measured[dimension][name] = _measure(used, predictions[mask], training[known], head)
    return measured


def slices_of(table: pd.DataFrame, head: Head, kinds: Collection[str]) -> dict[str, dict[str, Mask]]:
    """The rows of each slice of a head, by dimension and name.

    Args:
        table: ``group``, ``is_clean``, ``{head}_kind``, ``{head}_label`` and, where they are known,
            ``mean_brightness`` and ``brightness_std``, each in [0, 1]. A dimension whose column is missing
            has no slices.
        head: Which.
        kinds: Of its degradation.
    """
    kind = table[f"{head}_kind"]
    present = kind.notna().to_numpy(dtype=bool)
    severity = _bands(table.get(f"{head}_label"), _SEVERITY)
    sources = np.array([group.partition("/")[0] if "/" in group else "" for group in table["group"]])
    return {
        "whole": {
            "all": np.ones(len(table), dtype=bool),
            "absent": ~present,
            "clean": table["is_clean"].to_numpy(dtype=bool),
        },
        "kinds": {name: (kind == name).to_numpy(dtype=bool) for name in kinds},
        "severity": {name: mask & present for name, mask in severity.items()},
        "brightness": _bands(table.get("mean_brightness"), _BRIGHTNESS),
        "detail": _bands(table.get("brightness_std"), _DETAIL),
        "source": {str(name) or _ALL_SOURCES: sources == name for name in np.unique(sources)},
    }


def _bands(values: pd.Series | None, edges: Mapping[str, float]) -> dict[str, Mask]:
    """Which values in [0, 1] are in which band."""
    if values is None:
        return {}
    places = np.searchsorted([*edges.values()][:-1], values.to_numpy(dtype=np.float64), side="left")
    return {name: places == place for place, name in enumerate(edges)}


def _measure(bootstrap: Bootstrap, table: pd.DataFrame, training: pd.DataFrame, head: Head) -> Slice:
    labels, scores = table[f"{head}_label"], table[f"{head}_score"]
    constant = float(training[f"{head}_label"].mean()) if len(training) else None
    return Slice(
        num_samples=len(table),
        mean_label=float(labels.mean()) if len(table) else None,
        mean_score=float(scores.mean()) if len(table) else None,
        measures=bootstrap.measures(labels, scores, table["group"], constant=constant),
    )


def _measure_baselines(
    bootstrap: Bootstrap, beside: pd.DataFrame, scores: Mapping[str, Floats], head: Head
) -> dict[str, Baseline]:
    labels, ours = beside[f"{head}_label"], beside[f"{head}_score"]
    found = {}
    for name, answers in scores.items():
        measured = metrics.measure(labels, answers)
        lead = bootstrap.lead(labels, ours, answers, beside["group"])
        found[name] = Baseline(lead=lead, **{key: measured[key] for key in ("mse", "r2", "spearman")})
    return found


def score_sweeps(
    score: Score, images: Pixels, *, seed: int, sweeps: Sequence[SeveritySweep] = SWEEPS
) -> dict[SeveritySweep, Floats]:
    """Degrade images step by step and score every step, a block of images at a time.

    Args:
        score: The model.
        images: uint8 (n, S, S, 3); they should be clean.
        seed: Of what a sweep leaves to chance; each image has its own, the same on every level.
        sweeps: Which.

    Returns:
        By sweep the scores, (n, levels, 4) in [0, 1], in the order of `HEADS`.
    """
    seeds = [int(np.random.SeedSequence([seed, place]).generate_state(1)[0]) for place in range(len(images))]
    scores = {sweep: np.empty((len(images), len(sweep.levels), len(HEADS))) for sweep in sweeps}
    for start in range(0, len(images), _IMAGES_AT_ONCE):
        block = slice(start, start + _IMAGES_AT_ONCE)
        at_rest = score(images[block])
        for sweep, found in scores.items():
            found[block, 0] = at_rest
            for position, level in enumerate(sweep.levels[1:], start=1):
                pairs = zip(images[block], seeds[block], strict=True)
                steps = [sweep.degrade(pixels, level, own) for pixels, own in pairs]
                found[block, position] = score(np.stack(steps))
    return scores


def measure_sweep(sweep: SeveritySweep, scores: Floats, groups: npt.ArrayLike, bootstrap: Bootstrap) -> Sweep:
    """How the score of the sweep's head follows the level.

    ``monotone_share`` counts the images on which the score falls from no level to the next by more than
    `TOLERANCE`, and the severest level scores higher than the clean image by more than that: a constant
    score shows nothing.

    Args:
        sweep: Which.
        scores: (n, levels, 4), see `score_sweeps`.
        groups: (n,) the group of each image.
        bootstrap: For the interval.
    """
    own = scores[:, :, HEADS.index(sweep.head)]  # (images, levels)
    levels = np.array(sweep.levels, dtype=np.float64)
    means, low, high, monotone = (), (), (), None
    if len(own):
        means = tuple(own.mean(axis=0).tolist())
        low, high = (tuple(ends) for ends in np.quantile(own, [0.25, 0.75], axis=0).tolist())
        falls_nowhere = (np.diff(own, axis=1) >= -TOLERANCE).all(axis=1)
        monotone = float((falls_nowhere & (own[:, -1] > own[:, 0] + TOLERANCE)).mean())
    measures = bootstrap.measures(
        np.tile(levels, len(own)), own.ravel(), np.repeat(groups, len(levels)), constant=None
    )
    return Sweep(
        head=sweep.head,
        unit=sweep.unit,
        levels=tuple(levels.tolist()),
        mean_scores=means,
        low_scores=low,
        high_scores=high,
        spearman=measures.spearman,
        monotone_share=monotone,
        num_images=len(own),
    )


def worst_movement(
    scores: Mapping[SeveritySweep, Floats],
    groups: npt.ArrayLike,
    bootstrap: Bootstrap,
    *,
    degraded: Head,
    moved: Head,
) -> Estimate:
    """How far a head moves from clean to severest, on the worst sweep of a degradation.

    Its own degradation: how far its mean score rises, on the sweep on which it rises least. Another one:
    the mean over images of the absolute difference, in [0, 1], so that images that move up do not make up
    for those that move down, on the sweep on which it is largest.
    """
    found = {}
    for sweep, values in scores.items():
        if sweep.head == degraded:
            movement = (values[:, -1] - values[:, 0])[:, HEADS.index(moved)]  # (images,)
            found[sweep.name] = bootstrap.mean(movement if moved == degraded else np.abs(movement), groups)
    worst = decisive(found, min if moved == degraded else max)
    return worst[1] if worst else bootstrap.mean((), ())
