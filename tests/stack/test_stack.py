"""`make stack`: PostgreSQL, S3, MLflow with users on both, and Prefect, started once for these tests."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import boto3
import httpx
import psutil
import pytest
import torch
from botocore.exceptions import ClientError

from quality_model.core.models import read_version, version_folder
from quality_model.networks.model import MultiHeadQualityAssessmentModel, save_model
from quality_model.params import RegistryParams
from quality_model.params_file import load_params
from quality_model.release.champion import make_champion
from quality_model.release.publish import publish
from quality_model.release.registry import Registry
from tests.flows.conftest import TINY, small_project
from tests.server_stack import NAMES, RunningStack, missing, running_stack
from tests.servers import free_port

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    project = small_project(tmp_path_factory.mktemp("stack") / "project", TINY)
    with running_stack(project) as stack:
        yield stack


@pytest.fixture
def section(stack: RunningStack) -> RegistryParams:
    return load_params(stack.project / "params.yaml").registry


@pytest.fixture
def pointed(stack: RunningStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process uses the stack, as a shell that read env.sh."""
    for name, value in stack.settings.client.items():
        monkeypatch.setenv(name, value)


def query(stack: RunningStack, database: str, text: str) -> Any:
    import psycopg2

    port, password = stack.settings.ports["postgres"], stack.settings.keys["password"]
    address = f"host=127.0.0.1 port={port} user=quality dbname={database}"
    with closing(psycopg2.connect(address, password=password)) as connection:
        cursor = connection.cursor()
        cursor.execute(text)
        return cursor.fetchall()


def store(stack: RunningStack, **changes: str) -> Any:
    client = stack.settings.client | changes
    keys = {name.lower(): client[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    return boto3.client("s3", endpoint_url=client["AWS_ENDPOINT_URL"], region_name="us-east-1", **keys)


def test_without_a_password_no_server_gives_anything(stack: RunningStack) -> None:
    import psycopg2

    settings = stack.settings
    for url in (
        f"{settings.url('mlflow')}/api/2.0/mlflow/experiments/search?max_results=1",
        f"{settings.url('mlflow')}/api/2.0/mlflow-artifacts/artifacts",
        f"{settings.url('prefect')}/api/admin/settings",
    ):
        assert httpx.get(url).status_code == 401, url
    assert httpx.get(settings.url("s3")).status_code == 403
    with pytest.raises(ClientError):
        store(stack, AWS_SECRET_ACCESS_KEY="guessed").list_buckets()
    for part in ("master", "volume", "filer"):  # what is behind the S3 server
        assert httpx.get(f"{settings.url(part)}/buckets/quality/ready").status_code >= 400
    with pytest.raises(psycopg2.OperationalError, match="password"):
        psycopg2.connect(
            host="127.0.0.1", port=settings.ports["postgres"], user="quality", password="guessed"
        )


def test_the_servers_listen_on_loopback_and_no_secret_is_on_a_command_line_or_in_an_open_file(
    stack: RunningStack,
) -> None:
    processes = stack.processes()
    listening = [
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 4 and set(listening) == {"127.0.0.1"}
    secrets = stack.settings.keys.values()
    commands = [" ".join(process.cmdline()) for process in processes]
    assert not [one for one in commands if any(secret in one for secret in secrets)]
    assert stat.S_IMODE(stack.folder.stat().st_mode) == 0o700
    logs = (stack.folder / "log").glob("*.log")
    holding = [path for path in (*stack.folder.glob("*"), *stack.folder.glob("mlflow/*")) if path.is_file()]
    assert len(holding) >= 5
    assert {stat.S_IMODE(path.stat().st_mode) for path in (*holding, *logs)} == {0o600}


def test_a_model_goes_to_the_servers_and_scoring_finds_it_there(
    stack: RunningStack, section: RegistryParams, pointed: None, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    network, facts = MultiHeadQualityAssessmentModel(architecture="small"), {"seen_groups": []}
    save_model(tmp_path / "model", network, image_size_px=32, facts=facts)
    run_id = publish(tmp_path / "model", root=stack.project, registry=section)
    assert publish(tmp_path / "model", root=stack.project, registry=section) == run_id
    catalogue = Registry(stack.project, section)
    version = catalogue.register(run_id)
    assert make_champion(catalogue, version, "promoted", "a test")
    assert query(stack, "mlflow", f"SELECT status FROM runs WHERE run_uuid = '{run_id}'") == [("FINISHED",)]
    listed = store(stack).list_objects_v2(Bucket="quality", Prefix="mlflow/")["Contents"]
    assert [one["Key"] for one in listed if one["Key"].endswith("model.safetensors")]

    found = read_version(stack.project, section.model_name, "champion", None)
    assert found is not None and found.number == version.version
    folder = version_folder(tmp_path / "another-project", found)
    weights = (folder / "model.safetensors").read_bytes()
    assert weights == (tmp_path / "model" / "model.safetensors").read_bytes()
    assert catalogue.resolve("champion").model_sha256 == version.model_sha256


def test_the_deployments_are_in_prefect_and_its_records_in_postgresql(stack: RunningStack) -> None:
    found = stack.settings.ask("prefect", "/api/deployments/filter", post=True).json()
    assert {one["name"]: one["paused"] for one in found} == {"weekly": False, "daily": False}
    assert sorted(query(stack, "prefect", "SELECT name FROM deployment")) == [("daily",), ("weekly",)]


def test_what_dvc_tracks_travels_through_the_store_and_git_sees_no_change(stack: RunningStack) -> None:
    project = Path(shutil.copytree(stack.project, stack.project.with_name("other"), ignore=_STATE))
    tracked = project / "some.bin"
    tracked.write_bytes(os.urandom(1000))
    content = tracked.read_bytes()
    for word, name in (("add", "some.bin"), ("push", "some.bin.dvc"), ("pull", "some.bin.dvc")):
        command = [sys.executable, "-m", "dvc", word, "-q", name]
        subprocess.run(command, cwd=project, env=stack.environment(project), check=True, timeout=120)
        if word == "push":
            shutil.rmtree(project / ".dvc" / "cache")
            tracked.unlink()
    assert tracked.read_bytes() == content
    changed = ["git", "status", "--porcelain"]
    assert subprocess.run(changed, cwd=stack.project, check=True, capture_output=True).stdout == b""


_STATE = shutil.ignore_patterns("state")


def test_a_second_start_changes_nothing_and_a_server_that_was_killed_is_started_again(
    stack: RunningStack,
) -> None:
    before = stack.running()
    assert set(before) == set(NAMES)
    assert stack.up().count(" runs\n") == len(NAMES)
    assert stack.running() == before
    stack.kill("mlflow")
    said = stack.up()
    assert said.count(" runs\n") == len(NAMES) - 1
    after = stack.running()
    assert after.pop("mlflow") != before.pop("mlflow") and after == before
    refusal = stack.call("up", f"mlflow={free_port()}", code=2)
    assert "make stack-down" in refusal


def test_where_postgresql_is_not_installed_one_line_names_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deploy import services
    from deploy.stack import up
    from quality_model.errors import UsageError

    monkeypatch.setattr(services, "_DEBIAN", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="not installed") as refused:
        up(tmp_path / "stack", tmp_path, {})
    assert "apt-get install postgresql" in refused.value.remedy
