"""Training as a function: what it leaves when it fails, and what of other trainings it leaves alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from quality_model import pretrained
from quality_model.core import storage
from quality_model.data.dataset import TrainingSet, seen_in_training
from quality_model.errors import StorageError, UsageError
from quality_model.params import Params
from quality_model.release.publish import publish
from quality_model.release.registry import Registry
from quality_model.train import TrainedModel
from quality_model.train.training_step import TrainingProgress
from tests.evaluate.conftest import write_training_set

from .conftest import train_in

Step = Callable[..., TrainedModel]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory, photo: np.ndarray) -> TrainingSet:
    return write_training_set(tmp_path_factory.mktemp("samples") / "training", photo, num_groups=8)


@pytest.fixture
def step(params: Params, samples: TrainingSet) -> Step:
    """The function in a project folder, for one epoch, with some parameters of training changed."""

    def step(
        project: Path,
        on_epoch: Callable[[TrainingProgress], None] = lambda progress: None,
        own: Path | None = None,
        **changes: object,
    ) -> TrainedModel:
        values = {"samples": "stored", "architecture": "small", **changes}
        labels = {"own_labels": own and own / "labels.csv", "own_images": own}
        return train_in(project, params, samples, values, on_epoch=on_epoch, **labels)

    return step


def facts_of(project: Path) -> dict[str, Any]:
    return dict(storage.read_json(project / "model" / "model.json")["facts"])


def started_from(project: Path) -> str:
    """What the model says of its start weights."""
    return str(facts_of(project)["settings"]["train.start_from"])


def hash_of(folder: Path) -> str:
    return storage.file_sha256(folder / "model.safetensors")[:12]


def test_what_a_training_is_made_of_is_known_before_its_first_epoch_and_stored_with_the_model(
    step: Step, tmp_path: Path, samples: TrainingSet
) -> None:
    seen: list[TrainingProgress] = []
    trained = step(tmp_path, seen.append)
    assert [len(progress.history) for progress in seen] == [0, 1]
    facts = seen[0].facts
    assert facts == seen[1].facts
    assert facts.to_json().items() <= facts_of(tmp_path).items()
    assert facts.training_fingerprint == trained.fingerprint
    assert (facts.data_sha256, facts.data_rows) == (samples.data_sha256, len(samples))
    assert facts.package_version
    assert started_from(tmp_path) == "scratch"
    assert facts_of(tmp_path)["seen_groups"] == sorted(seen_in_training(samples))
    report = tmp_path / "report"
    best = trained.best
    losses = {"train_loss": best.train_loss, "validation_loss": best.validation_loss}
    assert storage.read_json(report / "metrics.json") == {"best_epoch": 1, "epochs_run": 1, **losses}
    assert storage.read_json(report / "history.json") == [trained.best.to_dict(timings=False)]
    assert len((report / "history.csv").read_text().splitlines()) == 2


def test_an_interrupted_training_resumes_after_another_one_which_is_refused_while_it_runs(
    step: Step, tmp_path: Path
) -> None:
    def train_another(progress: TrainingProgress) -> None:
        if progress.history:
            with pytest.raises(StorageError, match="Another process has held"):
                step(tmp_path, seed=9)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        step(tmp_path, train_another, seed=8)
    assert step(tmp_path, seed=9).resumed_from_epoch == 0
    assert len([*(tmp_path / "checkpoints").iterdir()]) == 1
    assert step(tmp_path, seed=8).resumed_from_epoch == 1
    assert not [*(tmp_path / "checkpoints").iterdir()]


def test_a_training_starts_from_the_named_weights_and_has_seen_what_they_have(
    step: Step, tmp_path: Path
) -> None:
    bundled = pretrained.FOLDERS["bundled-standard"]
    step(tmp_path, start_from="bundled-standard", architecture="standard")
    assert started_from(tmp_path) == f"bundled-standard@{hash_of(bundled)}"
    seen = storage.read_json(bundled / "model.json")["facts"]["seen_groups"]
    assert set(seen) < set(facts_of(tmp_path)["seen_groups"])


def test_a_fine_tuning_on_own_labels_stores_what_it_did_to_those_held_out(
    step: Step, tmp_path: Path, photo: np.ndarray
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    lines = ["key,head,label"]
    for number in range(20):
        top, left = 90 * (number // 5), 90 * (number % 5)
        Image.fromarray(photo[top : top + 80, left : left + 80]).save(own / f"{number}.png")
        lines.append(f"{number}.png,blurriness,{'bad' if number % 2 else 'good'}")
    (own / "labels.csv").write_text("\n".join(lines))
    step(tmp_path / "tuned", own=own, start_from="bundled")
    found = facts_of(tmp_path / "tuned")["own_labels"]["blurriness"]
    assert (found["num_train"], found["num_good"], found["num_bad"]) == (10, 5, 5)
    assert 0.0 <= found["low"] <= found["after"] <= found["high"] <= 1.0
    with pytest.raises(UsageError, match=r"start_from is scratch"):
        step(tmp_path / "scratch", own=own)


def test_intervals_come_from_the_validation_split_as_the_model_sees_images(
    step: Step, tmp_path: Path, samples: TrainingSet
) -> None:
    step(tmp_path / "one view", architecture="standard")
    known = facts_of(tmp_path / "one view")["intervals"]
    assert known["num_images"] == len(samples.indices("validation"))
    step(tmp_path / "several views", architecture="small")  # which samples do not show
    assert "intervals" not in facts_of(tmp_path / "several views")


def test_a_training_starts_from_the_champion_or_the_last_known_one_or_the_bundled_weights(
    step: Step, project: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundled = hash_of(pretrained.FOLDERS["bundled"])
    from_champion = {"start_from": "champion", "architecture": "small"}
    step(project, **from_champion)
    assert started_from(project) == f"champion@{bundled}"
    registry = Registry(project, params.registry)
    run_id = publish(project / "model", root=project, registry=params.registry)
    registry.move_alias("champion", registry.register(run_id))
    champion = hash_of(project / "model")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    step(project, seed=1, **from_champion)
    assert started_from(project) == f"champion@{champion}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    step(project, seed=2, **from_champion)
    assert started_from(project) == f"champion@{champion}"
    (project / "state" / "last-champion.json").unlink()
    step(project, seed=3, **from_champion)
    assert started_from(project) == f"champion@{bundled}"
