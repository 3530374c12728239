"""Evaluation as a step, and the evidence that the gate decides by.

`evaluate_candidate` measures a model on the test split and writes the report. `gather_evidence` compares a
candidate with the champion: both are scored in one call, because theirs is a paired comparison. The rest of
the candidate's evidence takes most of the time. It is reused from the report if that is about the same model,
by its hash, on the same data and groups, measured alike; if not, it is measured anew. Of the champion nothing
else is asked. Test groups that either model, or the weights it began with, has seen in training count in no
figure.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pandas as pd

from quality_model.core import storage
from quality_model.core.figures import save_figure, text_table
from quality_model.core.ray_cluster import LOCAL, executor_on
from quality_model.core.torch_engine import choose_device
from quality_model.data.dataset import TrainingSet, seen_by, seen_groups
from quality_model.errors import StorageError, UsageError
from quality_model.evaluate import metrics, plots
from quality_model.evaluate.evidence import (
    FORMAT_VERSION,
    AgainstChampion,
    Champion,
    Evaluated,
    Evidence,
)
from quality_model.evaluate.measure import Evaluation, bootstrap_of, evaluate, measuring
from quality_model.evaluate.predictions import score_split
from quality_model.evaluate.real_defects import measure_real_defects
from quality_model.evaluate.whole_images import has_images
from quality_model.networks.model import LoadedModel, load_model
from quality_model.params import EvaluateParams, LimitsParams, PerHead, RealParams
from quality_model.paths import HISTORY_NAME, ProjectPaths
from quality_model.records import HEADS, Head

log = logging.getLogger(__name__)

DETAILS_NAME: Final = "evaluation.json"

_OF_EXPERIMENTS: Final = ("r2", "clean_flag_share")
"""What metrics.json has of each head: DVC makes a column of each number. evaluation.json has all."""


def evaluate_candidate(
    section: EvaluateParams,
    *,
    training_set: Path,
    model: Path,
    history: Path | None,
    output: Path,
    loss_weights: PerHead,
    images: Path | None,
    limits: LimitsParams,
    on: str = LOCAL,
) -> Evaluation:
    """Measure a model on the test split, with the evidence that the gate asks for.

    Args:
        section: Bootstrap, batch size, device, images of the severity sweeps.
        training_set: Folder whose test split is used.
        model: Folder of a trained model, or a file of weights.
        history: Folder of the training's report, for the learning curves; None if there is none.
        output: Folder for metrics.json (few numbers), evaluation.json (all of them), predictions.csv and
            figures/.
        loss_weights: Weight of each head in the loss.
        images: Folder of the images table that the dataset was generated from; where it is missing, clean
            flags and the coverage of intervals are those of the dataset's samples (`whole_images`).
        limits: What an image may be.
        on: Where images and samples are scored: see `ray_cluster.executor_on`. Nodes read both by path.

    Raises:
        CheckpointError: The model does not load.
        IncompleteError, CorruptError: The training dataset is not complete.
        UsageError: The model works at another image size than the training dataset has.
    """
    samples = TrainingSet.open(training_set)
    loaded = load_model(model, choose_device(section.device))
    require_size(loaded, samples)
    excluded = seen_groups([loaded.facts], samples, "test")
    if excluded:
        log.warning("Test groups that the model or its start weights have seen: %s.", ", ".join(excluded))
    with executor_on(on) as nodes:
        evaluation = evaluate(
            section,
            loaded,
            samples,
            loss_weights=loss_weights,
            excluded_groups=excluded,
            images=images,
            limits=limits,
            executor=nodes,
        )
    storage.sweep(output)
    write_evaluation(evaluation, output)
    figures = plots.evaluation_figures(evaluation, samples.images)
    if history is not None:
        figures["learning_curves"] = plots.learning_curves(storage.read_json(history / HISTORY_NAME))
    for name, figure in figures.items():
        save_figure(figure, output / "figures" / f"{name}.png")
    return evaluation


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write metrics.json, evaluation.json and predictions.csv, see `evaluate_candidate`."""
    summary = evaluation.measured.summary()
    few = {head: {name: summary[head][name] for name in _OF_EXPERIMENTS} for head in HEADS}
    storage.write_json(folder / "metrics.json", {"loss": summary["loss"], **few})
    evaluation.measured.write(folder / DETAILS_NAME)
    with storage.staged(folder / "predictions.csv") as path:
        evaluation.predictions.to_csv(path, index=False, float_format="%.6f", lineterminator="\n")


_COLUMNS: Final = {
    "MSE": ("mse", 4),
    "constant": ("constant_mse", 4),
    "MAE": ("mae", 4),
    "Spearman": ("spearman", 3),
    "worst sweep": ("worst_sweep_spearman", 3),
    "cross-talk": ("largest_cross_talk", 3),
    "clean flags": ("clean_flag_share", 3),
    "covered": ("interval_coverage", 3),
    "R2": ("r2", 3),
}
"""Name in the summary and digits, by title."""


def summary_table(measured: Evaluated) -> str:
    """The measures of each head, with the interval of R2 and the evidence, as aligned text."""
    titles = ["head", *_COLUMNS, "interval of R2"]
    rows = []
    for head, found in measured.heads.items():
        summary, r2 = measured.summary()[head], found.all.measures.r2
        numbers = [(summary[name], digits) for name, digits in _COLUMNS.values()]
        cells = ["-" if value is None else f"{value:.{digits}f}" for value, digits in numbers]
        rows.append([head, *cells, "-" if r2.low is None else f"[{r2.low:.3f}, {r2.high:.3f}]"])
    return text_table(titles, rows, right=titles[1:])


def require_size(loaded: LoadedModel, training_set: TrainingSet) -> None:
    """Make sure that a model is measured on images of the size it scores at.

    Raises:
        UsageError: It works at another size than this dataset's.
    """
    if loaded.image_size_px != training_set.image_size_px:
        raise UsageError(
            f"The model works at {loaded.image_size_px} px, the training dataset has "
            f"{training_set.image_size_px} px.",
            "Name the training dataset it was made for, or generate one of its size.",
        )


def gather_evidence(
    section: EvaluateParams,
    samples: TrainingSet,
    candidate: LoadedModel,
    champion: LoadedModel | None,
    *,
    loss_weights: PerHead,
    evaluation: Path,
    images: Path | None,
    limits: LimitsParams,
    real: RealParams | None = None,
    root: Path = Path(),
    earlier_candidates: int = 0,
) -> tuple[Evidence, pd.DataFrame | None]:
    """Measure candidate and champion on the test split.

    Args:
        section: How.
        samples: Holds the test split.
        candidate: Of this image size, and so is the champion.
        champion: None if there is none.
        loss_weights: Weight of each head in the loss.
        evaluation: Folder of the evaluation's report, which is reused if it is about the same.
        images: Folder of the images table, see `evaluate_candidate`.
        limits: What an image may be.
        real: Names a folder of real defects, on which the candidate is measured too, and heads.
        root: The project folder, below which that folder is.
        earlier_candidates: Others that were judged on some of these test images before.

    Returns:
        The evidence; and if there is a champion the candidate's predictions (see `TrainingSet.scored`), with
        the champion's scores as ``{head}_champion``.

    Raises:
        UsageError: The test split has no samples.
    """
    sides = {"candidate": candidate, **({"champion": champion} if champion else {})}
    excluded = seen_groups([side.facts for side in sides.values()], samples, "test")
    measured = known_evaluation(section, evaluation, samples.data_sha256, candidate.folder_sha256, excluded)
    ours = None
    if measured is None or (measured.flags_of == "samples" and has_images(images)):
        evaluated = evaluate(
            section,
            candidate,
            samples,
            loss_weights=loss_weights,
            excluded_groups=excluded,
            images=images,
            limits=limits,
        )
        measured, ours = evaluated.measured, evaluated.predictions
    compared = None
    if champion is not None:
        if ours is None:
            ours = score_split(section, candidate, samples, excluded_groups=excluded)
        theirs = score_split(section, champion, samples, excluded_groups=excluded)
        compared = Champion(
            split="test", data_sha256=samples.data_sha256, heads=compare_scores(section, ours, theirs)
        )
        ours = ours.assign(**{f"{head}_champion": theirs[f"{head}_score"] for head in HEADS})
    found = None
    if real is not None:
        found = measure_real_defects(
            ProjectPaths(root).place(Path(real.folder)),
            [*real.min_auc],
            candidate,
            bootstrap_of(section),
            limits=limits,
            device=choose_device(section.device),
        )
    evidence = Evidence(
        format_version=FORMAT_VERSION,
        candidate=measured,
        champion=compared,
        real=found,
        own_labels=candidate.facts.own_labels or {},
        silent_models=tuple(name for name, side in sides.items() if seen_by(side.facts, samples) is None),
        earlier_candidates=earlier_candidates,
    )
    return evidence, ours if champion is not None else None


def known_evaluation(
    section: EvaluateParams,
    folder: Path,
    data_sha256: str,
    model_sha256: str | None,
    excluded_groups: Sequence[str] = (),
) -> Evaluated | None:
    """An earlier evaluation of the same model on the same test groups, measured alike; or None."""
    path = folder / DETAILS_NAME
    if not path.exists():
        return None
    try:
        earlier = Evaluated.read(path)
    except StorageError as error:
        log.warning("The gate measures again: %s", error.problem)
        return None
    asked = ("test", data_sha256, model_sha256, measuring(section), tuple(excluded_groups))
    found = (earlier.split, earlier.data_sha256, earlier.model_sha256, earlier.measuring)
    return earlier if (*found, earlier.excluded_groups) == asked else None


def compare_scores(
    section: EvaluateParams, candidate: pd.DataFrame, champion: pd.DataFrame
) -> dict[Head, AgainstChampion]:
    """The champion's measures, and how much larger the candidate's MSE is, by head.

    Args:
        section: Bootstrap. Both models are measured on the same resample of groups each time, so what is
            hard for both cancels.
        candidate: Predictions, see `TrainingSet.scored`.
        champion: Of the same samples in the same order.
    """
    assert list(candidate["sample_id"]) == list(champion["sample_id"])
    bootstrap = bootstrap_of(section)
    compared: dict[Head, AgainstChampion] = {}
    for head in HEADS:
        labels = champion[f"{head}_label"]
        ours, theirs = candidate[f"{head}_score"], champion[f"{head}_score"]
        measured = metrics.measure(labels, theirs)
        differences = (ours - labels) ** 2 - (theirs - labels) ** 2
        compared[head] = AgainstChampion(
            mse=measured["mse"],
            r2=measured["r2"],
            difference=bootstrap.mean(differences, champion["group"]),
            p_better=metrics.p_below_zero(differences, champion["group"]),
        )
    return compared
