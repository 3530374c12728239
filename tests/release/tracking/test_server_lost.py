"""A real tracking server that stops answering in mid-run: training goes on, and everything arrives once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient

from quality_model.errors import RegistryError
from quality_model.params import RegistryParams
from quality_model.release.registry import Registry
from quality_model.release.tracking import Run, deliver

from .conftest import Gateway, Server, free_port, misbehaving_server, processes_of, running_server

PATIENT_S = "60"
Start = Callable[..., Run]


def epoch(number: int) -> dict[str, float]:
    return {"epoch": number, "train_loss": 1.0 / number}


@contextmanager
def stopped(uri: str) -> Iterator[None]:
    """The processes of the server take connections and answer nothing."""
    family = processes_of(uri)
    assert family
    try:
        for process in family:
            process.suspend()
        yield
    finally:
        for process in family:
            if process.is_running():
                process.resume()


def register_in_vain(project: Path, section: RegistryParams, run: Run) -> None:
    with pytest.raises(RegistryError) as refused:
        Registry(project, section).register(run.run_id or "")
    assert "MLFLOW_TRACKING_URI" in refused.value.remedy


def everything_arrived(project: Path, section: RegistryParams, run: Run, uri: str) -> None:
    """Each epoch once, one model, and one version however often it is registered."""
    client = MlflowClient(tracking_uri=uri)
    assert run.run_id
    curve = client.get_metric_history(run.run_id, "train_loss")
    assert [(point.step, point.value) for point in curve] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    registry = Registry(project, section)
    version = registry.register(run.run_id)
    assert registry.register(run.run_id) == version
    assert len(client.get_run(run.run_id).outputs.model_outputs) == 1


def test_a_server_that_hangs_in_mid_run_and_at_registration_loses_nothing(
    start: Start, server: Server, project: Path, section: RegistryParams, model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", PATIENT_S)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    section = section.model_copy(update={"model_name": "hung"})
    run = start()
    run.log_epoch(epoch(1))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with stopped(server.uri):
        run.log_epoch(epoch(2))
        run.log_epoch(epoch(3))
        run.log_model(model_folder)
        assert run.waiting == 3
        register_in_vain(project, section, run)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", PATIENT_S)
    assert deliver(project) == {run.key: 3}
    everything_arrived(project, section, run, server.uri)


def test_a_gateway_that_answers_503_in_mid_run_and_at_registration_loses_nothing(
    start: Start, server: Server, project: Path, section: RegistryParams, model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", PATIENT_S)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    section = section.model_copy(update={"model_name": "behind-a-gateway"})
    gateway = Gateway(server.uri)
    with misbehaving_server(gateway.answer) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        run = start()
        run.log_epoch(epoch(1))
        assert run.waiting == 0
        gateway.broken = True
        run.log_epoch(epoch(2))
        run.log_model(model_folder)
        assert run.waiting == 2
        register_in_vain(project, section, run)
        assert gateway.refused
        gateway.broken = False
        assert deliver(project) == {run.key: 2}
        run.log_epoch(epoch(3))
        deliver(project)  # the run itself may still be giving the server time
        everything_arrived(project, section, run, uri)


@pytest.mark.torture
def test_a_server_that_is_killed_in_mid_run_and_started_again_loses_nothing(
    start: Start, project: Path, section: RegistryParams, model_folder: Path, mlflow_database: Path,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", PATIENT_S)
    folder, port = tmp_path / "server", free_port()
    folder.mkdir()
    database = folder / "server.db"
    database.write_bytes(mlflow_database.read_bytes())
    with running_server(folder, database, port) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        run = start()
        run.log_epoch(epoch(1))
    run.log_epoch(epoch(2))
    run.log_model(model_folder)
    assert run.waiting == 2
    register_in_vain(project, section, run)
    with running_server(folder, database, port):
        assert deliver(project) == {run.key: 2}
        run.log_epoch(epoch(3))
        deliver(project)  # the run itself may still be giving the server time
        everything_arrived(project, section, run, uri)
