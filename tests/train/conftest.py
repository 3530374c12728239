"""Small training datasets, one learnt in a few steps and one of degraded photographs, and a finished run."""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from quality_model.core import storage
from quality_model.core.decoding import Pixels
from quality_model.core.views import squeezed as resize
from quality_model.data.dataset import TrainingSet
from quality_model.data.images_table import TABLE_NAME, ImagesWriter
from quality_model.degrade import PROFILES, SampleRandomness
from quality_model.params import Params, TrainParams, flatten
from quality_model.records import HEADS, CleanImage
from quality_model.train import EpochReport, TrainedModel, train
from quality_model.train.training_step import train_candidate

SIZE_PX = 32
PHOTO_PX = 40

ON_CUDA = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

Change = Callable[[np.ndarray, np.ndarray], None]


class Interrupted(Exception):
    """Stands for anything that ends a process."""


@dataclass(frozen=True)
class FinishedRun:
    """A run that nothing disturbed, and the folder of its checkpoints; copy, do not touch."""

    trained: TrainedModel
    reported: list[EpochReport]
    checkpoints: Path

    def copy(self, target: Path) -> Path:
        """All its checkpoints, in another folder."""
        return Path(shutil.copytree(self.checkpoints, target))

    def copy_plan(self, target: Path) -> Path:
        """Only how it computes, as a run killed in its first epoch leaves it."""
        return Path(shutil.copytree(self.checkpoints, target, ignore=shutil.ignore_patterns("epoch-*")))


def with_values(section: TrainParams, **values: object) -> TrainParams:
    return section.model_copy(update=values)


def train_in(
    project: Path, params: Params, samples: TrainingSet, changes: dict[str, Any], **options: Any
) -> TrainedModel:
    """Train a model as the pipeline does, from scratch for one epoch, with some parameters changed."""
    small = {"epochs": 1, "device": "cpu", "precision": "float32", "start_from": "scratch"}
    section = with_values(params.train, **{**small, **changes})
    folders = {"output": project / "model", "report": project / "report"}
    return train_candidate(
        section,
        params.registry,
        root=project,
        images=images_of(samples.folder),
        limits=params.limits,
        training_set=samples.folder,
        checkpoints=project / "checkpoints",
        settings=flatten(params.model_copy(update={"train": section})),
        **{**folders, **options},
    )


def interrupt(
    section: TrainParams, training_set: TrainingSet, checkpoints: Path, *, after: int, **options: Any
) -> None:
    """Train until an epoch is reported."""

    def stop(report: EpochReport) -> None:
        if report.epoch == after:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(section, training_set, checkpoints, stop, **options)


def assert_same_bits(one: TrainedModel, other: TrainedModel) -> None:
    theirs = other.model.state_dict()
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name


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
        "image_id": [f"i{row:03}" for row in range(count)],
        "group": [f"g{row:03}" for row in range(count)],
        "split": ["train"] * num_train + ["validation"] * num_validation,
    }
    return write_dataset(folder, images, labels, columns)


def images_of(folder: Path) -> Path:
    """Where the images table of a dataset's photographs is."""
    return folder.with_name("images")


def write_images(folder: Path, images: list[Pixels]) -> None:
    """Write a table of images, named by their numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    with ImagesWriter(folder / TABLE_NAME) as writer:
        for number, pixels in enumerate(images):
            data = io.BytesIO()
            Image.fromarray(pixels).save(data, "PNG")
            name, side_px = str(number), len(pixels)
            writer.write(CleanImage(name, name, name, "", data.getvalue(), side_px, side_px, None))
    storage.seal(folder, [TABLE_NAME], rows=len(images))


def write_photographs(
    folder: Path, photo: Pixels, profile: str = "calibrated", num_validation: int = 2
) -> TrainingSet:
    """Write photographs of 40 px, each clean, then degraded four times; eight are for training."""
    images, labels, rows = [], [], []
    for number in range(8 + num_validation):
        top, left = 20 * number % 260, (20 * number + 37 * (number // 13)) % 260
        clean = resize(photo[top : top + 240, left : left + 240], PHOTO_PX)
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
    write_images(images_of(folder), images[::5])
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
def undisturbed(
    training_set: TrainingSet, section: TrainParams, tmp_path_factory: pytest.TempPathFactory
) -> FinishedRun:
    """The three epochs of `section`, each reported once its checkpoint is durable."""
    checkpoints = tmp_path_factory.mktemp("undisturbed") / "checkpoints"
    reported: list[EpochReport] = []

    def on_epoch(report: EpochReport) -> None:
        (folder,) = checkpoints.glob(f"run-*/epoch-{report.epoch:06d}")
        assert storage.require_sealed(folder, verify=True)["epoch"] == report.epoch
        reported.append(report)

    return FinishedRun(train(section, training_set, checkpoints, on_epoch), reported, checkpoints)


@pytest.fixture(scope="session")
def section(params: Params) -> TrainParams:
    """Three epochs of three steps on whole stored samples; the rest as committed."""
    small = {"epochs": 3, "batch_size": 8, "device": "cpu", "precision": "float32", "crops_px": ()}
    plain = {"samples": "stored", "warmup_epochs": 0.0, "weight_average": 0.0, "start_from": "scratch"}
    plain |= {"learning_rate": 0.001, "dropout": 0.3, "architecture": "small"}
    return with_values(params.train, **small, **plain)
