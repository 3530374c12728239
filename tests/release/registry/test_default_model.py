"""Which model scores when none is named, in a project with a registry."""

import logging
import multiprocessing
from pathlib import Path

import pytest
import torch

from quality_model import MultiHeadQualityInference, pretrained
from quality_model.core.models import find_model, find_model_meanwhile
from quality_model.errors import CorruptError, ModelNotFoundError, RegistryError
from quality_model.networks.checkpoints import save_model
from quality_model.networks.model import MultiHeadQualityAssessmentModel
from quality_model.params import RegistryParams
from quality_model.release.registry import Registry


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "standard"
    torch.manual_seed(0)
    save_model(folder, MultiHeadQualityAssessmentModel(), image_size_px=32, facts={"version": "s1"})
    monkeypatch.setitem(pretrained.FOLDERS, pretrained.NAME, folder)
    return folder


def chosen(project: Path, **more: RegistryParams) -> tuple[str, str | None]:
    source = MultiHeadQualityInference("auto", "cpu", root=project, **more).source
    return source.name, source.version


def test_the_bundled_model_scores_until_there_is_a_champion(
    project: Path, registry: Registry, shipped: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert chosen(project) == ("bundled", "s1")
    registry.promote("2", "better")
    with caplog.at_level(logging.INFO):
        assert chosen(project) == ("quality-model", "2")
    assert "The champion scores: version 2 of quality-model." in caplog.text
    for name in ("bundled", "pretrained"):
        source = MultiHeadQualityInference(name, "cpu", root=project).source
        assert (source.name, source.version) == ("bundled", "s1")


def test_the_champion_is_that_of_the_registry_parameters(
    project: Path, registry: Registry, section: RegistryParams, shipped: Path
) -> None:
    registry.promote("1", "first")
    other = section.model_copy(update={"model_name": "quality-model-224"})
    assert chosen(project, registry=other) == ("bundled", "s1")
    (project / "params.yaml").unlink()
    assert chosen(project) == ("bundled", "s1")  # nothing says whose champion is meant
    assert chosen(project, registry=section) == ("quality-model", "1")


def test_a_champion_that_does_not_load_is_an_error_and_the_shipped_model_does_not_stand_in(
    project: Path, registry: Registry, shipped: Path
) -> None:
    registry.promote("1", "first")
    registry._client.set_model_version_tag(registry.name, "1", "model_sha256", "0" * 64)
    with pytest.raises(CorruptError, match="not those that were registered"):
        chosen(project)


def test_a_registry_that_does_not_answer_is_an_error(
    project: Path, shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "mlflow.db").write_bytes(b"not a database, whatever its name says" * 100)
    with pytest.raises(RegistryError):
        chosen(project)


def test_a_model_found_meanwhile_is_the_one_found_at_once(
    project: Path, registry: Registry, section: RegistryParams, tmp_path: Path
) -> None:
    registry.promote("2", "better")
    for reference in ("auto", "models:/quality-model/1", "pretrained", tmp_path / "a.pt"):
        answer = find_model_meanwhile(reference, project, section)
        assert answer() == find_model(reference, project, section)


def test_what_is_wrong_with_a_model_looked_for_meanwhile_is_told_by_its_answer(
    project: Path, registry: Registry, section: RegistryParams
) -> None:
    answer = find_model_meanwhile("7", project, section)
    with pytest.raises(ModelNotFoundError, match="'7' names no version"):
        answer()


def test_a_model_is_found_though_the_process_that_looked_for_it_died(
    project: Path, registry: Registry, section: RegistryParams
) -> None:
    registry.promote("1", "first")
    others = multiprocessing.active_children()
    answer = find_model_meanwhile("champion", project, section)
    (searcher,) = set(multiprocessing.active_children()) - set(others)
    searcher.kill()
    assert answer().version == "1"
