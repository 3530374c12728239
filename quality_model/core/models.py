"""What a model's name means: a path, a bundled model, or a version in a registry.

The registry's alias ``champion`` alone says which version that is, and it is asked every time, without
MLflow, which takes seconds to import: a server over its REST interface, a local database by one query. MLflow
answers, where it is installed, what cannot be read without it.
"""

import base64
import importlib
import json
import os
import re
import shutil
import sqlite3
import uuid
from contextlib import closing, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlencode, urlsplit, urlunsplit
from urllib.request import Request, urlopen

from quality_model import pretrained
from quality_model.core import storage
from quality_model.core.model_files import MODEL_FILES
from quality_model.errors import (
    CorruptError,
    ModelNotFoundError,
    RegistryError,
    StorageError,
    install_command,
)
from quality_model.params import RegistryParams
from quality_model.params_file import is_project, load_params
from quality_model.paths import ARTIFACTS_NAME, DATABASE_NAME, MODEL_FOLDER, ProjectPaths, user_path
from quality_model.records import ModelRef

AUTO: Final = "auto"
"""Names the champion if there is one, else the bundled model."""

CHAMPION: Final = "champion"

_REFERENCE: Final = re.compile(
    r"""(?: models:/ (?P<name>[^/@]+) (?: @ (?P<at>[A-Za-z0-9_.-]+) | / (?P<slash>[1-9][0-9]*) )
        | (?P<number>[1-9][0-9]*)
        | (?P<alias>[A-Za-z][A-Za-z0-9_-]*) )""",
    re.VERBOSE,
)


_WAIT_S: Final = 10.0
_PROXY: Final = "mlflow-artifacts:/"
_SQLITE: Final = "sqlite:///"
_HTTP: Final = ("http://", "https://")

_QUERY: Final = """
SELECT v.version, v.run_id, t.value, l.artifact_location
FROM model_versions v
LEFT JOIN model_version_tags t ON t.name = v.name AND t.version = v.version AND t.key = 'model_sha256'
LEFT JOIN logged_models l ON v.source = 'models:/' || l.model_id
WHERE v.name = :name AND v.current_stage <> 'Deleted_Internal' AND v.version = coalesce(
    :number, (SELECT version FROM registered_model_aliases WHERE name = :name AND alias = :alias)
)
"""


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model and the place of its files.

    ``ref.sha256`` is empty until the weights are read; ``ref.version`` and ``ref.run_id`` are None for a file
    that no registry knows, and for a bundled model. ``decided`` says what ``auto`` came to mean.
    """

    ref: ModelRef
    path: Path
    decided: str = ""


class RegisteredVersion(NamedTuple):
    """A version as the registry has it, with the hash of the folder of its files, and their address."""

    name: str
    number: str
    run_id: str | None
    sha256: str
    location: str


def find_model(reference: str | Path, root: Path, registry: RegistryParams | None = None) -> FoundModel:
    """Find the model that a name means.

    Args:
        reference: See `predict.Scorer`.
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
        if not (may_have_champion and database_exists(root)):
            return _no_champion()
    else:
        path = user_path(reference)
        text = os.fspath(reference)
        # What can only be meant as a path is one: a missing file is called a missing file.
        is_path = os.sep in text or text.endswith((".safetensors", ".pt", ".pth"))
        if path.exists() or (is_path and not text.startswith("models:/")):
            return FoundModel(ModelRef(path.name, None, None, ""), path)
    return _find_registered(os.fspath(reference), root, registry)


def is_reference(text: str) -> bool:
    """Whether a text has the form of a reference to a version."""
    return _REFERENCE.fullmatch(text.strip()) is not None


def can_move(reference: str | Path) -> bool:
    """Whether a name may come to mean another version: ``auto``, or an alias of the registry."""
    if reference == AUTO:
        return True
    if pretrained.bundled_name(reference) is not None or not is_reference(text := os.fspath(reference)):
        return False
    return parse_reference(text)[1] is not None


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


def _find_registered(reference: str, root: Path, registry: RegistryParams | None) -> FoundModel:
    """What a registry calls by the name; for ``auto`` the bundled model where it has no champion.

    Where a champion does not load, nothing takes its place.
    """
    is_auto = reference == AUTO
    asked = CHAMPION if is_auto else reference
    name, alias, number = parse_reference(asked)
    if not database_exists(root):
        _require_unlike_bundled(asked)
        raise ModelNotFoundError(
            f"{reference!r} names no model: there is no registry in {root.resolve()} yet.",
            "Run the retraining, set MLFLOW_TRACKING_URI, or name a file or the bundled model: bundled.",
        )
    section = registry or load_params(ProjectPaths(root).params).registry
    try:
        version = read_version(root, name or section.model_name, alias, number)
        if version is None and is_auto:
            return _no_champion()
        if version is None:
            _require_unlike_bundled(asked)
            raise ModelNotFoundError(
                f"The registry has no such model or version: {reference!r}.",
                "Check that MLFLOW_TRACKING_URI names the server on which it was made.",
            )
        ref, path = ModelRef(version.name, version.number, version.run_id, ""), version_folder(root, version)
    except RegistryError:
        if find_spec("mlflow") is None:
            raise
        # MLflow reads other databases and stores, and its errors say which versions there are. `core` reaches
        # up to `release` here alone, and by name.
        versions: Any = importlib.import_module("quality_model.release.registry").Registry(root, section)
        if is_auto and versions.champion() is None:
            return _no_champion()
        found = versions.resolve(asked)
        ref, path = ModelRef(found.name, found.version, found.run_id, ""), found.path
    decided = f"The champion scores: version {ref.version} of {ref.name}." if is_auto else ""
    return FoundModel(ref, path, decided)


def _require_unlike_bundled(asked: str) -> None:
    """Refuse what nothing is called as the bundled model that was most likely meant."""
    if close := get_close_matches(asked.lower(), pretrained.FOLDERS, n=1, cutoff=0.75):
        raise ModelNotFoundError(f"{asked!r} names no model.", f"Did you mean {close[0]}?")


def _no_champion() -> FoundModel:
    return _bundled(pretrained.NAME, "No champion is registered: the bundled model scores.")


def _bundled(name: str, decided: str = "") -> FoundModel:
    folder = pretrained.pretrained_folder(name)
    if folder is None:
        subject = "No champion is registered, and this" if decided else "This"
        raise ModelNotFoundError(
            f"{subject} installation has no bundled weights.",
            "Train and promote a model, or name one: a version of the registry or a checkpoint file.",
        )
    return FoundModel(ModelRef(name, None, None, ""), folder, decided)


def registry_address(root: Path) -> str:
    """MLFLOW_TRACKING_URI, or the address of the project's own SQLite file."""
    given = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    return given or f"{_SQLITE}{root.resolve() / DATABASE_NAME}"


def database_exists(root: Path) -> bool:
    """False where a SQLite file is meant that has not been made yet."""
    address = registry_address(root)
    return not address.startswith(_SQLITE) or Path(address.removeprefix(_SQLITE)).exists()


def read_version(root: Path, name: str, alias: str | None, number: str | None) -> RegisteredVersion | None:
    """Return the version of a registered model that has an alias, or a number; None if there is none.

    Raises:
        RegistryError: The registry does not answer, is read by MLflow only, or has a version that this
            project did not register.
    """
    address = registry_address(root)
    try:
        if address.startswith(_HTTP):
            return _ask_server(address, name, alias, number)
        if address.startswith(_SQLITE):
            return _ask_database(Path(address.removeprefix(_SQLITE)), name, alias, number)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RegistryError(
            f"The registry's answer about {name} cannot be used: it lacks {error}.",
            "Use a version that this project registered.",
        ) from None
    raise RegistryError(
        "Only MLflow reads this registry's database.",
        f"Install it ({install_command('workflow')}), or name a checkpoint file, or bundled.",
    )


def version_folder(root: Path, version: RegisteredVersion) -> Path:
    """The folder of a version's files, which a server sends once; their hash is checked.

    A project that was moved or copied has its own files. Those of a server are kept in ``state/models``.

    Raises:
        RegistryError: The files are where only MLflow reads, or gone.
        CorruptError, IncompleteError: They are not those that were registered.
    """
    parts = urlsplit(version.location)
    if parts.scheme in ("", "file"):
        path = Path(unquote(parts.path))
        folder = own_artifacts(root, path) / MODEL_FOLDER
        if not folder.is_dir():
            raise RegistryError(
                f"The files of version {version.number} of {version.name} are not at {path}.",
                "Bring that folder back, use another version, or train again.",
            )
    else:
        folder = ProjectPaths(root).state / "models" / version.name / version.number
        is_here = False  # a server that was made anew counts versions anew
        with suppress(StorageError):
            is_here = storage.sealed_sha256(folder) == version.sha256
        if not is_here:
            _download(registry_address(root), version.location, folder)
    if (sha256 := storage.sealed_sha256(folder)) != version.sha256:
        raise CorruptError(
            f"The files of version {version.number} of {version.name} are not those that were registered: "
            f"sha256 {sha256[:12]}, registered {version.sha256[:12]}.",
            f"Delete {folder} and run the same command again.",
        )
    return folder


def own_artifacts(root: Path, stored: Path) -> Path:
    """The folder of this project for a stored one of the project that it was moved or copied from."""
    own = root.resolve() / ARTIFACTS_NAME / stored.as_posix().rpartition(f"/{ARTIFACTS_NAME}/")[2]
    return own if own.is_dir() else stored


def _ask_database(path: Path, name: str, alias: str | None, number: str | None) -> RegisteredVersion | None:
    try:
        uri = f"{path.resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=_WAIT_S)) as connection:
            row = connection.execute(_QUERY, {"name": name, "alias": alias, "number": number}).fetchone()
    except sqlite3.Error as error:
        raise RegistryError(
            f"{path} cannot be read as a registry: {error}.",
            f"Install MLflow ({install_command('workflow')}), or name a checkpoint file, or bundled.",
        ) from None
    if row is None:
        return None
    if row[2] is None or row[3] is None:
        raise KeyError("model_sha256" if row[2] is None else "model")
    return RegisteredVersion(name, str(row[0]), row[1] or None, str(row[2]), str(row[3]))


def _ask_server(address: str, name: str, alias: str | None, number: str | None) -> RegisteredVersion | None:
    by_alias = ("registered-models/alias", {"name": name, "alias": alias or ""})
    asked = by_alias if number is None else ("model-versions/get", {"name": name, "version": number})
    try:
        found = _get_json(address, *asked)["model_version"]
    except ModelNotFoundError:
        return None
    tags = {tag["key"]: tag["value"] for tag in found.get("tags", [])}
    model_id = str(found["source"]).removeprefix("models:/")
    logged = _get_json(address, f"logged-models/{quote(model_id, safe='')}", {})
    location = str(logged["model"]["info"]["artifact_uri"])
    run_id, sha256 = found.get("run_id") or None, tags["model_sha256"]
    return RegisteredVersion(name, str(found["version"]), run_id, sha256, location)


def _get_json(address: str, path: str, query: dict[str, str]) -> Any:
    return json.loads(_get(address, f"/api/2.0/mlflow/{path}?{urlencode(query)}"))


def _get(address: str, path: str) -> bytes:
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    headers = {}
    user = unquote(parts.username) if parts.username else os.environ.get("MLFLOW_TRACKING_USERNAME")
    password = unquote(parts.password) if parts.password else os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if user and password:
        headers["Authorization"] = f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
    elif token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    url = urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", "")) + path
    try:
        with urlopen(Request(url, headers=headers), timeout=_WAIT_S) as response:
            return bytes(response.read())
    except HTTPError as error:
        said = error.read(2000).decode("utf-8", "replace")
        if error.code == 404 or " not found" in said:  # an alias that no version has is a 400
            raise ModelNotFoundError(
                f"The server {host} has no such model or version: {said[:200]}",
                "Check that MLFLOW_TRACKING_URI names the server on which it was made.",
            ) from None
        raise RegistryError(
            f"The server {host} answered {error.code}: {said[:200]}",
            "Check its address and your credentials.",
        ) from None
    except (URLError, OSError, ValueError) as error:
        raise RegistryError(
            f"The server {host} does not answer: {error}.",
            "Check that the server runs and MLFLOW_TRACKING_URI names it; then run the same command again.",
        ) from None


def _download(address: str, location: str, folder: Path) -> None:
    if not (location.startswith(_PROXY) and address.startswith(_HTTP)):
        raise RegistryError(
            f"The files of the model are at {location}, which only MLflow can read.",
            f"Install it ({install_command('workflow')}), or run the server with --serve-artifacts.",
        )
    place = f"{location.removeprefix(_PROXY).strip('/')}/{MODEL_FOLDER}"
    partial = folder.parent / f".partial-{uuid.uuid4().hex[:12]}-{folder.name}"
    try:
        for name in MODEL_FILES:
            data = _get(address, f"/api/2.0/mlflow-artifacts/artifacts/{quote(place)}/{name}")
            storage.write_bytes(partial / name, data)
        storage.require_sealed(partial, verify=True)
        if folder.exists():
            shutil.rmtree(folder)
        partial.replace(folder)
        storage.flush_folder(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
