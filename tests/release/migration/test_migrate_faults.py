"""What a migration refuses, and what it survives."""

import re
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from quality_model.params import RegistryParams
from quality_model.release.decisions import Decision, now, write_record
from quality_model.release.registry import Registry
from tests.conftest import PROJECT
from tests.release.migration.conftest import (
    Moved,
    client_of,
    command,
    contents,
    empty_server,
    facts_of,
    refusal,
    rows_of,
)
from tests.release.publishing.conftest import Gateway, free_port, misbehaving_server
from tests.servers import wait_for


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
    shutil.rmtree(record)
    model_id = registry.find("3").model_id
    assert model_id is not None
    client_of(original).delete_logged_model(model_id)
    assert f"version 3 of quality-model are at models:/{model_id}, which is no model" in refusal(
        "migrate", "--to", to
    )
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
            for allowed in (14, 60, 120):
                gateway.allowed = allowed
                assert "503" in refusal("migrate", "--to", shaky)
            words = [sys.executable, "-m", "quality_model", "migrate", "--to", uri]
            with subprocess.Popen(words, cwd=original, stdout=subprocess.DEVNULL) as process:
                wait_for("files", lambda: list(tmp_path.rglob("server/**/*.safetensors")), process=process)
                process.kill()
            gateway.allowed = float("inf")
            before = contents(original)
            assert "both sides are equal" in command("migrate", "--to", shaky)
            assert facts_of(uri, original) == facts_of(moved.uri, original)
            assert contents(original) == before
            assert "Nothing to do" in command("migrate", "--to", shaky)


class Forgetful(Gateway):
    """Passes every request on, and loses the first answer to each that makes something."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self.lost: set[str] = set()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        made = re.search("runs/create|logged-models$|versions/create|log-batch|log-inputs", request.path)
        if made and made[0] not in self.lost:
            self.lost.add(made[0])
            request.connection = request.wfile = Nowhere()  # type: ignore[assignment]
        super().answer(request)


class Nowhere:
    """What is written here is lost, and the connection ends without an answer."""

    def write(self, data: bytes) -> int:
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def test_an_answer_that_is_lost_makes_nothing_twice(
    original: Path, moved: Moved, tmp_path: Path, mlflow_database: Path
) -> None:
    with empty_server(tmp_path / "server", mlflow_database) as uri:
        gateway = Forgetful(uri)
        with misbehaving_server(gateway.answer) as forgetful:
            assert "both sides are equal" in command("migrate", "--to", forgetful)
        assert len(gateway.lost) == 5
        assert facts_of(uri, original) == facts_of(moved.uri, original)
        assert "Nothing to do" in command("migrate", "--to", uri)
