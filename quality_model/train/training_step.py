"""Training as a step: the loop, its record in MLflow, and the files it leaves."""

import csv
import io
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import torch

from quality_model import pretrained
from quality_model.core import storage
from quality_model.core.device import choose_device
from quality_model.core.model_source import AUTO, find_model
from quality_model.data.dataset import TrainingSet
from quality_model.data.expression import without_folders
from quality_model.data.split import SEEN_GROUPS, seen_by, seen_in_training
from quality_model.errors import ModelNotFoundError, RegistryError
from quality_model.evaluate.predictions import calibrate_thresholds, predict_scores
from quality_model.networks.checkpoints import LoadedModel, load_model, save_model
from quality_model.params import RegistryParams, TrainParams, values_sha256
from quality_model.paths import HISTORY_NAME, RUN_NAME, ProjectPaths
from quality_model.records import HEADS
from quality_model.release.tracking import (
    DataFacts,
    Run,
    code_tags,
    data_tags,
    resume_run,
    run_exists,
    start_run,
)
from quality_model.release.tracking.provenance import UNKNOWN
from quality_model.train import EpochReport, TrainedModel, clear_checkpoints, train, training_code_sha256

log = logging.getLogger(__name__)

_PER_HEAD: Final = ("train_mse", "validation_mse", "train_r2", "validation_r2")
_LASTING: Final = ("source.", "generate.", "train.")
"""Sections of the parameters that the weights hang on."""

SCRATCH: Final = "scratch"
"""What ``train.start_from`` calls random weights."""

CHAMPION: Final = "champion"
"""What ``train.start_from`` calls the champion's weights, which are the bundled ones while there is none."""

_LAST_CHAMPION: Final = "last-champion.json"
_LOCK_NAME: Final = "step.lock"
_BUSY_AFTER_S: Final = 10.0

_HASH_DIGITS: Final = 12

_TIMINGS: Final = ("images_per_s", "elapsed_s")
"""Go to MLflow only, so that the same training leaves the same files."""


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
) -> TrainedModel:
    """Train, and go on where an interrupted training of the same data and parameters stopped.

    Args:
        section: The recipe.
        registry: Names the experiment.
        root: The project folder.
        training_set: Folder of the labelled samples.
        output: Folder for model.safetensors, model.json and run.json.
        report: Folder for metrics.json, history.json and history.csv.
        checkpoints: Folder for the state after each epoch; at the end this run's is removed. One training
            at a time uses it.
        settings: Every parameter by dotted key, for the record.

    Raises:
        TrainingError, CheckpointError: See `quality_model.train.train`; or the weights to begin with do
            not load.
        ModelNotFoundError: The weights to begin with are not there.
        IncompleteError, CorruptError: The training dataset is not whole.
        StorageError: The files could not be written, or another process trains with these checkpoints.
    """
    samples = TrainingSet.open(training_set)
    start = _find_start(section.start_from, registry, root)
    code = {key: None if value == UNKNOWN else value for key, value in code_tags(root).items()}
    settings = _without_paths(settings, start)
    note = checkpoints / _note_name(settings, samples)
    # `train` locks the checkpoints while it trains; the run's note and its model need as much.
    with storage.locked(checkpoints / _LOCK_NAME, timeout_s=_BUSY_AFTER_S):
        with _tracked(registry, root, samples, training_set, note, settings) as run:

            def on_epoch(epoch: EpochReport) -> None:
                run.log_epoch(epoch.to_dict())

            trained = train(section, samples, checkpoints, on_epoch, start=start)
            # No marker covers it: left there, it would lend an earlier run's name to these weights.
            storage.remove(output / RUN_NAME)
            save_model(
                output,
                trained.model,
                image_size_px=samples.image_size_px,
                facts={
                    **_lasting_facts(trained, settings),
                    **_flag_facts(section, trained, samples),
                    **_seen_facts(samples, start),
                },
            )
            _write_report(report, trained)
            run.log_metrics(_summary(trained), "best")
            run.log_model(output, step=trained.best_epoch)
            run.log_files(report, "training")
            storage.write_json(output / RUN_NAME, {"run_key": run.key, "run_id": run.run_id, **code})
        clear_checkpoints(checkpoints, trained.fingerprint)
        storage.remove(note)
    return trained


def _note_name(settings: Mapping[str, Any], samples: TrainingSet) -> str:
    """Where the MLflow run of a training is noted until it ends: one place for all that go on from it."""
    decides = [_lasting(settings), samples.data_sha256, training_code_sha256()]
    return f"note-{values_sha256(decides)[:_HASH_DIGITS]}.json"


def _tracked(
    registry: RegistryParams,
    root: Path,
    samples: TrainingSet,
    folder: Path,
    note: Path,
    settings: Mapping[str, Any],
) -> Run:
    """Begin a run, or take up the one of the interrupted training that this one continues."""
    lasting = _lasting(settings)
    if note.exists():
        earlier = storage.read_json(note)["run_key"]
        if run_exists(root, registry, earlier):
            return resume_run(root, registry, earlier, system_metrics=True)
    run = start_run(
        root,
        registry,
        name="train",
        params=dict(settings),
        params_sha256=values_sha256(lasting),
        tags=data_tags(root, folder),
        data=DataFacts(
            name=str(lasting.get("source.dataset", "training dataset")),
            sha256=samples.data_sha256,
            rows=len(samples.labels),
            source=folder.name if folder.is_absolute() else str(folder),
            facts={
                "groups": int(samples.manifest["group"].nunique()),
                "image_size_px": samples.image_size_px,
                "profile": str(settings.get("generate.profile", "unknown")),
            },
        ),
    )
    storage.write_json(note, {"run_key": run.key})
    return run


def _lasting_facts(trained: TrainedModel, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What model.json says of its origin."""
    return {**trained.facts(), "settings": _lasting(settings)}


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
        log.warning("No clean sample in the validation split: the model gets no thresholds for flags.")
        return {}
    return {"thresholds": thresholds, "thresholds_clean_samples": len(clean)}


def _find_start(reference: str, registry: RegistryParams, root: Path) -> LoadedModel | None:
    """The weights that ``train.start_from`` names; None: random ones.

    While the registry does not answer, the champion is the one that the last training here knew, or the
    bundled model: a server that is down costs no training.

    Raises:
        ModelNotFoundError, CheckpointError: They are not there, or do not load.
    """
    if reference == SCRATCH:
        return None
    if reference != CHAMPION:
        return load_model(find_model(reference, root, registry).path, torch.device("cpu"))
    known = ProjectPaths(root).state / _LAST_CHAMPION
    try:
        source = find_model(AUTO, root, registry)
        storage.write_json(known, {"path": str(source.path.absolute()), "version": source.version})
        path, version = source.path, source.version
    except ModelNotFoundError:
        raise
    except RegistryError as error:
        log.warning("%s The weights of the last known champion are taken.", error.problem)
        noted = storage.read_json(known) if known.exists() else {}
        path, version = Path(noted.get("path", "")), noted.get("version")
        if not noted or not path.is_dir():
            path, version = find_model(pretrained.NAME, root, registry).path, None
    log.info(
        "Training starts from %s.", f"version {version}, the champion" if version else "the bundled model"
    )
    return load_model(path, torch.device("cpu"))


def _seen_facts(samples: TrainingSet, start: LoadedModel | None) -> dict[str, Any]:
    """``seen_groups`` of this training and of the weights it began with; nothing if those do not say."""
    before: frozenset[str] | None = frozenset() if start is None else seen_by(start.facts, samples)
    return {} if before is None else {SEEN_GROUPS: sorted(before | seen_in_training(samples))}


def _without_paths(settings: Mapping[str, Any], start: LoadedModel | None) -> dict[str, Any]:
    """The settings without a path of this machine: of a folder the last name, of weights a hash too."""
    named = dict(settings)
    if dataset := settings.get("source.dataset"):
        named["source.dataset"] = without_folders(str(dataset))
    if start is not None:
        name = Path(settings["train.start_from"]).name
        named["train.start_from"] = f"{name}@{start.sha256[:_HASH_DIGITS]}"
    if scorer := settings.get("score.model"):
        named["score.model"] = Path(scorer).name
    return named


def _lasting(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that the weights hang on."""
    return {key: value for key, value in settings.items() if key.startswith(_LASTING)}


def _summary(trained: TrainedModel) -> dict[str, Any]:
    best = trained.best.to_dict()
    return {
        "best_epoch": trained.best_epoch,
        "epochs_run": len(trained.history),
        **{key: best[key] for key in ("train_loss", "validation_loss", "validation_mse", "validation_r2")},
    }


def _write_report(folder: Path, trained: TrainedModel) -> None:
    history = [
        {key: value for key, value in epoch.to_dict().items() if key not in _TIMINGS}
        for epoch in trained.history
    ]
    storage.sweep(folder)
    storage.write_json(folder / "metrics.json", _summary(trained))
    storage.write_json(folder / HISTORY_NAME, history)
    storage.write_text(folder / "history.csv", _to_csv(history))


def _to_csv(history: Iterable[Mapping[str, Any]]) -> str:
    """One row an epoch, for `dvc plots`."""
    rows = []
    for epoch in history:
        row = {key: epoch[key] for key in ("epoch", "train_loss", "validation_loss", "learning_rate")}
        row |= {f"{name}_{head}": epoch[name][head] for name in _PER_HEAD for head in HEADS}
        rows.append(row)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
