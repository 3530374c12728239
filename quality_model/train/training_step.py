"""Training as one function: from a training dataset to a model folder and the training's report."""

import csv
import io
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from quality_model import pretrained
from quality_model.core import storage
from quality_model.core.model_facts import ModelFacts
from quality_model.core.models import AUTO, find_model, last_champion
from quality_model.core.provenance import code_facts, dvc_data_hash
from quality_model.data.dataset import TrainingSet
from quality_model.data.expression import without_folders
from quality_model.data.split import SEEN_GROUPS, seen_by, seen_in_training
from quality_model.errors import ModelNotFoundError, RegistryError
from quality_model.evaluate.predictions import calibrate_thresholds, predict_scores
from quality_model.networks.checkpoints import LoadedModel, load_model, save_model
from quality_model.networks.device import choose_device
from quality_model.params import RegistryParams, TrainParams
from quality_model.paths import HISTORY_NAME
from quality_model.train.loop import TrainedModel, train
from quality_model.train.report import EpochReport
from quality_model.train.state import RunIdentity, clear_checkpoints

log = logging.getLogger(__name__)

_LASTING: Final = ("source.", "generate.", "train.")
"""Sections of the parameters that the weights depend on."""

SCRATCH: Final = "scratch"
"""What ``train.start_from`` calls random weights."""

CHAMPION: Final = "champion"
"""What ``train.start_from`` calls the champion's weights, which are the bundled ones while there is none."""

_LOCK_NAME: Final = "step.lock"
_BUSY_AFTER_S: Final = 10.0
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
    training_set: Path,
    output: Path,
    report: Path,
    checkpoints: Path,
    settings: Mapping[str, Any],
    on_epoch: Callable[[TrainingProgress], None] = lambda progress: None,
) -> TrainedModel:
    """Train, and resume an interrupted training of the same data and parameters.

    Args:
        section: The recipe.
        registry: Names the model whose champion a training may start from.
        root: The project folder.
        training_set: Folder of the labelled samples.
        output: Folder for model.safetensors and model.json.
        report: Folder for metrics.json, history.json and history.csv.
        checkpoints: Folder for the state after each epoch; this run's is removed at the end. One training
            at a time uses it.
        settings: Every parameter by dotted key; those that the weights depend on are stored in model.json.
        on_epoch: Called at the start, and after each epoch once its checkpoint is durable. A resumed
            training reports the earlier epochs again.

    Raises:
        TrainingError, CheckpointError: See `quality_model.train.train`; or the start weights do not load.
        ModelNotFoundError: The start weights are not there.
        IncompleteError, CorruptError: The training dataset is not whole.
        StorageError: The files could not be written, or another process trains with these checkpoints.
    """
    samples = TrainingSet.open(training_set)
    start = _find_start(section.start_from, registry, root)
    identity = RunIdentity.of(
        section,
        data_sha256=samples.data_sha256,
        image_size_px=samples.image_size_px,
        start_sha256=start.sha256 if start else None,
    )
    facts = ModelFacts(
        training_fingerprint=identity.fingerprint,
        settings=_lasting(settings, start),
        data_sha256=samples.data_sha256,
        data_rows=len(samples.labels),
        data_groups=int(samples.manifest["group"].nunique()),
        dvc_data_hash=dvc_data_hash(root, training_set),
        **code_facts(root).to_json(),
    )
    history: list[EpochReport] = []

    def after_epoch(epoch: EpochReport) -> None:
        history.append(epoch)
        on_epoch(TrainingProgress(facts, tuple(history)))

    # `train` locks the checkpoints while it trains; the model and the report need the lock for longer.
    with storage.locked(checkpoints / _LOCK_NAME, timeout_s=_BUSY_AFTER_S):
        on_epoch(TrainingProgress(facts, ()))
        trained = train(section, samples, checkpoints, after_epoch, start=start)
        save_model(
            output,
            trained.model,
            image_size_px=samples.image_size_px,
            facts={
                **trained.facts(),
                **facts.to_json(),
                **_flag_facts(section, trained, samples),
                **_seen_facts(samples, start),
            },
        )
        _write_report(report, trained)
        clear_checkpoints(checkpoints, trained.fingerprint)
    return trained


def _flag_facts(section: TrainParams, trained: TrainedModel, samples: TrainingSet) -> dict[str, Any]:
    """``thresholds`` of the flags, calibrated on validation's clean samples; nothing without any."""
    rows = samples.indices("validation")
    clean = rows[samples.is_untouched[rows]]
    device = choose_device(section.device)
    scores = predict_scores(
        trained.model.to(device), samples.images, clean, batch_size=section.batch_size, device=device
    )
    thresholds = calibrate_thresholds(scores, section.clean_flag_share)
    if thresholds is None:
        log.warning("No clean sample in the validation split: the model gets no decision thresholds.")
        return {}
    return {"thresholds": thresholds, "thresholds_clean_samples": len(clean)}


def _find_start(reference: str, registry: RegistryParams, root: Path) -> LoadedModel | None:
    """The weights that ``train.start_from`` names; None: random ones.

    While the registry does not answer, the champion is the one that the last training here used, or the
    bundled model: a server that is down costs no training.

    Raises:
        ModelNotFoundError, CheckpointError: They are not there, or do not load.
    """
    if reference == SCRATCH:
        return None
    if reference != CHAMPION:
        return load_model(find_model(reference, root, registry).path, torch.device("cpu"))
    try:
        source = find_model(AUTO, root, registry)
    except ModelNotFoundError:
        raise
    except RegistryError as error:
        log.warning("%s Training starts from the last known champion.", error.problem)
        source = last_champion(root, registry) or find_model(pretrained.NAME, root, registry)
    version = source.ref.version
    log.info(
        "Training starts from %s.", f"version {version}, the champion" if version else "the bundled model"
    )
    return load_model(source.path, torch.device("cpu"))


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
    best = trained.best.to_dict()
    measures = ("train_loss", "validation_loss", "validation_mse", "validation_r2")
    text = io.StringIO()
    rows = [epoch.row() for epoch in trained.history]
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    storage.sweep(folder)
    storage.write_json(
        folder / "metrics.json",
        {
            "best_epoch": trained.best_epoch,
            "epochs_run": len(trained.history),
            **{key: best[key] for key in measures},
        },
    )
    storage.write_json(folder / HISTORY_NAME, [epoch.to_dict(timings=False) for epoch in trained.history])
    storage.write_text(folder / "history.csv", text.getvalue())
