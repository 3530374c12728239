"""Training as a function: what it leaves when it fails, and what of other trainings it leaves alone."""

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
from quality_model.release.publish import publish
from quality_model.release.registry import Registry
from quality_model.train import TrainedModel
from quality_model.train.training_step import TrainingProgress, train_candidate
from tests.evaluate.conftest import write_training_set

Step = Callable[..., TrainedModel]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory, photo: np.ndarray) -> TrainingSet:
    return write_training_set(tmp_path_factory.mktemp("samples") / "training", photo, num_groups=8)


@pytest.fixture
def step(params: Params, samples: TrainingSet, project: Path) -> Step:
    """The function in a project of its own, for one epoch, with some parameters of training changed."""
    small = {"epochs": 1, "device": "cpu", "precision": "float32", "samples": "stored"}

    def step(
        on_epoch: Callable[[TrainingProgress], None] = lambda progress: None, **changes: object
    ) -> TrainedModel:
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
            on_epoch=on_epoch,
        )

    return step


def interrupt(progress: TrainingProgress) -> None:
    if progress.history:
        raise KeyboardInterrupt


def facts_of(project: Path) -> dict[str, object]:
    return dict(storage.read_json(project / "model" / "model.json")["facts"])


def test_what_a_training_is_made_of_is_known_before_its_first_epoch_and_stored_with_the_model(
    step: Step, project: Path, samples: TrainingSet
) -> None:
    seen: list[TrainingProgress] = []
    trained = step(seen.append)
    assert [len(progress.history) for progress in seen] == [0, 1]
    assert seen[0].facts == seen[1].facts
    assert seen[0].facts.to_json().items() <= facts_of(project).items()
    assert seen[0].facts.training_fingerprint == trained.fingerprint
    assert (seen[0].facts.data_sha256, seen[0].facts.data_rows) == (samples.data_sha256, len(samples))
    assert seen[0].facts.package_version
    metrics = storage.read_json(project / "report" / "metrics.json")
    assert metrics["validation_loss"] == facts_of(project)["validation_loss"]


def test_the_end_of_a_training_leaves_an_interrupted_one_what_it_resumes_from(
    step: Step, project: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        step(interrupt, seed=8)
    assert step(seed=9).resumed_from_epoch == 0
    assert len([*(project / "checkpoints").glob("run-*")]) == 1
    assert step(seed=8).resumed_from_epoch == 1
    assert {path.suffix for path in (project / "checkpoints").iterdir()} == {".lock"}


def test_checkpoints_that_were_pruned_leave_nothing_that_a_later_identical_training_takes_up(
    step: Step, project: Path
) -> None:
    """B23."""
    for seed in (1, 2, 3, 4, 5):
        with pytest.raises(KeyboardInterrupt):
            step(interrupt, seed=seed)
    left = {path.name for path in (project / "checkpoints").iterdir() if path.suffix != ".lock"}
    assert len(left) == 4 and all(name.startswith("run-") for name in left)
    assert step(seed=1).resumed_from_epoch == 0
    assert step(seed=5).resumed_from_epoch == 1


def test_a_second_training_is_refused_while_the_first_uses_the_checkpoints(step: Step) -> None:
    def train_another(progress: TrainingProgress) -> None:
        with pytest.raises(StorageError, match="Another process has held"):
            step(seed=8)

    step(train_another)
    assert step(seed=8).resumed_from_epoch == 0


BUNDLED = storage.file_sha256(pretrained.FOLDERS["bundled"] / "model.safetensors")[:12]


def started_from(project: Path) -> str:
    """What the model says of its start weights."""
    return str(facts_of(project)["settings"]["train.start_from"])  # type: ignore[index]


@pytest.mark.parametrize("named", ["champion", "bundled"])
def test_without_a_champion_a_training_starts_from_the_bundled_weights(
    step: Step, project: Path, named: str
) -> None:
    step(start_from=named)
    assert started_from(project) == f"{named}@{BUNDLED}"
    bundled = storage.read_json(pretrained.FOLDERS["bundled"] / "model.json")["facts"]
    assert set(bundled["seen_groups"]) < set(facts_of(project)["seen_groups"])  # type: ignore[call-overload]


def test_a_training_starts_from_the_last_known_champion_if_the_registry_does_not_answer(
    step: Step, project: Path, params: Params, samples: TrainingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    step(start_from="scratch")
    assert started_from(project) == "scratch"
    assert facts_of(project)["seen_groups"] == sorted(seen_in_training(samples))
    registry = Registry(project, params.registry)
    run_id = publish(project / "model", root=project, registry=params.registry)
    registry.move_alias("champion", registry.register(run_id))
    champion = storage.file_sha256(project / "model" / "model.safetensors")[:12]
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    step(start_from="champion", seed=1)
    assert started_from(project) == f"champion@{champion}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    step(start_from="champion", seed=2)
    assert started_from(project) == f"champion@{champion}"
    (project / "state" / "champion.json").unlink()
    step(start_from="champion", seed=3)
    assert started_from(project) == f"champion@{BUNDLED}"
