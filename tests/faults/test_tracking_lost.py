"""The command that trains, while its tracking server is killed in mid-epoch and started again."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from quality_model.core.storage import MARKER_NAME
from quality_model.params import Params
from quality_model.release.registry import Registry
from tests.release.publishing.conftest import free_port, processes_of, running_server

from .conftest import COMMANDS, Job
from .processes import run_command, start_command

FIRST_EPOCH_IS_KEPT = f"**/epoch-000001/{MARKER_NAME}"
WITHIN_S = 120.0
IMPATIENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
}


def kill_server(uri: str) -> None:
    for process in processes_of(uri):
        with suppress(psutil.NoSuchProcess):
            process.kill()


@pytest.mark.torture
def test_training_goes_on_without_its_server_and_everything_arrives_when_it_is_back(
    jobs: Callable[[str], Job], tmp_path: Path, mlflow_database: Path, params: Params,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    job = jobs("train")
    project = job.project(tmp_path)
    folder, port = tmp_path / "server", free_port()
    folder.mkdir()
    (folder / "server.db").write_bytes(mlflow_database.read_bytes())
    with running_server(folder, folder / "server.db", port) as uri:
        settings = {"MLFLOW_TRACKING_URI": uri, **IMPATIENT}
        process = start_command(project, COMMANDS["train"], **settings)
        try:
            end = time.monotonic() + WITHIN_S
            while not list((project / "state").glob(FIRST_EPOCH_IS_KEPT)):
                assert time.monotonic() < end
                time.sleep(0.01)
            kill_server(uri)
            assert process.exitcode is None, "it ended before its server was killed"
            process.join(WITHIN_S)
        finally:
            process.kill()
    assert process.exitcode == 0, (tmp_path / "output.txt").read_text()
    assert job.result_in(project) == job.result

    with running_server(folder, folder / "server.db", port):
        told = run_command(project, ["publish"], **settings)
        assert told.code == 0, told.output
        run_id = told.output.split()[-1]
        client = MlflowClient(tracking_uri=uri)
        assert [point.step for point in client.get_metric_history(run_id, "train_loss")] == [1, 2]
        assert len(client.get_run(run_id).outputs.model_outputs) == 1
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert Registry(project, params.registry).register(run_id).version == "1"
