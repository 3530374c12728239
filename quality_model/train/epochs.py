"""The epochs of one run: forward, backward, step; what each of them did; the run's state as plain values."""

import logging
import math
import time
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from quality_model.core.torch_engine import autocast, exact_float32, free_bytes, wait_for
from quality_model.data.dataset import TrainingSet
from quality_model.errors import TrainingError
from quality_model.networks.model import (
    LoadedModel,
    MultiHeadQualityAssessmentModel,
    to_model_input,
    training_loss,
)
from quality_model.params import LimitsParams, TrainParams
from quality_model.records import HEADS, SHORT_NAMES, Head
from quality_model.train.samples import Batch, StoredPixels, choose_executor, open_batches
from quality_model.train.variation import Indices

if TYPE_CHECKING:
    from quality_model.train.loop import ExecutionPlan
    from quality_model.train.own_labels import OwnLabels

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]

_CHECK_STEPS: Final = 16
"""Steps between checks of the losses on an accelerator; each check waits for the device."""

_DATA_SHARE: Final = 0.5
"""Most of an accelerator's free memory that pixels may take; the rest is for activations."""

_WEIGHTS, _DROPOUT = 0, 2
"""Purposes of random streams, besides those of `samples`."""

_REMEDY_NOT_FINITE: Final = (
    "Check the labels and images (validate the training dataset), lower train.learning_rate, or use "
    "train.precision float32. The previous epoch's checkpoint is kept."
)

_PER_HEAD: Final = ("train_mse", "validation_mse", "train_r2", "validation_r2")
_TIMINGS: Final = ("images_per_s", "elapsed_s")


@dataclass(frozen=True, slots=True)
class EpochReport:
    """The measures of one epoch.

    Train measures are means over the epoch's steps, so of changing weights and with dropout; validation
    measures are those of the weights at its end. Losses and MSEs are in squared label units, 0 best.
    R2 is 1 - MSE / variance of the split's labels: 1 best, 0 no better than predicting the mean; None for
    labels that do not vary.
    """

    epoch: int
    """1-based"""
    epochs: int
    """most epochs of the run"""
    train_loss: float
    validation_loss: float
    train_mse: dict[Head, float]
    validation_mse: dict[Head, float]
    train_r2: dict[Head, float | None]
    validation_r2: dict[Head, float | None]
    learning_rate: float
    images_per_s: float | None = None
    """training samples per second, validation and checkpoint not counted; None if not known"""
    elapsed_s: float | None = None
    """seconds of work since the start of the run, earlier processes included; None if not known"""

    def line(self) -> str:
        """The console line: losses, and each head's validation MSE."""
        heads = ", ".join(f"{SHORT_NAMES[head]}: {self.validation_mse[head]:.4f}" for head in HEADS)
        return (
            f"Epoch {self.epoch}/{self.epochs}, Train Loss: {self.train_loss:.4f}, "
            f"Val Loss: {self.validation_loss:.4f} | {heads}"
        )

    def metrics(self) -> dict[str, float]:
        """The measures by name, one level, such as ``train_mse.noise``; what is undefined is left out."""
        values = self.row(separator=".") | {"images_per_s": self.images_per_s}
        return {name: value for name, value in values.items() if name != "epoch" and value is not None}

    def row(self, separator: str = "_") -> dict[str, float | None]:
        """A row of history.csv, for `dvc plots`: the measures in one level, such as ``train_mse_noise``."""
        row = {
            name: getattr(self, name) for name in ("epoch", "train_loss", "validation_loss", "learning_rate")
        }
        return row | {
            f"{name}{separator}{head}": getattr(self, name)[head] for name in _PER_HEAD for head in HEADS
        }

    def to_dict(self, *, timings: bool = True) -> dict[str, Any]:
        """JSON values, of which ``EpochReport(**values)`` is the inverse.

        Without timings, equal trainings give equal values.
        """
        return {key: value for key, value in asdict(self).items() if timings or key not in _TIMINGS}


def best_epoch(history: list[EpochReport]) -> int:
    """The epoch with the least validation loss, the first of equals; 0 if there is none."""
    return min(history, key=lambda report: report.validation_loss).epoch if history else 0


def learning_rate(section: TrainParams, epoch: int) -> float:
    """The rate of a 1-based epoch: cosine annealing (Loshchilov and Hutter, arXiv 1608.03983), set per epoch.

    Starts at ``learning_rate`` and would reach its share ``final_learning_rate_share`` one epoch after
    the last.
    """
    final = section.learning_rate * section.final_learning_rate_share
    cosine = math.cos(math.pi * (epoch - 1) / section.epochs)
    return final + (section.learning_rate - final) * (1.0 + cosine) / 2.0


def _warmth(section: TrainParams, epochs_done: float) -> float:
    """The share of the rate that a step is made with: it rises to 1 during warm-up."""
    return min(1.0, epochs_done / section.warmup_epochs) if section.warmup_epochs else 1.0


class Run:
    """The moving parts of a run, and their state after an epoch.

    Args:
        section: The recipe.
        training_set: The samples.
        train_rows: int64 (n,), those to train on.
        validation_rows: int64 (m,), those that each epoch is validated on.
        plan: How it computes.
        device: Where.
        start: Start weights; None: random ones.
        state: A checkpoint (`to_state`), from which the run resumes; None: it starts.
        images: Folder of the images table, of which fresh samples are made.
        limits: What an image may be.
        own: Labels of a person, whose order is trained, too.
    """

    def __init__(
        self,
        section: TrainParams,
        training_set: TrainingSet,
        train_rows: Indices,
        validation_rows: Indices,
        plan: "ExecutionPlan",
        device: torch.device,
        start: LoadedModel | None,
        state: dict[str, Any] | None,
        images: Path | None,
        limits: LimitsParams | None,
        own: "OwnLabels | None" = None,
    ) -> None:
        self._section, self._plan, self._device, self._own = section, plan, device, own
        self._validation_rows = validation_rows
        self._validation_labels = np.array(training_set.labels[validation_rows])
        read = [validation_rows, *([train_rows] if section.samples == "stored" else [])]
        budget_bytes = int(_DATA_SHARE * free_bytes(device))
        self._stored = StoredPixels(training_set, np.concatenate(read), device, budget_bytes)
        weights = section.loss_weights.as_dict()
        self._loss_weights = torch.tensor([weights[head] for head in HEADS], device=device)

        torch.manual_seed(_seed(section.seed, 0, _WEIGHTS))
        model = MultiHeadQualityAssessmentModel(section.dropout, section.architecture).to(device)
        if start is not None:
            model.load_state_dict(start.model.state_dict())
        channels_last = plan.memory_format == "channels_last"
        self._memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self._model = model.to(memory_format=self._memory_format)
        self._optimizer = torch.optim.AdamW(
            self._model.parameters(),
            lr=section.learning_rate,
            weight_decay=section.weight_decay,
            fused=device.type == "cuda",
        )
        self._average = _moving_average(self._model, section.weight_average)
        self._forward = torch.compile(self._model) if plan.compiled else self._model

        self.history: list[EpochReport] = []
        self._best: dict[str, Tensor] = {}
        if state is not None:
            self._model.load_state_dict(state["model"])
            self._optimizer.load_state_dict(state["optimizer"])
            if self._average is not None:
                self._average.load_state_dict(state["average"])
            self._best = state["best"]
            self.history = [EpochReport(**plain) for plain in state["history"]]
            log.info("Resuming after epoch %d/%d", len(self.history), section.epochs)
        self._batch_sizes, self._batches = open_batches(
            section,
            training_set,
            train_rows,
            self._stored,
            choose_executor(device),
            len(self.history) + 1,
            images=images,
            limits=limits,
        )

    def to_state(self) -> dict[str, Any]:
        """Tensors and plain values. Order, dropout and learning rate follow from the epoch's number."""
        return {
            "model": dict(self._model.state_dict()),
            "optimizer": self._optimizer.state_dict(),
            **({} if self._average is None else {"average": dict(self._average.state_dict())}),
            "best": self._best,
            "history": [report.to_dict() for report in self.history],
        }

    @property
    def is_done(self) -> bool:
        """Whether all epochs are run, or the last ``patience`` ones brought no better validation loss."""
        done = len(self.history)
        return done >= self._section.epochs or done - best_epoch(self.history) >= self._section.patience

    def best_model(self) -> MultiHeadQualityAssessmentModel:
        """The model with the best epoch's weights, in evaluation mode; the run is over."""
        self._model.load_state_dict(self._best)
        self._model.eval()
        return self._model

    def close(self) -> None:
        """Stop making samples."""
        self._batches.close()

    def next_epoch(self) -> EpochReport:
        """Train and validate one epoch; keep its weights if they are the best so far."""
        epoch = len(self.history) + 1
        rate = learning_rate(self._section, epoch)
        before_s = (self.history[-1].elapsed_s or 0.0) if self.history else 0.0
        start = time.perf_counter()
        train_mse, train_r2 = self._train_epoch(epoch, rate)
        trained_s = time.perf_counter() - start
        # What is validated and kept is the average of the weights if there is one.
        average = self._average
        model = self._model if average is None else cast("MultiHeadQualityAssessmentModel", average.module)
        validation_mse, validation_r2 = self._validate(model.eval(), epoch)
        report = EpochReport(
            epoch=epoch,
            epochs=self._section.epochs,
            train_loss=self._loss(train_mse),
            validation_loss=self._loss(validation_mse),
            train_mse=train_mse,
            validation_mse=validation_mse,
            train_r2=train_r2,
            validation_r2=validation_r2,
            learning_rate=rate,
            images_per_s=sum(self._batch_sizes) / trained_s,
            elapsed_s=before_s + time.perf_counter() - start,
        )
        self.history.append(report)
        if best_epoch(self.history) == epoch:
            self._best = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        return report

    def _train_epoch(self, epoch: int, rate: float) -> tuple[dict[Head, float], dict[Head, float | None]]:
        """One pass over the samples: each head's mean MSE over the steps, and R2."""
        section, num_steps = self._section, len(self._batch_sizes)
        torch.manual_seed(_seed(section.seed, epoch, _DROPOUT))
        self._model.train()
        errors: list[Tensor] = []  # of each step, (4,)
        seen: list[npt.NDArray[np.float32]] = []
        checked = 0
        steps = tqdm(
            islice(self._batches, num_steps),
            total=num_steps,
            desc=f"epoch {epoch}/{section.epochs}",
            unit="img",
            unit_scale=section.batch_size,
            leave=False,
            disable=None,  # a bar on a terminal only
        )
        for step, batch in enumerate(steps, start=1):
            for group in self._optimizer.param_groups:
                group["lr"] = rate * _warmth(section, epoch - 1 + step / num_steps)
            x, labels, maps = self._to_device(batch)
            with autocast(self._device, self._plan.precision):
                output = self._forward(x)
            loss, per_head = training_loss(section.loss, output, labels, self._loss_weights, maps)
            if self._own is not None:
                with autocast(self._device, self._plan.precision):
                    loss = loss + self._own.loss(self._model, self._device, section.seed, epoch, step)
            self._optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), section.gradient_clip_norm)
            self._optimizer.step()
            if self._average is not None:
                self._average.update_parameters(self._model)
            errors.append(per_head.detach())
            seen.append(batch[1])
            if self._device.type == "cpu" or step % _CHECK_STEPS == 0 or step == num_steps:
                bad = (~torch.stack(errors[checked:]).isfinite().all(dim=1)).nonzero()
                if len(bad):
                    raise TrainingError(
                        f"The loss is not a finite number at epoch {epoch}, "
                        f"step {checked + 1 + int(bad[0, 0])}.",
                        _REMEDY_NOT_FINITE,
                    )
                checked = step
        wait_for(self._device)
        per_step = torch.stack(errors).cpu().numpy().astype(np.float64)
        return _by_head(np.average(per_step, axis=0, weights=self._batch_sizes), np.concatenate(seen))

    def _validate(
        self, model: MultiHeadQualityAssessmentModel, epoch: int
    ) -> tuple[dict[Head, float], dict[Head, float | None]]:
        """Each head's MSE and R2 on the validation rows."""
        rows, size = self._validation_rows, self._section.batch_size
        total = np.zeros(len(HEADS))
        with torch.inference_mode(), exact_float32(), autocast(self._device, self._plan.precision):
            for start in range(0, len(rows), size):
                x, labels, _ = self._to_device(self._stored.read(rows[start : start + size]))
                difference = model(x)["all_scores"].float() - labels
                total += (difference.cpu().numpy().astype(np.float64) ** 2).sum(axis=0)
        if not np.isfinite(total).all():
            raise TrainingError(
                f"The validation loss of epoch {epoch} is not a finite number.", _REMEDY_NOT_FINITE
            )
        return _by_head(total / len(rows), self._validation_labels)

    def _to_device(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Images, float32 (n, 3, S, S) in [0, 1], labels, float32 (n, 4), and maps (see `samples.Batch`)."""
        images, labels, maps = batch
        x = to_model_input(images, self._device).contiguous(memory_format=self._memory_format)
        cells = None if maps is None else torch.from_numpy(maps).to(self._device, non_blocking=True)
        return x, torch.from_numpy(labels).to(self._device, non_blocking=True), cells

    def _loss(self, mse: dict[Head, float]) -> float:
        weights = self._section.loss_weights.as_dict()
        return float(np.mean([weights[head] * mse[head] for head in HEADS]))


def _by_head(
    mse: Floats, labels: npt.NDArray[np.float32]
) -> tuple[dict[Head, float], dict[Head, float | None]]:
    """Each head's MSE (4,) and R2, by the variance of the labels (n, 4)."""
    variance = np.var(labels, axis=0, dtype=np.float64)
    return (
        {head: float(error) for head, error in zip(HEADS, mse, strict=True)},
        {
            head: float(1.0 - error / spread) if spread > 0 else None
            for head, error, spread in zip(HEADS, mse, variance, strict=True)
        },
    )


def _moving_average(model: MultiHeadQualityAssessmentModel, decay: float) -> AveragedModel | None:
    """A moving average of weights and batch statistics; its window grows over the first steps."""
    if decay == 0.0:
        return None

    def update(averaged: Any, current: Any, num_averaged: Any) -> None:
        # The count in the CPU's memory: reading the one given here would wait for the device.
        steps = float(average.n_averaged)
        kept = min(decay, (1.0 + steps) / (10.0 + steps))
        for old, new in zip(averaged, current, strict=True):
            if old.is_floating_point():
                old.lerp_(new.detach().to(old.dtype), 1.0 - kept)
            else:
                old.copy_(new)

    average = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    return average


def _seed(seed: int, epoch: int, purpose: int) -> int:
    """A seed of 63 bits for one random stream of one epoch."""
    state = np.random.SeedSequence([seed, epoch, purpose]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))
