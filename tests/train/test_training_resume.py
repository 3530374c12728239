"""A run that was killed resumes, and ends with the bits of an undisturbed one."""

import logging
import multiprocessing
import os
import pickle
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from quality_model.core import storage
from quality_model.data.dataset import TrainingSet
from quality_model.params import WITHOUT_PROJECT, TrainParams
from quality_model.train import EpochReport, TrainedModel, train
from quality_model.train.loop import RunState, run_identity
from tests.hostile import Canary

from .conftest import FinishedRun, assert_same_bits, images_of, interrupt

CPU = torch.device("cpu")


def train_and_die(section: TrainParams, data: Path, checkpoints: Path, last_epoch: int) -> None:
    """In a process of its own, which is killed as soon as an epoch is reported."""

    def on_epoch(report: EpochReport) -> None:
        if report.epoch == last_epoch:
            os.kill(os.getpid(), signal.SIGKILL)

    train(section, TrainingSet.open(data), checkpoints, on_epoch)


def assert_same_run(one: TrainedModel, other: TrainedModel) -> None:
    assert_same_bits(one, other)
    histories = [[report.to_dict(timings=False) for report in run.history] for run in (one, other)]
    assert histories[0] == histories[1]
    assert one.facts() == other.facts()


def epochs_kept(checkpoints: Path) -> list[str]:
    return sorted(path.name for path in checkpoints.glob("run-*/epoch-*"))


def test_a_killed_process_resumes_and_ends_as_if_undisturbed(
    training_set: TrainingSet, section: TrainParams, undisturbed: FinishedRun, tmp_path: Path
) -> None:
    checkpoints = undisturbed.copy_plan(tmp_path / "checkpoints")
    arguments = (section, training_set.folder, checkpoints, 1)
    process = multiprocessing.get_context("spawn").Process(target=train_and_die, args=arguments)
    process.start()
    process.join(240)
    assert process.exitcode == -signal.SIGKILL
    reported: list[int] = []
    trained = train(section, training_set, checkpoints, lambda report: reported.append(report.epoch))
    assert trained.resumed_from_epoch == 1
    assert reported == [1, 2, 3]
    assert_same_run(trained, undisturbed.trained)


def test_a_resumed_run_on_fresh_samples_with_averaged_weights_ends_as_if_undisturbed(
    photographs: TrainingSet, section: TrainParams, tmp_path: Path
) -> None:
    values = {"samples": "fresh", "samples_per_epoch": 12, "batch_size": 4, "crops_px": (32,), "epochs": 2}
    values["uses_per_sample"] = 2
    averaged = section.model_copy(update={**values, "weight_average": 0.9})
    images = {"images": images_of(photographs.folder), "limits": WITHOUT_PROJECT.limits}
    undisturbed = train(averaged, photographs, tmp_path / "one", **images)  # type: ignore[arg-type]
    interrupt(averaged, photographs, tmp_path / "two", after=1, **images)
    resumed = train(averaged, photographs, tmp_path / "two", **images)  # type: ignore[arg-type]
    assert resumed.resumed_from_epoch == 1
    assert_same_run(resumed, undisturbed)


def test_a_resumed_run_computes_as_it_began(
    training_set: TrainingSet, section: TrainParams, undisturbed: FinishedRun, tmp_path: Path
) -> None:
    checkpoints = undisturbed.copy(tmp_path / "checkpoints")
    (path,) = checkpoints.glob("run-*/plan.json")
    stored = storage.read_json(path)
    other = {"channels_last": "contiguous", "contiguous": "channels_last"}
    stored["plan"]["memory_format"] = other[stored["plan"]["memory_format"]]
    storage.write_json(path, stored)
    assert train(section, training_set, checkpoints).plan.model_dump() == stored["plan"]


@pytest.mark.parametrize(
    "plan",
    [None, {}, {"device": "cuda"}, {"precision": "float8"}, {"compiled": "no"}, {"memory_format": ...}],
)
def test_a_stored_plan_that_is_damaged_or_for_another_device_is_chosen_again(
    undisturbed: FinishedRun, section: TrainParams, training_set: TrainingSet, tmp_path: Path, plan: Any
) -> None:
    state = RunState(tmp_path, run_identity(section, training_set, None))
    chosen = undisturbed.trained.plan.model_dump()
    damaged = {key: value for key, value in {**chosen, **plan}.items() if value is not ...} if plan else plan
    storage.write_json(state.folder / "plan.json", {"plan": damaged})
    assert state.plan(section, CPU).model_dump() == chosen
    assert storage.read_json(state.folder / "plan.json")["plan"] == chosen


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
        state = RunState(checkpoints, run_identity(section, training_set, None)).load_latest()
    assert state is not None and len(state["history"]) == 2
    assert "epoch-000003" in caplog.text
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": 4}, "epochs 3 there, 4 now"),
        ({"learning_rate": 0.002}, "learning_rate 0.001 there"),
        ({}, "code_sha256"),
    ],
)
def test_checkpoints_of_another_recipe_or_other_code_are_not_used_and_the_log_says_why(
    training_set: TrainingSet,
    section: TrainParams,
    undisturbed: FinishedRun,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, object],
    words: str,
) -> None:
    if not change:
        monkeypatch.setattr("quality_model.train.loop.code_sha256", lambda *code: "0" * 64)
    other = run_identity(section.model_copy(update=change), training_set, None)
    with caplog.at_level(logging.INFO, logger="quality_model.train"):
        assert RunState(undisturbed.checkpoints, other).load_latest() is None
    assert words in caplog.text


def test_the_last_two_checkpoints_are_kept_until_cleared(
    training_set: TrainingSet, section: TrainParams, undisturbed: FinishedRun, tmp_path: Path
) -> None:
    checkpoints = undisturbed.copy(tmp_path / "checkpoints")
    assert epochs_kept(checkpoints) == ["epoch-000002", "epoch-000003"]
    RunState(checkpoints, run_identity(section, training_set, None)).clear()
    assert list(checkpoints.glob("run-*")) == []


def test_when_a_run_begins_the_newest_three_others_stay_and_a_pruned_one_is_never_resumed(
    training_set: TrainingSet, section: TrainParams, tmp_path: Path
) -> None:
    def begin(seed: int) -> RunState:
        changed = section.model_copy(update={"seed": seed})
        state = RunState(tmp_path, run_identity(changed, training_set, None))
        state.plan(changed, CPU)
        state.save(1, {"seed": seed})
        return state

    states = [begin(seed) for seed in range(4)]
    for age_s, state in zip((10, 40, 30, 20), states, strict=True):
        moment = time.time() - age_s
        os.utime(state.folder, (moment, moment))
    newest = begin(4)
    kept = [state.load_latest() for state in (*states, newest)]
    assert kept == [{"seed": 0}, None, {"seed": 2}, {"seed": 3}, {"seed": 4}]
    assert not states[1].folder.exists()
