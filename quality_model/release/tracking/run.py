"""A tracked run: what a training reports, and who compares runs reads.

No method fails because the tracking server is down, slow or refusing: what it does not
take waits in ``state/tracking`` and is delivered later (see `outbox`).
"""

import logging
import math
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

from quality_model.core.storage import require_sealed
from quality_model.errors import ModelNotFoundError, RegistryError
from quality_model.params import RegistryParams
from quality_model.paths import ProjectPaths
from quality_model.records import HEADS
from quality_model.release.mlflow_connection import connect, mlflow_errors, server_name, tracking_uri
from quality_model.release.tracking.mlflow_calls import (
    Call,
    OtherServerError,
    Sender,
    State,
    find_run,
    other_server,
    require_known,
    require_run,
)
from quality_model.release.tracking.outbox import Outbox
from quality_model.release.tracking.provenance import UNKNOWN, code_tags
from quality_model.release.tracking.system_metrics import SystemMetrics

log = logging.getLogger(__name__)

Status = Literal["FINISHED", "FAILED", "KILLED"]

_EPOCH_NUMBERS: Final = ("train_loss", "validation_loss", "learning_rate", "images_per_s")
_EPOCH_PER_HEAD: Final = ("train_mse", "validation_mse", "train_r2", "validation_r2")


@dataclass(frozen=True, slots=True)
class DataFacts:
    """The dataset of a run.

    Args:
        name: For people, such as the source's name.
        sha256: Hash of the whole dataset.
        rows: Samples.
        source: Where it came from: a dataset and its commit, or a path relative to the project.
        context: What the run used it for.
        facts: More JSON values: groups, image size, profile.
    """

    name: str
    sha256: str
    rows: int
    source: str
    context: str = "training"
    facts: dict[str, Any] = field(default_factory=dict)


class Run:
    """One run, open for reports until `end`; use it as a context manager, or call `end` yourself.

    Leaving the context by an error ends the run as FAILED, by Ctrl-C or a termination as KILLED.
    """

    def __init__(self, outbox: Outbox, *, start_ms: int, system_metrics: bool) -> None:
        self._outbox = outbox
        self._system = SystemMetrics(self._log_system, start_ms) if system_metrics else None

    @property
    def key(self) -> str:
        """Names this run in `resume_run`, whether or not the server has it yet."""
        return self._outbox.folder.name

    @property
    def run_id(self) -> str | None:
        """MLflow's id, once the server has the run."""
        found = self._outbox.state.get("run_id")
        return str(found) if found else None

    @property
    def waiting(self) -> int:
        """Reports that the server has not taken yet."""
        return self._outbox.waiting

    def log_epoch(self, epoch: Mapping[str, Any]) -> None:
        """Report an epoch, at step ``epoch["epoch"]``.

        Args:
            epoch: ``epoch`` (1-based), numbers ``train_loss``, ``validation_loss``,
                ``learning_rate``, ``images_per_s``, and dicts per head ``train_mse``,
                ``validation_mse``, ``train_r2``, ``validation_r2``; what is missing is left out.
        """
        values = {name: epoch[name] for name in _EPOCH_NUMBERS if epoch.get(name) is not None}
        for name in _EPOCH_PER_HEAD:
            per_head = epoch.get(name) or {}
            values |= {f"{name}.{head}": per_head[head] for head in HEADS if per_head.get(head) is not None}
        self._put_metrics(values, int(epoch["epoch"]))

    def log_metrics(self, metrics: Mapping[str, Any], prefix: str = "", *, step: int = 0) -> None:
        """Report numbers; nested dicts become dotted names, what is not a number is left out."""
        self._put_metrics(_numbers(metrics, prefix), step)

    def log_files(self, paths: Path | Iterable[Path], artifact_path: str | None = None) -> None:
        """Report files, or all files of folders, into a folder of the run's artifacts."""
        chosen = [paths] if isinstance(paths, Path) else list(paths)
        self._outbox.put({"call": "files", "artifact_path": artifact_path}, chosen)

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set tags; an earlier value is replaced."""
        self._outbox.put({"call": "tags", "values": {key: str(value) for key, value in tags.items()}})

    def log_model(self, model_folder: Path, *, step: int = 0) -> str:
        """Report the model as a logged model with a signature and a dynamic batch.

        Args:
            model_folder: Sealed folder with model.safetensors and model.json.
            step: The epoch that it comes from.

        Returns:
            The hash of the model's files, by which the registry knows it.

        Raises:
            IncompleteError, CorruptError: The files are not what their marker vouches for.
        """
        sha256 = str(require_sealed(model_folder, verify=True)["sha256"])
        self._outbox.put({"call": "model", "sha256": sha256, "step": step}, [model_folder])
        return sha256

    def end(self, status: Status = "FINISHED") -> None:
        """End the run; it can be resumed."""
        if self._system:
            self._system.stop()
        self._outbox.put({"call": "end", "status": status, "time_ms": _now_ms()})

    def require_delivered(self) -> str:
        """Deliver what waits and return MLflow's run id.

        Raises:
            RegistryError: The server does not take it.
        """
        self._outbox.deliver()
        if self.run_id is None:
            raise RegistryError(f"The run {self.key} was never started at the server.")
        return self.run_id

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.end("FINISHED")
        else:
            self.end("FAILED" if issubclass(kind, Exception) else "KILLED")

    def _put_metrics(self, values: Mapping[str, Any], step: int) -> None:
        if values:
            encoded = {key: _encode(float(value)) for key, value in values.items()}
            self._outbox.put({"call": "metrics", "values": encoded, "step": step, "time_ms": _now_ms()})

    def _log_system(self, sample: Mapping[str, float], step: int) -> None:
        self._put_metrics(sample, step)


def start_run(
    root: Path,
    section: RegistryParams,
    *,
    name: str,
    params: Mapping[str, object],
    params_sha256: str,
    data: DataFacts | None = None,
    tags: Mapping[str, object] | None = None,
    system_metrics: bool = True,
    key: str | None = None,
    keep: bool = False,
) -> Run:
    """Begin a run.

    Args:
        root: The project folder.
        section: Names the experiment.
        name: Of the run, for people.
        params: Parameters by dotted key (see `params.flatten`).
        params_sha256: One hash over them; becomes a tag, as do the dataset's hash and the
            git commit, so that two runs show at once what differed.
        data: The dataset, which becomes an input of the run.
        tags: More tags.
        system_metrics: Sample the machine's load meanwhile.
        key: Names a run that may be begun again and is still one run; empty: a new one.
        keep: Leave the first reports on disk, for the server is known not to answer.

    Raises:
        UsageError: MLFLOW_TRACKING_URI is not an address. A server that is down is no error.
    """
    begun_again = key is not None
    key = key or f"run-{uuid.uuid4().hex[:16]}"
    outbox = _outbox(root, key)
    if keep:
        outbox.rest()
    code = code_tags(root)
    all_tags: dict[str, object] = {
        **code,
        "params_sha256": params_sha256,
        "mlflow.source.name": f"quality-model {name}",
        "mlflow.source.type": "LOCAL",
        **(tags or {}),
    }
    if code["git_commit"] != UNKNOWN:
        all_tags["mlflow.source.git.commit"] = code["git_commit"]
    if data:
        all_tags |= {"data_sha256": data.sha256, "data_name": data.name, "data_rows": data.rows}
    start_ms = _now_ms()
    outbox.update(experiment=section.experiment, start_ms=start_ms)
    if not outbox.waiting:  # what waits from an earlier beginning keeps its server
        outbox.update(server=server_name(root))
    if begun_again:
        outbox.update(run_id=None)  # the server says by the key which run it is, if it still has it
    outbox.put(
        {
            "call": "start",
            "experiment": section.experiment,
            "name": name,
            "params": {key: str(value) for key, value in params.items()},
            "tags": {key: str(value) for key, value in all_tags.items()},
            "data": asdict(data) if data else None,
            "time_ms": start_ms,
        }
    )
    return Run(outbox, start_ms=start_ms, system_metrics=system_metrics)


def is_waiting(root: Path, key: str) -> bool:
    """Whether reports of a run wait on disk for the server."""
    return _outbox(root, key).waiting > 0


def run_exists(root: Path, section: RegistryParams, reference: str) -> bool:
    """Whether `resume_run` would find the run; a server that is down counts as not found."""
    try:
        _find(root, section, reference)
    except RegistryError:
        return False
    return True


def resume_run(root: Path, section: RegistryParams, reference: str, *, system_metrics: bool = False) -> Run:
    """Go on with a run, in this or another process.

    Args:
        root: The project folder.
        section: Names the experiment.
        reference: The run's key, or MLflow's run id.
        system_metrics: Sample the machine's load meanwhile.

    Raises:
        ModelNotFoundError: Neither this project nor the server knows it.
        RegistryError: This project does not know it, and the server does not answer.
    """
    outbox = _find(root, section, reference)
    start_ms = int(outbox.state.get("start_ms", _now_ms()))
    outbox.put({"call": "reopen"})
    return Run(outbox, start_ms=start_ms, system_metrics=system_metrics)


def deliver(root: Path) -> dict[str, int]:
    """Send everything that waits on disk, oldest run first.

    Returns:
        Number of reports that the server took, by the run's key; runs without any are left out.

    Raises:
        OtherServerError: Reports are meant for another server. They wait on; the others are sent.
        RegistryError: The server does not take them; what it took is not sent again.
    """
    sent, elsewhere = {}, []
    for folder in sorted(_spool(root).glob("*/"), key=lambda path: path.stat().st_mtime):
        outbox = _outbox(root, folder.name)
        if not outbox.waiting:
            continue
        try:
            sent[folder.name] = outbox.deliver()
        except OtherServerError as error:
            elsewhere.append(error)
    if elsewhere:
        problems = " ".join(error.problem for error in elsewhere)
        raise OtherServerError(f"Delivered {sum(sent.values())} reports. {problems}", elsewhere[0].remedy)
    return sent


def _find(root: Path, section: RegistryParams, reference: str) -> Outbox:
    outbox = _outbox(root, reference)
    if "experiment" in outbox.state:
        return outbox
    connection = connect(root)
    with mlflow_errors(connection.shown, f"Looking for run {reference}"):
        run_id = find_run(connection, section.experiment, reference)
    if run_id is None:
        require_run(connection, reference)
        run_id = reference
    outbox.update(run_id=run_id, experiment=section.experiment)
    return outbox


def _outbox(root: Path, key: str) -> Outbox:
    if not key or not all(letter.isalnum() or letter == "-" for letter in key):
        raise ModelNotFoundError(f"{key!r} is not a run.", "Use the key or the MLflow id of a run.")
    tracking_uri(root)
    return Outbox(_spool(root) / key, _Lazy(root))


def _spool(root: Path) -> Path:
    return ProjectPaths(root).state / "tracking"


class _Lazy:
    """Connects at the first call that is sent, so that a run begins even if nothing can be opened."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._sender: Sender | None = None

    def __call__(self, state: State, call: Call) -> State:
        if self._sender is None:
            here = server_name(self._root)
            is_meant = state.get("server", here) == here
            if not is_meant and not state.get("run_id"):  # it never reached a server that would know it
                raise other_server(state, here)
            connection = connect(self._root)
            if not is_meant:
                require_known(connection, state)
            self._sender = Sender(connection)
        return self._sender(state, call)


def _numbers(values: Mapping[str, Any], prefix: str) -> dict[str, float]:
    flat: dict[str, float] = {}
    for key, value in values.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            flat |= _numbers(value, name)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[name] = float(value)
    return flat


def _encode(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
