"""Versions: how they are named, what they carry, and that they load without pickle."""

import json
import os
import shutil

import mlflow.pyfunc
import numpy as np
import pytest
import torch

from quality_model.core import storage
from quality_model.errors import CorruptError, ModelNotFoundError, RegistryError
from quality_model.networks.checkpoints import load_model
from quality_model.networks.model import to_model_input
from quality_model.records import HEADS, OVERALL_WEIGHTS
from quality_model.release.publish import publish
from quality_model.release.registry import Registry

from .conftest import write_model


@pytest.fixture
def version_two(registry, project, monkeypatch):
    """MLflow's own loader on version 2, with the project's database as its current one."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/mlflow.db")
    return mlflow.pyfunc.load_model("models:/quality-model/2")


@pytest.mark.parametrize(
    "reference", ["champion", "2", "models:/quality-model@champion", "models:/quality-model/2"]
)
def test_every_form_of_reference_leads_to_the_same_files(registry, reference):
    registry.move_alias("champion", registry.find("2"))
    found = registry.resolve(reference)
    assert (found.name, found.version) == ("quality-model", "2")
    assert json.loads((found.path / "model.json").read_text())["facts"]["best_epoch"] == 2


@pytest.mark.parametrize(
    "reference", ["champion", "4", "models:/quality-model@nobody", "models:/quality-model/7"]
)
def test_a_reference_to_nothing_is_answered_with_what_there_is(registry, reference):
    registry.move_alias("candidate", registry.find("3"))
    with pytest.raises(ModelNotFoundError, match=r"names no version.*\n.*versions 1, 2, 3 \(candidate\)"):
        registry.resolve(reference)


def test_a_reference_to_another_model_says_so(registry):
    with pytest.raises(ModelNotFoundError, match="'other-model'"):
        registry.resolve("models:/other-model/1")


def test_mlflows_settings_of_the_host_program_stay_as_they_are(registry):
    names = [name for name in os.environ if name.startswith("MLFLOW") or name == "DO_NOT_TRACK"]
    before = {name: os.environ[name] for name in names}
    registry.versions()
    registry.resolve("1")
    assert {
        name: os.environ[name] for name in os.environ if name in names or name.startswith("MLFLOW")
    } == before


def test_an_empty_registry_says_how_to_fill_it(project, section, mlflow_database):
    shutil.copyfile(mlflow_database, project / "mlflow.db")
    with pytest.raises(ModelNotFoundError, match="Nothing is registered yet"):
        Registry(project, section).resolve("champion")


def test_a_version_carries_what_it_came_from(registry, client):
    version = registry.find("2")
    run = client.get_run(version.run_id)
    assert version.tags["data_sha256"] == run.data.tags["data_sha256"] == "2" * 64
    assert version.tags["params_sha256"] == run.data.tags["params_sha256"]
    assert version.tags["git_commit"] == run.data.tags["git_commit"]
    assert version.tags["model_sha256"] == registry.resolve("2").model_sha256


def test_the_web_ui_links_version_and_logged_model_both_ways(registry, client):
    version = registry.find("2")
    assert client.get_model_version("quality-model", "2").source == f"models:/{version.model_id}"
    link = json.loads(client.get_logged_model(version.model_id).tags["mlflow.modelVersions"])
    assert link == [{"name": "quality-model", "version": "2"}]


def test_registering_a_run_again_returns_the_version_it_has(registry):
    version = registry.find("2")
    again = registry.register(version.run_id)
    assert (again.version, again.tags) == ("2", version.tags)
    assert len(registry.versions()) == 3


def test_of_the_models_that_a_run_logged_the_newest_is_registered(registry, project, section):
    for number, seed in enumerate((7, 8, 9), start=4):
        folder = write_model(project / "model", seed, {"training_fingerprint": "f" * 64})
        run_id = publish(folder, root=project, registry=section)
        version = registry.register(run_id)
        assert (version.version, version.model_sha256) == (str(number), storage.sealed_sha256(folder))
    assert len(registry.client.get_run(run_id).outputs.model_outputs) == 3


def test_a_run_without_a_model_cannot_be_registered(registry, client):
    run = client.create_run(client.get_run(registry.find("1").run_id).info.experiment_id)
    with pytest.raises(ModelNotFoundError, match="holds no model"):
        registry.register(run.info.run_id)
    with pytest.raises(ModelNotFoundError):
        registry.register("0" * 32)


def test_files_that_are_gone_are_named(registry, client):
    location = registry.resolve("3").path.parents[1]
    hidden = location.with_name("hidden")
    location.rename(hidden)
    try:
        with pytest.raises(RegistryError, match="files of version 3"):
            registry.resolve("3")
    finally:
        hidden.rename(location)


def test_a_version_without_a_recorded_hash_is_not_trusted(registry, client):
    client.delete_model_version_tag("quality-model", "3", "model_sha256")
    with pytest.raises(CorruptError):
        registry.resolve("3")


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_mlflow_loads_the_model_and_scores_batches_of_any_size(version_two, registry, batch):
    pixels = np.random.default_rng(0).integers(0, 256, (batch, 48, 48, 3), dtype=np.uint8)
    scores = version_two.predict(pixels)
    assert list(scores.columns) == [*HEADS, "overall"]
    loaded = load_model(registry.resolve("2").path, torch.device("cpu"))
    with torch.inference_mode():
        expected = loaded.model(to_model_input(pixels, torch.device("cpu")))["all_scores"].numpy()
    np.testing.assert_allclose(scores[list(HEADS)].to_numpy(), expected, atol=1e-6)
    weighed = sum(OVERALL_WEIGHTS[head] * scores[head] for head in HEADS)
    np.testing.assert_allclose(scores["overall"], 1 - weighed, atol=1e-6)


def test_pixels_of_the_wrong_kind_are_refused_by_the_signature(version_two):
    with pytest.raises(mlflow.MlflowException):
        version_two.predict(np.zeros((2, 48, 48, 3), dtype=np.float64))
    with pytest.raises(mlflow.MlflowException):
        version_two.predict(np.zeros((2, 48, 48), dtype=np.uint8))


def test_the_input_example_is_a_batch_that_the_model_takes(version_two):
    example = version_two.input_example
    assert example.shape == (2, 32, 32, 3)
    assert len(version_two.predict(example.astype(np.uint8))) == 2
