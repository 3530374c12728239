"""Mirrors finished folders into MLflow.

A finished folder is the record; what MLflow shows is made from it, and can be made again. `publish`
reads what the server already has and adds what is missing. So it may be interrupted at any call and
repeated at any time: after an outage, on another server, or after the database was replaced.

A training is one run. The run is found on the server by the tag `TRAINING_TAG`, the training's
fingerprint, which is known before the first epoch. No local note says which run it is.
"""

import json
import logging
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quality_model.core import storage
from quality_model.core.model_facts import ModelFacts
from quality_model.core.model_files import read_description
from quality_model.core.registry_versions import MODEL_FOLDER
from quality_model.errors import CorruptError, IncompleteError, RegistryError, StorageError
from quality_model.params import RegistryParams, values_sha256
from quality_model.paths import HISTORY_NAME, ProjectPaths
from quality_model.release import decisions
from quality_model.release.flavor import MODEL_NAME, write_mlflow_model
from quality_model.release.mlflow_connection import Connection, connect, mlflow_errors

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Run

    from quality_model.evaluate.evidence import Evaluated
    from quality_model.train import EpochReport

log = logging.getLogger(__name__)

TRAINING_TAG: Final = "quality_model.training"
"""The training's fingerprint; for a model that `train` did not make, the hash of its folder."""

BASELINE_TAG: Final = "quality_model.baseline"
"""Hash of a baseline's dataset, name and measures: equal ones are one run."""

_FIRST_EPOCH_METRIC: Final = "train_loss"
"""All metrics of an epoch are in one call, so the steps of this one are those of all."""

_DIGEST_LENGTH: Final = 36
_BATCH: Final = 100
_BATCH_EPOCHS: Final = 40
"""MLflow takes 1,000 metrics in a call."""

_TAGS: Final = (
    *("package_version", "code_sha256", "git_commit", "git_dirty", "project_commit", "project_dirty"),
    *("data_sha256", "data_rows", "dvc_data_hash"),
)
"""Facts about a training that are tags of its run."""

_LOCK_WAIT_S: Final = 60.0


def publish(
    folder: Path,
    *,
    root: Path,
    registry: RegistryParams,
    training_report: Path | None = None,
    evaluation_report: Path | None = None,
) -> str:
    """Mirror a finished folder into MLflow: a decision, or a model with the reports that are about it.

    A decision: see `decisions.project`. The run of a model gets parameters, tags, the dataset, the metrics
    of each epoch, the metrics of the evaluation, the reports' files, and the model with its signature.
    Baselines of the evaluation become runs of their own, so that they are listed beside the models. A
    second call adds nothing.

    Args:
        folder: Complete folder with model.safetensors and model.json, or the record of a decision.
        root: The project folder.
        registry: Names the experiment.
        training_report: Folder of metrics.json and history.json; by default the project's.
        evaluation_report: Folder of metrics.json and evaluation.json; by default the project's.

    Returns:
        MLflow's id of the run.

    Raises:
        IncompleteError, CorruptError: The folder or a report is not whole.
        RegistryError: The server does not answer, or refuses; call again later.
        UsageError: MLFLOW_TRACKING_URI is not an address.
        StorageError: Another process has been publishing this model for a minute.
    """
    if storage.require_sealed(folder).get("kind") == decisions.KIND:
        return decisions.project(folder, root=root, registry=registry)
    marker = storage.require_sealed(folder, verify=True)
    facts = read_description(folder).facts
    sha256, finished_ms = marker["sha256"], int((folder / storage.MARKER_NAME).stat().st_mtime * 1000)
    # A bundled model is other files than its training made, in half precision.
    kind = "train" if facts.trained_sha256 is None else "bundled"
    if kind == "bundled" or facts.training_fingerprint is None:
        facts = facts.model_copy(update={"training_fingerprint": sha256})
    training = training_report or ProjectPaths(root).training_report
    evaluation = evaluation_report or ProjectPaths(root).evaluation_report
    history = _history_of(facts, training) if kind == "train" else []
    evidence = _evidence_of(sha256, evaluation)
    with _open_run(facts, kind, finished_ms, root, registry) as run:
        if history:
            run.add_epochs(history, finished_ms)
            run.add_metrics(_numbers(storage.read_json(training / "metrics.json"), "best"), finished_ms)
            run.add_files(training, "training")
        if evidence:
            run.add_metrics(_numbers(evidence.summary(), "test"), _now_ms())
            run.add_files(evaluation, "evaluation")
            run.set_tags({"test_data_sha256": evidence.data_sha256})
            _add_baselines(run, evidence, _data_name(facts))
        run.add_model(folder, marker, step=facts.best_epoch or 0)
        run.end("FINISHED", finished_ms)
        return run.run_id


def try_publish(folder: Path, *, root: Path, registry: RegistryParams, **reports: Path) -> str | None:
    """`publish`, for a command whose result is complete without MLflow: a failure is a warning.

    Returns:
        MLflow's id of the run; None if the server did not take everything.
    """
    try:
        return publish(folder, root=root, registry=registry, **reports)
    except (RegistryError, StorageError) as error:
        log.warning("%s Nothing is lost: run `quality-model publish` later.", error.problem)
        return None


def publish_progress(
    facts: ModelFacts, history: Sequence["EpochReport"], *, root: Path, registry: RegistryParams
) -> str:
    """Mirror a training that runs, as far as it is, into the run that `publish` will complete.

    Args:
        facts: What the training is made of, with its fingerprint.
        history: Its epochs so far.
        root: The project folder.
        registry: Names the experiment.

    Returns:
        MLflow's id of the run.

    Raises:
        RegistryError, StorageError: See `publish`.
    """
    with _open_run(facts, "train", _now_ms(), root, registry) as run:
        run.reopen()
        run.add_epochs(history, _now_ms())
        return run.run_id


def end_progress(facts: ModelFacts, status: str, *, root: Path, registry: RegistryParams) -> None:
    """Mark the run of a training that did not finish as ``FAILED`` or ``KILLED``; errors as `publish`."""
    with _open_run(facts, "train", _now_ms(), root, registry) as run:
        run.end(status, _now_ms())


def finished_folders(root: Path) -> list[Path]:
    """The folders of a project that `publish` mirrors."""
    model = ProjectPaths(root).model
    models = [model] if (model / storage.MARKER_NAME).exists() else []
    return [*models, *decisions.finished_records(root)]


def _history_of(facts: ModelFacts, report: Path) -> list["EpochReport"]:
    """The epochs in a training's report, if it is about the model of these facts; else none."""
    if not (report / HISTORY_NAME).exists():
        return []
    from quality_model.train import EpochReport

    summary = storage.read_json(report / "metrics.json")
    if (summary["epochs_run"], summary["validation_loss"]) != (facts.epochs_run, facts.validation_loss):
        return []
    return [EpochReport(**row) for row in storage.read_json(report / HISTORY_NAME)]


def _evidence_of(model_sha256: str, report: Path) -> "Evaluated | None":
    """The evaluation in a report, if it is about this model and of this release."""
    from quality_model.evaluate.evidence import Evaluated

    try:
        found = Evaluated.read(report / "evaluation.json")
    except (IncompleteError, CorruptError):
        return None
    return found if found.model_sha256 == model_sha256 else None


@dataclass(slots=True)
class _MirroredRun:
    """A run of the server, and what the server had when it was read."""

    connection: Connection
    experiment_id: str
    known: "Run"

    @property
    def run_id(self) -> str:
        return str(self.known.info.run_id)

    def set_params(self, params: Mapping[str, Any]) -> None:
        """Add the parameters that the server lacks; one that it has is never changed."""
        from mlflow.entities import Param

        new = [Param(k, str(v)) for k, v in params.items() if k not in self.known.data.params]
        for first in range(0, len(new), _BATCH):
            self.connection.client.log_batch(self.run_id, params=new[first : first + _BATCH])

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set the tags, None left out, whose value the server does not have."""
        from mlflow.entities import RunTag

        texts = {k: str(v) for k, v in tags.items() if v is not None}
        new = [RunTag(k, text) for k, text in texts.items() if self.known.data.tags.get(k) != text]
        self.connection.client.log_batch(self.run_id, tags=new)

    def set_data(self, name: str, sha256: str, context: str, sizes: Mapping[str, int | None]) -> None:
        """Make a dataset the input of the run, if it has none."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        if self.known.inputs and self.known.inputs.dataset_inputs:
            return
        source, profile = json.dumps({"uri": name}), json.dumps({"sha256": sha256, **sizes})
        dataset = Dataset(name, sha256[:_DIGEST_LENGTH], "local", source, profile=profile)
        tag = InputTag("mlflow.data.context", context)
        self.connection.client.log_inputs(self.run_id, [DatasetInput(dataset, [tag])])

    def add_epochs(self, history: Sequence["EpochReport"], time_ms: int) -> None:
        """Add the epochs that the server lacks, so that a resumed training shows each step once."""
        from mlflow.entities import Metric

        client = self.connection.client
        has_some = _FIRST_EPOCH_METRIC in self.known.data.metrics
        points = client.get_metric_history(self.run_id, _FIRST_EPOCH_METRIC) if has_some else []
        steps = {point.step for point in points}
        missing = [report for report in history if report.epoch not in steps]
        for first in range(0, len(missing), _BATCH_EPOCHS):
            metrics = [
                Metric(name, value, time_ms, report.epoch)
                for report in missing[first : first + _BATCH_EPOCHS]
                for name, value in report.metrics().items()
            ]
            client.log_batch(self.run_id, metrics=metrics)

    def add_metrics(self, values: Mapping[str, float], time_ms: int) -> None:
        """Add the metrics without steps whose latest value on the server is another."""
        from mlflow.entities import Metric

        known = self.known.data.metrics
        new = [Metric(name, value, time_ms, 0) for name, value in values.items() if known.get(name) != value]
        for first in range(0, len(new), _BATCH):
            self.connection.client.log_batch(self.run_id, metrics=new[first : first + _BATCH])

    def add_files(self, folder: Path, artifact_path: str) -> None:
        """Upload the files of a folder; a file of the same name is replaced."""
        self.connection.client.log_artifacts(self.run_id, str(folder), artifact_path)

    def add_model(self, folder: Path, marker: Mapping[str, Any], *, step: int) -> None:
        """Log the model, unless it is the run's newest one already, with files of the right length."""
        from mlflow.entities import LoggedModelOutput

        client = self.connection.client
        outputs = self.known.outputs.model_outputs if self.known.outputs else []
        models = [client.get_logged_model(output.model_id) for output in outputs]
        # MLflow returns outputs in no order.
        newest = max(models, key=lambda model: int(model.creation_timestamp), default=None)
        if newest is not None and self._holds(newest, marker):
            return
        logged = client.create_logged_model(
            self.experiment_id,
            name=MODEL_NAME,
            source_run_id=self.run_id,
            tags={"model_sha256": marker["sha256"]},
            params=dict(client.get_run(self.run_id).data.params),
            model_type="image-quality",
        )
        with tempfile.TemporaryDirectory() as scratch:
            written = Path(scratch) / "model"
            write_mlflow_model(folder, written, run_id=self.run_id, model_id=logged.model_id)
            client.log_model_artifacts(logged.model_id, str(written))
        client.finalize_logged_model(logged.model_id, "READY")
        # Last, so that a run never points to a model whose files are not there.
        client.log_outputs(self.run_id, [LoggedModelOutput(logged.model_id, step=step)])

    def _holds(self, logged: "LoggedModel", marker: Mapping[str, Any]) -> bool:
        if logged.tags.get("model_sha256") != marker["sha256"] or str(logged.status) != "READY":
            return False
        files = self.connection.client.list_logged_model_artifacts(logged.model_id, MODEL_FOLDER)
        stored = {Path(file.path).name: file.file_size for file in files}
        return all(stored.get(entry["name"]) == entry["bytes"] for entry in marker["files"])

    def reopen(self) -> None:
        """Let the run be running."""
        if self.known.info.status != "RUNNING":
            self.connection.client.update_run(self.run_id, status="RUNNING")

    def end(self, status: str, time_ms: int) -> None:
        """End the run."""
        if self.known.info.status != status:
            self.connection.client.set_terminated(self.run_id, status, end_time=time_ms)


@contextmanager
def _open_run(
    facts: ModelFacts, kind: str, start_ms: int, root: Path, registry: RegistryParams
) -> Iterator[_MirroredRun]:
    """The run of a training, found or made, and described; one process of a project has one open."""
    with storage.locked(ProjectPaths(root).state / "locks" / "publish.lock", timeout_s=_LOCK_WAIT_S):
        connection = connect(root)
        with mlflow_errors(connection.shown, "Publishing the training"):
            experiment_id = _experiment(connection, registry.experiment)
            key, settings = str(facts.training_fingerprint), facts.settings or {}
            run = _find_or_make(connection, experiment_id, TRAINING_TAG, key, kind, start_ms)
            run.set_params(settings)
            run.set_tags(
                {
                    **{tag: getattr(facts, tag) for tag in _TAGS},
                    "params_sha256": values_sha256(settings),
                    "data_name": _data_name(facts),
                    "kind": kind,
                    "mlflow.source.name": f"quality-model {kind}",
                    "mlflow.source.type": "LOCAL",
                    "mlflow.source.git.commit": facts.git_commit,
                }
            )
            if facts.data_sha256 is not None:
                sizes = {"num_rows": facts.data_rows, "groups": facts.data_groups}
                run.set_data(_data_name(facts), facts.data_sha256, "training", sizes)
            yield run


def _data_name(facts: ModelFacts) -> str:
    return str((facts.settings or {}).get("source.dataset", "training dataset"))


def _find_or_make(
    connection: Connection, experiment_id: str, tag: str, key: str, name: str, start_ms: int
) -> _MirroredRun:
    client = connection.client
    found = client.search_runs(
        [experiment_id],
        f"tags.`{tag}` = '{key}'",
        max_results=1,
        order_by=["attributes.start_time ASC"],
    )
    run = found[0] if found else client.create_run(experiment_id, start_ms, {tag: key}, name)
    return _MirroredRun(connection, experiment_id, client.get_run(run.info.run_id))


def _experiment(connection: Connection, name: str) -> str:
    client = connection.client
    found = client.get_experiment_by_name(name)
    if found is None:
        return str(client.create_experiment(name, artifact_location=connection.artifacts))
    if found.lifecycle_stage != "active":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _add_baselines(run: _MirroredRun, evidence: "Evaluated", data_name: str) -> None:
    """Baselines without training as runs of their own, each once for its dataset and measures."""
    data_sha256 = evidence.data_sha256
    for head, found in evidence.heads.items():
        for name, one in found.baselines.items():
            values = _numbers({"mse": one.mse, "r2": one.r2, "spearman": one.spearman}, f"test.{head}")
            params = {"baseline.head": head, "baseline.name": name}
            key = values_sha256([data_sha256, params, values])
            title = f"baseline/{head}/{name}"
            baseline = _find_or_make(run.connection, run.experiment_id, BASELINE_TAG, key, title, _now_ms())
            if baseline.known.info.status != "FINISHED":
                baseline.set_params(params)
                baseline.set_tags({"kind": "baseline", "data_sha256": data_sha256})
                baseline.set_data(data_name, data_sha256, "evaluation", {})
                baseline.add_metrics(values, _now_ms())
                baseline.end("FINISHED", _now_ms())


def _numbers(values: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """The numbers of nested values, by dotted name."""
    flat: dict[str, float] = {}
    for key, value in values.items():
        name = f"{prefix}.{key}"
        if isinstance(value, Mapping):
            flat |= _numbers(value, name)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[name] = float(value)
    return flat


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
