"""A training dataset that can be learnt in a few steps: flat images whose red tells the colour cast."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from quality_model.core import storage
from quality_model.data.dataset import TrainingSet
from quality_model.params import Params, TrainParams
from quality_model.records import HEADS

SIZE_PX = 32

Change = Callable[[np.ndarray, np.ndarray], None]


def write_training_set(
    folder: Path, *, num_train: int = 20, num_validation: int = 6, change: Change | None = None
) -> TrainingSet:
    """Write a training dataset whose rows are the train samples, then those of the validation split.

    Args:
        folder: Where to.
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
    splits = ["train"] * num_train + ["validation"] * num_validation
    manifest = pd.DataFrame(
        {
            "sample_id": [f"s{row:03}" for row in range(count)],
            "group": [f"g{row:03}" for row in range(count)],
            "split": splits,
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", labels)
    manifest.to_parquet(folder / "manifest.parquet")
    names = ["images.npy", "labels.npy", "manifest.parquet"]
    storage.seal(folder, names, rows=count, image_size_px=SIZE_PX)
    return TrainingSet.open(folder)


@pytest.fixture(scope="session")
def training_set(tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    return write_training_set(tmp_path_factory.mktemp("training") / "data")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., TrainingSet]:
    """`write_training_set` into a folder of this test."""
    return lambda **options: write_training_set(tmp_path / "data", **options)


@pytest.fixture(scope="session")
def section(params: Params) -> TrainParams:
    """Three epochs of three steps on stored samples, as the original design has it; the rest as committed."""
    small = {"epochs": 3, "batch_size": 8, "device": "cpu", "precision": "float32"}
    plain = {"samples": "stored", "warmup_epochs": 0.0, "weight_average": 0.0, "start_from": "scratch"}
    plain |= {"learning_rate": 0.001, "dropout": 0.3}
    return params.train.model_copy(update=small | plain)
