"""Versions: how they are named, what they carry, and that they load without pickle."""

import json
import os
import shutil

import numpy as np
import pytest

from quality_model.core import storage
from quality_model.errors import CorruptError, ModelNotFoundError, RegistryError
from quality_model.release.candidate import attach_comparison
from quality_model.release.publish import publish
from quality_model.release.registry import Registry
from quality_model.score.compare import FILES, Comparison
from quality_model.score.result import ScoringModel

from .conftest import write_model


def test_every_form_of_reference_leads_to_the_same_files(registry):
    registry.move_alias("champion", registry.find("2"))
    for reference in ("champion", "2", "models:/quality-model@champion", "models:/quality-model/2"):
        found = registry.resolve(reference)
        assert (found.name, found.version) == ("quality-model", "2")
        assert json.loads((found.path / "model.json").read_text())["facts"]["best_epoch"] == 2


def test_a_reference_to_nothing_is_answered_with_what_there_is(registry):
    registry.move_alias("candidate", registry.find("3"))
    for reference in ("champion", "4", "models:/quality-model@nobody", "models:/quality-model/7"):
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


def test_a_version_carries_what_it_came_from_and_is_linked_with_its_model_both_ways(registry, client):
    version = registry.find("2")
    run = client.get_run(version.run_id)
    for name in ("data_sha256", "params_sha256", "git_commit"):
        assert version.tags[name] == run.data.tags[name]
    assert version.tags["data_sha256"] == "2" * 64
    assert version.tags["model_sha256"] == registry.resolve("2").model_sha256
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


def test_files_that_are_gone_or_have_no_recorded_hash_are_not_used(registry, client):
    location = registry.resolve("3").path.parents[1]
    hidden = location.with_name("hidden")
    location.rename(hidden)
    try:
        with pytest.raises(RegistryError, match="files of version 3"):
            registry.resolve("3")
    finally:
        hidden.rename(location)
    client.delete_model_version_tag("quality-model", "3", "model_sha256")
    with pytest.raises(CorruptError):
        registry.resolve("3")


def test_a_comparison_is_attached_to_the_version_and_run_of_the_new_model_if_there_are_any(
    registry, client, project, section, tmp_path, caplog
):
    def compared(name, version):
        old, new = (ScoringModel(name, number, None, "0" * 64, 32) for number in ("1", version))
        return Comparison("f", old, new, ["a.png"], np.full((2, 1, 4), 0.2, dtype=np.float32), {})

    for name in FILES:
        (tmp_path / name).write_text("kept")
    about_two = compared("quality-model", "2")
    for comparison in (about_two, compared("weights.pt", None), compared("quality-model", "9")):
        attach_comparison(section, project, comparison, tmp_path)
    assert "Version 9 no longer exists" in caplog.text
    version = registry.find("2")
    assert version.tags["comparison"] == about_two.headline()
    attached = client.list_artifacts(version.run_id, "comparison")
    assert {file.path for file in attached} == {f"comparison/{name}" for name in FILES}
    assert "comparison" not in registry.find("1").tags
