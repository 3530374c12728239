"""The registered model: its versions, the files of each, and the aliases ``candidate`` and ``champion``.

Aliases only, no stages: ``candidate`` is the newest model that passed its gate, ``champion`` the one that
scoring uses. The alias in the registry alone says who is champion, so an alias that was moved in MLflow's
UI is obeyed. MLflow's aliases are last-writer-wins: every change of ours is made under a lock between
processes, on what is read inside it, and read again afterwards.
"""

import json
import shutil
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import unquote, urlsplit

from quality_model.core.model_files import WEIGHTS_NAME
from quality_model.core.models import parse_reference
from quality_model.core.storage import flush_folder, locked, require_sealed
from quality_model.errors import CorruptError, IncompleteError, ModelNotFoundError, RegistryError
from quality_model.params import RegistryParams
from quality_model.paths import MODEL_FOLDER, ProjectPaths
from quality_model.records import ModelRef
from quality_model.release.mlflow_connection import RequestRefusedError, as_current, connect, mlflow_errors
from quality_model.release.registry_facts import EARLIER_ID, EARLIER_RUN

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from mlflow.entities.model_registry import RegisteredModel

Alias = Literal["candidate", "champion"]

_COPIED_TAGS: Final = (
    *("data_sha256", "data_name", "params_sha256"),
    *("package_version", "code_sha256", "git_commit", "git_dirty", "project_commit"),
)
"""Tags of the run that its version carries too."""

_AWAIT_S: Final = 60
_DOWNLOAD_WAIT_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version of the registered model, as it was when it was read.

    ``tags`` are MLflow's; ``model_sha256`` among them is the hash of the model's folder.
    """

    name: str
    version: str
    run_id: str | None
    model_id: str | None
    aliases: tuple[str, ...]
    tags: Mapping[str, str]

    @property
    def model_sha256(self) -> str:
        """Hash of the model's folder; empty for a version that this project did not register."""
        return self.tags.get("model_sha256", "")

    @property
    def run_ids(self) -> tuple[str | None, ...]:
        """The run's id, and the one that it had before the registry was migrated."""
        return self.run_id, *filter(None, [self.tags.get(EARLIER_RUN)])


@dataclass(frozen=True, slots=True)
class ResolvedModel(ModelVersion):
    """A version with its files: ``path`` is a complete model folder, whose hash is ``model_sha256``."""

    path: Path

    @property
    def ref(self) -> ModelRef:
        """The version's identity, which scores and decisions name."""
        return ModelRef(self.name, self.version, self.run_id, weights_sha256(self.path))


def weights_sha256(folder: Path) -> str:
    """Return the hash of the weights of a complete model folder, as its completion marker has it.

    Raises:
        IncompleteError, CorruptError: The folder is not complete, or holds no model.
    """
    for entry in require_sealed(folder)["files"]:
        if entry["name"] == WEIGHTS_NAME:
            return str(entry["sha256"])
    raise CorruptError(f"{folder} holds no {WEIGHTS_NAME}.", "Name the folder of a trained model.")


def newest_model(client: "MlflowClient", run: "Run") -> "LoggedModel | None":
    """Return the model that a run logged last; MLflow lists them in no order."""
    outputs = run.outputs.model_outputs if run.outputs else []
    models = [client.get_logged_model(output.model_id) for output in outputs]
    return max(models, key=lambda model: int(model.creation_timestamp), default=None)


class Registry:
    """The versions of one registered model.

    Args:
        root: The project folder: locks, downloaded models and, by default, the database.
        section: Name of the model and the longest wait for the lock.

    Raises:
        UsageError: MLFLOW_TRACKING_URI is not usable.
        RegistryError: The database cannot be opened. So do all methods when MLflow does not answer.
    """

    def __init__(self, root: Path, section: RegistryParams) -> None:
        self.root, self.section, self.name = root, section, section.model_name
        self.connection = connect(root)
        self.client = self.connection.client
        self.errors = partial(mlflow_errors, self.connection.shown)

    # -- reading

    def versions(self) -> list[ModelVersion]:
        """Return every version, oldest first; none if nothing was ever registered."""
        with self.errors("Listing the model's versions"):
            found = self.client.search_model_versions(f"name='{self.name}'")
        return sorted(map(_version, found), key=lambda version: int(version.version))

    def find(self, reference: str) -> ModelVersion:
        """Return the version that a reference names: see `parse_reference`.

        Raises:
            ModelNotFoundError: It names nothing here; the message lists what there is.
        """
        name, alias, number = parse_reference(reference)
        if name not in (None, self.name):
            raise ModelNotFoundError(
                f"{reference!r} names the model {name!r}; this project's is {self.name!r}.",
                "Set registry.model_name in params.yaml, or use a reference without a name.",
            )
        found = self.look_up(alias, number)
        if found is None:
            raise ModelNotFoundError(f"{reference!r} names no version of {self.name}.", self._what_there_is())
        return found

    def look_up(self, alias: str | None = None, number: str | None = None) -> ModelVersion | None:
        """Return the version that an alias names, or that of a number; None if there is none."""
        try:
            with self.errors(f"Reading {alias or f'version {number}'}"):
                if number is not None:
                    return _version(self.client.get_model_version(self.name, number))
                return _version(self.client.get_model_version_by_alias(self.name, alias or ""))
        except (ModelNotFoundError, RequestRefusedError):
            return None

    def champion(self) -> ModelVersion | None:
        """Return the version that scoring uses, or None."""
        return self.look_up("champion")

    def resolve(self, reference: str) -> ResolvedModel:
        """Return the version that a reference names, with its files on this machine, their hash checked.

        Raises:
            ModelNotFoundError: See `find`.
            RegistryError: Its files are not available.
            CorruptError, IncompleteError: They are not those that were registered.
        """
        return self.fetch(self.find(reference))

    def fetch(self, version: ModelVersion) -> ResolvedModel:
        """Find the files of a version, or download them once; errors as of `resolve`."""
        shown = f"version {version.version} of {self.name}"
        if version.model_id is None:
            raise RegistryError(
                f"V{shown[1:]} was not registered by this project: it has no logged model.",
                "Use another version.",
            )
        with self.errors(f"Finding the files of {shown}"):
            location = self.client.get_logged_model(version.model_id).artifact_location
        parts = urlsplit(location)
        if parts.scheme in ("", "file"):
            folder = Path(unquote(parts.path) if parts.scheme else location) / MODEL_FOLDER
            if not folder.is_dir():
                raise RegistryError(
                    f"The files of {shown} are not at {folder.parents[1]}.",
                    "Bring that folder back, use another version, or train again.",
                )
        else:
            folder = ProjectPaths(self.root).state / "models" / self.name / version.version
            with locked(folder.with_name(f"{version.version}.lock"), timeout_s=_DOWNLOAD_WAIT_S):
                self._download(location, folder, version.model_sha256)
        sha256 = str(require_sealed(folder, verify=True)["sha256"])
        if sha256 != version.model_sha256:
            raise CorruptError(
                f"The files of {shown} are not those that were registered: "
                f"sha256 {sha256[:12]}, registered {version.model_sha256[:12] or 'none'}.",
                "Use another version, or train again.",
            )
        return ResolvedModel(
            version.name,
            version.version,
            version.run_id,
            version.model_id,
            version.aliases,
            version.tags,
            folder,
        )

    def find_run(self, run_id: str) -> "Run | None":
        """Return the run with this id, or the one that had it before the registry was migrated."""
        from mlflow.exceptions import MlflowException

        with self.errors(f"Reading run {run_id}"):
            try:
                return self.client.get_run(run_id)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
            experiment = self.client.get_experiment_by_name(self.section.experiment)
            if experiment is None:
                return None
            asked = f"tags.`{EARLIER_ID}` = '{run_id}'"
            found = self.client.search_runs([experiment.experiment_id], asked, max_results=1)
        return found[0] if found else None

    def tags(self) -> Mapping[str, str]:
        """Return the tags of the registered model; none if nothing was ever registered."""
        found = self._registered()
        return dict(found.tags) if found else {}

    # -- writing

    def changing(self) -> AbstractContextManager[None]:
        """Hold the lock for a change of an alias, and for what is read to decide on it.

        Raises:
            StorageError: Another process of this machine holds it for too long.
        """
        path = ProjectPaths(self.root).state / "locks" / f"registry-{self.name}.lock"
        return locked(path, timeout_s=self.section.lock_timeout_s)

    def register(self, run_id: str) -> ModelVersion:
        """Make a version of the model that a run logged last; a second call returns the same version.

        Its tags are the model's id and hash, and those of the run that say what it is made of.

        Args:
            run_id: MLflow run.

        Raises:
            ModelNotFoundError: No such run, or it logged no model.
        """
        with self.changing():
            with self.errors(f"Reading run {run_id}"):
                run = self.client.get_run(run_id)
                logged = newest_model(self.client, run)
            if logged is None:
                raise ModelNotFoundError(f"Run {run_id} holds no model.", "Run `quality-model publish`.")
            model_id = logged.model_id
            existing = [version.version for version in self.versions() if version.model_id == model_id]
            with self.errors("Registering the model"), as_current(self.connection):
                tags: dict[str, str] = {
                    **{key: run.data.tags[key] for key in _COPIED_TAGS if key in run.data.tags},
                    "model_id": model_id,
                    "model_sha256": logged.tags.get("model_sha256", ""),
                }
                if existing:
                    number = existing[-1]
                else:
                    self.ensure_registered_model()
                    made = self.client.create_model_version(
                        self.name,
                        f"models:/{model_id}",
                        run_id,
                        tags=tags,
                        model_id=model_id,
                        await_creation_for=_AWAIT_S,
                    )
                    number = str(made.version)
                link = json.dumps([{"name": self.name, "version": number}])
                self.client.set_logged_model_tags(model_id, {"mlflow.modelVersions": link})
        return self.find(number)

    def move_alias(self, alias: Alias, version: ModelVersion) -> None:
        """Let an alias name a version; call it inside `changing`.

        Raises:
            RegistryError: Something else moved it at the same time.
        """
        with self.errors(f"Setting {alias}"):
            self.client.set_registered_model_alias(self.name, alias, version.version)
        sys.audit("quality_model.release.registry.moved", alias, version.version)
        now = self.look_up(alias)
        if now is None or now.version != version.version:
            raise RegistryError(
                f"{alias} names version {now and now.version} after it was set to {version.version}.",
                "Something outside this project moves it too; look at the history and try again.",
            )

    def ensure_registered_model(self) -> None:
        """Make the registered model if there is none."""
        if self._registered() is None:
            with self.errors("Making the registered model"):
                self.client.create_registered_model(
                    self.name, description="Scores colour cast, blur, watermark and noise of images."
                )

    # -- inside

    def _registered(self) -> "RegisteredModel | None":
        try:
            with self.errors("Reading the registered model"):
                return self.client.get_registered_model(self.name)
        except ModelNotFoundError:
            return None

    def _download(self, location: str, folder: Path, sha256: str) -> None:
        """Download the files of a version, unless they are here; the caller holds their lock."""
        from mlflow.artifacts import download_artifacts

        with suppress(IncompleteError, CorruptError):
            if require_sealed(folder, verify=True)["sha256"] == sha256:
                return
        partial_folder = folder.with_name(f".partial-{folder.name}")
        shutil.rmtree(partial_folder, ignore_errors=True)
        try:
            with self.errors(f"Downloading version {folder.name}"):
                got = download_artifacts(
                    artifact_uri=f"{location.rstrip('/')}/{MODEL_FOLDER}",
                    dst_path=str(partial_folder),
                    tracking_uri=self.connection.uri,
                    registry_uri=self.connection.uri,
                )
            require_sealed(Path(got), verify=True)
            if folder.exists():
                shutil.rmtree(folder)
            Path(got).replace(folder)
            flush_folder(folder.parent)
        finally:
            shutil.rmtree(partial_folder, ignore_errors=True)

    def _what_there_is(self) -> str:
        versions, registered = self.versions(), self._registered()
        if registered is None or not versions:
            return "Nothing is registered yet: run the retraining. `bundled` names the bundled model."
        names = {str(number): f" ({alias})" for alias, number in registered.aliases.items()}
        listed = ", ".join(one.version + names.get(one.version, "") for one in versions[-20:])
        return f"There are versions {listed}."


def _version(found: Any) -> ModelVersion:
    return ModelVersion(
        name=found.name,
        version=str(found.version),
        run_id=found.run_id or None,
        model_id=found.model_id or found.tags.get("model_id"),
        aliases=tuple(sorted(found.aliases)),
        tags=dict(found.tags),
    )
