"""Training as a step: what it leaves when it fails, and what of other trainings it leaves alone."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from quality_model import pretrained
from quality_model.core import storage
from quality_model.data.dataset import TrainingSet
from quality_model.data.split import seen_in_training
from quality_model.errors import StorageError
from quality_model.params import Params, flatten
from quality_model.release.registry import Registry
from quality_model.release.tracking import Run, start_run
from quality_model.train import TrainedModel, clear_checkpoints
from quality_model.train import training_step as training
from quality_model.train.training_step import train_candidate
from tests.evaluate.conftest import write_training_set

Step = Callable[..., TrainedModel]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory, photo: np.ndarray) -> TrainingSet:
    return write_training_set(tmp_path_factory.mktemp("samples") / "training", photo, num_groups=8)


@pytest.fixture
def step(params: Params, samples: TrainingSet, project: Path) -> Step:
    """The step in a project of its own, of one epoch, with some parameters of training changed."""
    small = {"epochs": 1, "device": "cpu", "precision": "float32", "samples": "stored"}

    def step(**changes: object) -> TrainedModel:
        section = params.train.model_copy(update={**small, **changes})
        return train_candidate(
            section,
            params.registry,
            root=project,
            training_set=samples.folder,
            output=project / "model",
            report=project / "report",
            checkpoints=project / "checkpoints",
            settings=flatten(params.model_copy(update={"train": section})),
        )

    return step


@pytest.fixture
def interrupt(step: Step, project: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The step, interrupted when its epoch is done; gives the key of the run that it noted."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    def interrupt(**changes: object) -> str:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Run, "log_epoch", stop)
            step(**changes)
        (note,) = (project / "checkpoints").glob("note-*.json")
        return str(storage.read_json(note)["run_key"])

    return interrupt


def test_weights_whose_step_did_not_end_belong_to_no_earlier_run(
    step: Step, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step()
    earlier = storage.require_sealed(project / "model")["sha256"]
    assert storage.read_json(project / "model" / "run.json")["run_key"]

    def fail(*_: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(training, "_write_report", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        step(seed=8)
    assert storage.require_sealed(project / "model", verify=True)["sha256"] != earlier
    assert not (project / "model" / "run.json").exists()


def test_the_end_of_a_training_leaves_an_interrupted_one_what_it_goes_on_from(
    step: Step, interrupt: Callable[..., str], project: Path
) -> None:
    noted = interrupt(seed=8)
    assert step(seed=9).resumed_from_epoch == 0
    assert len([*(project / "checkpoints").glob("run-*")]) == 1
    assert step(seed=8).resumed_from_epoch == 1
    assert storage.read_json(project / "model" / "run.json")["run_key"] == noted
    assert {path.suffix for path in (project / "checkpoints").iterdir()} == {".lock"}


def test_a_training_interrupted_under_other_code_is_not_gone_on_with(
    step: Step, interrupt: Callable[..., str], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = interrupt()
    monkeypatch.setattr("quality_model.train.state.code_sha256", lambda *code: "0" * 64)
    assert step().resumed_from_epoch == 0
    assert storage.read_json(project / "model" / "run.json")["run_key"] != noted


def test_a_second_training_is_refused_until_the_first_has_cleared_its_checkpoints(
    step: Step, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_BUSY_AFTER_S", 0.1)
    refused = []

    def clear(folder: Path, fingerprint: str) -> None:
        with pytest.raises(StorageError, match="Another process has held") as busy:
            step(seed=8)
        refused.append(busy.value)
        clear_checkpoints(folder, fingerprint)

    with monkeypatch.context() as patch:
        patch.setattr(training, "clear_checkpoints", clear)
        step()
    assert len(refused) == 1
    assert step(seed=8).resumed_from_epoch == 0


def started_from(project: Path) -> str:
    """What the model says of the weights it began with."""
    facts = storage.read_json(project / "model" / "model.json")["facts"]
    return str(facts["settings"]["train.start_from"])


BUNDLED = storage.file_sha256(pretrained.FOLDERS["bundled"] / "model.safetensors")[:12]


@pytest.mark.parametrize("named", ["champion", "bundled"])
def test_without_a_champion_a_training_starts_from_the_bundled_weights(
    step: Step, project: Path, named: str
) -> None:
    step(start_from=named)
    assert started_from(project) == f"{named}@{BUNDLED}"
    facts = storage.read_json(project / "model" / "model.json")["facts"]
    bundled = storage.read_json(pretrained.FOLDERS["bundled"] / "model.json")["facts"]
    assert set(bundled["seen_groups"]) < set(facts["seen_groups"])


def test_a_training_from_random_weights_has_seen_its_own_groups_alone(
    step: Step, project: Path, samples: TrainingSet
) -> None:
    step(start_from="scratch")
    facts = storage.read_json(project / "model" / "model.json")["facts"]
    assert facts["settings"]["train.start_from"] == "scratch"
    assert facts["seen_groups"] == sorted(seen_in_training(samples))


def test_a_registry_that_does_not_answer_costs_no_training_which_starts_from_the_last_known_champion(
    step: Step, project: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    step(start_from="scratch")
    with start_run(
        project, params.registry, name="mine", params={}, params_sha256="0" * 64, system_metrics=False
    ) as run:
        run.log_model(project / "model")
    registry = Registry(project, params.registry)
    registry.promote(registry.register(run.require_delivered()).version, "better")
    champion = storage.file_sha256(project / "model" / "model.safetensors")[:12]
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    step(start_from="champion", seed=1)
    assert started_from(project) == f"champion@{champion}"
    with monkeypatch.context() as down:
        down.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        step(start_from="champion", seed=2)
        assert started_from(project) == f"champion@{champion}"
        (project / "state" / "last-champion.json").unlink()
        step(start_from="champion", seed=3)
        assert started_from(project) == f"champion@{BUNDLED}"
