"""A training run, from its first step to the model that it returns."""

import logging
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from quality_model.core import storage
from quality_model.data.dataset import TrainingSet
from quality_model.errors import CheckpointError, DeviceUnavailableError, TrainingError
from quality_model.networks.checkpoints import load_model, save_model
from quality_model.networks.model import MultiHeadQualityAssessmentModel
from quality_model.params import TrainParams
from quality_model.records import HEADS
from quality_model.train import EpochReport, TrainedModel, train
from quality_model.train.epochs import learning_rate

Write = Callable[..., TrainingSet]
CPU = torch.device("cpu")


class Interrupted(Exception):
    """Stands for anything that ends a process."""


def with_values(section: TrainParams, **values: object) -> TrainParams:
    return section.model_copy(update=values)


def validation_loss(trained: TrainedModel, training_set: TrainingSet, section: TrainParams) -> float:
    """The loss on the validation split, computed apart from the code under test."""
    rows = training_set.indices("validation")
    images = torch.tensor(training_set.images[rows]).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        scores = trained.model(images)["all_scores"].double().numpy()
    errors = ((scores - training_set.labels[rows]) ** 2).mean(axis=0)
    return float(np.mean(errors * [section.loss_weights.as_dict()[head] for head in HEADS]))


def assert_same_bits(one: TrainedModel, other: TrainedModel) -> None:
    theirs = other.model.state_dict()
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name


def test_it_learns(training_set: TrainingSet, section: TrainParams, tmp_path: Path) -> None:
    trained = train(with_values(section, epochs=6, dropout=0.0), training_set, tmp_path / "checkpoints")
    losses = [report.train_loss for report in trained.history]
    assert losses[-1] < losses[0] / 2
    assert not trained.model.training


def test_each_epoch_is_reported_once_its_checkpoint_is_durable(
    training_set: TrainingSet, section: TrainParams, tmp_path: Path
) -> None:
    checkpoints = tmp_path / "checkpoints"
    seen: list[EpochReport] = []

    def on_epoch(report: EpochReport) -> None:
        (folder,) = checkpoints.glob(f"run-*/epoch-{report.epoch:06d}")
        assert storage.require_sealed(folder, verify=True)["epoch"] == report.epoch
        seen.append(report)

    trained = train(section, training_set, checkpoints, on_epoch)
    assert [report.epoch for report in seen] == [1, 2, 3]
    assert seen == trained.history
    for report in seen:
        weights = section.loss_weights.as_dict()
        expected = np.mean([weights[head] * report.validation_mse[head] for head in HEADS])
        assert report.validation_loss == pytest.approx(expected)
        assert report.images_per_s > 0
    assert [report.elapsed_s for report in seen] == sorted(report.elapsed_s for report in seen)
    labels = training_set.labels[training_set.indices("validation")]
    expected = 1 - seen[-1].validation_mse["color_cast"] / labels[:, 0].var()
    assert seen[-1].validation_r2["color_cast"] == pytest.approx(expected, rel=1e-5)
    assert np.isnan(seen[-1].validation_r2["noise"])  # its labels do not vary


def test_the_console_line_is_that_of_the_original(
    training_set: TrainingSet, section: TrainParams, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="quality_model.train"):
        trained = train(with_values(section, epochs=1), training_set, tmp_path / "checkpoints")
    lines = [record.message for record in caplog.records if record.message.startswith("Epoch")]
    assert lines == [trained.history[0].line()]
    number = r"\d+\.\d{4}"
    assert re.fullmatch(
        rf"Epoch 1/1, Train Loss: {number}, Val Loss: {number} \| "
        rf"CC: {number}, Blur: {number}, WM: {number}, Noise: {number}",
        lines[0],
    )


def test_the_same_seed_gives_the_same_bits_and_another_seed_other_weights(
    training_set: TrainingSet, section: TrainParams, tmp_path: Path
) -> None:
    short = with_values(section, epochs=1)
    first = train(short, training_set, tmp_path / "one")
    torch.manual_seed(5)  # the caller's random stream does not matter, and is not changed
    before = torch.get_rng_state()
    again = train(short, training_set, tmp_path / "two")
    assert torch.equal(torch.get_rng_state(), before)
    assert_same_bits(first, again)
    storage.write_json(tmp_path / "facts.json", first.facts())
    assert storage.read_json(tmp_path / "facts.json") == first.facts() == again.facts()
    assert first.facts()["data_sha256"] == training_set.data_sha256
    other = train(with_values(short, seed=43), training_set, tmp_path / "three")
    assert not torch.equal(first.model.head_noise[0].weight, other.model.head_noise[0].weight)


def test_it_stops_when_patience_is_out_and_returns_the_best_weights(
    write: Write, section: TrainParams, tmp_path: Path
) -> None:
    def contradict(images: np.ndarray, labels: np.ndarray) -> None:
        labels[:] = 1.0
        labels[-6:] = 0.0  # the better the training, the worse the validation

    training_set = write(change=contradict)
    patient = with_values(section, epochs=20, patience=2)
    trained = train(patient, training_set, tmp_path / "checkpoints")
    losses = [report.validation_loss for report in trained.history]
    assert trained.stopped_early
    assert trained.best_epoch == 1 + int(np.argmin(losses))
    assert len(losses) == trained.best_epoch + 2 < 20
    assert losses[-1] > losses[trained.best_epoch - 1]
    assert validation_loss(trained, training_set, patient) == pytest.approx(min(losses), rel=1e-4)


def test_a_label_that_is_not_a_number_stops_training_with_epoch_and_step(
    write: Write, section: TrainParams, tmp_path: Path
) -> None:
    def spoil(images: np.ndarray, labels: np.ndarray) -> None:
        labels[:20, 2] = np.nan

    with pytest.raises(TrainingError, match="epoch 1, step 1") as caught:
        train(section, write(change=spoil), tmp_path / "checkpoints")
    assert "learning_rate" in caught.value.remedy
    assert not list((tmp_path / "checkpoints").glob("run-*/epoch-*"))


def test_a_validation_loss_that_is_not_a_number_stops_training(
    write: Write, section: TrainParams, tmp_path: Path
) -> None:
    def spoil(images: np.ndarray, labels: np.ndarray) -> None:
        labels[-1, 0] = np.inf

    with pytest.raises(TrainingError, match="validation loss of epoch 1"):
        train(section, write(change=spoil), tmp_path / "checkpoints")


@pytest.mark.parametrize(("num_train", "num_validation"), [(1, 5), (0, 5), (10, 0)])
def test_too_few_samples_are_refused(
    write: Write, section: TrainParams, tmp_path: Path, num_train: int, num_validation: int
) -> None:
    training_set = write(num_train=num_train, num_validation=num_validation)
    with pytest.raises(TrainingError, match=f"{num_train} samples to train on and {num_validation}"):
        train(section, training_set, tmp_path / "checkpoints")


@pytest.mark.parametrize("num_train", [2, 9])
def test_a_lone_last_sample_does_not_stop_training(
    write: Write, section: TrainParams, tmp_path: Path, num_train: int
) -> None:
    training_set = write(num_train=num_train, num_validation=1)
    trained = train(with_values(section, epochs=2), training_set, tmp_path / "checkpoints")
    assert len(trained.history) == 2
    assert np.isfinite(trained.best.validation_loss)


def test_training_in_bfloat16_works_too(write: Write, section: TrainParams, tmp_path: Path) -> None:
    tiny = with_values(section, epochs=1, batch_size=2, precision="bfloat16")
    trained = train(tiny, write(num_train=2, num_validation=1), tmp_path / "checkpoints")
    assert trained.plan.precision == "bfloat16"
    assert np.isfinite(trained.best.validation_loss)
    assert {tensor.dtype for tensor in trained.model.parameters()} == {torch.float32}


@pytest.mark.filterwarnings("ignore:dynamo_pgo force disabled")
def test_without_a_compiler_training_runs_as_it_is_and_says_so(
    training_set: TrainingSet,
    section: TrainParams,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    import torch._inductor.config as inductor

    once = with_values(section, epochs=1)
    monkeypatch.setattr(inductor.cpp, "cxx", (str(tmp_path / "no-compiler"),))
    monkeypatch.setattr(inductor, "force_disable_caches", True)
    asked = train(with_values(once, compile=True), training_set, tmp_path / "asked")
    assert "torch.compile does not work here" in caplog.text
    assert asked.facts()["compiled"] is False
    assert_same_bits(asked, train(once, training_set, tmp_path / "plain"))


@pytest.mark.torture
def test_a_compiled_network_learns_what_the_plain_one_learns(
    training_set: TrainingSet, section: TrainParams, tmp_path: Path
) -> None:
    """Compiling takes a minute."""
    once = with_values(section, epochs=1, dropout=0.0)
    plain = train(once, training_set, tmp_path / "plain")
    compiled = train(with_values(once, compile=True), training_set, tmp_path / "compiled")
    assert compiled.plan.compiled
    assert compiled.best.train_loss == pytest.approx(plain.best.train_loss, rel=0.01)
    assert compiled.best.validation_loss == pytest.approx(plain.best.validation_loss, rel=0.05)
    assert compiled.model.state_dict().keys() == plain.model.state_dict().keys()


def test_a_device_that_is_not_there_is_refused_before_anything_is_written(
    training_set: TrainingSet, section: TrainParams, tmp_path: Path
) -> None:
    absent = "mps" if torch.cuda.is_available() or not torch.backends.mps.is_available() else "cuda"
    with pytest.raises(DeviceUnavailableError):
        train(with_values(section, device=absent), training_set, tmp_path / "checkpoints")
    assert not (tmp_path / "checkpoints").exists()


def test_the_learning_rate_is_pytorchs_cosine_annealing(section: TrainParams) -> None:
    fifty = with_values(section, epochs=50)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=fifty.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, T_max=50, eta_min=fifty.learning_rate * fifty.final_learning_rate_share
    )
    for epoch in range(1, 51):
        assert learning_rate(fifty, epoch) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert learning_rate(fifty, 51) == pytest.approx(fifty.learning_rate / 100)


@pytest.mark.parametrize("killed_after", [1, 2])
def test_a_resumed_run_on_fresh_samples_with_averaged_weights_ends_as_if_undisturbed(
    photographs: TrainingSet, section: TrainParams, tmp_path: Path, killed_after: int
) -> None:
    averaged = with_values(
        section,
        samples="fresh",
        samples_per_epoch=12,
        batch_size=4,
        crops_px=(32,),
        weight_average=0.9,
    )
    undisturbed = train(averaged, photographs, tmp_path / "one")
    (run,) = (tmp_path / "one").glob("run-*")
    storage.write_json(tmp_path / "two" / run.name / "plan.json", storage.read_json(run / "plan.json"))

    def stop(report: EpochReport) -> None:
        if report.epoch == killed_after:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(averaged, photographs, tmp_path / "two", stop)
    resumed = train(averaged, photographs, tmp_path / "two")

    assert resumed.resumed_from_epoch == killed_after
    assert_same_bits(resumed, undisturbed)
    assert [one.train_mse for one in resumed.history] == [one.train_mse for one in undisturbed.history]
    assert resumed.facts() == undisturbed.facts()


def kept_state(checkpoints: Path, epoch: int) -> dict[str, dict[str, torch.Tensor]]:
    (folder,) = checkpoints.glob(f"run-*/epoch-{epoch:06d}")
    state: dict[str, dict[str, torch.Tensor]] = torch.load(folder / "state.pt", weights_only=True)
    return state


def test_averaging_changes_which_weights_are_kept_and_not_how_they_are_trained(
    training_set: TrainingSet, section: TrainParams, tmp_path: Path
) -> None:
    once = with_values(section, epochs=1)
    last = train(once, training_set, tmp_path / "last")
    average = train(with_values(once, weight_average=0.99), training_set, tmp_path / "average")

    assert "average" not in kept_state(tmp_path / "last", 1)
    for name, tensor in kept_state(tmp_path / "average", 1)["model"].items():
        assert torch.equal(tensor, last.model.state_dict()[name]), name
    weights, plain = (trained.model.head_noise[0].weight for trained in (average, last))
    assert not torch.equal(weights, plain)
    assert torch.dist(weights, plain) < 0.1 * weights.norm()

    one_step = with_values(once, batch_size=20)  # the average of a single step is that step
    single = train(with_values(one_step, weight_average=0.99), training_set, tmp_path / "single")
    assert_same_bits(single, train(one_step, training_set, tmp_path / "one step"))


@pytest.fixture
def start(tmp_path: Path) -> Callable[[int], Path]:
    """Writes a model folder with random weights of a seed."""

    def _start(seed: int) -> Path:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = MultiHeadQualityAssessmentModel(0.1, "compact")
        folder = tmp_path / f"start {seed}"
        save_model(folder, model, image_size_px=32, facts={})
        return folder

    return _start


def distance(trained: TrainedModel, start: Path) -> float:
    """Distance of the parameters from those of a model folder."""
    begun = load_model(start, CPU).model.state_dict()
    parts = [torch.dist(one, begun[name]).item() ** 2 for name, one in trained.model.named_parameters()]
    return float(np.sqrt(sum(parts)))


def test_a_run_starts_from_the_given_weights_and_is_identified_by_them_and_not_by_their_path(
    training_set: TrainingSet, section: TrainParams, start: Callable[[int], Path], tmp_path: Path
) -> None:
    # With steps too small to change a weight, the start weights are returned.
    still = with_values(section, epochs=1, learning_rate=1e-30)
    moved = start(5).rename(tmp_path / "elsewhere")
    first, again, other = (
        train(still, training_set, tmp_path / "checkpoints", start=load_model(folder, CPU))
        for folder in (start(5), moved, start(6))
    )
    assert distance(first, start(5)) == 0.0
    assert distance(other, start(5)) > 1.0
    assert again.resumed_from_epoch == 1
    assert other.resumed_from_epoch == 0
    assert again.fingerprint == first.fingerprint != other.fingerprint


def test_start_weights_must_be_of_the_same_architecture(
    training_set: TrainingSet, section: TrainParams, start: Callable[[int], Path], tmp_path: Path
) -> None:
    standard = with_values(section, architecture="standard")
    with pytest.raises(CheckpointError, match=r"of architecture compact, but train.architecture is standard"):
        train(standard, training_set, tmp_path / "checkpoints", start=load_model(start(5), CPU))
    assert not (tmp_path / "checkpoints").exists()


def test_warm_up_makes_the_first_steps_smaller(
    training_set: TrainingSet, section: TrainParams, start: Callable[[int], Path], tmp_path: Path
) -> None:
    begun = start(5)
    once, weights = with_values(section, epochs=1), load_model(begun, CPU)
    cold = train(once, training_set, tmp_path / "one", start=weights)
    warming = train(with_values(once, warmup_epochs=10.0), training_set, tmp_path / "two", start=weights)
    assert distance(warming, begun) < 0.5 * distance(cold, begun)
