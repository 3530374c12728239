"""Training on a CUDA device: it learns as on a CPU, resumes, and trains on the same samples."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from quality_model.core.torch_engine import exact_float32
from quality_model.data.dataset import TrainingSet
from quality_model.params import WITHOUT_PROJECT, TrainParams
from quality_model.train import train

from .conftest import ON_CUDA, images_of, interrupt, with_values, write_training_set

pytestmark = [*ON_CUDA, pytest.mark.timeout(1800)]

EPOCHS = 10
SEEDS = (1, 2, 3)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    """20 steps of 8 samples an epoch: 200 steps in all."""
    folder = tmp_path_factory.mktemp("cuda") / "data"
    return write_training_set(folder, num_train=160, num_validation=40)


@pytest.fixture(scope="module")
def recipe(section: TrainParams) -> TrainParams:
    """In float32, so that a device is compared with a CPU and not a dtype with another one."""
    return with_values(section, epochs=EPOCHS, patience=EPOCHS, architecture="small", batch_size=8)


@pytest.fixture(autouse=True)
def without_tf32() -> Iterator[None]:
    with exact_float32():
        yield


@pytest.fixture(scope="module")
def cpu_losses(
    dataset: TrainingSet, recipe: TrainParams, tmp_path_factory: pytest.TempPathFactory
) -> list[float]:
    """The least validation loss of a run on the CPU, for each seed."""
    root = tmp_path_factory.mktemp("cpu")
    return [
        train(with_values(recipe, seed=seed), dataset, root / str(seed)).best.validation_loss
        for seed in SEEDS
    ]


def assert_within_the_spread(loss: float, cpu_losses: list[float]) -> None:
    """No further outside the range of the seeds than the range is wide."""
    low, high = min(cpu_losses), max(cpu_losses)
    assert low - (high - low) <= loss <= high + (high - low)


def test_200_steps_on_cuda_end_within_the_spread_of_seeds_on_the_cpu(
    dataset: TrainingSet, recipe: TrainParams, cpu_losses: list[float], tmp_path: Path
) -> None:
    trained = train(with_values(recipe, device="cuda"), dataset, tmp_path)
    assert trained.plan.device == "cuda"
    assert len(trained.history) == EPOCHS
    assert trained.best.validation_loss < trained.history[0].validation_loss
    assert_within_the_spread(trained.best.validation_loss, cpu_losses)


def test_a_run_on_cuda_resumes(
    dataset: TrainingSet, recipe: TrainParams, cpu_losses: list[float], tmp_path: Path
) -> None:
    interrupt(with_values(recipe, device="cuda"), dataset, tmp_path, after=EPOCHS // 2)
    resumed = train(with_values(recipe, device="cuda"), dataset, tmp_path)
    assert resumed.resumed_from_epoch == EPOCHS // 2
    assert len(resumed.history) == EPOCHS
    assert_within_the_spread(resumed.best.validation_loss, cpu_losses)


def test_bfloat16_on_cuda_learns_as_well(
    dataset: TrainingSet, recipe: TrainParams, cpu_losses: list[float], tmp_path: Path
) -> None:
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        pytest.skip("this device has no bfloat16")
    trained = train(with_values(recipe, device="cuda", precision="auto"), dataset, tmp_path)
    assert trained.plan.precision == "bfloat16"
    assert trained.best.validation_loss < trained.history[0].validation_loss
    assert trained.best.validation_loss < 2 * max(cpu_losses)


def test_fresh_samples_from_worker_processes_feed_cuda(
    photographs: TrainingSet, recipe: TrainParams, tmp_path: Path
) -> None:
    fresh = with_values(
        recipe, device="cuda", samples="fresh", samples_per_epoch=64, epochs=2, crops_px=(32,)
    )
    images, limits = images_of(photographs.folder), WITHOUT_PROJECT.limits
    trained = train(fresh, photographs, tmp_path, images=images, limits=limits)
    assert len(trained.history) == 2
    assert np.isfinite(trained.best.validation_loss)
