"""Stored samples by row, from disk or, where they fit, from the memory of the accelerator."""

import logging
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

if TYPE_CHECKING:
    from quality_model.data.dataset import TrainingSet

log = logging.getLogger(__name__)

Indices = npt.NDArray[np.int64]
Batch = tuple[npt.NDArray[np.uint8] | Tensor, npt.NDArray[np.float32]]
"""Images, uint8 (n, S, S, 3), in memory or on the device, and labels, float32 (n, 4)."""

_AT_ONCE: Final = 1024
"""Samples copied to the device in one go."""


class StoredRows:
    """Reads samples by row; keeps their pixels on the device if ``budget_bytes`` has room for all.

    Pixels stay uint8 there, a quarter of what float32 takes: 150 kB for a sample of 224 px.

    Args:
        training_set: Where the samples lie.
        rows: Every row that will be read.
        device: Where to keep pixels.
        budget_bytes: How much of its memory they may take; 0 keeps them on disk.
    """

    def __init__(
        self, training_set: "TrainingSet", rows: Indices, device: torch.device, budget_bytes: int
    ) -> None:
        self._set = training_set
        self._rows = np.sort(rows)
        self._kept: Tensor | None = None
        num_bytes = len(rows) * training_set.image_size_px**2 * 3
        if num_bytes <= budget_bytes:
            self._kept = self._copied(device)
            log.info("Keeping %d samples (%d MB) on %s", len(rows), num_bytes // 10**6, device.type)

    @property
    def is_on_device(self) -> bool:
        return self._kept is not None

    def read(self, rows: Indices) -> Batch:
        """Some of the samples, in ascending order: sorted rows read faster."""
        rows = np.sort(rows)
        labels = np.asarray(self._set.labels[rows])
        if self._kept is None:
            return self._set.images[rows], labels
        places = torch.from_numpy(np.searchsorted(self._rows, rows)).to(self._kept.device)
        return self._kept.index_select(0, places), labels

    def _copied(self, device: torch.device) -> Tensor:
        shape = (len(self._rows), *self._set.images.shape[1:])
        kept = torch.empty(shape, dtype=torch.uint8, device=device)
        for start in range(0, len(self._rows), _AT_ONCE):
            part = self._set.images[self._rows[start : start + _AT_ONCE]]
            kept[start : start + len(part)] = torch.from_numpy(part).to(device)
        return kept
