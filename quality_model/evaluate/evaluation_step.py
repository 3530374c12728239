"""Evaluation as a step: measures and images of a model on the test split, kept with its run."""

import logging
from pathlib import Path
from typing import Final

from quality_model.core import storage
from quality_model.core.device import choose_device
from quality_model.data.dataset import TrainingSet
from quality_model.data.split import seen_test_groups
from quality_model.evaluate import Evaluation, evaluate, require_size, write_evaluation
from quality_model.evaluate.baselines import BASELINE_VERSION, measure_baselines
from quality_model.evaluate.plots import (
    cross_talk_figure,
    ladders_figure,
    learning_curves,
    predicted_against_true,
    save_figure,
    worst_errors,
)
from quality_model.networks.checkpoints import load_model
from quality_model.params import EvaluateParams, PerHead, RegistryParams, values_sha256
from quality_model.paths import HISTORY_NAME, RUN_NAME
from quality_model.records import HEADS
from quality_model.release.tracking import DataFacts, data_tags, log_baselines, resume_run, run_exists

log = logging.getLogger(__name__)


def evaluate_candidate(
    section: EvaluateParams,
    registry: RegistryParams,
    *,
    root: Path,
    training_set: Path,
    model: Path,
    history: Path | None,
    output: Path,
    loss_weights: PerHead,
) -> Evaluation:
    """Measure a model on the test split, with the evidence that the gate asks for.

    Args:
        section: Bootstrap, batch size, device, images of the ladders.
        registry: Names the experiment.
        root: The project folder.
        training_set: Folder whose test split is used.
        model: Folder of a trained model, or a file of weights.
        history: Folder of the training's report, for the learning curves; None if there is none.
        output: Folder for metrics.json, evaluation.json, predictions.csv and images/.
        loss_weights: Weight of each head in the loss.

    Raises:
        CheckpointError: The model does not load.
        IncompleteError, CorruptError: The training dataset is not whole.
        UsageError: The model works at another image size than the training dataset has.
    """
    samples = TrainingSet.open(training_set)
    loaded = load_model(model, choose_device(section.device))
    require_size(loaded, samples)
    excluded = seen_test_groups([loaded.facts], samples)
    if excluded:
        log.warning("Test groups that the model or its start weights have seen: %s.", ", ".join(excluded))
    evaluation = evaluate(
        section,
        loaded.model,
        samples,
        loss_weights=loss_weights.as_dict(),
        thresholds=loaded.thresholds,
        baselines=measure_baselines(
            samples, max_samples=section.baseline_samples, seed=section.seed, excluded_groups=excluded
        ),
        model_sha256=loaded.folder_sha256,
        excluded_groups=excluded,
    )
    storage.sweep(output)
    write_evaluation(evaluation, output)
    images = output / "images"
    _draw(evaluation, samples, images)
    if history is not None:
        curves = learning_curves(storage.read_json(history / HISTORY_NAME))
        save_figure(curves, images / "learning_curves.png")
    _track_baselines(section, registry, root, training_set, samples, evaluation)
    _track(registry, root, model, output, evaluation)
    return evaluation


def _draw(evaluation: Evaluation, samples: TrainingSet, folder: Path) -> None:
    table, images = evaluation.predictions, samples.images
    save_figure(predicted_against_true(table), folder / "predicted_against_true.png")
    save_figure(ladders_figure(evaluation.metrics["ladders"]), folder / "ladders.png")
    save_figure(cross_talk_figure(evaluation.metrics["cross_talk"]), folder / "cross_talk.png")
    for head in HEADS:
        save_figure(worst_errors(table, images, head), folder / f"worst_{head}.png")


def summary_table(evaluation: Evaluation) -> str:
    """The measures of each head, with the interval of R2 and the evidence, as aligned text."""
    heads, summary = evaluation.metrics["heads"], evaluation.summary()
    titles = [f"{title:>{width}}" for title, _, width, _ in _COLUMNS]
    lines = [" ".join([f"{'head':12}", *titles, f"{'interval of R2':>18}"])]
    for head in HEADS:
        low_high = heads[head]["intervals"]["r2"]
        interval = "-" if low_high is None else f"[{low_high[0]:.3f}, {low_high[1]:.3f}]"
        cells = [_cell(summary[head][name], width, digits) for _, name, width, digits in _COLUMNS]
        lines.append(" ".join([f"{head:12}", *cells, f"{interval:>18}"]))
    return "\n".join(lines)


_COLUMNS: Final = (
    ("MSE", "mse", 8, 4),
    ("constant", "constant_mse", 9, 4),
    ("MAE", "mae", 7, 4),
    ("Spearman", "spearman", 9, 3),
    ("worst ladder", "worst_ladder_spearman", 13, 3),
    ("cross-talk", "largest_cross_talk", 11, 3),
    ("clean flags", "clean_flag_share", 12, 3),
    ("R2", "r2", 7, 3),
)
"""Title, name in the summary, width and digits."""


def _cell(value: float | None, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:{width}.{digits}f}"


def _track(registry: RegistryParams, root: Path, model: Path, output: Path, evaluation: Evaluation) -> None:
    note = model / RUN_NAME
    key = storage.read_json(note)["run_key"] if note.exists() else None
    if key is None or not run_exists(root, registry, key):
        log.warning("%s belongs to no run that is known here; its measures stay in %s.", model, output)
        return
    with resume_run(root, registry, key) as run:
        run.log_metrics(evaluation.summary(), "test")
        run.log_files(output, "evaluation")
        run.set_tags({"test_data_sha256": evaluation.metrics["data_sha256"]})


def _track_baselines(
    section: EvaluateParams,
    registry: RegistryParams,
    root: Path,
    folder: Path,
    samples: TrainingSet,
    evaluation: Evaluation,
) -> None:
    """Runs of their own, once for these data, so that they stand beside the models."""
    log_baselines(
        root,
        registry,
        evaluation.metrics["baselines"],
        data=DataFacts(
            name="training dataset",
            sha256=samples.data_sha256,
            rows=len(samples),
            source=folder.name if folder.is_absolute() else str(folder),
            context="evaluation",
        ),
        settings={
            "version": BASELINE_VERSION,
            "max_samples": section.baseline_samples,
            "seed": section.seed,
            "excluded_groups": values_sha256(sorted(evaluation.metrics["excluded_groups"]))[:12],
        },
        tags=data_tags(root, folder),
    )
