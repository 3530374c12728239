"""The benchmarks: both sides do the same work, and an ablation counts the samples it was trained on."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.ablations import num_trained
from benchmarks.comparison import Comparison, facts, table
from benchmarks.images import find_photographs, write_images
from benchmarks.jobs import Repetition, Task, train_obvious, train_ours
from benchmarks.obvious import calibrated
from benchmarks.obvious.generation import generate
from benchmarks.obvious.network import Network, SmallNetwork
from quality_model.core.decoding import Pixels
from quality_model.degrade.seed import STRENGTHS
from quality_model.networks.model import MultiHeadQualityAssessmentModel, save_model
from quality_model.params import Params
from quality_model.records import HEADS
from tests.evaluate.conftest import write_training_set

PROJECT = Path(__file__).resolve().parents[2]


def test_the_obvious_network_gives_the_scores_of_the_library() -> None:
    model = MultiHeadQualityAssessmentModel().eval()
    network = Network(dropout=0.3)
    network.load(model.state_dict())
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(network.eval()(images), model(images)["all_scores"], atol=1e-6)


def test_the_obvious_small_network_has_the_layers_of_the_library() -> None:
    model = MultiHeadQualityAssessmentModel(architecture="small")
    obvious = SmallNetwork(dropout=0.1)
    shapes, expected = (
        sorted(tuple(one.shape) for one in network.parameters()) for network in (obvious, model)
    )
    assert shapes == expected
    scores, marks = obvious.eval()(torch.rand(2, 3, 64, 96))
    assert (scores.shape, marks.shape) == ((2, 4), (2, 4, 6))


def test_the_obvious_calibrated_generation_labels_degraded_samples_and_leaves_clean_ones(
    tmp_path: Path,
) -> None:
    write_images(tmp_path / "images", 4, find_photographs(None))
    made = calibrated.generate(
        tmp_path / "images", tmp_path / "set", samples_per_image=10, side_px=96, seed=1
    )

    images, labels = np.load(tmp_path / "set" / "images.npy"), np.load(tmp_path / "set" / "labels.npy")
    assert made == len(images) == len(labels) == 4 * 11
    assert images.shape[1:] == (96, 96, 3)
    assert not labels[::11].any()
    assert ((labels >= 0) & (labels <= 1)).all()
    assert (labels > 0).any(axis=0).all()


def test_the_obvious_generation_makes_files_of_the_same_shape_with_labels_of_the_same_ranges(
    tmp_path: Path,
) -> None:
    write_images(tmp_path / "images", 4, find_photographs(None))
    made = generate(tmp_path / "images", tmp_path / "set", samples_per_image=20, side_px=96, seed=1)

    images, labels = np.load(tmp_path / "set" / "images.npy"), np.load(tmp_path / "set" / "labels.npy")
    assert made == len(images) == len(labels) == 4 * 21
    assert images.dtype == np.uint8
    assert images.shape[1:] == (96, 96, 3)
    assert not labels[::21].any()
    for column, head in enumerate(HEADS):
        degraded = labels[:, column][labels[:, column] > 0]
        low, high = STRENGTHS[head]
        assert 20 < len(degraded) < 60
        assert low <= degraded.min() < degraded.max() <= high


def task_of(folder: Path, photo: Pixels, **train: object) -> Task:
    """A task of training on a small dataset with these parameters."""
    values = {"samples": "stored", "epochs": 1, "device": "cpu", **train}
    return Task(
        params_file=PROJECT / "params.yaml",
        images=folder,
        table=folder,
        training_set=write_training_set(folder / "set", photo).folder,
        model=folder,
        output=folder / "output",
        overrides={f"train.{name}": value for name, value in values.items()},
    )


@pytest.mark.parametrize(("batch_size", "trained_on"), [(16, 60), (59, 59)])
def test_both_sides_train_on_the_same_batches_and_mean_the_same_by_loss(
    tmp_path: Path, photo: Pixels, monkeypatch: pytest.MonkeyPatch, batch_size: int, trained_on: int
) -> None:
    # From the same weights, with steps too small to change one, and no dropout: the losses are the same.
    model, network = MultiHeadQualityAssessmentModel(dropout=0.0).eval(), Network(dropout=0.0)
    network.load(model.state_dict())
    save_model(tmp_path / "start", model, image_size_px=32, facts={})
    monkeypatch.setattr("benchmarks.obvious.network.Network", lambda dropout: network)
    same = {"start_from": str(tmp_path / "start"), "learning_rate": 1e-30, "dropout": 0.0, "loss": "mse"}
    same["architecture"] = "standard"
    plain = {"weight_average": 0.0, "warmup_epochs": 0.0, "precision": "float32"}
    task = task_of(tmp_path, photo, **same, **plain, batch_size=batch_size)
    ours, obvious = train_ours(task), train_obvious(task)
    assert ours.num_images == obvious.num_images == trained_on
    assert ours.facts["train_loss"] == pytest.approx(obvious.facts["train_loss"], rel=0.01)


@pytest.mark.parametrize("start_from", ["champion", "bundled", "scratch"])
def test_a_benchmark_of_training_needs_no_registry_whatever_params_yaml_starts_from(
    tmp_path: Path, photo: Pixels, start_from: str
) -> None:
    assert train_ours(task_of(tmp_path, photo, start_from=start_from)).num_images > 0


@pytest.mark.parametrize(("samples", "expected"), [("fresh", 6 * 1422), ("stored", 6 * 80)])
def test_an_ablation_counts_the_samples_it_was_trained_on(
    params: Params, samples: str, expected: int
) -> None:
    values = {"samples": samples, "samples_per_epoch": 1422, "batch_size": 16}
    # 81 stored samples: the last one is alone in its batch and is left out.
    trained = SimpleNamespace(history=[None] * 6, num_train=81)
    assert num_trained(params.train.model_copy(update=values), trained) == expected


def test_the_table_shows_medians_their_ratio_and_their_spread() -> None:
    def runs(*seconds: float) -> list[Repetition]:
        return [Repetition(100, one, 2 * one, {"train_loss": one / 100}, 50.0) for one in seconds]

    found = [Comparison("generate-seed", {"obvious": runs(10, 20, 40), "ours": runs(1, 1, 2)})]
    assert [*table(found)][-1] == (
        "| generate-seed | 5 | 100 | 20.00 | 150% / 50% | 400 | 20 | 20.00 | 50 MB | 50 MB |"
    )
    expected = "generate-seed, train_loss: obvious 0.2000 (0.1000 to 0.4000), ours 0.0100 (0.0100 to 0.0200)"
    assert [*facts(found)] == [expected]
