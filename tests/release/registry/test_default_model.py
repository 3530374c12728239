"""Which model scores when none is named, in a project with a registry."""

import logging
from pathlib import Path

import pytest

from quality_model import MultiHeadQualityInference
from quality_model.errors import CorruptError, RegistryError
from quality_model.params import RegistryParams
from quality_model.release.registry import Registry


def chosen(project: Path, **more: RegistryParams) -> tuple[str, str | None]:
    source = MultiHeadQualityInference("auto", "cpu", root=project, **more).source
    return source.name, source.version


def test_the_bundled_model_scores_until_there_is_a_champion(
    project: Path, registry: Registry, bundled: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert chosen(project) == ("bundled", "s1")
    registry.move_alias("champion", registry.find("2"))
    with caplog.at_level(logging.INFO):
        assert chosen(project) == ("quality-model", "2")
    assert "The champion scores: version 2 of quality-model." in caplog.text
    for name in ("bundled", "pretrained"):
        source = MultiHeadQualityInference(name, "cpu", root=project).source
        assert (source.name, source.version) == ("bundled", "s1")


def test_the_champion_is_that_of_the_registry_parameters(
    project: Path, registry: Registry, section: RegistryParams, bundled: Path
) -> None:
    registry.move_alias("champion", registry.find("1"))
    other = section.model_copy(update={"model_name": "quality-model-224"})
    assert chosen(project, registry=other) == ("bundled", "s1")
    (project / "params.yaml").unlink()
    assert chosen(project) == ("bundled", "s1")  # nothing says whose champion is meant
    assert chosen(project, registry=section) == ("quality-model", "1")


def test_a_champion_that_does_not_load_is_an_error_and_the_bundled_model_does_not_stand_in(
    project: Path, registry: Registry, bundled: Path
) -> None:
    registry.move_alias("champion", registry.find("1"))
    registry.client.set_model_version_tag(registry.name, "1", "model_sha256", "0" * 64)
    with pytest.raises(CorruptError, match="not those that were registered"):
        chosen(project)


def test_a_registry_that_does_not_answer_is_an_error(
    project: Path, bundled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "mlflow.db").write_bytes(b"not a database, whatever its name says" * 100)
    with pytest.raises(RegistryError):
        chosen(project)
