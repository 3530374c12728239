"""What a training run does, from its first step to the model that it returns."""

import logging
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from quality_model.core import storage
from quality_model.data.dataset import TrainingSet
from quality_model.errors import DeviceUnavailableError, StorageError, TrainingError
from quality_model.params import TrainParams
from quality_model.records import HEADS
from quality_model.train import EpochReport, TrainedModel, loop, train
from quality_model.train.run import learning_rate

Write = Callable[..., TrainingSet]


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


def test_r2_is_what_the_head_explains_of_its_labels(
    training_set: TrainingSet, section: TrainParams, tmp_path: Path
) -> None:
    report = train(section, training_set, tmp_path / "checkpoints").history[-1]
    labels = training_set.labels[training_set.indices("validation")]
    expected = 1 - report.validation_mse["color_cast"] / labels[:, 0].var()
    assert report.validation_r2["color_cast"] == pytest.approx(expected, rel=1e-5)
    assert np.isnan(report.validation_r2["noise"])  # its labels do not vary


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
    torch.manual_seed(5)  # what happens around a run is nothing to it
    assert_same_bits(first, train(short, training_set, tmp_path / "two"))
    other = train(with_values(short, seed=43), training_set, tmp_path / "three")
    assert not torch.equal(first.model.head_noise[0].weight, other.model.head_noise[0].weight)


def test_the_callers_random_stream_is_left_alone(
    training_set: TrainingSet, section: TrainParams, tmp_path: Path
) -> None:
    before = torch.get_rng_state()
    train(with_values(section, epochs=1), training_set, tmp_path / "checkpoints")
    assert torch.equal(torch.get_rng_state(), before)


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


def test_weights_that_run_away_stop_training(
    training_set: TrainingSet, section: TrainParams, tmp_path: Path
) -> None:
    wild = with_values(section, learning_rate=1e30, gradient_clip_norm=1e30)
    with pytest.raises(TrainingError, match="not a finite number"):
        train(wild, training_set, tmp_path / "checkpoints")


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


def test_a_head_of_weight_zero_is_left_where_it_was(
    training_set: TrainingSet, section: TrainParams, tmp_path: Path
) -> None:
    weights = section.loss_weights.model_copy(update={"noise": 0.0})
    still = with_values(section, epochs=1, loss_weights=weights, weight_decay=0.0)
    trained = train(still, training_set, tmp_path / "one")
    more = train(with_values(still, learning_rate=0.01), training_set, tmp_path / "two")
    assert torch.equal(trained.model.head_noise[0].weight, more.model.head_noise[0].weight)
    assert not torch.equal(trained.model.head_watermark[0].weight, more.model.head_watermark[0].weight)


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
    once = with_values(section, epochs=1, dropout=0.0, architecture="compact")
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


def test_two_processes_do_not_train_in_one_folder(
    training_set: TrainingSet, section: TrainParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_LOCK_TIMEOUT_S", 0.05)
    checkpoints = tmp_path / "checkpoints"
    with (
        storage.locked(checkpoints / "training.lock", timeout_s=1.0),
        pytest.raises(StorageError, match="Another process"),
    ):
        train(section, training_set, checkpoints)


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


def test_facts_are_plain_and_the_same_for_the_same_run(
    training_set: TrainingSet, section: TrainParams, tmp_path: Path
) -> None:
    facts = train(with_values(section, epochs=1), training_set, tmp_path / "one").facts()
    storage.write_json(tmp_path / "facts.json", facts)
    assert storage.read_json(tmp_path / "facts.json") == facts
    assert facts["data_sha256"] == training_set.data_sha256
    assert facts["memory_format"] in ("contiguous", "channels_last")
    assert facts["num_train"] == 20
