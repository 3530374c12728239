"""Training as one function: from a training dataset to a model folder and the training's report."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch

from quality_model import pretrained
from quality_model.core import storage
from quality_model.core.models import AUTO, CHAMPION, find_model
from quality_model.core.provenance import ModelFacts, code_facts, dvc_data_hash
from quality_model.core.scale import FEWEST_IMAGES, ScaleMap, fit_scale
from quality_model.core.torch_engine import choose_device
from quality_model.core.views import SQUEEZED, ViewRecipe
from quality_model.data.dataset import SEEN_GROUPS, TrainingSet, seen_by, seen_groups, seen_in_training
from quality_model.errors import ModelNotFoundError, QualityModelError, RegistryError, UsageError
from quality_model.evaluate.predictions import calibrate_intervals, calibrate_thresholds
from quality_model.evaluate.whole_images import (
    DegradedScores,
    ScoredImages,
    score_whole_images,
    scored_samples,
)
from quality_model.networks.model import LoadedModel, load_model, predict_scores, save_model
from quality_model.params import LimitsParams, RegistryParams, TrainParams
from quality_model.paths import HISTORY_NAME, ProjectPaths
from quality_model.records import FIRST_SCALE_VERSION, HEADS, SCALE_VERSION, Head, without_folders
from quality_model.train.epochs import EpochReport
from quality_model.train.loop import RunState, TrainedModel, run_identity, train
from quality_model.train.own_labels import open_own_labels

log = logging.getLogger(__name__)

_LASTING: Final = ("source.", "generate.", "train.")
"""Sections of the parameters that the weights depend on."""

SCRATCH: Final = "scratch"
"""What ``train.start_from`` calls random weights."""

MOST_R2_LOST: Final = 0.02
"""By the map to the champion's scale, on any head: more is a reason to raise the scale version."""

_LAST_CHAMPION: Final = "last-champion.json"
_HASH_DIGITS: Final = 12


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """A training that runs.

    Attributes:
        facts: What it is made of, known before its first epoch: the fingerprint, settings, data and code.
        history: Its epochs so far, none at its start.
    """

    facts: ModelFacts
    history: tuple[EpochReport, ...]


def train_candidate(
    section: TrainParams,
    registry: RegistryParams,
    *,
    root: Path,
    images: Path,
    limits: LimitsParams,
    training_set: Path,
    output: Path,
    report: Path,
    checkpoints: Path,
    settings: Mapping[str, Any],
    own_labels: Path | None = None,
    own_images: Path | None = None,
    on_epoch: Callable[[TrainingProgress], None] = lambda progress: None,
) -> TrainedModel:
    """Train, and resume an interrupted training of the same data and parameters.

    Args:
        section: The recipe.
        registry: Names the model whose champion a training may start from.
        root: The project folder.
        images: Folder of the images table that the training dataset was generated from.
        limits: What an image may be.
        training_set: Folder of the labelled samples.
        output: Folder for model.safetensors and model.json.
        report: Folder for metrics.json, history.json and history.csv.
        checkpoints: Folder for the state after each epoch; this run's is removed at the end. One training
            at a time uses it.
        settings: Every parameter by dotted key; those that the weights depend on are stored in model.json.
        own_labels, own_images: Labels of a person and the folder of their images, to be trained on, too
            (`own_labels`); None: there are none.
        on_epoch: Called at the start, and after each epoch once its checkpoint is durable. A resumed
            training reports the earlier epochs again.

    Raises:
        UsageError: The labels cannot be used, or there are no start weights to compare with.
        TrainingError, CheckpointError: See `quality_model.train.train`; or the start weights do not load.
        ModelNotFoundError: The start weights are not there.
        IncompleteError, CorruptError: The training dataset is not whole.
        StorageError: The files could not be written, or another process trains with these checkpoints.
    """
    samples = TrainingSet.open(training_set)
    start = _find_start(section.start_from, registry, root)
    recipe = start.views if start else (ViewRecipe() if section.architecture == "small" else SQUEEZED)
    recipe = recipe.with_scale(None)
    own = None
    if own_labels is not None and own_images is not None:
        if start is None:
            raise UsageError(
                "Own labels continue a training, and train.start_from is scratch.",
                "Start from the champion, bundled, or a file.",
            )
        own = open_own_labels(own_labels, own_images, limits, size_px=samples.image_size_px, recipe=recipe)
    state = RunState(checkpoints, run_identity(section, samples, start, own))
    facts = ModelFacts(
        training_fingerprint=state.fingerprint,
        settings=_lasting(settings, start),
        data_sha256=samples.data_sha256,
        data_rows=len(samples.labels),
        data_images=int(samples.manifest["image_id"].nunique()),
        data_groups=int(samples.manifest["group"].nunique()),
        dvc_data_hash=dvc_data_hash(root, training_set),
        **code_facts(root).to_json(),
    )
    history: list[EpochReport] = []

    def after_epoch(epoch: EpochReport) -> None:
        history.append(epoch)
        on_epoch(TrainingProgress(facts, tuple(history)))

    with storage.only_maker(checkpoints):
        on_epoch(TrainingProgress(facts, ()))
        trained = train(
            section, samples, checkpoints, after_epoch, images=images, limits=limits, start=start, own=own
        )
        of_own = own.compare(start, trained.model, choose_device(section.device)) if own and start else {}
        for head, found in of_own.items():
            log.info("Own labels, %s: %s.", head, found.line())
        scale_version, champion = _champion_of_scale(section, registry, root, samples, settings)
        recipe, flag_facts = _flag_facts(
            section, trained, samples, recipe, champion, images=images, limits=limits
        )
        if champion is not None and recipe.scale is not None:
            scale_version = champion.facts.scale_version or FIRST_SCALE_VERSION
        save_model(
            output,
            trained.model,
            image_size_px=samples.image_size_px,
            views=recipe,
            facts={
                **trained.facts(),
                **facts.to_json(),
                **flag_facts,
                "scale_version": scale_version,
                **_seen_facts(samples, start),
                **({"own_labels": {h: one.model_dump() for h, one in of_own.items()}} if own else {}),
            },
        )
        _write_report(report, trained)
        state.clear()
    return trained


def _flag_facts(
    section: TrainParams,
    trained: TrainedModel,
    samples: TrainingSet,
    recipe: ViewRecipe,
    champion: LoadedModel | None,
    *,
    images: Path,
    limits: LimitsParams,
) -> tuple[ViewRecipe, dict[str, Any]]:
    """The recipe on the champion's scale, and on it ``thresholds`` of flags and ``intervals`` of scores.

    All are from images of the validation split.

    Without the images table there are thresholds for whole images alone, from the dataset's samples, and
    intervals only for a model that sees nothing else.
    """
    device = choose_device(section.device)
    scored = score_whole_images(
        trained.model,
        samples,
        "validation",
        [recipe, SQUEEZED],
        images=images,
        limits=limits,
        seed=section.seed,
        device=device,
        champion=champion,
    )
    if champion and scored is None:
        log.warning("Without the images table there is no map to the champion's scale.")
    if scored is None:
        rows = samples.indices("validation")
        scores = predict_scores(
            trained.model, samples.images, rows, batch_size=section.batch_size, device=device
        )
        scored = scored_samples(samples.scored(rows, scores))
    clean, degraded, of_images, _ = scored
    facts: dict[str, Any] = {}
    if champion and (scale := _fit_scale(scored, samples, champion)):
        recipe = recipe.with_scale(scale)
        facts["scale_r2"] = _r2_on(scale, degraded)
    if of_images or recipe.squeezed:
        intervals = calibrate_intervals(recipe.on_scale(degraded.scores), degraded.labels)
        facts["intervals"] = intervals and intervals.model_dump(mode="json")
    if not clean.groups:
        log.warning("No clean image in the validation split: the model gets no decision thresholds.")
        return recipe, facts
    found = [
        calibrate_thresholds(recipe.on_scale(scores), section.clean_flag_share) for scores in clean.scores
    ]
    thresholds, whole = found if of_images else (None, *found)
    if recipe.squeezed:
        thresholds, whole = thresholds or whole, None
    return recipe, facts | {
        "thresholds": thresholds,
        "thresholds_whole": whole,
        "thresholds_clean_samples": len(clean.groups),
        "thresholds_of_images": of_images,
    }


def _champion_of_scale(
    section: TrainParams,
    registry: RegistryParams,
    root: Path,
    samples: TrainingSet,
    settings: Mapping[str, Any],
) -> tuple[str, LoadedModel | None]:
    """The scale version of a model without a map, and the champion whose scale a map would lead to.

    There is no map to a champion of another formula of labels, image size or profile of degradations.
    """
    try:
        champion = load_model(_find_champion(registry, root)[0], torch.device("cpu"))
    except QualityModelError as error:
        log.warning("There is no champion whose scale is kept: %s", error.problem)
        return SCALE_VERSION, None
    formula, _, number = (champion.facts.scale_version or FIRST_SCALE_VERSION).partition(".")
    if formula != SCALE_VERSION:
        return SCALE_VERSION, None
    version = f"{SCALE_VERSION}.{int(number) + 1 if number.isdigit() else 1}"
    theirs = (champion.image_size_px, (champion.facts.settings or {}).get("generate.profile"))
    is_alike = theirs == (samples.image_size_px, settings.get("generate.profile"))
    return version, champion if section.keep_scale and is_alike else None


def _fit_scale(scored: ScoredImages, samples: TrainingSet, champion: LoadedModel) -> ScaleMap | None:
    """The map from scores of the first recipe to the champion's; None, and a warning, with few images.

    A model scores scenes that it has seen better than others, so those of the champion count only where there
    are too few others.
    """
    if scored.champion is None:
        return None
    ours = np.concatenate([scored.clean.scores[0], scored.degraded.scores])
    seen = seen_groups([champion.facts], samples, "validation")
    rows = ~np.isin([*scored.clean.groups, *scored.degraded.groups], seen)
    if rows.sum() < FEWEST_IMAGES:
        rows[:] = True
    try:
        return fit_scale(ours[rows], scored.champion[rows], champion.sha256)
    except UsageError as error:
        log.warning("%s Scores are on the model's own scale. %s", error.problem, error.remedy)
        return None


def _r2_on(scale: ScaleMap, degraded: DegradedScores) -> dict[Head, list[float]]:
    """R2 of degraded images by head, of the network's own scores and of those on the scale."""
    labels = degraded.labels.astype(np.float64)
    both = np.stack([degraded.scores, scale.of(degraded.scores)])
    variance = np.maximum(labels.var(axis=0), np.finfo(np.float64).tiny)
    raw, mapped = 1.0 - np.mean((both - labels) ** 2, axis=1) / variance
    for at, head in enumerate(HEADS):
        if raw[at] - mapped[at] > MOST_R2_LOST:
            log.warning(
                "On the champion's scale R2 of %s is %.3f, without it %.3f: see docs/gate.md.",
                *(head, mapped[at], raw[at]),
            )
    return {head: [float(raw[at]), float(mapped[at])] for at, head in enumerate(HEADS)}


def _find_start(reference: str, registry: RegistryParams, root: Path) -> LoadedModel | None:
    """The weights that ``train.start_from`` names; None: random ones.

    While the registry does not answer, the champion is the one that the last training here used, or the
    bundled model: a server that is down costs no training.

    Raises:
        ModelNotFoundError, CheckpointError: They are not there, or do not load.
    """
    if reference == SCRATCH:
        return None
    if reference != CHAMPION:  # whose weights are the bundled ones while there is none
        return load_model(find_model(reference, root, registry).path, torch.device("cpu"))
    path, version = _find_champion(registry, root)
    log.info(
        "Training starts from %s.", f"version {version}, the champion" if version else "the bundled model"
    )
    return load_model(path, torch.device("cpu"))


def _find_champion(registry: RegistryParams, root: Path) -> tuple[Path, str | None]:
    """The champion's files and version, those that were last known, or the bundled model's.

    Raises:
        ModelNotFoundError: None of them is there.
    """
    known = ProjectPaths(root).state / _LAST_CHAMPION
    try:
        source = find_model(AUTO, root, registry)
        storage.write_json(known, {"path": str(source.path.absolute()), "version": source.ref.version})
    except ModelNotFoundError:
        raise
    except RegistryError as error:
        log.warning("%s The last known champion is used.", error.problem)
        noted = storage.read_json(known) if known.exists() else {}
        path = Path(noted.get("path", ""))
        if noted and path.is_dir():
            return path, noted.get("version")
        return find_model(pretrained.NAME, root, registry).path, None
    return source.path, source.ref.version


def _seen_facts(samples: TrainingSet, start: LoadedModel | None) -> dict[str, Any]:
    """``seen_groups`` of this training and of its start weights; nothing if those do not say."""
    before: frozenset[str] | None = frozenset() if start is None else seen_by(start.facts, samples)
    return {} if before is None else {SEEN_GROUPS: sorted(before | seen_in_training(samples))}


def _lasting(settings: Mapping[str, Any], start: LoadedModel | None) -> dict[str, Any]:
    """The settings that the weights depend on, without a path of this machine.

    Of a folder the last name stays, of weights a hash too.
    """
    named = {key: value for key, value in settings.items() if key.startswith(_LASTING)}
    if dataset := named.get("source.dataset"):
        named["source.dataset"] = without_folders(str(dataset))
    if start is not None:
        name = Path(named["train.start_from"]).name
        named["train.start_from"] = f"{name}@{start.sha256[:_HASH_DIGITS]}"
    return named


def _write_report(folder: Path, trained: TrainedModel) -> None:
    best = trained.best
    losses = {"train_loss": best.train_loss, "validation_loss": best.validation_loss}
    counts = {"best_epoch": best.epoch, "epochs_run": len(trained.history)}
    storage.sweep(folder)
    storage.write_json(folder / "metrics.json", counts | losses)
    storage.write_json(folder / HISTORY_NAME, [epoch.to_dict(timings=False) for epoch in trained.history])
    table = pd.DataFrame([epoch.row() for epoch in trained.history])
    storage.write_text(folder / "history.csv", table.to_csv(index=False, lineterminator="\n"))
