"""An epoch of training as a PyTorch tutorial has it: a dataset, a loader, a loop."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.obvious.calibrated import degrade, tile
from benchmarks.obvious.network import Network, SmallNetwork
from quality_model.degrade import SampleRandomness


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


class FreshSamples(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Squares of a folder's JPEG files, the whole image or a part of it, degraded anew."""

    def __init__(self, folder: Path, count: int, side_px: int) -> None:
        self.files = sorted(folder.glob("*.jpg"))
        self.count, self.side_px = count, side_px

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        random = np.random.default_rng(index)
        image = Image.open(self.files[index % len(self.files)]).convert("RGB")
        scale = random.uniform(self.side_px / min(image.size), 1.0)
        size = [max(self.side_px, round(side * scale)) for side in image.size]
        pixels = np.array(image.resize((size[0], size[1]), Image.Resampling.LANCZOS))
        view = tile(pixels, self.side_px, random)
        pixels, labels, cells = degrade(view, SampleRandomness(1, f"fresh {index}"), 1.0)
        x = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255.0
        return x, torch.from_numpy(labels).float(), torch.from_numpy(cells)


def train_fresh(
    network: SmallNetwork, samples: FreshSamples, *, batch_size: int, learning_rate: float
) -> float:
    """One pass over fresh samples, by cross-entropy; returns the mean squared error of the scores."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate)
    total = 0.0
    network.train()
    for images, labels, cells in DataLoader(samples, batch_size=batch_size):
        optimizer.zero_grad()
        scores, marks = network(images)
        loss = nn.functional.binary_cross_entropy(scores, labels)
        torch.autograd.backward(loss + 0.1 * nn.functional.binary_cross_entropy(marks, cells))
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        total += ((scores - labels) ** 2).mean().item() * len(labels)
    return total / len(samples)


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
