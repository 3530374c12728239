"""The training loop: AdamW, cosine annealing, early stopping, a checkpoint per epoch.

Samples, order and dropout of an epoch depend on (seed, epoch) alone. So a run that was killed and
started again ends with the weights of an undisturbed one: on a CPU bit for bit, given the same
number of threads.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from quality_model.core import storage
from quality_model.core.torch_engine import choose_device
from quality_model.errors import CheckpointError, TrainingError
from quality_model.networks.checkpoints import LoadedModel
from quality_model.networks.model import MultiHeadQualityAssessmentModel
from quality_model.params import TrainParams
from quality_model.train.epochs import ExecutionPlan, Run, Splits
from quality_model.train.report import EpochReport, best_epoch
from quality_model.train.state import RunIdentity, RunState

if TYPE_CHECKING:
    from quality_model.data.dataset import TrainingSet

log = logging.getLogger(__name__)

_LOCK_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """The outcome of a run: the best epoch's weights, in evaluation mode, and how they were trained."""

    model: MultiHeadQualityAssessmentModel
    history: list[EpochReport]
    best_epoch: int
    stopped_early: bool
    resumed_from_epoch: int
    """the epoch after which this process resumed; 0 for a run from the start"""
    plan: ExecutionPlan
    fingerprint: str
    data_sha256: str
    image_size_px: int
    num_train: int
    num_validation: int

    @property
    def best(self) -> EpochReport:
        return self.history[self.best_epoch - 1]

    def facts(self) -> dict[str, Any]:
        """Plain JSON values for the model's description: the same for a resumed as for an undisturbed run."""
        return {
            "best_epoch": self.best_epoch,
            "epochs_run": len(self.history),
            "stopped_early": self.stopped_early,
            "validation_loss": self.best.validation_loss,
            "validation_mse": dict(self.best.validation_mse),
            "num_train": self.num_train,
            "num_validation": self.num_validation,
            "data_sha256": self.data_sha256,
            "training_fingerprint": self.fingerprint,
            "torch_version": str(torch.__version__),
            **self.plan.to_dict(),
        }


def train(
    section: TrainParams,
    training_set: "TrainingSet",
    checkpoints: Path,
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
    *,
    start: LoadedModel | None = None,
) -> TrainedModel:
    """Train on the ``train`` split, stop by the ``validation`` split, return the best epoch's model.

    The state after each epoch is kept in ``checkpoints``. The same call resumes from there, and
    returns at once if the run was done. The caller removes it with `clear_checkpoints`.

    Args:
        section: The recipe.
        training_set: uint8 images, float32 labels, and the split of each sample.
        checkpoints: Folder for the state of unfinished runs.
        on_epoch: Called with each epoch's report once its checkpoint is durable. A resumed run
            reports the earlier epochs again first, so that a caller sees every epoch.
        start: Start weights, on any device; None: random ones. The caller finds what
            ``section.start_from`` names.

    Raises:
        TrainingError: A loss is not finite, there are too few samples, or memory is short.
        CheckpointError: The start weights are of another architecture.
        DeviceUnavailableError: The requested device is not available.
        StorageError: A checkpoint could not be written, or another process trains in ``checkpoints``.
    """
    device = choose_device(section.device)
    splits = Splits.of(training_set, section.max_validation_samples, section.seed)
    if start is not None:
        _require_architecture(start, section)
    identity = RunIdentity.of(
        section,
        data_sha256=training_set.data_sha256,
        image_size_px=training_set.image_size_px,
        start_sha256=start.sha256 if start else None,
    )
    state = RunState(checkpoints, identity)
    forked = [torch.cuda.current_device()] if device.type == "cuda" else []
    with (
        storage.locked(checkpoints / "training.lock", timeout_s=_LOCK_TIMEOUT_S),
        torch.random.fork_rng(devices=forked),
    ):
        plan = ExecutionPlan.from_dict(state.plan(), device)
        if plan is None:
            plan = ExecutionPlan.choose(section, device)
            state.save_plan(plan.to_dict())
        log.info(
            "Training on %s in %s, %s; %d samples to train on, %d to validate on",
            plan.device,
            plan.precision,
            plan.memory_format,
            len(splits.train),
            len(splits.validation),
        )
        run = Run(section, training_set, splits, plan, device, start)
        resumed_from_epoch = run.resume(state.load_latest())
        for report in run.history:
            on_epoch(report)
        try:
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
        finally:
            run.close()
        return TrainedModel(
            model=run.best_model(),
            history=run.history,
            best_epoch=best_epoch(run.history),
            stopped_early=len(run.history) < section.epochs,
            resumed_from_epoch=resumed_from_epoch,
            plan=plan,
            fingerprint=identity.fingerprint,
            data_sha256=training_set.data_sha256,
            image_size_px=training_set.image_size_px,
            num_train=len(splits.train),
            num_validation=len(splits.validation),
        )


def _require_architecture(start: LoadedModel, section: TrainParams) -> None:
    if start.model.architecture != section.architecture:
        raise CheckpointError(
            f"The start weights (train.start_from {section.start_from}) are of architecture "
            f"{start.model.architecture}, but train.architecture is {section.architecture}.",
            "Start from a model of the same architecture or with scratch, or change train.architecture.",
        )
