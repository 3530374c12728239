"""A project with a history, before and after its migration to a server."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelInput,
    LoggedModelOutput,
    Metric,
    Param,
    ViewType,
)

from quality_model.cli import cli
from quality_model.core.storage import file_sha256
from quality_model.params import Params
from quality_model.release.champion import make_champion
from quality_model.release.migrate import migrate
from quality_model.release.mlflow_connection import connect
from quality_model.release.publish import publish
from quality_model.release.registry import Registry
from quality_model.release.registry_facts import EARLIER_ID, REPEATED, Facts, Side
from tests.conftest import PROJECT
from tests.release.publishing.conftest import free_port, running_server
from tests.release.registry.conftest import section, three_versions, write_model

__all__ = ["section", "three_versions"]

ODD = "a folder/ein Bild, 100 %.png"


class Moved(NamedTuple):
    root: Path
    uri: str

    @property
    def database(self) -> Path:
        return self.root.parent / "server" / "server.db"


def client_of(root: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{root}/mlflow.db")


@pytest.fixture(scope="session")
def old(tmp_path_factory: pytest.TempPathFactory, three_versions: Path, params: Params) -> Path:
    """A project with a history, versions 1, 3 and 4 of 5, champion and candidate; copied by `original`."""
    root = tmp_path_factory.mktemp("old") / "project"
    shutil.copytree(three_versions, root, symlinks=False)
    shutil.copyfile(PROJECT / "params.yaml", root / "params.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        connect(root)
        registry = Registry(root, params.registry)
        for seed in (4, 5):
            folder = write_model(root / "models" / str(seed), seed, {"seen_groups": [], "best_epoch": seed})
            registry.register(publish(folder, root=root, registry=params.registry))
        make_champion(registry, registry.find("1"), "promoted", "the first")
        make_champion(registry, registry.find("4"), "promoted", "better")
        registry.move_alias("candidate", registry.find("3"))
        client = client_of(root)
        client.delete_model_version("quality-model", "2")
        client.delete_model_version("quality-model", "5")
        client.update_model_version("quality-model", "3", "What it is, and why")
        first = registry.find("1")
        assert first.run_id is not None and first.model_id is not None
        experiment = client.get_run(first.run_id).info.experiment_id
        client.set_experiment_tag(experiment, "team", "images")
        points = [Metric("loss", 1 / (step + 1), 1_000 + step, step) for step in range(1200)]
        points += [Metric("loss", float("nan"), 3_000, 7), Metric("loss", float("inf"), 3_001, 7)]
        client.log_batch(first.run_id, points[:1000])
        client.log_batch(first.run_id, points[1000:], [Param("empty", "")])
        client.log_batch(first.run_id, [Metric("psnr", 31.5, 5_000, 2, first.model_id)])
        child = client.create_run(experiment, 12_345, {"mlflow.parentRunId": first.run_id}, "a child")
        dataset = Dataset("d", "1" * 8, "local", "{}", "{}", "{}")
        given = [DatasetInput(dataset, [InputTag("mlflow.data.context", "test")])]
        client.log_inputs(child.info.run_id, given, [LoggedModelInput(first.model_id)])
        client.log_text(child.info.run_id, "text", ODD)
        client.set_terminated(child.info.run_id, "FAILED", 23_456)
        lost = client.create_logged_model(experiment, "in the trash", child.info.run_id)
        client.log_outputs(child.info.run_id, [LoggedModelOutput(lost.model_id, 3)])
        client.delete_logged_model(lost.model_id)
        trash = client.create_run(experiment, 1, run_name="in the trash")
        client.log_metric(trash.info.run_id, "loss", 2.0, 3, 4)
        client.delete_run(trash.info.run_id)
        other = client.create_run(client.create_experiment("another"), run_name="still running")
        client.log_param(other.info.run_id, "x", "y" * 500)
        gone = client.create_experiment("deleted")
        client.set_terminated(client.create_run(gone).info.run_id)
        client.delete_experiment(gone)
    return root


@pytest.fixture
def original(tmp_path: Path, old: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project, in which the test runs."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = tmp_path / "original"
    shutil.copytree(old, root)
    monkeypatch.chdir(root)
    return root


@contextmanager
def empty_server(folder: Path, database: Path) -> Iterator[str]:
    folder.mkdir()
    (folder / "server.db").write_bytes(database.read_bytes())
    with running_server(folder, folder / "server.db", free_port()) as uri:
        yield uri


@pytest.fixture(scope="session")
def moved(tmp_path_factory: pytest.TempPathFactory, old: Path, mlflow_database: Path) -> Iterator[Moved]:
    """The project after its migration, with the server."""
    root = tmp_path_factory.mktemp("moved") / "project"
    shutil.copytree(old, root)
    with (
        empty_server(root.parent / "server", mlflow_database) as uri,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        before = contents(root)
        migrate(root=root, to=uri, report=root / "reports" / "migration")
        assert contents(root) == before, "the source was changed"
        yield Moved(root, uri)


def contents(root: Path) -> dict[Path, str]:
    """Hashes of the source: database, files and records."""
    places = [root / "mlflow.db", *(root / "mlartifacts").rglob("*"), *(root / "state/records").rglob("*")]
    return {path: file_sha256(path) for path in places if path.is_file()}


def rows_of(moved: Moved) -> list[str]:
    """Everything in the server's database."""
    with closing(sqlite3.connect(moved.database)) as database:
        return list(database.iterdump())


@pytest.fixture
def put_back(moved: Moved, tmp_path: Path) -> Iterator[None]:
    """The server gets back what it had before the test."""
    files = set(moved.database.parent.rglob("*"))
    with closing(sqlite3.connect(tmp_path / "kept.db")) as kept:
        with closing(sqlite3.connect(moved.database)) as database:
            database.backup(kept)
        yield
        with closing(sqlite3.connect(moved.database)) as database:
            kept.backup(database)
    for path in filter(Path.is_file, set(moved.database.parent.rglob("*")) - files):
        path.unlink()


def command(*words: str) -> str:
    result = CliRunner().invoke(cli, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def refusal(*words: str) -> str:
    result = CliRunner().invoke(cli, list(words))
    assert result.exception is not None
    return str(result.exception)


def facts_of(uri: str, root: Path) -> Facts:
    """All that a server has, by the ids that runs and models had here."""
    side = Side(connect(root, uri), root)
    client = side.connection.client
    found: Facts = {}
    experiments = client.search_experiments(ViewType.ALL)
    runs = [
        run
        for one in experiments
        for run in side.runs(one.experiment_id)
        if run.data.tags[EARLIER_ID] != REPEATED
    ]
    models = [(model, one.name) for one in experiments for model in side.models(one.experiment_id)]
    side.ids = {run.info.run_id: run.data.tags[EARLIER_ID] for run in runs}
    side.ids |= {model.model_id: model.tags[EARLIER_ID] for model, _ in models}
    for run in runs:
        found |= side.of_run(run)
    for model, name in models:
        found |= side.of_model(model, name)
    for registered in client.search_registered_models():
        found |= side.of_registered(registered)
        for version in side.versions(registered.name).values():
            found |= side.of_version(version)
    return found
