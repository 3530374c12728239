"""A tracking database that is locked, read-only or damaged: an error of ours, and nothing lost."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from quality_model.errors import RegistryError
from quality_model.networks.model import MultiHeadQualityAssessmentModel, save_model
from quality_model.params import Params
from quality_model.release.publish import publish, try_publish
from quality_model.release.registry import Registry
from tests.release.registry.conftest import promote

from .processes import start


@contextmanager
def locked_database(project: Path) -> Iterator[None]:
    """Another program writes to the database and takes its time."""
    connection = sqlite3.connect(project / "mlflow.db", isolation_level=None)
    connection.execute("begin exclusive")
    try:
        yield
    finally:
        connection.execute("rollback")
        connection.close()


def promote_in_vain(root: str, params: Params) -> None:
    with pytest.raises(RegistryError, match="database is locked"):
        promote(Path(root), params.registry, "2")


@pytest.mark.torture  # MLflow waits 20 s for a locked SQLite database, and that is not to be changed
def test_while_the_database_is_locked_training_goes_on_and_the_champion_stays(
    registered: Path, params: Params
) -> None:
    registry = Registry(registered, params.registry)
    promote(registered, params.registry, "1")
    model = registered / "model"
    save_model(model, MultiHeadQualityAssessmentModel(), image_size_px=32, facts={})
    with locked_database(registered):
        process = start(promote_in_vain, str(registered), params)
        assert try_publish(model, root=registered, registry=params.registry) is None
        process.join(120)
    assert process.exitcode == 0
    assert registry.champion().version == "1"
    assert promote(registered, params.registry, "2")
    assert publish(model, root=registered, registry=params.registry)


def test_a_read_only_database_can_be_read_and_says_that_it_cannot_be_written(
    registered: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(registered)  # MLflow takes the address for a path and makes its folder
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///file:{registered}/mlflow.db?mode=ro&uri=true")
    registry = Registry(registered, params.registry)
    assert [version.version for version in registry.versions()] == ["1", "2", "3"]
    with pytest.raises(RegistryError, match="readonly database") as refused:
        promote(registered, params.registry, "1")
    assert "can be read and written" in refused.value.remedy
    assert registry.champion() is None


def test_a_damaged_database_is_an_error_of_the_registry(registered: Path, params: Params) -> None:
    database = registered / "mlflow.db"
    data = bytearray(database.read_bytes())
    data[4096 : len(data)] = b"\xa5" * (len(data) - 4096)
    database.write_bytes(data)
    with pytest.raises(RegistryError, match="malformed") as refused:
        Registry(registered, params.registry).versions()
    assert "database" in refused.value.remedy
