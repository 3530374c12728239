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
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from quality_model.core import storage
from quality_model.core.model_files import read_description
from quality_model.core.provenance import ModelFacts
from quality_model.errors import CorruptError, IncompleteError, RegistryError, StorageError, missing_extra
from quality_model.params import RegistryParams, values_sha256
from quality_model.paths import HISTORY_NAME, MODEL_FOLDER, ProjectPaths
from quality_model.release import decisions
from quality_model.release.flavor import MODEL_NAME, write_mlflow_model
from quality_model.release.mlflow_connection import connect, mlflow_errors
from quality_model.release.registry import Registry, newest_model

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

    from quality_model.evaluate.evidence import Evaluated
    from quality_model.train import EpochReport

log = logging.getLogger(__name__)

TRAINING_TAG: Final = "quality_model.training"
"""The training's fingerprint; for a model that `train` did not make, the hash of its folder."""

BASELINE_TAG: Final = "quality_model.baseline"
"""Hash of a training and a baseline's dataset, head and name: equal ones are one run."""

_BESIDE_BASELINES: Final = "baseline_samples"
"""Prefix of what is measured on the samples of the baselines, of the model too."""

_FIRST_EPOCH_METRIC: Final = "train_loss"
"""All metrics of an epoch are in one call, so the steps of this one are those of all."""

_DIGEST_LENGTH: Final = 36
_BATCH: Final = 100
"""Parameters, tags or metrics in a call; MLflow takes no more parameters and tags, and 1,000 metrics."""

_BATCH_EPOCHS: Final = 40

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
    Baselines of the evaluation become child runs of it, measured on the same samples by the metrics
    ``baseline_samples.*``. A second call adds nothing.

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
        name = decisions.read_record(folder).model.name
        return decisions.project(folder, Registry(root, registry.model_copy(update={"model_name": name})))
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
    with _open_run(facts, kind, finished_ms, root, registry) as (client, run):
        if history:
            _add_epochs(client, run, history, finished_ms)
            numbers = _numbers(storage.read_json(training / "metrics.json"), "best")
            _add(client, run, metrics=numbers, time_ms=finished_ms)
            client.log_artifacts(run.info.run_id, str(training), "training")
        if evidence:
            tags = {"test_data_sha256": evidence.data_sha256}
            beside: dict[str, Any] = {
                head: {"r2": found.r2_beside_baselines} for head, found in evidence.heads.items()
            }
            metrics = _numbers(evidence.summary(), "test") | _numbers(beside, _BESIDE_BASELINES)
            _add(client, run, tags=tags, metrics=metrics)
            client.log_artifacts(run.info.run_id, str(evaluation), "evaluation")
            _add_baselines(client, run, evidence, facts.data_name)
        _add_model(client, run, folder, marker, step=facts.best_epoch or 0)
        _set_status(client, run, "FINISHED", finished_ms)
        return str(run.info.run_id)


def try_publish(folder: Path, *, root: Path, registry: RegistryParams, **reports: Path) -> str | None:
    """`publish`, for a command whose result is complete without MLflow: a failure is a warning.

    Returns:
        MLflow's id of the run; None if the server did not take everything.
    """
    try:
        return publish(folder, root=root, registry=registry, **reports)
    except (RegistryError, StorageError) as error:
        log.warning("%s Nothing is lost: run `quality-model publish` later.", error.problem)
    except ModuleNotFoundError as error:
        if (missing := missing_extra(error)) is None:
            raise
        log.warning("MLflow does not show this. %s", missing)
    return None


def publish_progress(
    facts: ModelFacts,
    history: Sequence["EpochReport"],
    *,
    root: Path,
    registry: RegistryParams,
    status: str = "RUNNING",
) -> str:
    """Mirror a training, as far as it is, into the run that `publish` will complete.

    Args:
        facts: What the training is made of, with its fingerprint.
        history: Its epochs so far.
        root: The project folder.
        registry: Names the experiment.
        status: ``FAILED`` or ``KILLED`` for a training that does not run any more.

    Returns:
        MLflow's id of the run.

    Raises:
        RegistryError, StorageError: See `publish`.
    """
    with _open_run(facts, "train", _now_ms(), root, registry) as (client, run):
        _set_status(client, run, status, _now_ms())
        _add_epochs(client, run, history, _now_ms())
        return str(run.info.run_id)


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


@contextmanager
def _open_run(
    facts: ModelFacts, kind: str, start_ms: int, root: Path, registry: RegistryParams
) -> Iterator[tuple["MlflowClient", "Run"]]:
    """The run of a training, found or made, and described; one process of a project has one open.

    The run says what the server had when it was read.
    """
    with storage.locked(ProjectPaths(root).state / "locks" / "publish.lock", timeout_s=_LOCK_WAIT_S):
        connection = connect(root)
        client = connection.client
        with mlflow_errors(connection.shown, "Publishing the training"):
            experiment = client.get_experiment_by_name(registry.experiment)
            if experiment is None:
                experiment = _make_experiment(client, registry.experiment, connection.artifacts)
            elif experiment.lifecycle_stage != "active":
                client.restore_experiment(experiment.experiment_id)
            key, settings = str(facts.training_fingerprint), facts.settings or {}
            about, title = {TRAINING_TAG: key}, facts.title(kind)
            run = _find_or_make(client, experiment.experiment_id, about, title, start_ms)
            tags = {
                **{tag: getattr(facts, tag) for tag in _TAGS},
                "params_sha256": values_sha256(settings),
                "data_name": facts.data_name,
                "kind": kind,
                "mlflow.source.name": f"quality-model {kind}",
                "mlflow.source.type": "LOCAL",
                "mlflow.source.git.commit": facts.git_commit,
            }
            _add(client, run, params=settings, tags=tags)
            if facts.data_sha256 is not None:
                sizes = {"num_rows": facts.data_rows, "groups": facts.data_groups}
                _add_data(client, run, facts.data_name, facts.data_sha256, "training", sizes)
            yield client, run


def _make_experiment(client: "MlflowClient", name: str, artifacts: str | None) -> "Experiment":
    from mlflow.exceptions import MlflowException

    try:
        return client.get_experiment(client.create_experiment(name, artifact_location=artifacts))
    except MlflowException:
        experiment = client.get_experiment_by_name(name)
        if experiment is None:  # else another process made it meanwhile
            raise
        return experiment


def _find_or_make(
    client: "MlflowClient", experiment_id: str, about: Mapping[str, str], name: str, start_ms: int
) -> "Run":
    """The run with these tags."""
    asked = " and ".join(f"tags.`{tag}` = '{key}'" for tag, key in about.items())
    order = ["attributes.start_time ASC"]
    found = client.search_runs([experiment_id], asked, max_results=1, order_by=order)
    run = found[0] if found else client.create_run(experiment_id, start_ms, dict(about), name)
    return client.get_run(run.info.run_id)


def _add(
    client: "MlflowClient",
    run: "Run",
    *,
    params: Mapping[str, Any] = MappingProxyType({}),
    tags: Mapping[str, Any] = MappingProxyType({}),
    metrics: Mapping[str, float] = MappingProxyType({}),
    time_ms: int | None = None,
) -> None:
    """Add what the run lacks: a parameter that it has is never changed, and a tag is not set to None."""
    from mlflow.entities import Metric, Param, RunTag

    known, now_ms = run.data, _now_ms() if time_ms is None else time_ms
    texts = {key: str(value) for key, value in tags.items() if value is not None}
    new_params = [Param(key, str(value)) for key, value in params.items() if key not in known.params]
    new_tags = [RunTag(key, text) for key, text in texts.items() if known.tags.get(key) != text]
    new_metrics = [
        Metric(k, value, now_ms, 0) for k, value in metrics.items() if known.metrics.get(k) != value
    ]
    for first in range(0, max(len(new_params), len(new_tags), len(new_metrics)), _BATCH):
        part = slice(first, first + _BATCH)
        client.log_batch(run.info.run_id, new_metrics[part], new_params[part], new_tags[part])


def _add_data(
    client: "MlflowClient", run: "Run", name: str, sha256: str, context: str, sizes: Mapping[str, int | None]
) -> None:
    """Make a dataset the input of the run, if it has none."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    if run.inputs and run.inputs.dataset_inputs:
        return
    source, profile = json.dumps({"uri": name}), json.dumps({"sha256": sha256, **sizes})
    dataset = Dataset(name, sha256[:_DIGEST_LENGTH], "local", source, profile=profile)
    tag = InputTag("mlflow.data.context", context)
    client.log_inputs(run.info.run_id, [DatasetInput(dataset, [tag])])


def _add_epochs(client: "MlflowClient", run: "Run", history: Sequence["EpochReport"], time_ms: int) -> None:
    """Add the epochs that the run lacks, so that a resumed training shows each step once."""
    from mlflow.entities import Metric

    has_some = _FIRST_EPOCH_METRIC in run.data.metrics
    points = client.get_metric_history(run.info.run_id, _FIRST_EPOCH_METRIC) if has_some else []
    steps = {point.step for point in points}
    missing = [report for report in history if report.epoch not in steps]
    for first in range(0, len(missing), _BATCH_EPOCHS):
        metrics = [
            Metric(name, value, time_ms, report.epoch)
            for report in missing[first : first + _BATCH_EPOCHS]
            for name, value in report.metrics().items()
        ]
        client.log_batch(run.info.run_id, metrics=metrics)


def _add_model(
    client: "MlflowClient", run: "Run", folder: Path, marker: Mapping[str, Any], *, step: int
) -> None:
    """Log the model, unless it is the run's newest one already, with files of the right length."""
    from mlflow.entities import LoggedModelOutput

    run_id, newest = run.info.run_id, newest_model(client, run)
    if newest is not None and newest.tags.get("model_sha256") == marker["sha256"]:
        files = client.list_logged_model_artifacts(newest.model_id, MODEL_FOLDER)
        stored = {Path(file.path).name: file.file_size for file in files}
        is_whole = all(stored.get(entry["name"]) == entry["bytes"] for entry in marker["files"])
        if is_whole and str(newest.status) == "READY":
            return
    logged = client.create_logged_model(
        run.info.experiment_id,
        name=MODEL_NAME,
        source_run_id=run_id,
        tags={"model_sha256": marker["sha256"]},
        params=dict(client.get_run(run_id).data.params),
        model_type="image-quality",
    )
    with tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch) / "model"
        write_mlflow_model(folder, written, run_id=run_id, model_id=logged.model_id)
        client.log_model_artifacts(logged.model_id, str(written))
    client.finalize_logged_model(logged.model_id, "READY")
    # Last, so that a run never points to a model whose files are not there.
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=step)])


def _set_status(client: "MlflowClient", run: "Run", status: str, time_ms: int) -> None:
    if run.info.status == status:
        return
    if status == "RUNNING":
        client.update_run(run.info.run_id, status)
    else:
        client.set_terminated(run.info.run_id, status, time_ms)


def _add_baselines(client: "MlflowClient", run: "Run", evidence: "Evaluated", data_name: str) -> None:
    """Baselines without training as child runs, which MLflow lists and compares with it."""
    data_sha256, training = evidence.data_sha256, run.data.tags.get(TRAINING_TAG)
    for head, found in evidence.heads.items():
        for name, one in found.baselines.items():
            measures = {"mse": one.mse, "r2": one.r2, "spearman": one.spearman}
            about = {
                BASELINE_TAG: values_sha256([training, data_sha256, head, name]),
                "mlflow.parentRunId": run.info.run_id,
            }
            own = _find_or_make(client, run.info.experiment_id, about, f"{head}: {name}", _now_ms())
            _add(
                client,
                own,
                params={"baseline.head": head, "baseline.name": name},
                tags={"kind": "baseline", "data_sha256": data_sha256},
                metrics=_numbers({head: measures}, _BESIDE_BASELINES),
            )
            _add_data(client, own, data_name, data_sha256, "evaluation", {})
            _set_status(client, own, "FINISHED", _now_ms())


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
