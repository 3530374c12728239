"""A tracking server that is down, refusing or hanging costs no training; what it missed is delivered once."""

import shutil
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from quality_model.core.storage import read_lines
from quality_model.errors import RegistryError
from quality_model.params_file import load_params
from quality_model.release.registry import Registry
from quality_model.release.tracking import deliver, resume_run
from quality_model.release.tracking.mlflow_calls import Sender

from .conftest import Gateway, misbehaving_server

EPOCH = {"epoch": 1, "train_loss": 0.05, "validation_loss": 0.06, "train_mse": {"noise": 0.1}}


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")


def unavailable(request):
    request.send_response(503)
    request.end_headers()


def not_mlflow(request):
    request.send_response(200)
    request.end_headers()
    request.wfile.write(b"<html>Welcome to nginx</html>")


def hanging(request):
    time.sleep(3)


@pytest.mark.parametrize("answer", [unavailable, not_mlflow, hanging])
def test_a_server_that_does_not_do_its_work_stops_no_training(start, misbehaving, monkeypatch, answer):
    with misbehaving(answer) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with start() as run:
            run.log_epoch(EPOCH)
            run.log_epoch({**EPOCH, "epoch": 2})
        assert run.run_id is None
        assert run.waiting == 4


@pytest.mark.parametrize("answer", [unavailable, not_mlflow, hanging])
def test_a_server_that_does_not_do_its_work_refuses_a_registration_in_our_words(
    project, section, misbehaving, monkeypatch, answer
):
    with misbehaving(answer) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(RegistryError, match=uri) as refused:
            Registry(project, section).register("0" * 32)
    assert "MLFLOW_TRACKING_URI" in refused.value.remedy


def test_what_a_server_missed_arrives_once_with_its_times_when_it_is_back(
    start, server, project, model_folder, tmp_path, unused_port, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{unused_port}")
    note = tmp_path / "note.txt"
    note.write_text("as it was")
    before_ms = time.time_ns() // 10**6
    with start(name="while down") as run:
        run.log_epoch(EPOCH)
        run.log_epoch({**EPOCH, "epoch": 2, "train_loss": 0.04})
        run.log_files(note, "notes")
        run.set_tags({"stage": "one"})
        copied = tmp_path / "model"
        shutil.copytree(model_folder, copied)
        run.log_model(copied)
    after_ms = time.time_ns() // 10**6
    note.write_text("changed since")
    shutil.rmtree(copied)
    with pytest.raises(RegistryError, match="Connection refused"):
        deliver(project)
    assert run.waiting == 7

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    with misbehaving_server(Gateway(server.uri).answer, unused_port):
        assert deliver(project) == {run.key: 7}
        assert deliver(project) == {}
    client = MlflowClient(tracking_uri=server.uri)
    found = client.get_run(run.run_id)
    assert (found.info.run_name, found.info.status) == ("while down", "FINISHED")
    assert before_ms <= found.info.start_time <= found.info.end_time <= after_ms
    curve = client.get_metric_history(run.run_id, "train_loss")
    assert [(point.step, point.value) for point in curve] == [(1, 0.05), (2, 0.04)]
    assert all(before_ms <= point.timestamp <= after_ms for point in curve)
    arrived = client.download_artifacts(run.run_id, "notes/note.txt", str(tmp_path))
    assert Path(arrived).read_text() == "as it was"
    assert len(found.outputs.model_outputs) == 1
    assert not list((project / "state" / "tracking" / run.key / "files").iterdir())


def test_a_server_that_comes_back_during_training_gets_everything_by_itself(
    start, server, project, section, unused_port, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{unused_port}")
    run = start()
    run.log_epoch(EPOCH)
    assert run.waiting == 2
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    with (
        misbehaving_server(Gateway(server.uri).answer, unused_port),
        resume_run(project, section, run.key) as resumed,
    ):
        resumed.log_epoch({**EPOCH, "epoch": 2})
    assert resumed.waiting == 0
    client = MlflowClient(tracking_uri=server.uri)
    assert [p.step for p in client.get_metric_history(resumed.run_id, "train_loss")] == [1, 2]


def test_delivering_a_report_twice_changes_nothing(
    start, project, section, model_folder, tmp_path, monkeypatch
):
    sent = []
    deliver_once = Sender.__call__

    def deliver_twice(self, state, call):
        gained = deliver_once(self, state, call)
        sent.append(call["call"])
        return deliver_once(self, state, call) or gained  # as if killed before the first was noted down

    monkeypatch.setattr(Sender, "__call__", deliver_twice)
    (tmp_path / "note.txt").write_text("x")
    with start() as run:
        run.log_epoch(EPOCH)
        run.log_files(tmp_path / "note.txt", "notes")
        run.log_model(model_folder)
        run.set_tags({"stage": "one"})
    assert sent == ["start", "metrics", "files", "model", "tags", "end"]
    client = MlflowClient(tracking_uri=f"sqlite:///{project}/mlflow.db")
    experiment = client.get_experiment_by_name(section.experiment).experiment_id
    (found,) = client.search_runs([experiment])
    assert len(client.get_metric_history(found.info.run_id, "train_loss")) == 1
    assert len(client.list_artifacts(found.info.run_id, "notes")) == 1
    assert len(found.outputs.model_outputs) == len(client.search_logged_models([experiment])) == 1
    assert len(found.inputs.dataset_inputs) == 1


def test_a_report_that_the_server_refuses_is_set_aside_and_the_next_ones_arrive(start, project):
    with start() as run:
        run.log_metrics({"no\nname": 1.0})
        run.log_epoch(EPOCH)
    client = MlflowClient(tracking_uri=f"sqlite:///{project}/mlflow.db")
    assert client.get_run(run.run_id).data.metrics["train_loss"] == 0.05
    (refused,) = read_lines(project / "state" / "tracking" / run.key / "refused.jsonl")
    assert refused["values"] == {"no\nname": 1.0}


def test_a_run_deleted_in_the_web_ui_stops_no_training(start, project):
    run = start()
    client = MlflowClient(tracking_uri=f"sqlite:///{project}/mlflow.db")
    client.delete_run(run.run_id)
    run.log_epoch(EPOCH)
    run.end()
    refused = read_lines(project / "state" / "tracking" / run.key / "refused.jsonl")
    assert [call["call"] for call in refused] == ["metrics", "end"]


@pytest.mark.timeout(120)
def test_the_registry_says_that_the_server_is_down_and_hides_the_password(project, unused_port, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{unused_port}")
    registry = Registry(project, load_params(project / "params.yaml").registry)
    with pytest.raises(RegistryError, match=f"127.0.0.1:{unused_port}") as failure:
        registry.versions()
    assert "secret" not in str(failure.value)
    assert "MLFLOW_TRACKING_URI" in failure.value.remedy


def test_a_database_that_is_not_one_is_a_clear_error_and_stops_no_training(start, project, section):
    (project / "mlflow.db").write_bytes(b"this is not a database" * 100)
    with start() as run:
        run.log_epoch(EPOCH)
    assert run.waiting == 3
    with pytest.raises(RegistryError, match="not a database"):
        Registry(project, section)
