"""Adds to a server what it lacks of a run, a logged model or a version: the writing half of `migrate`."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quality_model.release.registry_facts import Fact, Side, inputs_of, point_fact

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, LoggedModel, Run
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

_BATCH, _POINTS = 100, 1000
"""Parameters or tags, and points of metrics, that MLflow takes in a call."""


class Filler:
    """Adds facts of a source to what was made for them; the caller says which are lacking.

    Args:
        source: Where the facts are from.
        client: Of the server that lacks them.
        new: The server's ids of the source's runs and logged models.
    """

    def __init__(self, source: Side, client: "MlflowClient", new: Mapping[str, str]) -> None:
        self.source, self.client, self.new = source, client, new

    def run(self, run: "Run", new: str, lacking: set[Fact]) -> None:
        from mlflow.entities import LoggedModelInput, LoggedModelOutput, Metric, Param, RunTag

        owner, old = f"run {run.info.run_id}", run.info
        params = [
            Param(key, value)
            for key, value in run.data.params.items()
            if Fact(owner, "parameters", key) in lacking
        ]
        tags = [RunTag(key, value) for key, value in self._tags(owner, run.data.tags, lacking).items()]
        for first in range(0, max(len(params), len(tags)), _BATCH):
            part = slice(first, first + _BATCH)
            self.client.log_batch(new, params=params[part], tags=tags[part])
        points = [
            Metric(point.key, point.value, point.timestamp, point.step)
            for point in self.source.points(run)
            if point_fact(owner, point) in lacking
        ]
        for first in range(0, len(points), _POINTS):
            self.client.log_batch(new, metrics=points[first : first + _POINTS])
        inputs = [one for one in inputs_of(run) if self.source.input_fact(owner, one) in lacking]
        datasets = [one for one in inputs if not hasattr(one, "model_id")]
        read = [LoggedModelInput(self.new[one.model_id]) for one in inputs if hasattr(one, "model_id")]
        if inputs:
            self.client.log_inputs(new, datasets, read)
        outputs = [
            LoggedModelOutput(self.new[one.model_id], one.step)
            for one in (run.outputs.model_outputs if run.outputs else ())
            if Fact(owner, "outputs", one.model_id) in lacking
        ]
        if outputs:
            self.client.log_outputs(new, outputs)
        for name, path in self.source.files(old.artifact_uri):
            if Fact(owner, "files", name) in lacking:
                self.client.log_artifact(new, str(path), name.rpartition("/")[0] or None)
        if Fact(owner, "properties", "status") in lacking or Fact(owner, "properties", "end") in lacking:
            if old.end_time:
                self.client.set_terminated(new, old.status, old.end_time)
            else:
                self.client.update_run(new, old.status)
        if Fact(owner, "properties", "in the trash") in lacking:
            self.client.delete_run(new)

    def model(self, model: "LoggedModel", new: str, lacking: set[Fact]) -> None:
        from mlflow.entities import Metric

        owner = f"logged model {model.model_id}"
        params = {
            key: value for key, value in model.params.items() if Fact(owner, "parameters", key) in lacking
        }
        if params:
            self.client.log_model_params(new, params)
        if tags := self._tags(owner, model.tags, lacking):
            self.client.set_logged_model_tags(new, tags)
        for point in model.metrics or ():
            if self.source.model_point(owner, point) in lacking:
                run_id = self.new[point.run_id or ""]
                about = (new, point.dataset_name, point.dataset_digest, run_id)
                values = (point.key, point.value, point.timestamp, point.step)
                self.client.log_batch(run_id, metrics=[Metric(*values, *about)])
        for name, path in self.source.files(model.artifact_location):
            if Fact(owner, "files", name) in lacking:
                with tempfile.TemporaryDirectory() as folder:
                    Path(folder, path.name).symlink_to(path)
                    self.client.log_model_artifacts(new, folder, name.rpartition("/")[0] or None)
        if Fact(owner, "properties", "status") in lacking:
            self.client.finalize_logged_model(new, model.status)

    def version(self, version: "ModelVersion", lacking: set[Fact]) -> None:
        name, number = version.name, str(version.version)
        owner = f"version {number} of {name}"
        for key, value in self._tags(owner, version.tags, lacking).items():
            self.client.set_model_version_tag(name, number, key, value)
        if Fact(owner, "properties", "description") in lacking:
            self.client.update_model_version(name, number, version.description)

    def registered(self, one: "RegisteredModel", lacking: set[Fact]) -> None:
        owner = f"registered model {one.name}"
        for key, value in self._tags(owner, one.tags, lacking).items():
            self.client.set_registered_model_tag(one.name, key, value)
        if Fact(owner, "properties", "description") in lacking:
            self.client.update_registered_model(one.name, one.description)
        for alias, number in one.aliases.items():
            if Fact(owner, "aliases", alias) in lacking:
                self.client.set_registered_model_alias(one.name, alias, str(number))

    def experiment(self, one: "Experiment", new: str, lacking: set[Fact]) -> None:
        owner = f"experiment {one.name}"
        for key, value in self._tags(owner, one.tags, lacking).items():
            self.client.set_experiment_tag(new, key, value)
        if Fact(owner, "properties", "in the trash") in lacking:
            self.client.delete_experiment(new)

    def _tags(self, owner: str, tags: Any, lacking: set[Fact]) -> dict[str, str]:
        """The tags that are lacking, with the target's ids."""
        names = {fact.name for fact in lacking if fact.owner == owner and fact.kind in ("tags", "decisions")}
        return {key: self.new.get(str(value), str(value)) for key, value in tags.items() if key in names}
