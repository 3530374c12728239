"""An epoch of training as a PyTorch tutorial has it: a dataset, a loader, a loop."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.obvious.network import Network


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """Some rows of images.npy and labels.npy."""

    def __init__(self, folder: Path, rows: Sequence[int]) -> None:
        self.images = np.load(folder / "images.npy", mmap_mode="r")
        self.labels = np.load(folder / "labels.npy")
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        row = self.rows[index]
        image = torch.from_numpy(self.images[row].copy()).permute(2, 0, 1).float() / 255.0
        return image, torch.from_numpy(self.labels[row])


def train_epoch(
    network: Network,
    folder: Path,
    rows: Sequence[int],
    *,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    gradient_clip_norm: float,
    loss_weights: Tensor,
) -> float:
    """One pass over some rows of a training dataset, in their order; returns the mean loss of its samples."""
    loader = DataLoader(Samples(folder, rows), batch_size=batch_size)
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=weight_decay)
    total = 0.0
    network.train()
    for images, labels in loader:
        optimizer.zero_grad()
        loss = (((network(images) - labels) ** 2) * loss_weights).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), gradient_clip_norm)
        optimizer.step()
        total += loss.item() * len(labels)
    return total / len(rows)
