"""Two projects, as on two machines, with one tracking server between them."""

import shutil

import pytest
from mlflow import MlflowClient

from quality_model.core.storage import require_sealed
from quality_model.release.registry import Registry, resolve


@pytest.fixture
def two_projects(project, server, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    (project / "mlflow.db").unlink()
    other = tmp_path / "other machine"
    other.mkdir()
    shutil.copyfile(project / "params.yaml", other / "params.yaml")
    return project, other


def test_a_model_promoted_on_one_machine_is_scored_with_on_another(
    two_projects, start, server, section, model_folder
):
    here, there = two_projects
    with start() as run:
        sha256 = run.log_model(model_folder)
    registry = Registry(here, section)
    version = registry.register(run.run_id)
    registry.move_alias("champion", version)

    found = resolve("champion", root=there)
    assert found.path == there / "state" / "models" / section.model_name / version.version
    assert (found.version, found.run_id, found.sha256) == (version.version, run.run_id, sha256)
    assert require_sealed(found.path, verify=True)["sha256"] == sha256

    weights = found.path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert require_sealed(resolve("champion", root=there).path, verify=True)["sha256"] == sha256
    leftovers = [path.name for path in found.path.parent.iterdir() if path.name.startswith(".partial")]
    assert not leftovers

    registered = MlflowClient(tracking_uri=server.uri).get_model_version(section.model_name, version.version)
    assert registered.source == f"models:/{version.model_id}"
