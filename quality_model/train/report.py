"""What one epoch did."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from quality_model.records import HEADS, SHORT_NAMES, Head

_NUMBERS: Final = ("train_loss", "validation_loss", "learning_rate", "images_per_s")
_PER_HEAD: Final = ("train_mse", "validation_mse", "train_r2", "validation_r2")
_TIMINGS: Final = ("images_per_s", "elapsed_s")


@dataclass(frozen=True, slots=True)
class EpochReport:
    """The measures of one epoch.

    Train measures are means over the epoch's steps, so of changing weights and with dropout; validation
    measures are those of the weights at its end. Losses and MSEs are in squared label units, 0 best.
    R2 is 1 - MSE / variance of the split's labels: 1 best, 0 no better than predicting the mean; NaN for
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
    train_r2: dict[Head, float]
    validation_r2: dict[Head, float]
    learning_rate: float
    images_per_s: float = math.nan
    """training samples per second, validation and checkpoint not counted; NaN if not known"""
    elapsed_s: float = math.nan
    """seconds of work since the start of the run, earlier processes included; NaN if not known"""

    def line(self) -> str:
        """The console line: losses, and each head's validation MSE."""
        heads = ", ".join(f"{SHORT_NAMES[head]}: {self.validation_mse[head]:.4f}" for head in HEADS)
        return (
            f"Epoch {self.epoch}/{self.epochs}, Train Loss: {self.train_loss:.4f}, "
            f"Val Loss: {self.validation_loss:.4f} | {heads}"
        )

    def metrics(self) -> dict[str, float]:
        """The measures by name, one level, such as ``train_mse.noise``; what is undefined is left out."""
        values = {name: getattr(self, name) for name in _NUMBERS}
        values |= {f"{name}.{head}": getattr(self, name)[head] for name in _PER_HEAD for head in HEADS}
        return {name: value for name, value in values.items() if not math.isnan(value)}

    def row(self) -> dict[str, Any]:
        """A row of history.csv, for `dvc plots`."""
        row = {
            name: getattr(self, name) for name in ("epoch", "train_loss", "validation_loss", "learning_rate")
        }
        plain = self.to_dict()
        return row | {f"{name}_{head}": plain[name][head] for name in _PER_HEAD for head in HEADS}

    def to_dict(self, *, timings: bool = True) -> dict[str, Any]:
        """Plain JSON values; an undefined R2 is None. Without timings, equal trainings give equal values."""
        plain = asdict(self)
        for key in ("train_r2", "validation_r2"):
            plain[key] = {head: None if math.isnan(r2) else r2 for head, r2 in plain[key].items()}
        return plain if timings else {key: value for key, value in plain.items() if key not in _TIMINGS}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "EpochReport":
        """The inverse of `to_dict`."""
        values = dict(plain)
        for key in ("train_r2", "validation_r2"):
            values[key] = {head: math.nan if r2 is None else r2 for head, r2 in values[key].items()}
        return cls(**values)


def best_epoch(history: list[EpochReport]) -> int:
    """The epoch with the least validation loss, the first of equals; 0 if there is none."""
    if not history:
        return 0
    return min(history, key=lambda report: report.validation_loss).epoch


def out_of_patience(history: list[EpochReport], patience: int) -> bool:
    """Whether the last ``patience`` epochs brought no better validation loss."""
    return bool(history) and history[-1].epoch - best_epoch(history) >= patience
