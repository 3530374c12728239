"""What an MLflow database or server holds, as facts that can be compared with those of another one.

A fact is a value with an owner, a kind and a name: parameter ``train.epochs`` of a run is ``12``. Servers
give runs and models ids of their own: facts name both by the ids of the side that they came from.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

from quality_model.core.models import own_artifacts
from quality_model.core.storage import file_sha256
from quality_model.release.mlflow_connection import Connection, stored_path

if TYPE_CHECKING:
    from mlflow.entities import Experiment, LoggedModel, LoggedModelOutput, Metric, Run
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

EARLIER_ID: Final = "quality_model.earlier_id"
"""Tag of what was migrated: the id of a run or model, the number of a version, where it came from."""

EARLIER_RUN: Final = "quality_model.earlier_run_id"
"""Tag of a version that was migrated: the id that its run had."""

REPEATED: Final = "repeated"
"""Value of that tag for a run that a server made twice because its first answer was lost."""

HIGHEST: Final = "quality_model.highest_version"
"""Tag of a registered model: the highest number that it gave away where it came from."""

MODEL_VERSIONS: Final = "mlflow.modelVersions"
"""MLflow's tag of a logged model; a server adds to it when a version is made."""

KINDS: Final = (
    *("experiments", "runs", "logged models", "registered models", "versions", "aliases", "decisions"),
    *("parameters", "tags", "metric points", "inputs", "outputs", "files", "properties"),
)
"""The kinds of facts: what there is, then what it holds."""

_LEASES: Final = "changing."
"""Beginning of the tags by which one at a time changes an alias on a server."""

_OURS: Final = frozenset({EARLIER_ID, EARLIER_RUN, HIGHEST})
_PAGE: Final = 500


class Fact(NamedTuple):
    """What a value is of: ``owner`` for people, such as ``run 0f3a``; ``kind`` in the plural, for a table."""

    owner: str
    kind: str
    name: str = ""


Facts = dict[Fact, str]


@dataclass(frozen=True, slots=True)
class Content:
    """What a registry holds, by the names of experiments and registered models; all but empty experiments."""

    experiments: "dict[str, Experiment]"
    runs: "dict[str, list[Run]]"
    models: "dict[str, list[LoggedModel]]"
    registered: "dict[str, RegisteredModel]"
    versions: "dict[str, dict[int, ModelVersion]]"


@dataclass(slots=True)
class Side:
    """One of two registries that are compared.

    Attributes:
        connection: Its client.
        root: The project folder of its local files.
        ids: The ids that its runs and logged models have here, with those that facts name them by. Links to
            others, which were deleted, are not compared.
    """

    connection: Connection
    root: Path
    ids: dict[str, str] = field(default_factory=dict)

    def named(self, value: str) -> str:
        """A value that may be an id of this side, by the id that facts name."""
        return self.ids.get(value, value)

    # -- what there is

    def content(self) -> Content:
        """All that there is; facts name its runs and models by the ids that they have here."""
        from mlflow.entities import ViewType

        search = self.connection.client.search_experiments
        experiments = {one.name: one for one in _pages(lambda t: search(ViewType.ALL, _PAGE, page_token=t))}
        runs = {name: self.runs(one.experiment_id) for name, one in experiments.items()}
        models = {name: self.models(one.experiment_id) for name, one in experiments.items()}
        used = [name for name in experiments if runs[name] or models[name]]
        find = self.connection.client.search_registered_models
        registered = {one.name: one for one in _pages(lambda t: find(max_results=_PAGE, page_token=t))}
        ids = [run.info.run_id for name in used for run in runs[name]]
        ids += [model.model_id for name in used for model in models[name]]
        self.ids = dict(zip(ids, ids, strict=True))
        return Content(
            {name: experiments[name] for name in used},
            {name: runs[name] for name in used},
            {name: models[name] for name in used},
            registered,
            {name: self.versions(name) for name in registered},
        )

    def runs(self, experiment_id: str) -> "list[Run]":
        """All runs of an experiment, the earliest first; those in the trash too."""
        from mlflow.entities import ViewType

        search, order = self.connection.client.search_runs, ["attributes.start_time ASC"]
        return _pages(lambda token: search([experiment_id], "", ViewType.ALL, _PAGE, order, token))

    def models(self, experiment_id: str) -> "list[LoggedModel]":
        """The logged models of an experiment, the earliest first, without those in the trash."""
        search = self.connection.client.search_logged_models
        found: list[LoggedModel] = _pages(
            lambda token: search([experiment_id], max_results=_PAGE, page_token=token)
        )
        return sorted(found, key=lambda model: int(model.creation_timestamp))

    def versions(self, name: str) -> "dict[int, ModelVersion]":
        """The versions of a registered model by number, the lowest first."""
        search = self.connection.client.search_model_versions
        found = _pages(lambda token: search(f"name='{name}'", max_results=_PAGE, page_token=token))
        return {int(one.version): one for one in sorted(found, key=lambda one: int(one.version))}

    # -- facts

    def of_experiment(self, experiment: "Experiment") -> Facts:
        """Its tags, and whether it is in the trash."""
        owner = f"experiment {experiment.name}"
        return {
            Fact(owner, "experiments"): "",
            **self._tags(owner, experiment.tags),
            **_filled(owner, {"in the trash": _trash(experiment.lifecycle_stage)}),
        }

    def of_run(self, run: "Run") -> Facts:
        """Parameters, tags, every point of every metric, inputs, outputs, status, times and files."""
        info, data = run.info, run.data
        owner = f"run {self.named(info.run_id)}"
        state = {
            "name": info.run_name,
            "status": "" if info.status == "RUNNING" else info.status,
            "start": info.start_time,
            "end": info.end_time,
            "in the trash": _trash(info.lifecycle_stage),
        }
        return {
            Fact(owner, "runs"): "",
            **_filled(owner, state),
            **{Fact(owner, "parameters", key): value for key, value in data.params.items()},
            **self._tags(owner, data.tags),
            **{point_fact(owner, point): "" for point in self.points(run)},
            **{self.input_fact(owner, one): "" for one in self.inputs(run)},
            **{Fact(owner, "outputs", self.ids[one.model_id]): str(one.step) for one in self.outputs(run)},
            **self._files(owner, info.artifact_uri),
        }

    def of_model(self, model: "LoggedModel", experiment: str) -> Facts:
        """Run, parameters, tags, metrics, status and files of a logged model."""
        owner = f"logged model {self.named(model.model_id)}"
        state = {
            "name": model.name,
            "experiment": experiment,
            "model type": model.model_type,
            "status": "" if str(model.status) == "PENDING" else str(model.status),
            "run": self.ids.get(model.source_run_id or ""),
        }
        return {
            Fact(owner, "logged models"): "",
            **_filled(owner, state),
            **{Fact(owner, "parameters", key): value for key, value in model.params.items()},
            **self._tags(owner, model.tags),
            **{self.model_point(owner, point): "" for point in self.model_points(model)},
            **self._files(owner, model.artifact_location),
        }

    def of_registered(self, model: "RegisteredModel") -> Facts:
        """Description, tags (decisions among them) and aliases."""
        owner = f"registered model {model.name}"
        return {
            Fact(owner, "registered models"): "",
            **_filled(owner, {"description": model.description}),
            **self._tags(owner, model.tags),
            **{Fact(owner, "aliases", name): str(number) for name, number in model.aliases.items()},
        }

    def of_version(self, version: "ModelVersion") -> Facts:
        """Run, source, description and tags."""
        owner = f"version {version.version} of {version.name}"
        state = {
            "description": version.description,
            "run": self.ids.get(version.run_id or ""),
            "source": self.source(version),
        }
        return {
            Fact(owner, "versions"): "",
            **_filled(owner, state),
            **self._tags(owner, version.tags),
        }

    def source(self, version: "ModelVersion") -> str:
        """Where the files of a version are, as facts name it: a logged model, or a place below a run."""
        source = str(version.source or "")
        prefix, separator, model_id = source.rpartition("models:/")
        if separator and not prefix:
            return f"models:/{self.named(model_id)}"
        if version.run_id in self.ids:
            place = self.connection.client.get_run(version.run_id).info.artifact_uri.rstrip("/")
            if source.startswith(f"{place}/"):
                return f"runs:/{self.named(version.run_id)}{source.removeprefix(place)}"
            if source.startswith(f"runs:/{version.run_id}"):
                return f"runs:/{self.named(version.run_id)}{source.removeprefix(f'runs:/{version.run_id}')}"
        return source

    def points(self, run: "Run") -> "Iterator[Metric]":
        """Every point of every metric of a run."""
        for key in run.data.metrics:
            yield from self.connection.client.get_metric_history(run.info.run_id, key)

    def model_points(self, model: "LoggedModel") -> "list[Metric]":
        """The metrics of a logged model, by the runs that measured them."""
        return [point for point in model.metrics or () if point.run_id in self.ids]

    def inputs(self, run: "Run") -> list[Any]:
        """The datasets and the logged models that a run read, as MLflow's entities."""
        found = [*run.inputs.dataset_inputs, *run.inputs.model_inputs] if run.inputs else []
        return [one for one in found if getattr(one, "model_id", None) in {None, *self.ids}]

    def outputs(self, run: "Run") -> "list[LoggedModelOutput]":
        """The logged models that a run made."""
        found = run.outputs.model_outputs if run.outputs else []
        return [one for one in found if one.model_id in self.ids]

    def model_point(self, owner: str, point: "Metric") -> Fact:
        """A point of a metric of a logged model."""
        about = f"{self.named(point.run_id or '')} {point.dataset_name or ''} {point.dataset_digest or ''}"
        return point_fact(owner, point, f" by {about}")

    def input_fact(self, owner: str, one: Any) -> Fact:
        """A dataset, by all that is known of it, or a logged model that a run read."""
        model_id = getattr(one, "model_id", None)
        return Fact(owner, "inputs", self.named(model_id) if model_id else _json(one.to_dictionary()))

    def files(self, location: str) -> Iterator[tuple[str, Path]]:
        """Name and path of each file below a location; those of a server are downloaded for a while."""
        parts = urlsplit(location)
        if parts.scheme in ("", "file"):
            yield from _walk(own_artifacts(self.root, stored_path(location)))
            return
        from mlflow.artifacts import download_artifacts, list_artifacts

        uri = self.connection.uri
        if not list_artifacts(artifact_uri=location, tracking_uri=uri):
            return
        with tempfile.TemporaryDirectory() as scratch:
            yield from _walk(
                Path(
                    download_artifacts(
                        artifact_uri=location, dst_path=scratch, tracking_uri=uri, registry_uri=uri
                    )
                )
            )

    def _files(self, owner: str, location: str) -> Facts:
        return {
            Fact(owner, "files", name): f"{file_sha256(path)} {path.stat().st_size}"
            for name, path in self.files(location)
        }

    def _tags(self, owner: str, tags: Mapping[str, Any]) -> Facts:
        shown = {
            key: self.named(str(value))
            for key, value in tags.items()
            if key not in _OURS and not key.startswith(_LEASES)
        }
        if MODEL_VERSIONS in shown:
            shown[MODEL_VERSIONS] = _json(json.loads(shown[MODEL_VERSIONS]))
        return {
            Fact(owner, "decisions" if key.startswith("decision.") else "tags", key): value
            for key, value in shown.items()
        }


def point_fact(owner: str, point: "Metric", about: str = "") -> Fact:
    """A point of a metric: its value is in its name, because MLflow takes several at one step and time."""
    return Fact(
        owner,
        "metric points",
        f"{point.key} = {point.value!r} in step {point.step} at {point.timestamp}{about}",
    )


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _filled(owner: str, state: Mapping[str, Any]) -> Facts:
    return {Fact(owner, "properties", key): str(value) for key, value in state.items() if value}


def _trash(stage: str) -> str:
    return "" if stage == "active" else "yes"


def _pages(ask: Callable[[str | None], Any]) -> list[Any]:
    """What a search of MLflow finds, all pages of it."""
    page = ask(None)
    found = list(page)
    while page.token:
        page = ask(page.token)
        found += page
    return found


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path
