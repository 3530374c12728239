"""A project's own registry, moved to a real server over HTTP with its history, and used there."""

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import mlflow.pyfunc
import numpy as np
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput, Metric, Param, Run, ViewType
from PIL import Image

from quality_model.cli import cli
from quality_model.core.storage import file_sha256
from quality_model.params import Params, RegistryParams
from quality_model.release.champion import make_champion
from quality_model.release.decisions import Decision, now, write_record
from quality_model.release.migrate import migrate
from quality_model.release.mlflow_connection import connect
from quality_model.release.publish import publish
from quality_model.release.registry import Registry
from quality_model.release.registry_facts import EARLIER_ID, Facts, Side
from quality_model.score.job import score
from quality_model.score.result import ScoringModel
from tests.conftest import PROJECT
from tests.release.publishing.conftest import Gateway, free_port, misbehaving_server, running_server
from tests.release.registry.conftest import write_model
from tests.score.conftest import MeanScorer
from tests.servers import wait_for

ODD = "a folder/ein Bild, 100 %.png"


class Moved(NamedTuple):
    root: Path
    uri: str

    @property
    def database(self) -> Path:
        return self.root.parent / "server" / "server.db"


def client_of(root: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{root}/mlflow.db")


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
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


def runs_of(client: MlflowClient) -> dict[str, Run]:
    """Every run by the id that it had here."""
    places = [one.experiment_id for one in client.search_experiments(ViewType.ALL)]
    runs = client.search_runs(places, run_view_type=ViewType.ALL)
    return {run.data.tags.get(EARLIER_ID, run.info.run_id): run for run in runs}


def test_runs_have_their_parameters_times_statuses_parents_and_every_point_of_every_metric(
    moved: Moved,
) -> None:
    here, there = client_of(moved.root), MlflowClient(moved.uri)
    old, new = runs_of(here), runs_of(there)
    assert old.keys() == new.keys()
    for run_id, one in old.items():
        two = new[run_id]
        for name in ("status", "start_time", "end_time", "lifecycle_stage", "run_name"):
            assert getattr(one.info, name) == getattr(two.info, name)
        assert one.data.params == two.data.params
        parent = one.data.tags.get("mlflow.parentRunId")
        assert two.data.tags.get("mlflow.parentRunId") == (new[parent].info.run_id if parent else None)
        for key in one.data.metrics:
            points = [
                {
                    (p.step, p.timestamp, repr(p.value))
                    for p in client.get_metric_history(run.info.run_id, key)
                }
                for client, run in ((here, one), (there, two))
            ]
            assert points[0] == points[1]
    assert max(len(here.get_metric_history(run.info.run_id, "loss")) for run in old.values()) == 1202
    assert {run.info.status for run in new.values()} == {"FINISHED", "FAILED", "RUNNING"}
    assert {one.name: one.lifecycle_stage for one in there.search_experiments(ViewType.ALL)} == {
        **{one.name: one.lifecycle_stage for one in here.search_experiments(ViewType.ALL)}
    }


@pytest.mark.usefixtures("put_back")
def test_versions_keep_numbers_tags_descriptions_aliases_and_links_and_the_next_one_is_new(
    moved: Moved, section: RegistryParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = client_of(moved.root), MlflowClient(moved.uri)
    old, new = here.get_registered_model("quality-model"), there.get_registered_model("quality-model")
    assert {name: str(number) for name, number in old.aliases.items()} == new.aliases
    assert new.aliases == {"champion": "4", "candidate": "3"}
    assert old.tags.items() <= new.tags.items()
    for number in ("1", "3", "4"):
        one, two = (client.get_model_version("quality-model", number) for client in (here, there))
        kept = {key: value for key, value in one.tags.items() if key != "model_id"}
        assert kept.items() <= two.tags.items()
        assert two.description == (one.description or "")
        model_id = two.tags["model_id"]
        assert two.source == f"models:/{model_id}"
        assert there.get_run(two.run_id).outputs.model_outputs[0].model_id == model_id
        assert two.tags["quality_model.earlier_run_id"] == one.run_id
    assert {one.version for one in there.search_model_versions("name='quality-model'")} == {"1", "3", "4"}
    made = there.create_model_version("quality-model", two.source, model_id=model_id)
    there.delete_model_version("quality-model", made.version)
    assert int(made.version) == 6  # 2 and 5 were deleted here, and no other model gets their numbers
    monkeypatch.setenv("MLFLOW_TRACKING_URI", moved.uri)
    loaded = mlflow.pyfunc.load_model("models:/quality-model@champion")
    assert len(loaded.predict(np.zeros((2, 32, 32, 3), np.uint8))) == 2
    resolved = Registry(moved.root, section).resolve("champion")
    assert resolved.model_sha256 == Registry(moved.root, section).find("4").model_sha256


def test_files_are_equal_byte_for_byte(moved: Moved) -> None:
    there = MlflowClient(moved.uri)
    compared = set()
    for run_id, run in runs_of(client_of(moved.root)).items():
        folder = Path(run.info.artifact_uri.removeprefix("file://"))
        new = runs_of(there)[run_id].info.run_id
        for path in filter(Path.is_file, folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            assert Path(there.download_artifacts(new, name)).read_bytes() == path.read_bytes()
            compared.add(name)
    assert ODD in compared
    assert any(name.endswith("decision.json") for name in compared)


def test_a_second_run_changes_nothing_and_says_so(moved: Moved, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(moved.root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = rows_of(moved)
    said = command("migrate", "--to", f"{moved.uri}/")
    assert f"Nothing to do: {moved.uri} has everything that is in mlflow.db." in said
    assert "metric points      1,205  1,205" in said
    assert rows_of(moved) == before
    report = json.loads(Path("reports/migration/migration.json").read_text())
    assert (report["here"], report["added"], report["differences"]) == (report["there"], 0, [])


@pytest.mark.usefixtures("put_back")
def test_trace_history_publish_and_rollback_work_on_the_other_side_with_and_without_the_records(
    moved: Moved, section: RegistryParams, tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    version = Registry(moved.root, section).find("1")
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    score(
        params.score.model_copy(update={"workers": 1}), params.limits,
        inputs=tmp_path / "a.png", output=tmp_path / "scores", scorer=MeanScorer(),
        model=ScoringModel("quality-model", "1", version.run_id, "c" * 64, 32),
    )  # fmt: skip
    monkeypatch.chdir(moved.root)
    here = command("history"), json.loads(command("trace", str(tmp_path / "scores"), "--json"))
    clone = tmp_path / "clone"
    clone.mkdir()
    shutil.copyfile(PROJECT / "params.yaml", clone / "params.yaml")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", moved.uri)
    for root in (moved.root, clone):
        monkeypatch.chdir(root)
        assert command("history") == here[0]
        there = json.loads(command("trace", str(tmp_path / "scores"), "--json"))
        for key in ("model_sha256", "data_sha256", "git_commit", "aliases", "verdict"):
            assert there.get(key) == here[1].get(key)
        assert [one["time"] for one in there["decisions"]] == [one["time"] for one in here[1]["decisions"]]
        assert len(there["notes"]) == len(here[1]["notes"]) + 1
        assert "The registry was migrated: the run is " in str(there["notes"])
    monkeypatch.chdir(moved.root)
    before = rows_of(moved)
    command("publish")
    assert "is not at" not in caplog.text
    assert rows_of(moved) == before, "records name runs by the ids that they had"
    monkeypatch.chdir(clone)
    assert "version 1 again" in command("rollback")
    registry = Registry(clone, section)
    assert (champion := registry.champion()) is not None
    assert champion.version == "1"
    (record,) = (clone / "state" / "records").iterdir()
    assert registry.client.list_artifacts(str(champion.run_id), f"decisions/{record.name}")


@pytest.mark.usefixtures("put_back")
def test_what_is_on_the_server_and_not_from_here_is_refused_in_one_line_and_nothing_changes(
    moved: Moved, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(moved.root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    there, name, again = MlflowClient(moved.uri), "quality-model", ("migrate", "--to", moved.uri)

    there.set_registered_model_alias(name, "champion", "3")
    assert "aliases champion: '4' here, '3' there" in refusal(*again)
    there.set_registered_model_alias(name, "champion", "4")

    there.set_model_version_tag(name, "3", "data_sha256", "f" * 64)
    assert "version 3 of quality-model tags data_sha256" in refusal(*again)
    there.set_model_version_tag(name, "3", "data_sha256", "3" * 64)

    source = there.get_model_version(name, "3").source
    made = there.create_model_version(name, source, model_id=source.removeprefix("models:/"))
    assert f"has version {made.version} of {name}, which is not from" in refusal(*again)
    there.delete_model_version(name, made.version)
    command(*again)

    experiment = there.get_experiment_by_name(name)
    assert experiment is not None
    run = there.create_run(experiment.experiment_id)
    before = rows_of(moved)
    assert f"has {run.info.run_id} in experiment {name}, which is not from" in refusal(*again)
    assert rows_of(moved) == before


def test_another_project_is_refused_where_this_one_was_moved_to(
    moved: Moved, three_versions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shutil.copytree(three_versions, tmp_path / "three"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copyfile(PROJECT / "params.yaml", "params.yaml")
    before = rows_of(moved)
    assert "which is not from mlflow.db" in refusal("migrate", "--to", moved.uri)
    assert rows_of(moved) == before


@pytest.mark.parametrize("to", ["sqlite:///other.db", "server:5000", "http://", "http://a:b@c@d:1"])
def test_what_is_no_address_of_a_server_is_refused(original: Path, to: str) -> None:
    assert "--to" in refusal("migrate", "--to", to)


def test_a_server_that_is_down_a_decision_that_is_not_shown_and_no_registry_are_named(
    original: Path, section: RegistryParams
) -> None:
    to = f"http://127.0.0.1:{free_port()}"
    assert "Check that the server runs and --to names it" in refusal("migrate", "--to", to)
    registry = Registry(original, section)
    decision = Decision("promoted", now(), registry.resolve("1").ref, registry.find("1").model_sha256)
    record = write_record(original, decision)
    said = refusal("migrate", "--to", to)
    assert f"{record.name} is not in mlflow.db yet (1 such)" in said
    assert "`quality-model publish`" in said
    (original / "mlflow.db").unlink()
    assert "has no registry of its own" in refusal("migrate", "--to", to)


def test_a_migration_that_is_killed_or_loses_its_server_is_resumed_to_the_same_end(
    original: Path, moved: Moved, tmp_path: Path, mlflow_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RETRIES": "0", "FACTOR": "0"}.items():
        prefix = "MLFLOW_HTTP_REQUEST_MAX_" if name == "RETRIES" else "MLFLOW_HTTP_REQUEST_BACKOFF_"
        monkeypatch.setenv(prefix + name, value)
    with empty_server(tmp_path / "server", mlflow_database) as uri:
        gateway = Gateway(uri)
        with misbehaving_server(gateway.answer) as shaky:
            for allowed in (14, 35, 60, 100, 140):
                gateway.allowed = allowed
                assert "503" in refusal("migrate", "--to", shaky)
            words = [sys.executable, "-m", "quality_model", "migrate", "--to", uri]
            with subprocess.Popen(words, cwd=original, stdout=subprocess.DEVNULL) as process:
                wait_for("files", lambda: list(tmp_path.rglob("server/**/*.safetensors")), process=process)
                process.kill()
            gateway.allowed = float("inf")
            assert "both sides are equal" in command("migrate", "--to", shaky)
            assert facts_of(uri, original) == facts_of(moved.uri, original)
            assert "Nothing to do" in command("migrate", "--to", shaky)


def facts_of(uri: str, root: Path) -> Facts:
    """All that a server has, by the ids that runs and models had here."""
    side = Side(connect(root, uri), root)
    client = side.connection.client
    found: Facts = {}
    experiments = client.search_experiments(ViewType.ALL)
    runs = [run for one in experiments for run in side.runs(one.experiment_id)]
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
