"""A run that was killed resumes, and ends with the bits of an undisturbed one."""

import logging
import os
import pickle
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from quality_model.core import storage
from quality_model.data.dataset import TrainingSet
from quality_model.params import TrainParams
from quality_model.train import EpochReport, TrainedModel, clear_checkpoints, train
from quality_model.train.state import RunIdentity, RunState
from tests.faults.processes import start
from tests.hostile import Canary


class Interrupted(Exception):
    """Stands for anything that ends a process."""


def stop_after(epoch: int) -> Callable[[EpochReport], None]:
    def on_epoch(report: EpochReport) -> None:
        if report.epoch == epoch:
            raise Interrupted

    return on_epoch


def train_and_die(section: TrainParams, data: Path, checkpoints: Path, last_epoch: int) -> None:
    """In a process of its own, which is killed as soon as an epoch is reported."""

    def on_epoch(report: EpochReport) -> None:
        if report.epoch == last_epoch:
            os.kill(os.getpid(), signal.SIGKILL)

    train(section, TrainingSet.open(data), checkpoints, on_epoch)


def interrupt(section: TrainParams, training_set: TrainingSet, checkpoints: Path, *, after: int) -> None:
    with pytest.raises(Interrupted):
        train(section, training_set, checkpoints, stop_after(after))


def without_times(trained: TrainedModel) -> list[dict[str, object]]:
    times = ("images_per_s", "elapsed_s")
    return [
        {key: value for key, value in report.to_dict().items() if key not in times}
        for report in trained.history
    ]


def assert_same_run(one: TrainedModel, other: TrainedModel) -> None:
    theirs = other.model.state_dict()
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name
    assert without_times(one) == without_times(other)
    assert one.facts() == other.facts()


@dataclass(frozen=True)
class FinishedRun:
    """A run that nothing disturbed, and the folder of its checkpoints; copy, do not touch."""

    trained: TrainedModel
    checkpoints: Path

    def copy(self, target: Path) -> Path:
        """All its checkpoints, in another folder."""
        return Path(shutil.copytree(self.checkpoints, target))

    def copy_plan(self, target: Path) -> Path:
        """Only how it computes, as a run killed in its first epoch leaves it."""
        return Path(shutil.copytree(self.checkpoints, target, ignore=shutil.ignore_patterns("epoch-*")))


@pytest.fixture(scope="module")
def undisturbed(
    training_set: TrainingSet, section: TrainParams, tmp_path_factory: pytest.TempPathFactory
) -> FinishedRun:
    checkpoints = tmp_path_factory.mktemp("undisturbed") / "checkpoints"
    return FinishedRun(train(section, training_set, checkpoints), checkpoints)


def epochs_kept(checkpoints: Path) -> list[str]:
    return sorted(path.name for path in checkpoints.glob("run-*/epoch-*"))


@pytest.mark.parametrize("killed_after", [1, 2])
def test_a_killed_process_resumes_and_ends_as_if_undisturbed(
    training_set: TrainingSet,
    section: TrainParams,
    undisturbed: FinishedRun,
    tmp_path: Path,
    killed_after: int,
) -> None:
    checkpoints = undisturbed.copy_plan(tmp_path / "checkpoints")
    process = start(train_and_die, section, training_set.folder, checkpoints, killed_after)
    process.join(240)
    assert process.exitcode == -signal.SIGKILL
    reported: list[int] = []
    trained = train(section, training_set, checkpoints, lambda report: reported.append(report.epoch))
    assert trained.resumed_from_epoch == killed_after
    assert reported == [1, 2, 3]
    assert_same_run(trained, undisturbed.trained)


def test_a_run_stopped_after_every_epoch_ends_as_if_undisturbed(
    training_set: TrainingSet, section: TrainParams, undisturbed: FinishedRun, tmp_path: Path
) -> None:
    checkpoints = undisturbed.copy_plan(tmp_path / "checkpoints")
    for epoch in (1, 2, 3):
        interrupt(section, training_set, checkpoints, after=epoch)
    trained = train(section, training_set, checkpoints)
    assert trained.resumed_from_epoch == 3
    assert_same_run(trained, undisturbed.trained)


def test_a_resumed_run_computes_as_it_began(
    training_set: TrainingSet, section: TrainParams, tmp_path: Path
) -> None:
    checkpoints = tmp_path / "checkpoints"
    interrupt(section, training_set, checkpoints, after=1)
    (path,) = checkpoints.glob("run-*/plan.json")
    stored = storage.read_json(path)
    other = {"channels_last": "contiguous", "contiguous": "channels_last"}
    stored["plan"]["memory_format"] = other[stored["plan"]["memory_format"]]
    storage.write_json(path, stored)
    assert train(section, training_set, checkpoints).plan.to_dict() == stored["plan"]


@pytest.mark.parametrize("damage", ["flip", "cut", "unmark", "remove", "code in a complete folder"])
def test_a_damaged_newest_checkpoint_is_skipped_for_the_one_before(
    training_set: TrainingSet,
    section: TrainParams,
    undisturbed: FinishedRun,
    tmp_path: Path,
    damage: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    checkpoints = undisturbed.copy(tmp_path / "checkpoints")
    (newest,) = checkpoints.glob("run-*/epoch-000003")
    data = (newest / "state.pt").read_bytes()
    if damage == "flip":
        middle = len(data) // 2
        (newest / "state.pt").write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    elif damage == "cut":
        (newest / "state.pt").write_bytes(data[: len(data) // 2])
    elif damage == "unmark":
        storage.unseal(newest)
    elif damage == "code in a complete folder":
        (newest / "state.pt").write_bytes(pickle.dumps(Canary(tmp_path / "canary")))
        marker = storage.read_json(newest / storage.MARKER_NAME)
        storage.seal(newest, ["state.pt"], rows=1, epoch=3, fingerprint=marker["fingerprint"])
    else:
        (newest / "state.pt").unlink()
    with caplog.at_level(logging.WARNING, logger="quality_model.train"):
        again = train(section, training_set, checkpoints)
    assert again.resumed_from_epoch == 2
    assert "epoch-000003" in caplog.text
    assert not (tmp_path / "canary").exists()
    assert_same_run(again, undisturbed.trained)


def test_a_run_that_stopped_early_stays_stopped(
    training_set: TrainingSet, section: TrainParams, tmp_path: Path
) -> None:
    # With steps too small to change the loss, no epoch after the first is better.
    idle = section.model_copy(update={"learning_rate": 1e-30, "epochs": 6, "patience": 1})
    first = train(idle, training_set, tmp_path / "checkpoints")
    second = train(idle, training_set, tmp_path / "checkpoints")
    assert first.stopped_early
    assert second.resumed_from_epoch == len(first.history)
    assert_same_run(second, first)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"epochs": 4}, "epochs 3 there, 4 now"), ({"learning_rate": 0.002}, "learning_rate 0.001 there")],
)
def test_checkpoints_of_another_recipe_are_not_used_and_the_log_says_why(
    training_set: TrainingSet,
    section: TrainParams,
    undisturbed: FinishedRun,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    change: dict[str, object],
    words: str,
) -> None:
    checkpoints = undisturbed.copy(tmp_path / "checkpoints")
    other = section.model_copy(update=change)
    with caplog.at_level(logging.INFO, logger="quality_model.train"):
        interrupt(other, training_set, checkpoints, after=1)
    assert words in caplog.text
    assert epochs_kept(checkpoints) == ["epoch-000001", "epoch-000002", "epoch-000003"]


def test_checkpoints_of_other_code_are_not_used(
    training_set: TrainingSet,
    section: TrainParams,
    undisturbed: FinishedRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    checkpoints = undisturbed.copy(tmp_path / "checkpoints")
    monkeypatch.setattr("quality_model.train.state.code_sha256", lambda *code: "0" * 64)
    with caplog.at_level(logging.INFO, logger="quality_model.train"):
        interrupt(section, training_set, checkpoints, after=1)
    assert "code_sha256" in caplog.text


def test_the_last_two_checkpoints_are_kept_until_cleared(undisturbed: FinishedRun, tmp_path: Path) -> None:
    checkpoints = undisturbed.copy(tmp_path / "checkpoints")
    assert epochs_kept(checkpoints) == ["epoch-000002", "epoch-000003"]
    clear_checkpoints(checkpoints, undisturbed.trained.fingerprint)
    assert list(checkpoints.glob("run-*")) == []


def test_when_a_run_begins_the_newest_three_others_stay(section: TrainParams, tmp_path: Path) -> None:
    def begin(seed: int) -> RunState:
        changed = section.model_copy(update={"seed": seed})
        state = RunState(tmp_path, RunIdentity.of(changed, data_sha256="d", image_size_px=32))
        state.save_plan({"seed": seed})
        return state

    states = [begin(seed) for seed in range(4)]
    for age_s, state in zip((10, 40, 30, 20), states, strict=True):
        moment = time.time() - age_s
        os.utime(state.folder, (moment, moment))
    newest = begin(4)
    assert [state.plan() is not None for state in (*states, newest)] == [True, False, True, True, True]
