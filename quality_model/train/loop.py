"""The training loop: AdamW, cosine annealing, early stopping, a checkpoint per epoch.

Samples, order and dropout of an epoch depend on (seed, epoch) alone. So a run that was killed and
started again ends with the weights of an undisturbed one: on a CPU bit for bit, given the same
number of threads.
"""

import logging
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from quality_model.core.torch_engine import choose_device
from quality_model.data.dataset import TrainingSet
from quality_model.data.split import stratified_subset
from quality_model.errors import CheckpointError, TrainingError
from quality_model.networks.model import LoadedModel, MultiHeadQualityAssessmentModel
from quality_model.params import LimitsParams, TrainParams
from quality_model.train.epochs import EpochReport, Run, best_epoch
from quality_model.train.state import ExecutionPlan, RunState, run_identity

log = logging.getLogger(__name__)


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
    state = RunState(checkpoints, run_identity(section, training_set, start))
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
            section, training_set, rows, validation_rows, plan, device, start, checkpoint, images, limits
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
