"""What each call of a run does in MLflow. Doing one twice leaves what doing it once leaves.

A run is found again by its key, a metric is the same point by its time, step and value,
files of the same name are the same file, and a model is known by its hash.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from quality_model.errors import ModelNotFoundError, RegistryError
from quality_model.release.flavor import MODEL_NAME, write_mlflow_model
from quality_model.release.mlflow_connection import Connection, RequestRefusedError, mlflow_errors

KEY_TAG: Final = "run_key"
_BATCH: Final = 100
_DIGEST_LENGTH: Final = 36

State = dict[str, Any]
Call = dict[str, Any]


class OtherServerError(RegistryError):
    """What waits for one server was about to be sent to another."""


class Doing(Protocol):
    """One kind of call: takes the connection, the run's state and the call; returns new state."""

    def __call__(self, connection: Connection, state: State, call: Call, /) -> State: ...


@dataclass(frozen=True, slots=True)
class Sender:
    """Delivers calls through one connection."""

    connection: Connection

    def __call__(self, state: State, call: Call) -> State:
        """Do one call.

        Raises:
            OtherServerError: The server does not know the run, so it is not the one for this call.
            RegistryError: MLflow did not answer, or refused.
        """
        doing = call["call"]
        if doing != "start" and not state.get("run_id"):
            raise RegistryError(f"The run {state['key']} has not started at {self.connection.shown} yet.")
        try:
            with mlflow_errors(self.connection.shown, f"Reporting {doing}"):
                return _DOINGS[doing](self.connection, state, call)
        except (ModelNotFoundError, RequestRefusedError):
            if state.get("run_id"):
                require_known(self.connection, state)
            raise


def require_known(connection: Connection, state: State) -> None:
    """Check that a server knows the run that has reports for it, whatever its address is now.

    Raises:
        OtherServerError: It does not.
        RegistryError: The server does not answer.
    """
    try:
        require_run(connection, state["run_id"])
    except ModelNotFoundError:
        raise other_server(state, connection.shown) from None


def other_server(state: State, here: str) -> OtherServerError:
    """The refusal to send a run's reports to the server called ``here``."""
    server = state.get("server", "the server on which it was started")
    return OtherServerError(
        f"The reports of run {state['key']} are meant for {server}, not for {here}.",
        "Set MLFLOW_TRACKING_URI to that server and run: quality-model deliver. "
        f"If the run was deleted there for good, delete state/tracking/{state['key']}.",
    )


def find_run(connection: Connection, experiment: str, key: str) -> str | None:
    """The run with this key, or None."""
    found = connection.client.get_experiment_by_name(experiment)
    if found is None:
        return None
    runs = connection.client.search_runs(
        [found.experiment_id], filter_string=f"tags.{KEY_TAG} = '{key}'", max_results=1
    )
    return runs[0].info.run_id if runs else None


def _start(connection: Connection, state: State, call: Call) -> State:
    from mlflow.entities import Param, RunTag

    client = connection.client
    experiment_id = _experiment(connection, call["experiment"])
    run_id = state.get("run_id") or find_run(connection, call["experiment"], state["key"])
    if run_id is None:
        run = client.create_run(
            experiment_id, start_time=call["time_ms"], tags={KEY_TAG: state["key"]}, run_name=call["name"]
        )
        run_id = run.info.run_id
    params = [Param(key, str(value)) for key, value in call["params"].items()]
    tags = [RunTag(key, str(value)) for key, value in call["tags"].items()]
    for first in range(0, max(len(params), len(tags)), _BATCH):
        client.log_batch(run_id, params=params[first : first + _BATCH], tags=tags[first : first + _BATCH])
    if call["data"]:
        _log_data(connection, run_id, call["data"])
    return {"run_id": run_id, "experiment": call["experiment"]}


def _experiment(connection: Connection, name: str) -> str:
    from mlflow.exceptions import MlflowException

    client = connection.client
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=connection.artifacts))
        except MlflowException as error:
            found = client.get_experiment_by_name(name)  # another process made it in between
            if found is None:
                raise error
    if found.lifecycle_stage != "active":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _log_data(connection: Connection, run_id: str, data: dict[str, Any]) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=data["name"],
        digest=data["sha256"][:_DIGEST_LENGTH],
        source_type="local",
        source=json.dumps({"uri": data["source"]}),
        profile=json.dumps({"num_rows": data["rows"], "sha256": data["sha256"], **data["facts"]}),
    )
    tag = InputTag("mlflow.data.context", data["context"])
    connection.client.log_inputs(run_id, [DatasetInput(dataset, [tag])])


def _reopen(connection: Connection, state: State, call: Call) -> State:
    connection.client.update_run(state["run_id"], status="RUNNING")
    return {}


def _metrics(connection: Connection, state: State, call: Call) -> State:
    from mlflow.entities import Metric

    metrics = [
        Metric(key, float(value), call["time_ms"], call["step"]) for key, value in call["values"].items()
    ]
    for first in range(0, len(metrics), _BATCH):
        connection.client.log_batch(state["run_id"], metrics=metrics[first : first + _BATCH])
    return {}


def _tags(connection: Connection, state: State, call: Call) -> State:
    for key, value in call["values"].items():
        connection.client.set_tag(state["run_id"], key, value)
    return {}


def _files(connection: Connection, state: State, call: Call) -> State:
    for path in map(Path, call["paths"]):
        if path.is_dir():
            connection.client.log_artifacts(state["run_id"], str(path), call["artifact_path"])
        else:
            connection.client.log_artifact(state["run_id"], str(path), call["artifact_path"])
    return {}


def _model(connection: Connection, state: State, call: Call) -> State:
    from mlflow.entities import LoggedModelOutput

    client, run_id = connection.client, state["run_id"]
    run = client.get_run(run_id)
    for output in reversed(run.outputs.model_outputs if run.outputs else []):
        logged = client.get_logged_model(output.model_id)
        if logged.tags.get("model_sha256") == call["sha256"] and str(logged.status) == "READY":
            return {"model_id": logged.model_id}
    logged = client.create_logged_model(
        run.info.experiment_id,
        name=MODEL_NAME,
        source_run_id=run_id,
        tags={"model_sha256": call["sha256"]},
        params=dict(run.data.params),
        model_type="image-quality",
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        write_mlflow_model(Path(call["paths"][0]), folder, run_id=run_id, model_id=logged.model_id)
        client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, "READY")
    # Last, so that a run never points to a model whose files are not there.
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=call["step"])])
    return {"model_id": logged.model_id}


def _end(connection: Connection, state: State, call: Call) -> State:
    connection.client.set_terminated(state["run_id"], call["status"], end_time=call["time_ms"])
    return {}


_DOINGS: Final[dict[str, Doing]] = {
    "start": _start,
    "reopen": _reopen,
    "metrics": _metrics,
    "tags": _tags,
    "files": _files,
    "model": _model,
    "end": _end,
}


def require_run(connection: Connection, run_id: str) -> None:
    """Check that a run exists.

    Raises:
        ModelNotFoundError: It does not.
        RegistryError: The server does not answer.
    """
    try:
        with mlflow_errors(connection.shown, f"Reading run {run_id}"):
            connection.client.get_run(run_id)
    except (ModelNotFoundError, RequestRefusedError):
        raise ModelNotFoundError(
            f"There is no run {run_id} at {connection.shown}.",
            "Check that MLFLOW_TRACKING_URI names the server on which it was made.",
        ) from None
