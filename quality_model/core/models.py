"""What a model's name means: a path, a bundled model, or a version in a registry.

The registry's alias ``champion`` alone says which version that is, and it is asked every time: a local
database by one query, a server by one request. Neither needs MLflow, which takes seconds to import.
Which files belong to that version is remembered in ``state/champion.json``; while the alias names the
version remembered there, nothing else is asked. Otherwise MLflow answers, where it is installed, or the
server's REST interface.
"""

import importlib
import os
import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Protocol

from quality_model import pretrained
from quality_model.core import storage
from quality_model.errors import ModelNotFoundError, RegistryError, StorageError
from quality_model.params import RegistryParams
from quality_model.params_file import is_project, load_params
from quality_model.paths import ProjectPaths, user_path
from quality_model.records import ModelRef

AUTO: Final = "auto"
"""Names the champion if there is one, else the bundled model."""

CHAMPION: Final = "champion"

_MEMORY_NAME: Final = "champion.json"
_MEMORY_VERSION: Final = 1
_DATABASE_WAIT_S: Final = 5.0

_REFERENCE: Final = re.compile(
    r"""(?: models:/ (?P<name>[^/@]+) (?: @ (?P<at>[A-Za-z0-9_.-]+) | / (?P<slash>[1-9][0-9]*) )
        | (?P<number>[1-9][0-9]*)
        | (?P<alias>[A-Za-z][A-Za-z0-9_-]*) )""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model and the place of its files.

    ``ref.sha256`` is empty until the weights are read; ``ref.version`` and ``ref.run_id`` are None for a
    file that no registry knows, and for a bundled model, whose files say them. ``decided`` says what
    ``auto`` came to mean.
    """

    ref: ModelRef
    path: Path
    decided: str = ""


class FoundVersion(Protocol):
    """A version of a registry with its files on this machine."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def run_id(self) -> str | None: ...
    @property
    def path(self) -> Path: ...


class ModelRegistry(Protocol):
    """What resolving a name needs of a registry; `release` implements it over MLflow."""

    def champion(self) -> object | None: ...
    def resolve(self, reference: str) -> FoundVersion: ...


@dataclass(frozen=True, slots=True)
class AliasState:
    """What the alias ``champion`` says at a time.

    A database that was replaced counts versions anew: the time distinguishes two versions 1.
    """

    version: str
    created_ms: int


def find_model(reference: str | Path, root: Path, registry: RegistryParams | None = None) -> FoundModel:
    """Find the model that a name means.

    Args:
        reference: See `predict.MultiHeadQualityInference`.
        root: The project folder whose registry a reference means.
        registry: Registry parameters; by default those of the project's params.yaml.

    Raises:
        ModelNotFoundError: It names nothing, or this installation has no bundled weights.
        RegistryError: The registry does not answer, or MLflow is needed and not installed.
        CorruptError, IncompleteError: The files are not those that were registered.
    """
    if (bundled := pretrained.bundled_name(reference)) is not None:
        return _bundled(bundled)
    if reference == AUTO:
        # A folder without a params.yaml of ours is no project: nothing there says whose champion is meant.
        may_have_champion = registry is not None or is_project(root)
        if not (may_have_champion and _registry_exists(root)):
            return _no_champion()
    else:
        path = user_path(reference)
        if path.exists() or _is_a_path(os.fspath(reference)):
            return _found(path.name, None, None, path)
    return _find_registered(os.fspath(reference), root, registry)


def is_reference(text: str) -> bool:
    """Whether a text has the form of a reference to a version."""
    return _REFERENCE.fullmatch(text.strip()) is not None


def parse_reference(reference: str) -> tuple[str | None, str | None, str | None]:
    """Split a reference into (name, alias, version); the name is None if left out, as is alias or version.

    The forms are ``champion``, ``candidate``, ``3``, ``models:/name@alias`` and ``models:/name/3``.

    Raises:
        ModelNotFoundError: It has none of them.
    """
    match = _REFERENCE.fullmatch(reference.strip())
    if match is None:
        raise ModelNotFoundError(
            f"{reference!r} is not a registry reference.",
            "Use champion, candidate, a version number, models:/name@alias, models:/name/3, "
            "or a checkpoint file.",
        )
    return match["name"], match["at"] or match["alias"], match["slash"] or match["number"]


def registry_address(root: Path) -> str:
    """MLFLOW_TRACKING_URI, or the project's own SQLite file."""
    given = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    return given or f"sqlite:///{root.resolve() / 'mlflow.db'}"


def champion_alias(root: Path, name: str) -> AliasState | bool | None:
    """What the alias ``champion`` of a registered model says, without MLflow.

    Returns:
        None where no version has it. False where only MLflow can say: another kind of database, one of
        another MLflow, or a server that does not answer.
    """
    address = registry_address(root)
    if address.startswith(("http://", "https://")):
        from quality_model.core import registry_rest

        return registry_rest.champion_alias(address, name)
    if not address.startswith("sqlite:///"):
        return False
    database = Path(address.removeprefix("sqlite:///"))
    try:
        with closing(
            sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True, timeout=_DATABASE_WAIT_S)
        ) as connection:
            row = connection.execute(
                "SELECT version, creation_time FROM model_versions JOIN registered_model_aliases"
                " USING (name, version) WHERE name = ? AND alias = ?",
                (name, CHAMPION),
            ).fetchone()
    except sqlite3.Error:
        return False
    return None if row is None else AliasState(str(row[0]), int(row[1]))


def write_champion(root: Path, section: RegistryParams, ref: ModelRef, path: Path) -> None:
    """Remember where the files of the champion are, if ``ref`` is what the alias names.

    Code that moves the alias may call it; `find_model` does after MLflow answered. It is never needed: what
    is remembered is used only while the alias names it, or while nothing says what it names.

    Args:
        root: The project folder.
        section: Names the registered model.
        ref: The version.
        path: Folder of its files.

    Raises:
        StorageError: The file cannot be written.
    """
    # Where only MLflow can read the alias, the time is 0: the memory is of use to `last_champion` alone.
    state = champion_alias(root, section.model_name) or AliasState(ref.version or "", 0)
    if isinstance(state, AliasState) and state.version == ref.version:
        inside = path.absolute().is_relative_to(root.absolute())
        storage.write_json(
            ProjectPaths(root).state / _MEMORY_NAME,
            {
                "format_version": _MEMORY_VERSION,
                "name": ref.name,
                "run_id": ref.run_id,
                "sha256": storage.sealed_sha256(path),
                # A project that is moved or copied keeps its own files.
                "path": str(path.absolute().relative_to(root.absolute()) if inside else path.absolute()),
                **asdict(state),
            },
        )


def last_champion(root: Path, section: RegistryParams) -> FoundModel | None:
    """The champion that was known last, for work that must not wait for a registry that does not answer."""
    return _remembered(root, section, {})


def _remembered(root: Path, section: RegistryParams, state: Mapping[str, object]) -> FoundModel | None:
    """The champion's files as `write_champion` left them, if the memory has the state of the alias."""
    try:
        memory: Any = storage.read_json(ProjectPaths(root).state / _MEMORY_NAME)
        match memory:
            case {
                "format_version": 1,
                "name": section.model_name,
                "version": str(version),
                "run_id": str() | None as run_id,
                "sha256": str(sha256),
                "path": str(path),
            } if state.items() <= memory.items():
                folder = root / path
                if storage.sealed_sha256(folder) == sha256:
                    return _found(section.model_name, version, run_id, folder)
    except StorageError:
        pass
    return None


def _find_registered(reference: str, root: Path, registry: RegistryParams | None) -> FoundModel:
    """What a registry calls by the name; for ``auto`` the bundled model where it has no champion.

    Where a champion does not load, nothing takes its place.
    """
    is_auto = reference == AUTO
    name, alias, number = (None, CHAMPION, None) if is_auto else parse_reference(reference)
    if not _registry_exists(root):
        raise ModelNotFoundError(
            f"{reference!r} names no model: there is no registry in {root.resolve()} yet.",
            "Run the retraining, set MLFLOW_TRACKING_URI, or name a file or the bundled model: bundled.",
        )
    section = registry or load_params(ProjectPaths(root).params).registry
    means_champion = alias == CHAMPION and name in (None, section.model_name)
    state = champion_alias(root, section.model_name) if means_champion else False
    if is_auto and state is None:
        return _no_champion()
    found = _remembered(root, section, asdict(state)) if isinstance(state, AliasState) else None
    if found is None:
        if find_spec("mlflow") is not None:
            versions = _open_registry(root, section)
            if is_auto and versions.champion() is None:
                return _no_champion()
            version = versions.resolve(CHAMPION if is_auto else reference)
            found = _found(version.name, version.version, version.run_id, version.path)
        else:
            found = _from_server(root, name or section.model_name, alias, number)
        if means_champion:
            with suppress(StorageError):  # a project that may not be written
                write_champion(root, section, found.ref, found.path)
    if not is_auto:
        return found
    decided = f"The champion scores: version {found.ref.version} of {found.ref.name}."
    return FoundModel(found.ref, found.path, decided)


def _open_registry(root: Path, section: RegistryParams) -> ModelRegistry:
    """The seam between scoring and MLflow: the one place where `core` reaches up to `release`, by name."""
    release = importlib.import_module("quality_model.release.registry")
    registry: ModelRegistry = release.Registry(root, section)
    return registry


def _from_server(root: Path, name: str, alias: str | None, number: str | None) -> FoundModel:
    address = registry_address(root)
    if not address.startswith(("http://", "https://")):
        raise RegistryError(
            "The registry is a database, and only MLflow reads which files belong to a version in it.",
            "Install it (pip install mlflow), or name a checkpoint file or the bundled model: bundled.",
        )
    from quality_model.core import registry_rest

    ref, path = registry_rest.fetch(address, root, name, alias=alias, version=number)
    return FoundModel(ref, path)


def _registry_exists(root: Path) -> bool:
    """False where the project's own SQLite file is meant and has not been made yet."""
    address = registry_address(root)
    return not address.startswith("sqlite:///") or Path(address.removeprefix("sqlite:///")).exists()


def _no_champion() -> FoundModel:
    return _bundled(
        pretrained.NAME,
        "No champion is registered, and ",
        "No champion is registered: the bundled model scores.",
    )


def _bundled(name: str, before: str = "", decided: str = "") -> FoundModel:
    folder = pretrained.pretrained_folder(name)
    if folder is None:
        problem = f"{before}this installation has no bundled weights."
        raise ModelNotFoundError(
            problem[0].upper() + problem[1:],
            "Train and promote a model, or name one: a version of the registry or a checkpoint file.",
        )
    return _found(name, None, None, folder, decided)


def _found(name: str, version: str | None, run_id: str | None, path: Path, decided: str = "") -> FoundModel:
    return FoundModel(ModelRef(name, version, run_id, ""), path, decided)


def _is_a_path(reference: str) -> bool:
    """Whether this can only be meant as a path, so that a missing file is called a missing file."""
    if reference.startswith("models:/"):
        return False
    return os.sep in reference or reference.endswith((".safetensors", ".pt", ".pth"))
