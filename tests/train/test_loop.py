"""A training run, from its first step to the model that it returns."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from quality_model.data.dataset import TrainingSet
from quality_model.errors import CheckpointError, TrainingError
from quality_model.networks.model import MultiHeadQualityAssessmentModel, load_model, save_model
from quality_model.params import TrainParams
from quality_model.records import HEADS
from quality_model.train import EpochReport, TrainedModel, train
from quality_model.train.epochs import best_epoch, learning_rate

from .conftest import FinishedRun, assert_same_bits, with_values

Write = Callable[..., TrainingSet]
CPU = torch.device("cpu")


def validation_loss(trained: TrainedModel, training_set: TrainingSet, section: TrainParams) -> float:
    """The loss on the validation split, computed apart from the code under test."""
    rows = training_set.indices("validation")
    images = torch.tensor(training_set.images[rows]).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        scores = trained.model(images)["all_scores"].double().numpy()
    errors = ((scores - training_set.labels[rows]) ** 2).mean(axis=0)
    return float(np.mean(errors * [section.loss_weights.as_dict()[head] for head in HEADS]))


def test_a_run_learns_and_reports_each_epoch(
    undisturbed: FinishedRun, training_set: TrainingSet, section: TrainParams
) -> None:
    seen = undisturbed.reported
    assert seen == undisturbed.trained.history
    assert [report.epoch for report in seen] == [1, 2, 3]
    assert seen[-1].train_loss < seen[0].train_loss
    assert not undisturbed.trained.model.training
    labels = training_set.labels[training_set.indices("validation")]
    for report in seen:
        weights = section.loss_weights.as_dict()
        expected = np.mean([weights[head] * report.validation_mse[head] for head in HEADS])
        assert report.validation_loss == pytest.approx(expected)
        assert report.images_per_s is not None and report.images_per_s > 0
        expected = 1 - report.validation_mse["color_cast"] / labels[:, 0].var()
        assert report.validation_r2["color_cast"] == pytest.approx(expected, rel=1e-5)
        assert report.validation_r2["noise"] is None  # its labels do not vary
    times = [report.elapsed_s or 0.0 for report in seen]
    assert times == sorted(times)


def a_report(epoch: int, loss: float = 0.0534) -> EpochReport:
    mse = dict(zip(HEADS, (0.0205, 0.0654, 0.0302, 0.0628), strict=True))
    r2 = dict(zip(HEADS, (0.5, None, -0.25, 0.0), strict=True))
    return EpochReport(epoch, 50, 0.0485, loss, mse, mse, r2, r2, 0.001, 3.5, 12.0)


def test_a_report_has_the_console_line_of_the_original_and_survives_json_with_an_undefined_r2() -> None:
    assert a_report(1).line() == (
        "Epoch 1/50, Train Loss: 0.0485, Val Loss: 0.0534 | "
        "CC: 0.0205, Blur: 0.0654, WM: 0.0302, Noise: 0.0628"
    )
    again = EpochReport(**json.loads(json.dumps(a_report(3).to_dict(), allow_nan=False)))
    assert again == a_report(3)
    metrics = again.metrics()
    assert (metrics["validation_mse.noise"], metrics["learning_rate"]) == (0.0628, 0.001)
    assert not {"validation_r2.blurriness", "epoch"} & set(metrics)
    assert (again.row()["validation_mse_noise"], again.row()["epoch"]) == (0.0628, 3)
    assert "images_per_s" not in EpochReport(**again.to_dict(timings=False)).metrics()


def test_the_best_epoch_has_the_least_validation_loss_and_the_first_of_equals_wins() -> None:
    assert best_epoch([a_report(epoch, loss) for epoch, loss in enumerate((0.3, 0.1, 0.2, 0.1), 1)]) == 2
    assert best_epoch([]) == 0


def test_the_same_seed_gives_the_same_bits_and_another_seed_other_weights(
    undisturbed: FinishedRun,
    training_set: TrainingSet,
    section: TrainParams,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    torch.manual_seed(5)  # the caller's random stream does not matter, and is not changed
    before = torch.get_rng_state()
    with caplog.at_level(logging.INFO, logger="quality_model.train"):
        again = train(section, training_set, tmp_path / "again")
    assert [line for line in caplog.messages if line.startswith("Epoch")] == [
        report.line() for report in again.history
    ]
    assert torch.equal(torch.get_rng_state(), before)
    assert_same_bits(undisturbed.trained, again)
    facts = again.facts()
    assert facts == undisturbed.trained.facts() == json.loads(json.dumps(facts))
    other = train(with_values(section, epochs=1, seed=43), training_set, tmp_path / "other")
    assert other.history[0].train_mse != again.history[0].train_mse


def test_it_stops_when_patience_is_out_returns_the_best_weights_and_stays_stopped(
    write: Write, section: TrainParams, tmp_path: Path
) -> None:
    def contradict(images: np.ndarray, labels: np.ndarray) -> None:
        labels[:] = 1.0
        labels[-6:] = 0.0  # the better the training, the worse the validation

    training_set = write(change=contradict)
    patient = with_values(section, epochs=20, patience=2)
    trained = train(patient, training_set, tmp_path / "checkpoints")
    losses = [report.validation_loss for report in trained.history]
    facts = trained.facts()
    assert (facts["stopped_early"], facts["best_epoch"]) == (True, 1 + int(np.argmin(losses)))
    assert len(losses) == facts["best_epoch"] + 2 < 20
    assert losses[-1] > trained.best.validation_loss == min(losses)
    assert validation_loss(trained, training_set, patient) == pytest.approx(min(losses), rel=1e-4)
    again = train(patient, training_set, tmp_path / "checkpoints")
    assert again.resumed_from_epoch == len(losses)
    assert again.history == trained.history
    assert_same_bits(again, trained)


@pytest.mark.parametrize(
    ("rows", "column", "value", "words"),
    [
        (slice(0, 20), 2, np.nan, "epoch 1, step 1"),
        (slice(-1, None), 0, np.inf, "validation loss of epoch 1"),
    ],
)
def test_a_label_that_is_not_a_finite_number_stops_training_with_its_place(
    write: Write, section: TrainParams, tmp_path: Path, rows: slice, column: int, value: float, words: str
) -> None:
    def spoil(images: np.ndarray, labels: np.ndarray) -> None:
        labels[rows, column] = value

    with pytest.raises(TrainingError, match=words) as caught:
        train(section, write(change=spoil), tmp_path / "checkpoints")
    assert "learning_rate" in caught.value.remedy
    assert not list((tmp_path / "checkpoints").glob("run-*/epoch-*"))


@pytest.mark.parametrize(("num_train", "num_validation"), [(1, 5), (0, 5), (10, 0)])
def test_too_few_samples_are_refused(
    write: Write, section: TrainParams, tmp_path: Path, num_train: int, num_validation: int
) -> None:
    training_set = write(num_train=num_train, num_validation=num_validation)
    with pytest.raises(TrainingError, match=f"{num_train} samples to train on and {num_validation}"):
        train(section, training_set, tmp_path / "checkpoints")


def test_a_lone_last_sample_does_not_stop_training_and_bfloat16_leaves_float32_weights(
    write: Write, section: TrainParams, tmp_path: Path
) -> None:
    once = with_values(section, epochs=1, precision="bfloat16")
    trained = train(once, write(num_train=9, num_validation=1), tmp_path / "checkpoints")
    assert trained.plan.precision == "bfloat16"
    assert np.isfinite(trained.best.validation_loss)
    assert {tensor.dtype for tensor in trained.model.parameters()} == {torch.float32}


@pytest.mark.filterwarnings("ignore:dynamo_pgo force disabled")
def test_without_a_compiler_training_runs_as_it_is_and_says_so(
    training_set: TrainingSet,
    section: TrainParams,
    undisturbed: FinishedRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", (str(tmp_path / "no-compiler"),))
    monkeypatch.setattr(inductor, "force_disable_caches", True)
    asked = train(with_values(section, compile=True), training_set, tmp_path / "asked")
    assert "torch.compile does not work here" in caplog.text
    assert asked.facts()["compiled"] is False
    assert_same_bits(asked, undisturbed.trained)


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


def test_the_learning_rate_is_pytorchs_cosine_annealing(section: TrainParams) -> None:
    fifty = with_values(section, epochs=50)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=fifty.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, T_max=50, eta_min=fifty.learning_rate * fifty.final_learning_rate_share
    )
    for epoch in range(1, 51):
        assert learning_rate(fifty, epoch) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert learning_rate(fifty, 51) == pytest.approx(fifty.learning_rate / 100)


def test_averaging_changes_which_weights_are_kept_and_not_how_they_are_trained(
    training_set: TrainingSet, section: TrainParams, tmp_path: Path
) -> None:
    once = with_values(section, epochs=1)
    last = train(once, training_set, tmp_path / "last")
    average = train(with_values(once, weight_average=0.99), training_set, tmp_path / "average")
    (checkpoint,) = (tmp_path / "average").glob("run-*/epoch-000001/state.pt")
    for name, tensor in torch.load(checkpoint, weights_only=True)["model"].items():
        assert torch.equal(tensor, last.model.state_dict()[name]), name
    weights, plain = (trained.model.head_noise[0].weight for trained in (average, last))
    assert not torch.equal(weights, plain)
    assert torch.dist(weights, plain) < 0.1 * weights.norm()


@pytest.fixture
def start(tmp_path: Path) -> Callable[[int], Path]:
    """Writes a model folder with random weights of a seed."""

    def _start(seed: int) -> Path:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = MultiHeadQualityAssessmentModel(0.1, "small")
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
    with pytest.raises(CheckpointError, match=r"of architecture small, but train.architecture is standard"):
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
