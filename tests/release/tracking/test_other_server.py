"""Reports that wait go to the server that they are meant for, and to no other."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from quality_model.core.storage import write_json
from quality_model.errors import RegistryError
from quality_model.params import RegistryParams
from quality_model.release.runs import run_of
from quality_model.release.tracking import Run, deliver, resume_run
from tests.conftest import PROJECT

EPOCH = {"epoch": 1, "train_loss": 0.05}

Start = Callable[..., Run]
Meant = Callable[[str], str]


@pytest.fixture
def meant(tmp_path: Path, mlflow_database: Path, monkeypatch: pytest.MonkeyPatch) -> Meant:
    """Let MLFLOW_TRACKING_URI name a database of its own for each name; returns the URI."""

    def name(database: str) -> str:
        path = tmp_path / f"{database}.db"
        if not path.exists():
            shutil.copyfile(mlflow_database, path)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
        return f"sqlite:///{path}"

    return name


def refused(project: Path) -> list[Path]:
    return list((project / "state" / "tracking").glob("*/refused.jsonl"))


def train_away_from_home(start: Start, meant: Meant, project: Path, section: RegistryParams) -> Run:
    """A run that started on one server and resumed while MLFLOW_TRACKING_URI named another."""
    meant("first")
    run = start()
    run.log_epoch(EPOCH)
    meant("second")
    with resume_run(project, section, run.key) as resumed:
        resumed.log_epoch({**EPOCH, "epoch": 2})
    assert resumed.waiting == 3
    return resumed


def test_reports_of_a_run_wait_for_the_server_on_which_it_was_started(
    start: Start, meant: Meant, project: Path, section: RegistryParams
) -> None:
    run = train_away_from_home(start, meant, project, section)
    with pytest.raises(RegistryError, match=r"Delivered 0 reports\. .*meant for sqlite:.*first\.db") as error:
        deliver(project)
    assert "MLFLOW_TRACKING_URI" in error.value.remedy
    assert run.waiting == 3 and not refused(project)
    meant("first")
    assert deliver(project) == {run.key: 3}
    client = MlflowClient(tracking_uri=meant("first"))
    assert [p.step for p in client.get_metric_history(run.run_id or "", "train_loss")] == [1, 2]


def test_registering_at_another_server_names_the_server_of_the_run(
    start: Start, meant: Meant, project: Path, section: RegistryParams
) -> None:
    run = train_away_from_home(start, meant, project, section)
    write_json(project / "models" / "candidate" / "run.json", {"run_key": run.key, "run_id": run.run_id})
    with pytest.raises(RegistryError, match=r"meant for sqlite:.*first\.db") as error:
        run_of(project / "models" / "candidate", root=project, registry=section)
    assert "MLFLOW_TRACKING_URI" in error.value.remedy
    assert not refused(project)


def test_reports_of_a_run_that_never_reached_its_server_are_not_sent_to_another(
    start: Start, meant: Meant, project: Path, unused_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:canary@127.0.0.1:{unused_port}")
    with start(keep=True) as run:
        run.log_epoch(EPOCH)
    second = meant("second")
    with pytest.raises(RegistryError, match=f"meant for http://127.0.0.1:{unused_port}, not for sqlite:"):
        deliver(project)
    assert run.waiting == 3 and not refused(project)
    assert MlflowClient(tracking_uri=second).get_experiment_by_name("quality-model") is None
    kept = [path for path in (project / "state").rglob("*") if path.is_file()]
    assert kept and not [path for path in kept if b"canary" in path.read_bytes()]


def test_a_run_is_found_where_its_server_has_moved(
    start: Start, meant: Meant, project: Path, section: RegistryParams, tmp_path: Path
) -> None:
    run = train_away_from_home(start, meant, project, section)
    (tmp_path / "first.db").rename(tmp_path / "moved.db")
    meant("moved")
    assert deliver(project) == {run.key: 3}


def test_another_database_behind_the_same_address_is_another_server(
    start: Start, meant: Meant, project: Path, section: RegistryParams, tmp_path: Path
) -> None:
    run = train_away_from_home(start, meant, project, section)
    (tmp_path / "first.db").rename(tmp_path / "kept.db")
    meant("first")
    # In a process of its own: this one still has the renamed database open.
    command = [sys.executable, "-m", "quality_model", "deliver"]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    ended = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 9 and "Traceback" not in ended.stderr
    assert "Error: Delivered 0 reports. The reports of run" in ended.stderr
    assert run.waiting == 3 and not refused(project)


def test_runs_of_another_server_do_not_keep_the_others_waiting(
    start: Start, meant: Meant, project: Path, section: RegistryParams
) -> None:
    train_away_from_home(start, meant, project, section)
    with start(keep=True) as other:
        other.log_epoch(EPOCH)
    with pytest.raises(RegistryError, match=r"Delivered 3 reports\. .*first\.db"):
        deliver(project)
    assert other.waiting == 0


def test_only_reports_that_a_server_took_count_as_delivered(start: Start, project: Path) -> None:
    with start(keep=True) as run:
        run.log_metrics({"no\nname": 1.0})
        run.log_epoch(EPOCH)
    assert deliver(project) == {run.key: 3}
    assert len(refused(project)) == 1
