"""Small training datasets: one that is learnt in a few steps, and one of degraded photographs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from quality_model.core import storage
from quality_model.core.decoding import Pixels, resize
from quality_model.data.dataset import TrainingSet
from quality_model.degrade import PROFILES, SampleRandomness
from quality_model.params import Params, TrainParams
from quality_model.records import HEADS

SIZE_PX = 32
PHOTO_PX = 40

Change = Callable[[np.ndarray, np.ndarray], None]


def write_dataset(
    folder: Path, images: np.ndarray, labels: np.ndarray, columns: dict[str, Any]
) -> TrainingSet:
    """Write and open a training dataset: uint8 (N, S, S, 3), float32 (N, 4), and columns of the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", labels)
    pd.DataFrame(columns).to_parquet(folder / "manifest.parquet")
    names = ["images.npy", "labels.npy", "manifest.parquet"]
    storage.seal(folder, names, rows=len(images), image_size_px=images.shape[1])
    return TrainingSet.open(folder)


def write_training_set(
    folder: Path, *, num_train: int = 20, num_validation: int = 6, change: Change | None = None
) -> TrainingSet:
    """Write flat images whose red is their colour cast: the train samples, then the validation samples.

    Args:
        folder: Where to write.
        num_train: Samples of the train split.
        num_validation: Samples of the validation split.
        change: Given pixels and labels, may alter them before they are written.
    """
    rng = np.random.default_rng(8)
    count = num_train + num_validation
    labels = np.zeros((count, len(HEADS)), np.float32)
    labels[:, 0] = rng.uniform(0, 1, count)
    images = rng.integers(90, 110, (count, SIZE_PX, SIZE_PX, 3)).astype(np.uint8)
    images[..., 0] = (labels[:, 0] * 200)[:, None, None] + rng.integers(0, 20, images.shape[:3])
    if change is not None:
        change(images, labels)
    columns = {
        "sample_id": [f"s{row:03}" for row in range(count)],
        "group": [f"g{row:03}" for row in range(count)],
        "split": ["train"] * num_train + ["validation"] * num_validation,
    }
    return write_dataset(folder, images, labels, columns)


def write_photographs(folder: Path, photo: Pixels, profile: str = "calibrated") -> TrainingSet:
    """Write ten photographs of 40 px, each clean, then degraded four times; two are for validation."""
    images, labels, rows = [], [], []
    for number in range(10):
        clean = resize(photo[20 * number : 20 * number + 240, 20 * number : 20 * number + 240], PHOTO_PX)
        for variant in range(5):
            randomness = SampleRandomness(3, f"{number}#{variant:02}")
            made = PROFILES[profile]
            sample = made.degrade(clean, randomness) if variant else made.keep(clean)
            images.append(sample.image)
            labels.append(sample.labels)
            watermark = [one.parameters for one in sample.applied if one.head == "watermark"]
            rows.append(
                {
                    "sample_id": randomness.sample_id,
                    "image_id": str(number),
                    "group": str(number),
                    "split": "train" if number < 8 else "validation",
                    "is_clean": variant == 0 and not sample.applied,
                    "profile": profile,
                    "watermark_parameters": json.dumps(dict(watermark[0])) if watermark else None,
                }
            )
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return write_dataset(folder, np.stack(images), np.array(labels, dtype=np.float32), columns)


@pytest.fixture(scope="session")
def training_set(tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    return write_training_set(tmp_path_factory.mktemp("training") / "data")


@pytest.fixture(scope="session")
def photographs(photo: Pixels, tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    return write_photographs(tmp_path_factory.mktemp("photographs") / "data", photo)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., TrainingSet]:
    """`write_training_set` into a folder of this test."""
    return lambda **options: write_training_set(tmp_path / "data", **options)


@pytest.fixture(scope="session")
def section(params: Params) -> TrainParams:
    """Three epochs of three steps on whole stored samples; the rest as committed."""
    small = {"epochs": 3, "batch_size": 8, "device": "cpu", "precision": "float32", "crops_px": ()}
    plain = {"samples": "stored", "warmup_epochs": 0.0, "weight_average": 0.0, "start_from": "scratch"}
    plain |= {"learning_rate": 0.001, "dropout": 0.3, "architecture": "compact"}
    return params.train.model_copy(update=small | plain)
