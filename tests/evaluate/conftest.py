"""A small training dataset on disk, made by hand, so that what is true of it is known."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quality_model.core.provenance import ModelFacts
from quality_model.data.dataset import TrainingSet, group_digest
from quality_model.networks.model import LoadedModel
from quality_model.records import HEADS, Head
from tests.train.conftest import write_dataset

SIZE_PX = 32
KINDS = {
    "color_cast": ("red", "cool"),
    "blurriness": ("gaussian", "motion"),
    "watermark": ("tiled", "corner"),
    "noise": ("gaussian", "poisson"),
}
ONLY_IN_TRAINING = "box"


class ReadsLabels(nn.Module):
    """Scores are four pixels of the image, in which `write_training_set` hides the labels."""

    def __init__(self, offset: float = 0.0) -> None:
        super().__init__()
        self.offset = offset

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"all_scores": (x[:, 0, 0, :4] + self.offset).clamp(0.0, 1.0)}


def write_training_set(folder: Path, photo: np.ndarray, *, num_groups: int = 20) -> TrainingSet:
    """Six samples of each group, the first of them clean; of every four groups, one is for the test."""
    rng = np.random.default_rng(4)
    images, labels, rows = [], [], []
    for group in range(num_groups):
        split = ("train", "train", "validation", "test")[group % 4]
        for variant in range(6):
            y, x = rng.integers(0, photo.shape[0] - SIZE_PX, 2)
            pixels = photo[y : y + SIZE_PX, x : x + SIZE_PX].copy()
            present = (rng.random(4) < 0.6) & (variant > 0)
            severity = np.round(np.where(present, rng.uniform(0.1, 1.0, 4), 0.0) * 255) / 255
            pixels[0, :4, 0] = np.round(severity * 255)
            row = {
                "sample_id": f"g{group:02}-{variant}",
                "image_id": f"i{group:02}",
                "group": f"g{group:02}",
                "split": split,
                "is_clean": not present.any(),
                "mean_brightness": np.float32(pixels.mean() / 255),
                "brightness_std": np.float32(pixels.std() / 255),
            }
            for head, there, value in zip(HEADS, present, severity, strict=True):
                kind = KINDS[head][int(rng.integers(2))]
                if head == "blurriness" and split == "train" and variant == 1:
                    kind = ONLY_IN_TRAINING
                row |= {f"{head}_kind": kind if there else None, f"{head}_label": np.float32(value)}
            images.append(pixels)
            labels.append(severity)
            rows.append(row)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return write_dataset(folder, np.stack(images), np.stack(labels).astype(np.float32), columns)


@pytest.fixture(scope="session")
def training_set(tmp_path_factory: pytest.TempPathFactory, photo: np.ndarray) -> TrainingSet:
    return write_training_set(tmp_path_factory.mktemp("evaluation") / "training", photo)


@pytest.fixture
def two_groups(tmp_path: Path, photo: np.ndarray) -> TrainingSet:
    """A training dataset whose groups are all for training."""
    return write_training_set(tmp_path / "two", photo, num_groups=2)


def answering(offset: float, thresholds: dict[Head, float] | None = None, seen: Any = ()) -> LoadedModel:
    """A model whose scores are the labels plus an offset, at most 1, that has seen some groups."""
    model: Any = ReadsLabels(offset)
    facts = ModelFacts(thresholds=thresholds, seen_groups=[group_digest("", name) for name in seen])
    return LoadedModel(model, SIZE_PX, "f" * 64, facts, "c" * 64)


@pytest.fixture
def cpu() -> torch.device:
    return torch.device("cpu")
