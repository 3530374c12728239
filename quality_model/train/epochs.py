"""The epochs of one run: forward, backward, step; and the run's state as plain values."""

import logging
import math
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, cast, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from quality_model.core.torch_engine import Precision, exact_float32
from quality_model.data.split import stratified_subset
from quality_model.errors import TrainingError
from quality_model.networks.device import (
    MemoryFormat,
    autocast,
    can_compile,
    choose_memory_format,
    choose_precision,
    free_bytes,
    wait_for,
)
from quality_model.networks.model import MultiHeadQualityAssessmentModel, to_model_input, weighted_mse
from quality_model.params import TrainParams
from quality_model.records import HEADS, Head
from quality_model.train.report import EpochReport, best_epoch, out_of_patience
from quality_model.train.samples import Batch, StoredPixels, choose_executor, open_samples
from quality_model.train.variation import Indices

if TYPE_CHECKING:
    from quality_model.data.dataset import TrainingSet
    from quality_model.networks.checkpoints import LoadedModel

log = logging.getLogger(__name__)

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


def learning_rate(section: TrainParams, epoch: int) -> float:
    """The rate of a 1-based epoch: cosine annealing (Loshchilov and Hutter, arXiv 1608.03983), set per epoch.

    Starts at ``learning_rate`` and would reach its share ``final_learning_rate_share`` one epoch after
    the last.
    """
    final = section.learning_rate * section.final_learning_rate_share
    cosine = math.cos(math.pi * (epoch - 1) / section.epochs)
    return final + (section.learning_rate - final) * (1.0 + cosine) / 2.0


@dataclass(frozen=True, slots=True)
class ExecutionPlan:
    """How forward and backward passes run: device, precision, memory format, compiled or not.

    The last bits of the weights depend on it. So a run chooses it before its first step and stores it
    beside its checkpoints: a resumed run computes as it did before.
    """

    device: str
    precision: Precision
    memory_format: MemoryFormat
    compiled: bool

    @property
    def torch_memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.memory_format == "channels_last" else torch.contiguous_format

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any] | None, device: torch.device) -> "ExecutionPlan | None":
        """A stored plan, if it is whole and made for this kind of device; else None."""
        match plain:
            case {
                "device": device.type,
                "precision": precision,
                "memory_format": memory_format,
                "compiled": bool(compiled),
            } if precision in get_args(Precision) and memory_format in get_args(MemoryFormat):
                return cls(device.type, precision, memory_format, compiled)
        return None

    @classmethod
    def choose(cls, section: TrainParams, device: torch.device) -> "ExecutionPlan":
        """Choose what ``section`` leaves open."""
        precision = choose_precision(section.precision, device)
        compiled = section.compile and can_compile(device)
        return cls(device.type, precision, choose_memory_format(device, precision), compiled)


@dataclass(frozen=True, slots=True)
class Splits:
    """Rows of the training dataset, int64: all of the train split, some of the validation split."""

    train: Indices
    validation: Indices

    @classmethod
    def of(cls, training_set: "TrainingSet", max_validation_samples: int, seed: int) -> "Splits":
        train = training_set.indices("train")
        validation = stratified_subset(training_set.indices("validation"), max_validation_samples, seed)
        if len(train) < 2 or len(validation) < 1:
            raise TrainingError(
                f"The training dataset has {len(train)} samples to train on and {len(validation)} to "
                "validate on; at least 2 and 1 are needed.",
                "Use more images (source.num_images), or other shares (generate.validation_share).",
            )
        return cls(train, validation)


class Run:
    """The moving parts of a run, and their state after an epoch."""

    def __init__(
        self,
        section: TrainParams,
        training_set: "TrainingSet",
        splits: Splits,
        plan: ExecutionPlan,
        device: torch.device,
        start: "LoadedModel | None" = None,
    ) -> None:
        self._section = section
        self._splits = splits
        self._plan = plan
        self._device = device
        self.history: list[EpochReport] = []
        self._best: dict[str, Tensor] = {}
        read = [splits.validation, *([splits.train] if section.samples == "stored" else [])]
        budget_bytes = int(_DATA_SHARE * free_bytes(device))
        self._stored = StoredPixels(training_set, np.concatenate(read), device, budget_bytes)
        self._samples = open_samples(
            section, training_set, splits.train, self._stored, choose_executor(device)
        )
        self._batches: Generator[Batch, None, None] | None = None
        with np.errstate(invalid="ignore"):  # labels that are not finite are reported by their step
            self._validation_variance = np.var(
                training_set.labels[splits.validation], axis=0, dtype=np.float64
            )
        weights = section.loss_weights.as_dict()
        self._loss_weights = torch.tensor([weights[head] for head in HEADS], device=device)
        torch.manual_seed(_seed(section.seed, 0, _WEIGHTS))
        model = MultiHeadQualityAssessmentModel(section.dropout, section.architecture).to(device)
        if start is not None:
            model.load_state_dict(start.model.state_dict())
        self._model = model.to(memory_format=plan.torch_memory_format)
        self._optimizer = torch.optim.AdamW(
            self._model.parameters(),
            lr=section.learning_rate,
            weight_decay=section.weight_decay,
            fused=device.type == "cuda",
        )
        self._average = _moving_average(self._model, section.weight_average)
        self._forward = torch.compile(self._model) if plan.compiled else self._model

    @property
    def is_done(self) -> bool:
        return len(self.history) >= self._section.epochs or out_of_patience(
            self.history, self._section.patience
        )

    def trained_model(self) -> MultiHeadQualityAssessmentModel:
        """The model that is validated and returned: the average of the weights if there is one."""
        if self._average is None:
            return self._model
        return cast("MultiHeadQualityAssessmentModel", self._average.module)

    def resume(self, state: dict[str, Any] | None) -> int:
        """Load a checkpoint, if there is one; return its epoch, else 0."""
        if state is None:
            return 0
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        self._best = state["best"]
        self.history = [EpochReport.from_dict(plain) for plain in state["history"]]
        log.info("Resuming after epoch %d/%d", len(self.history), self._section.epochs)
        return len(self.history)

    def to_state(self) -> dict[str, Any]:
        """Tensors and plain values. Order, dropout and learning rate follow from the epoch's number."""
        return {
            "model": dict(self._model.state_dict()),
            "optimizer": self._optimizer.state_dict(),
            **({} if self._average is None else {"average": dict(self._average.state_dict())}),
            "best": self._best,
            "history": [report.to_dict() for report in self.history],
        }

    def best_model(self) -> MultiHeadQualityAssessmentModel:
        """The model with the best epoch's weights, in evaluation mode; the run is over."""
        self._model.load_state_dict(self._best)
        self._model.eval()
        return self._model

    def close(self) -> None:
        """Stop making samples."""
        if self._batches is not None:
            self._batches.close()

    def next_epoch(self) -> EpochReport:
        """Train and validate one epoch; keep its weights if they are the best so far."""
        epoch = len(self.history) + 1
        rate = learning_rate(self._section, epoch)
        before_s = self.history[-1].elapsed_s if self.history else 0.0
        start = time.perf_counter()
        train_mse, train_variance, num_images = self._train_epoch(epoch, rate)
        trained_s = time.perf_counter() - start
        validation_mse = self._validate(epoch)
        report = EpochReport(
            epoch=epoch,
            epochs=self._section.epochs,
            train_loss=self._loss(train_mse),
            validation_loss=self._loss(validation_mse),
            train_mse=_by_head(train_mse),
            validation_mse=_by_head(validation_mse),
            train_r2=self._r2(train_mse, train_variance),
            validation_r2=self._r2(validation_mse, self._validation_variance),
            learning_rate=rate,
            images_per_s=num_images / trained_s,
            elapsed_s=before_s + time.perf_counter() - start,
        )
        self.history.append(report)
        if best_epoch(self.history) == epoch:
            self._best = {
                name: tensor.detach().cpu().clone()
                for name, tensor in self.trained_model().state_dict().items()
            }
        return report

    def _train_epoch(
        self, epoch: int, rate: float
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], int]:
        """One pass. Returns each head's mean MSE and label variance, float64 (4,), and the samples seen."""
        sizes = self._samples.batch_sizes(epoch)
        if self._batches is None:
            self._batches = self._samples.batches(epoch)
        torch.manual_seed(_seed(self._section.seed, epoch, _DROPOUT))
        self._model.train()
        losses: list[Tensor] = []
        errors: list[Tensor] = []
        seen: list[npt.NDArray[np.float32]] = []
        every = 1 if self._device.type == "cpu" else _CHECK_STEPS
        with tqdm(
            total=sum(sizes),
            desc=f"epoch {epoch}/{self._section.epochs}",
            unit="img",
            leave=False,
            disable=None,  # a bar on a terminal only
        ) as progress:
            for step, batch in enumerate(islice(self._batches, len(sizes)), start=1):
                self._set_rate(rate, epoch - 1 + step / len(sizes))
                x, labels = self._to_device(batch)
                seen.append(batch[1])
                with autocast(self._device, self._plan.precision):
                    scores = self._forward(x)["all_scores"]
                loss, per_head = weighted_mse(scores, labels, self._loss_weights)
                self._optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(loss)
                torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._section.gradient_clip_norm)
                self._optimizer.step()
                if self._average is not None:
                    self._average.update_parameters(self._model)
                losses.append(loss.detach())
                errors.append(per_head.detach())
                if step % every == 0 or step == len(sizes):
                    self._require_finite(losses, epoch, first_step=step - len(losses) + 1)
                    losses.clear()
                progress.update(len(x))
        wait_for(self._device)
        per_step = torch.stack(errors).cpu().numpy().astype(np.float64)
        with np.errstate(invalid="ignore"):  # labels that are not finite are reported by their step
            variance = np.var(np.concatenate(seen), axis=0, dtype=np.float64)
        return np.average(per_step, axis=0, weights=sizes), variance, sum(sizes)

    def _set_rate(self, rate: float, epochs_done: float) -> None:
        """The epoch's rate, lower during warm-up."""
        warmup = self._section.warmup_epochs
        for group in self._optimizer.param_groups:
            group["lr"] = rate * min(1.0, epochs_done / warmup) if warmup else rate

    def _validate(self, epoch: int) -> npt.NDArray[np.float64]:
        """Each head's MSE on the validation split, float64 (4,)."""
        model = self.trained_model().eval()
        rows = self._splits.validation
        total = np.zeros(len(HEADS))
        with torch.inference_mode(), exact_float32(), autocast(self._device, self._plan.precision):
            for start in range(0, len(rows), self._section.batch_size):
                x, labels = self._to_device(self._stored.read(rows[start : start + self._section.batch_size]))
                difference = model(x)["all_scores"].float() - labels
                total += (difference.cpu().numpy().astype(np.float64) ** 2).sum(axis=0)
        if not np.isfinite(total).all():
            raise TrainingError(
                f"The validation loss of epoch {epoch} is not a finite number.", _REMEDY_NOT_FINITE
            )
        return total / len(rows)

    def _to_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Images, float32 (n, 3, S, S) in [0, 1], and labels, float32 (n, 4)."""
        images, labels = batch
        x = to_model_input(images, self._device).contiguous(memory_format=self._plan.torch_memory_format)
        return x, torch.from_numpy(labels).to(self._device, non_blocking=True)

    def _require_finite(self, losses: list[Tensor], epoch: int, *, first_step: int) -> None:
        finite = torch.isfinite(torch.stack(losses)).cpu()
        if not finite.all():
            step = first_step + int((~finite).nonzero()[0, 0])
            raise TrainingError(
                f"The loss is not a finite number at epoch {epoch}, step {step}.", _REMEDY_NOT_FINITE
            )

    def _loss(self, mse: npt.NDArray[np.float64]) -> float:
        weights = self._section.loss_weights.as_dict()
        return float(np.mean([weights[head] * error for head, error in zip(HEADS, mse, strict=True)]))

    def _r2(self, mse: npt.NDArray[np.float64], variance: npt.NDArray[np.float64]) -> dict[Head, float]:
        r2 = np.full(len(HEADS), np.nan)
        np.divide(mse, variance, out=r2, where=variance > 0)
        return _by_head(1.0 - r2)


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


def _by_head(values: npt.NDArray[np.float64]) -> dict[Head, float]:
    return {head: float(value) for head, value in zip(HEADS, values, strict=True)}


def _seed(seed: int, epoch: int, purpose: int) -> int:
    """A seed of 63 bits for one random stream of one epoch."""
    state = np.random.SeedSequence([seed, epoch, purpose]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))
