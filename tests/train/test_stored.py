"""Stored samples are the same wherever their pixels are kept, and so is what is learnt from them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from quality_model.data.dataset import TrainingSet
from quality_model.params import TrainParams
from quality_model.train import run, train
from quality_model.train.stored import StoredRows

CPU = torch.device("cpu")


def size_bytes(training_set: TrainingSet, count: int) -> int:
    return count * training_set.image_size_px**2 * 3


def test_pixels_kept_on_a_device_are_those_on_disk(training_set: TrainingSet) -> None:
    rows = np.array([20, 3, 7, 12, 25])
    kept = StoredRows(training_set, rows, CPU, size_bytes(training_set, 5))
    on_disk = StoredRows(training_set, rows, CPU, 0)
    assert (kept.is_on_device, on_disk.is_on_device) == (True, False)
    for some in (rows, rows[1:3], rows[:1]):
        images, labels = kept.read(some)
        expected_images, expected_labels = on_disk.read(some)
        assert isinstance(images, torch.Tensor)
        assert images.dtype == torch.uint8
        assert np.array_equal(images.numpy(), expected_images)
        assert np.array_equal(labels, expected_labels)


def test_samples_that_do_not_all_fit_stay_on_disk(training_set: TrainingSet) -> None:
    rows = np.arange(8)
    assert StoredRows(training_set, rows, CPU, size_bytes(training_set, 8)).is_on_device
    assert not StoredRows(training_set, rows, CPU, size_bytes(training_set, 8) - 1).is_on_device


def test_training_ends_with_the_same_bits_wherever_its_samples_are_kept(
    training_set: TrainingSet, section: TrainParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = section.model_copy(update={"epochs": 1, "architecture": "compact"})
    on_disk = train(once, training_set, tmp_path / "one")
    monkeypatch.setattr(run, "free_bytes", lambda device: 2 * size_bytes(training_set, 26))
    kept = train(once, training_set, tmp_path / "two")
    theirs = on_disk.model.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in kept.model.state_dict().items())
    assert kept.best.validation_mse == on_disk.best.validation_mse
