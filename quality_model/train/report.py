"""What one epoch did."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from quality_model.records import HEADS, SHORT_NAMES, Head


@dataclass(frozen=True, slots=True)
class EpochReport:
    """The measures of one epoch.

    Train measures are means over the epoch's steps, so of weights on the move and with
    dropout; validation measures are those of the weights at its end. Losses and MSEs are in
    squared label units, 0 best. R2 is 1 - MSE / variance of the split's labels: 1 best, 0 no
    better than answering the mean; NaN for labels that do not vary.
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
    images_per_s: float
    """training samples per second, validation and checkpoint not counted"""
    elapsed_s: float
    """seconds of work since the start of the run, earlier processes of a resumed one included"""

    def line(self) -> str:
        """The console line: losses, and each head's validation MSE."""
        heads = ", ".join(f"{SHORT_NAMES[head]}: {self.validation_mse[head]:.4f}" for head in HEADS)
        return (
            f"Epoch {self.epoch}/{self.epochs}, Train Loss: {self.train_loss:.4f}, "
            f"Val Loss: {self.validation_loss:.4f} | {heads}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; an undefined R2 is None."""
        plain = asdict(self)
        for key in ("train_r2", "validation_r2"):
            plain[key] = {head: None if math.isnan(r2) else r2 for head, r2 in plain[key].items()}
        return plain

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
