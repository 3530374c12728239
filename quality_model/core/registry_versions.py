"""A registry read without MLflow: a server over its REST interface, a local database by one query."""

import base64
import json
import os
import shutil
import sqlite3
import uuid
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlencode, urlsplit, urlunsplit
from urllib.request import Request, urlopen

from quality_model.core import storage
from quality_model.core.model_files import MODEL_FILES
from quality_model.errors import CorruptError, ModelNotFoundError, RegistryError, StorageError
from quality_model.extras import install_command
from quality_model.paths import ProjectPaths

DATABASE_NAME: Final = "mlflow.db"
ARTIFACTS_NAME: Final = "mlartifacts"
"""Of a project without MLFLOW_TRACKING_URI: MLflow's database, and its folder for files."""

MODEL_FOLDER: Final = "data/model"
"""In the artifacts of a logged model: the folder of its files."""

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
class RegisteredVersion:
    """A version as the registry has it.

    Attributes:
        name: The registered model.
        number: Its version.
        run_id: The run that trained it.
        sha256: Of the folder of its files.
        location: Address of its artifacts.
    """

    name: str
    number: str
    run_id: str | None
    sha256: str
    location: str


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
        own = root.resolve() / ARTIFACTS_NAME / path.as_posix().rpartition(f"/{ARTIFACTS_NAME}/")[2]
        folder = (own if own.is_dir() else path) / MODEL_FOLDER
        if not folder.is_dir():
            raise RegistryError(
                f"The files of version {version.number} of {version.name} are not at {path}.",
                "Bring that folder back, use another version, or train again.",
            )
    else:
        folder = ProjectPaths(root).state / "models" / version.name / version.number
        if not _has_files(folder, version.sha256):  # a server that was made anew counts versions anew
            _download(registry_address(root), version.location, folder)
    if (sha256 := storage.sealed_sha256(folder)) != version.sha256:
        raise CorruptError(
            f"The files of version {version.number} of {version.name} are not those that were registered: "
            f"sha256 {sha256[:12]}, registered {version.sha256[:12]}.",
            f"Delete {folder} and run the same command again.",
        )
    return folder


def _has_files(folder: Path, sha256: str) -> bool:
    try:
        return storage.sealed_sha256(folder) == sha256
    except StorageError:
        return False


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
    try:
        if number is None:
            answer = _get_json(address, "registered-models/alias", {"name": name, "alias": alias or ""})
        else:
            answer = _get_json(address, "model-versions/get", {"name": name, "version": number})
    except ModelNotFoundError:
        return None
    found = answer["model_version"]
    tags = {tag["key"]: tag["value"] for tag in found.get("tags", [])}
    model_id = str(found["source"]).removeprefix("models:/")
    logged = _get_json(address, f"logged-models/{quote(model_id, safe='')}", {})
    location = str(logged["model"]["info"]["artifact_uri"])
    run_id = found.get("run_id") or None
    return RegisteredVersion(name, str(found["version"]), run_id, tags["model_sha256"], location)


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
            data: bytes = response.read()
            return data
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
