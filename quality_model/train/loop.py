"""The training loop: AdamW, cosine annealing, early stopping, a checkpoint per epoch.

Samples, order and dropout of an epoch depend on (seed, epoch) alone. So a run that was killed and
started again ends with the weights of an undisturbed one: on a CPU bit for bit, given the same
number of threads. The state of an unfinished run is on disk, one complete folder per epoch, the last two:

    checkpoints/run-<fingerprint>/plan.json                 how the run computes (chosen once)
    checkpoints/run-<fingerprint>/epoch-000007/state.pt     tensors and plain values
    checkpoints/run-<fingerprint>/epoch-000007/_complete.json

A run is identified by its fingerprint: everything that its result depends on. State of another run
is never used. It stays, so that the other run can resume; the newest `KEPT_RUNS` of them do.
"""

import hashlib
import io
import json
import logging
import pickle
import shutil
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from quality_model.core import storage
from quality_model.core.provenance import code_sha256
from quality_model.core.torch_engine import (
    MemoryFormat,
    Precision,
    can_compile,
    choose_device,
    choose_memory_format,
    choose_precision,
)
from quality_model.data.dataset import TrainingSet, stratified_subset
from quality_model.errors import CheckpointError, StorageError, TrainingError
from quality_model.networks.model import LoadedModel, MultiHeadQualityAssessmentModel
from quality_model.params import LimitsParams, TrainParams
from quality_model.train.epochs import EpochReport, Run, best_epoch
from quality_model.train.own_labels import OwnLabels

log = logging.getLogger(__name__)


STATE_VERSION: Final = 1
KEPT_EPOCHS: Final = 2
"""The newest checkpoint, and the one before it in case the newest is damaged."""

KEPT_RUNS: Final = 3
"""Other runs whose state stays when a new one begins, so that abandoned runs do not fill the disk."""

_STATE_NAME: Final = "state.pt"
_PLAN_NAME: Final = "plan.json"

_CODE: Final = ("core", "data", "degrade", "networks", "train")
"""Whole wings: a list of modules would miss one some day, and epochs of two versions are nobody's result."""

_PACKAGES: Final = ("numpy", "opencv-python-headless", "pillow", "torch")


def run_identity(
    section: TrainParams,
    training_set: TrainingSet,
    start: LoadedModel | None,
    own: OwnLabels | None = None,
) -> dict[str, Any]:
    """What a run's result depends on, as plain values.

    The device is left out: a run may resume elsewhere. ``epochs`` is in, because it sets the cosine.
    Start weights count by their hash, not by their path. The code counts too.
    """
    return {
        **section.model_dump(mode="json", exclude={"device", "start_from", "keep_scale"}),
        "start_sha256": start.sha256 if start else None,
        **({} if own is None else {"own_labels_sha256": own.sha256}),
        "data_sha256": training_set.data_sha256,
        "image_size_px": training_set.image_size_px,
        "code_sha256": code_sha256(_CODE, _PACKAGES),
        "state_version": STATE_VERSION,
    }


class ExecutionPlan(BaseModel):
    """How forward and backward passes run: device, precision, memory format, compiled or not.

    The last bits of the weights depend on it. So a run chooses it before its first step and stores it
    beside its checkpoints: a resumed run computes as it did before.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    device: str
    precision: Precision
    memory_format: MemoryFormat
    compiled: bool


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """The outcome of a run: the best epoch's weights, in evaluation mode, and how they were trained.

    Attributes:
        model: On the run's device.
        history: Every epoch.
        resumed_from_epoch: After which this process resumed; 0 for a run from the start.
        plan: How it was computed.
        fingerprint: Of the run.
        num_train: Samples of the train split.
        num_validation: Samples that each epoch was validated on.
    """

    model: MultiHeadQualityAssessmentModel
    history: list[EpochReport]
    resumed_from_epoch: int
    plan: ExecutionPlan
    fingerprint: str
    num_train: int
    num_validation: int

    @property
    def best(self) -> EpochReport:
        """The epoch that the weights are of."""
        return self.history[best_epoch(self.history) - 1]

    def facts(self) -> dict[str, Any]:
        """Plain JSON values for the model's description: the same for a resumed as for an undisturbed run."""
        return {
            "best_epoch": self.best.epoch,
            "epochs_run": len(self.history),
            "stopped_early": len(self.history) < self.best.epochs,
            "validation_loss": self.best.validation_loss,
            "validation_mse": dict(self.best.validation_mse),
            "num_train": self.num_train,
            "num_validation": self.num_validation,
            "training_fingerprint": self.fingerprint,
            "torch_version": str(torch.__version__),
            **self.plan.model_dump(),
        }


def train(
    section: TrainParams,
    training_set: TrainingSet,
    checkpoints: Path,
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
    *,
    images: Path | None = None,
    limits: LimitsParams | None = None,
    start: LoadedModel | None = None,
    own: OwnLabels | None = None,
) -> TrainedModel:
    """Train on the ``train`` split, stop by the ``validation`` split, return the best epoch's model.

    The state after each epoch is kept in ``checkpoints``. The same call resumes from there, and
    returns at once if the run was done. The caller removes it (`RunState.clear`), and sees to it
    that one process at a time uses the folder.

    Args:
        section: The recipe.
        training_set: uint8 images, float32 labels, and the split of each sample.
        checkpoints: Folder for the state of unfinished runs.
        on_epoch: Called with each epoch's report once its checkpoint is durable. A resumed run
            reports the earlier epochs again first, so that a caller sees every epoch.
        images: Folder of the images table that the dataset was generated from: needed for fresh samples
            alone, which are made of it.
        limits: What an image may be; needed with it.
        start: Start weights, on any device; None: random ones. The caller finds what
            ``section.start_from`` names.
        own: Labels of a person, whose order is trained beside the samples.

    Raises:
        TrainingError: A loss is not finite, there are too few samples, or memory is short.
        CheckpointError: The start weights are of another architecture.
        DeviceUnavailableError: The requested device is not available.
        StorageError: A checkpoint could not be written.
    """
    device = choose_device(section.device)
    rows = training_set.indices("train")
    validation_rows = stratified_subset(
        training_set.indices("validation"), section.max_validation_samples, section.seed
    )
    if len(rows) < 2 or len(validation_rows) < 1:
        raise TrainingError(
            f"The training dataset has {len(rows)} samples to train on and {len(validation_rows)} to "
            "validate on; at least 2 and 1 are needed.",
            "Use more images (source.num_images), or other shares (generate.validation_share).",
        )
    if start is not None and start.model.architecture != section.architecture:
        raise CheckpointError(
            f"The start weights (train.start_from {section.start_from}) are of architecture "
            f"{start.model.architecture}, but train.architecture is {section.architecture}.",
            "Start from a model of the same architecture or with scratch, or change train.architecture.",
        )
    state = RunState(checkpoints, run_identity(section, training_set, start, own))
    forked = [torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=forked):
        plan = state.plan(section, device)
        log.info(
            "Training on %s in %s, %s; %d samples to train on, %d to validate on",
            plan.device,
            plan.precision,
            plan.memory_format,
            len(rows),
            len(validation_rows),
        )
        checkpoint = state.load_latest()
        run = Run(
            section, training_set, rows, validation_rows, plan, device, start, checkpoint, images, limits, own
        )
        resumed_from_epoch = len(run.history)
        for report in run.history:
            on_epoch(report)
        try:
            with closing(run):
                while not run.is_done:
                    report = run.next_epoch()
                    state.save(report.epoch, run.to_state())
                    log.info(report.line())
                    on_epoch(report)
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"Device {device.type} has too little memory for batches of {section.batch_size}.",
                "Lower train.batch_size.",
            ) from error
        return TrainedModel(
            model=run.best_model(),
            history=run.history,
            resumed_from_epoch=resumed_from_epoch,
            plan=plan,
            fingerprint=state.fingerprint,
            num_train=len(rows),
            num_validation=len(validation_rows),
        )


class RunState:
    """The checkpoints of one run.

    Args:
        folder: The folder of all checkpoints.
        identity: Which run, see `run_identity`. Its hash is the ``fingerprint``, 64 hex digits.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self._identity = dict(identity)
        canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
        self.fingerprint = hashlib.sha256(canonical.encode()).hexdigest()
        self.folder = folder / f"run-{self.fingerprint[:16]}"

    def plan(self, section: TrainParams, device: torch.device) -> ExecutionPlan:
        """How the run computes: as stored, if that is whole and for this kind of device.

        Else it is chosen and stored, and of the other runs all but the newest are removed.
        """
        path = self.folder / _PLAN_NAME
        try:
            stored = ExecutionPlan.model_validate(storage.read_json(path)["plan"])
            if stored.device == device.type:
                return stored
        except (StorageError, LookupError, TypeError, ValidationError):
            pass
        precision = choose_precision(section.precision, device)
        chosen = ExecutionPlan(
            device=device.type,
            precision=precision,
            memory_format=choose_memory_format(device, precision),
            compiled=section.compile and can_compile(device),
        )
        storage.write_json(path, {"plan": chosen.model_dump(), "identity": self._identity})
        newest_first = sorted(self._others(), key=lambda run: run.stat().st_mtime_ns, reverse=True)
        for old in newest_first[KEPT_RUNS:]:
            log.info("The checkpoints in %s are removed: %d newer runs are unfinished", old, KEPT_RUNS)
            _remove_run(old)
        return chosen

    def save(self, epoch: int, state: Mapping[str, Any]) -> None:
        """Make the state after ``epoch`` durable, then remove older ones.

        Raises:
            StorageError: It could not be written.
        """
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        folder = self.folder / f"epoch-{epoch:06d}"
        storage.unseal(folder)
        storage.write_bytes(folder / _STATE_NAME, buffer.getvalue())
        storage.seal(folder, [_STATE_NAME], rows=1, epoch=epoch, fingerprint=self.fingerprint)
        storage.flush_folder(self.folder)
        for old in self._epochs()[KEPT_EPOCHS:]:
            _remove(old)

    def load_latest(self) -> dict[str, Any] | None:
        """The newest state that is whole; None if this run has none. The log names what is skipped."""
        for folder in self._epochs():
            try:
                marker = storage.require_sealed(folder, verify=True)
                if marker.get("fingerprint") != self.fingerprint:
                    raise StorageError(f"{folder} belongs to another run.")
                state: dict[str, Any] = torch.load(
                    folder / _STATE_NAME, map_location="cpu", weights_only=True
                )
            except (StorageError, RuntimeError, pickle.UnpicklingError) as error:
                log.warning("Checkpoint %s is skipped: %s", folder, error)
                continue
            return state
        self._explain_fresh_start()
        return None

    def clear(self) -> None:
        """Remove all of it, once the trained model is safe elsewhere."""
        _remove_run(self.folder)

    def _epochs(self) -> list[Path]:
        """Folders of epochs, newest first."""
        return sorted(self.folder.glob("epoch-*"), reverse=True)

    def _others(self) -> list[Path]:
        """Folders of other runs."""
        return sorted(run for run in self.folder.parent.glob("run-*") if run != self.folder)

    def _explain_fresh_start(self) -> None:
        ours = self._identity
        for other in self._others():
            try:
                theirs = storage.read_json(other / _PLAN_NAME)["identity"]
            except (StorageError, KeyError, TypeError):
                continue
            changed = [
                f"{key} {theirs.get(key)!r} there, {ours.get(key)!r} now"
                for key in sorted(ours.keys() | theirs.keys())
                if theirs.get(key) != ours.get(key)
            ]
            log.info("The checkpoints in %s are of another run (%s): not used", other, "; ".join(changed))


def _remove_run(run: Path) -> None:
    for epoch in run.glob("epoch-*"):
        _remove(epoch)
    shutil.rmtree(run, ignore_errors=True)


def _remove(folder: Path) -> None:
    storage.unseal(folder)
    shutil.rmtree(folder, ignore_errors=True)
