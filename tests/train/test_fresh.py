"""Training on fresh samples: made anew each time, the same for the same seed, and resumed without a trace."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from quality_model.core import storage
from quality_model.core.decoding import Pixels, resize
from quality_model.data.training_set.generate import generate
from quality_model.data.training_set.store import TrainingSet
from quality_model.errors import TrainingError
from quality_model.networks.checkpoints import load_model, save_model
from quality_model.networks.model import MultiHeadQualityAssessmentModel
from quality_model.params import LimitsParams, Params, TrainParams
from quality_model.train import EpochReport, TrainedModel, samples, train
from quality_model.train.samples import open_samples
from quality_model.train.stored import StoredRows

from ..data.training_set.conftest import write_table

CPU = torch.device("cpu")
SIDE_PX = 40


class Interrupted(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture(scope="module")
def photographs(
    photo: Pixels, params: Params, limits: LimitsParams, tmp_path_factory: pytest.TempPathFactory
) -> TrainingSet:
    """A calibrated set of ten sharp images of 40 x 40 pixels."""
    folder = tmp_path_factory.mktemp("photographs")
    parts = [photo[20 * n : 20 * n + 240, 20 * n : 20 * n + 240] for n in range(10)]
    write_table(folder / "images", [resize(part, 3 * SIDE_PX) for part in parts], per_group=1)
    made = params.generate.model_copy(
        update={"profile": "calibrated", "image_size": SIDE_PX, "samples_per_image": 2, "workers": 1}
    )
    generate(made, limits, folder / "images", folder / "training")
    return TrainingSet.open(folder / "training")


@pytest.fixture(scope="module")
def fresh(section: TrainParams) -> TrainParams:
    """Three epochs of three batches of fresh crops."""
    return section.model_copy(
        update={"samples": "fresh", "samples_per_epoch": 12, "batch_size": 4, "crops_px": (32,)}
    )


def with_values(section: TrainParams, **values: object) -> TrainParams:
    return section.model_copy(update=values)


def batches(section: TrainParams, training_set: TrainingSet, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """All images and labels of an epoch."""
    rows = training_set.indices("train")
    stored = StoredRows(training_set, rows, CPU, budget_bytes=0)
    made = open_samples(section, training_set, rows, stored, CPU)
    images, labels = zip(*made.batches(epoch), strict=True)
    assert [len(batch) for batch in images] == made.batch_sizes(epoch)
    return np.concatenate(images), np.concatenate(labels)


def test_the_same_seed_and_epoch_make_the_same_samples_and_others_others(
    fresh: TrainParams, photographs: TrainingSet
) -> None:
    images, labels = batches(fresh, photographs, 1)
    again = batches(fresh, photographs, 1)

    assert np.array_equal(images, again[0])
    assert np.array_equal(labels, again[1])
    for other in (batches(fresh, photographs, 2), batches(with_values(fresh, seed=43), photographs, 1)):
        assert not np.array_equal(images, other[0])
        assert not np.array_equal(labels, other[1])


def test_an_epoch_has_as_many_samples_as_asked_for_each_made_once(
    fresh: TrainParams, photographs: TrainingSet
) -> None:
    images, labels = batches(with_values(fresh, samples_per_epoch=30), photographs, 1)

    assert images.shape == (30, 32, 32, 3)
    assert labels.shape == (30, 4)
    assert labels.dtype == np.float32
    assert 0 <= labels.min() < labels.max() <= 1
    assert len({image.tobytes() for image in images}) == 30


def test_fresh_samples_are_made_of_clean_images_to_train_on_each_as_often(
    fresh: TrainParams, photographs: TrainingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[bytes] = []
    vary = samples.vary

    def spy(clean: Pixels, *arguments: object) -> Pixels:
        used.append(clean.tobytes())
        return vary(clean, *arguments)

    monkeypatch.setattr(samples, "vary", spy)
    batches(with_values(fresh, samples_per_epoch=20), photographs, 1)

    rows = photographs.indices("train")
    kept = [row for row in rows if photographs.manifest["sample_id"][row].endswith("#00")]
    assert set(used) == {photographs.images[row].tobytes() for row in kept}
    counts = [used.count(one) for one in set(used)]
    assert max(counts) - min(counts) <= 1


def test_crops_have_the_side_of_their_part_of_the_run(fresh: TrainParams, photographs: TrainingSet) -> None:
    growing = with_values(fresh, epochs=4, crops_px=(32, 36, 40), samples_per_epoch=2, batch_size=2)
    sides = [batches(growing, photographs, epoch)[0].shape[1] for epoch in (1, 2, 3, 4)]
    assert sides == [32, 32, 36, 40]
    assert batches(with_values(growing, crops_px=()), photographs, 1)[0].shape[1:] == (SIDE_PX, SIDE_PX, 3)


def test_a_crop_larger_than_the_images_is_refused(
    fresh: TrainParams, photographs: TrainingSet, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=r"crops_px has 48, but the images are 40 px") as caught:
        train(with_values(fresh, crops_px=(32, 48)), photographs, tmp_path / "checkpoints")
    assert "generate larger images" in caught.value.remedy


def test_images_that_are_all_soft_are_refused(
    fresh: TrainParams, photo: Pixels, params: Params, limits: LimitsParams, tmp_path: Path
) -> None:
    small = [resize(photo[30 * n : 30 * n + 200, :200], 20) for n in range(4)]
    write_table(tmp_path / "images", small, per_group=1)
    made = params.generate.model_copy(update={"image_size": 40, "samples_per_image": 1, "workers": 1})
    generate(made, limits, tmp_path / "images", tmp_path / "training")

    with pytest.raises(TrainingError, match="No image of the train split is clean"):
        train(fresh, TrainingSet.open(tmp_path / "training"), tmp_path / "checkpoints")


@pytest.mark.parametrize("killed_after", [1, 2])
def test_a_resumed_fresh_run_with_averaged_weights_ends_as_if_undisturbed(
    fresh: TrainParams, photographs: TrainingSet, tmp_path: Path, killed_after: int
) -> None:
    averaged = with_values(fresh, weight_average=0.9, warmup_epochs=1.5)
    undisturbed = train(averaged, photographs, tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two", ignore=shutil.ignore_patterns("epoch-*"))

    def stop(report: EpochReport) -> None:
        if report.epoch == killed_after:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(averaged, photographs, tmp_path / "two", stop)
    resumed = train(averaged, photographs, tmp_path / "two")

    assert resumed.resumed_from_epoch == killed_after
    assert_same_weights(resumed, undisturbed)
    assert [report.train_mse for report in resumed.history] == [
        report.train_mse for report in undisturbed.history
    ]
    assert resumed.facts() == undisturbed.facts()


def assert_same_weights(one: TrainedModel, other: TrainedModel) -> None:
    theirs = other.model.state_dict()
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name


def kept_state(checkpoints: Path, epoch: int) -> dict[str, dict[str, torch.Tensor]]:
    (folder,) = checkpoints.glob(f"run-*/epoch-{epoch:06d}")
    storage.require_sealed(folder, verify=True)
    state: dict[str, dict[str, torch.Tensor]] = torch.load(folder / "state.pt", weights_only=True)
    return state


def test_averaging_changes_which_weights_are_kept_and_not_how_they_are_trained(
    training_set: TrainingSet, section: TrainParams, tmp_path: Path
) -> None:
    once = with_values(section, epochs=1)
    last = train(once, training_set, tmp_path / "last")
    average = train(with_values(once, weight_average=0.99), training_set, tmp_path / "average")

    trained = kept_state(tmp_path / "last", 1)
    assert "average" not in trained
    for name, tensor in kept_state(tmp_path / "average", 1)["model"].items():
        assert torch.equal(tensor, trained["model"][name]), name
        assert torch.equal(tensor, last.model.state_dict()[name]), name
    weights = average.model.head_noise[0].weight
    assert not torch.equal(weights, last.model.head_noise[0].weight)
    assert torch.dist(weights, last.model.head_noise[0].weight) < 0.1 * weights.norm()


def test_the_average_of_a_single_step_is_that_step(
    training_set: TrainingSet, section: TrainParams, tmp_path: Path
) -> None:
    one_step = with_values(section, epochs=1, batch_size=20)
    last = train(one_step, training_set, tmp_path / "last")
    average = train(with_values(one_step, weight_average=0.99), training_set, tmp_path / "average")
    assert_same_weights(average, last)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a model's folder, with random weights of a seed."""

    def _start(seed: int) -> Path:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = MultiHeadQualityAssessmentModel(0.1)
        folder = tmp_path / f"start {seed}"
        save_model(folder, model, image_size_px=32, facts={})
        return folder

    yield _start


def distance(trained: TrainedModel, start: Path) -> float:
    """How far the parameters are from those of a model's folder."""
    from safetensors.torch import load_file

    begun = load_file(start / "model.safetensors")
    parts = [
        torch.dist(parameter, begun[name].to(parameter.dtype)).item() ** 2
        for name, parameter in trained.model.named_parameters()
    ]
    return float(np.sqrt(sum(parts)))


def test_a_run_begins_with_the_weights_that_it_is_told_to(
    training_set: TrainingSet, section: TrainParams, start: Callable[[int], Path], tmp_path: Path
) -> None:
    # With steps too small to change a weight, what comes out is what went in.
    still = with_values(section, epochs=1, learning_rate=1e-30)
    trained = train(still, training_set, tmp_path / "checkpoints", start=load_model(start(5), CPU))
    assert distance(trained, start(5)) == 0.0
    assert distance(trained, start(6)) > 1.0


def test_a_run_is_known_by_the_weights_it_began_with_and_not_by_where_they_lay(
    training_set: TrainingSet, section: TrainParams, start: Callable[[int], Path], tmp_path: Path
) -> None:
    once = with_values(section, epochs=1)
    moved = shutil.copytree(start(5), tmp_path / "elsewhere")
    first, again, other = (
        train(once, training_set, tmp_path / "checkpoints", start=load_model(folder, CPU))
        for folder in (start(5), moved, start(6))
    )

    assert again.resumed_from_epoch == 1
    assert other.resumed_from_epoch == 0
    assert again.fingerprint == first.fingerprint != other.fingerprint


def test_a_run_that_warms_up_takes_smaller_first_steps(
    training_set: TrainingSet, section: TrainParams, start: Callable[[int], Path], tmp_path: Path
) -> None:
    begun = start(5)
    once, weights = with_values(section, epochs=1), load_model(begun, CPU)
    cold = train(once, training_set, tmp_path / "one", start=weights)
    warming = train(with_values(once, warmup_epochs=10.0), training_set, tmp_path / "two", start=weights)
    assert distance(warming, begun) < 0.5 * distance(cold, begun)


def test_no_more_validation_samples_are_scored_than_asked_for(
    training_set: TrainingSet, section: TrainParams, tmp_path: Path
) -> None:
    short = with_values(section, epochs=1)
    assert train(short, training_set, tmp_path / "all").num_validation == 6
    few = train(with_values(short, max_validation_samples=3), training_set, tmp_path / "few")
    assert few.num_validation == 3
    assert np.isfinite(few.best.validation_loss)
