"""What MLflow shows of a training that runs, and that the training depends on MLflow for nothing."""

import time
from collections.abc import Callable

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from quality_model.errors import UsageError
from quality_model.release.live import LiveMirror
from quality_model.release.publish import publish
from quality_model.train.training_step import TrainingProgress

from .conftest import Gateway, epoch, finish_training, misbehaving_server

WITHIN_S = 60.0 if psutil.cpu_count() == 1 else 30.0
"""Ten seconds are promised on a machine of its own; tests share theirs."""


@pytest.fixture
def progress(origin) -> Callable[[int], TrainingProgress]:
    return lambda epochs: TrainingProgress(origin, tuple(epoch(n) for n in range(1, epochs + 1)))


def runs(uri: str, experiment: str = "quality-model") -> list[Run]:
    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id])) if found else []


def run_in(uri: str, is_there: Callable[[Run], bool], experiment: str = "quality-model") -> Run:
    """The only run, as soon as it is as asked for."""
    end = time.monotonic() + WITHIN_S
    while not ((found := runs(uri, experiment)) and is_there(found[0])):
        assert time.monotonic() < end, found
        time.sleep(0.1)
    (run,) = found
    return run


def test_a_training_is_seen_running_epoch_by_epoch_with_the_load_of_the_machine(
    project, section, progress, origin, server, monkeypatch
):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    section = section.model_copy(update={"experiment": "live"})
    with LiveMirror(project, section) as on_epoch:
        on_epoch(progress(0))
        run = run_in(server.uri, lambda run: "system/cpu_utilization_percentage" in run.data.metrics, "live")
        assert run.data.params["train.architecture"] == "small"
        for count in (1, 2):
            on_epoch(progress(count))
            run = run_in(
                server.uri,
                lambda run, count=count: run.data.metrics.get("train_loss") == 1 / count,
                "live",
            )
            assert (run.info.status, run.data.metrics["images_per_s"]) == ("RUNNING", 21.5)
    folder = finish_training(project, origin)
    assert publish(folder, root=project, registry=section) == run.info.run_id
    client = MlflowClient(tracking_uri=server.uri)
    assert client.get_run(run.info.run_id).info.status == "FINISHED"
    points = client.get_metric_history(run.info.run_id, "train_loss")
    assert [point.step for point in points] == [1, 2, 3]


@pytest.mark.parametrize(("error", "status"), [(RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_training_that_did_not_finish_says_so_and_when_resumed_shows_each_step_once(
    project, section, progress, error, status
):
    """B5."""
    uri = f"sqlite:///{project}/mlflow.db"
    with pytest.raises(error), LiveMirror(project, section) as on_epoch:
        on_epoch(progress(1))
        run_in(uri, lambda run: "train_loss" in run.data.metrics)
        raise error
    first = run_in(uri, lambda run: run.info.status == status)
    with LiveMirror(project, section) as on_epoch:
        for count in (0, 1, 2):  # a resumed training reports earlier epochs again
            on_epoch(progress(count))
        again = run_in(uri, lambda run: run.data.metrics["train_loss"] == 0.5)
    assert (again.info.run_id, again.info.status) == (first.info.run_id, "RUNNING")
    points = MlflowClient(tracking_uri=uri).get_metric_history(first.info.run_id, "train_loss")
    assert [point.step for point in points] == [1, 2]


def hanging(request) -> None:
    time.sleep(3)


@pytest.mark.parametrize("server_is", ["down", "hanging", "no database"])
def test_a_server_that_does_not_answer_takes_no_time_of_the_training_and_is_named_once(
    project, section, progress, unused_port, monkeypatch, caplog, server_is
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    if server_is == "no database":
        (project / "mlflow.db").write_bytes(b"this is not a database" * 100)
    else:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{unused_port}")
    with misbehaving_server(hanging, unused_port if server_is == "hanging" else 0):
        with LiveMirror(project, section) as on_epoch:
            started = time.monotonic()
            for count in range(50):
                on_epoch(progress(count))
            assert time.monotonic() - started < 1.0
            end = time.monotonic() + WITHIN_S
            while "The training continues" not in caplog.text and time.monotonic() < end:
                time.sleep(0.1)
        assert caplog.text.count("The training continues") == 1


def test_a_server_that_is_back_shows_the_running_training_by_itself(
    project, section, progress, server, unused_port, monkeypatch, caplog
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{unused_port}")
    section = section.model_copy(update={"experiment": "back"})
    with LiveMirror(project, section) as on_epoch:
        on_epoch(progress(2))
        while "The training continues" not in caplog.text:
            time.sleep(0.1)
        with misbehaving_server(Gateway(server.uri).answer, unused_port):
            run = run_in(server.uri, lambda run: run.data.metrics.get("train_loss") == 0.5, "back")
    points = MlflowClient(tracking_uri=server.uri).get_metric_history(run.info.run_id, "train_loss")
    assert [point.step for point in points] == [1, 2]


def unreadable(*_: object, **__: object) -> None:
    raise psutil.AccessDenied(msg="/proc is not mounted")


def no_interval(patch: pytest.MonkeyPatch) -> None:
    patch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "often")


def no_processor(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(psutil, "cpu_percent", unreadable)


@pytest.mark.parametrize("fault", [no_interval, no_processor])
def test_a_monitor_that_fails_is_one_line_and_the_epochs_are_shown(
    project, section, progress, monkeypatch, caplog, capfd, fault
):
    """B20."""
    fault(monkeypatch)
    with LiveMirror(project, section) as on_epoch:
        for count in (1, 2):
            on_epoch(progress(count))
            run_in(
                f"sqlite:///{project}/mlflow.db",
                lambda run, count=count: run.data.metrics.get("train_loss") == 1 / count,
            )
    assert caplog.text.count("No system metrics from here on") == 1
    assert "Traceback" not in capfd.readouterr().err


def test_an_address_that_is_none_is_refused_before_the_training(project, section, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "htp://me:secret@example.com")
    with pytest.raises(UsageError, match=r"htp://example\.com"):
        LiveMirror(project, section)
