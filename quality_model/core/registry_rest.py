"""A registry on a server, asked over MLflow's REST interface: for scoring where MLflow is not installed."""

import base64
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlencode, urlsplit, urlunsplit
from urllib.request import Request, urlopen

from quality_model.core import storage
from quality_model.core.model_files import MODEL_FILES
from quality_model.core.models import CHAMPION, AliasState
from quality_model.errors import CorruptError, ModelNotFoundError, RegistryError
from quality_model.paths import ProjectPaths
from quality_model.records import ModelRef

_TIMEOUT_S: Final = 10.0
_MODEL_FOLDER: Final = "data/model"
"""In the artifacts of a logged model (`release`'s flavor): the folder of its files."""

_PROXY: Final = "mlflow-artifacts:/"


def champion_alias(address: str, name: str) -> AliasState | bool | None:
    """See `models.champion_alias`."""
    try:
        found = _version(address, name, alias=CHAMPION, version=None)
        return AliasState(str(found["version"]), int(found["creation_timestamp"]))
    except ModelNotFoundError:
        return None
    except (RegistryError, KeyError, TypeError, ValueError):
        return False


def fetch(
    address: str, root: Path, name: str, *, alias: str | None, version: str | None
) -> tuple[ModelRef, Path]:
    """Find a version and bring its files to this machine, once; their hash is checked.

    Args:
        address: Of the server.
        root: The project folder; files are kept in its ``state/models``.
        name: The registered model.
        alias: Which version, or
        version: its number.

    Raises:
        ModelNotFoundError: There is no such version.
        RegistryError: The server does not answer, or keeps files where only MLflow can read.
        CorruptError, IncompleteError: The files are not those that were registered.
    """
    try:
        found = _version(address, name, alias=alias, version=version)
        tags = {tag["key"]: tag["value"] for tag in found.get("tags", [])}
        number, expected = str(found["version"]), tags["model_sha256"]
        model_id = str(found["source"]).removeprefix("models:/")
        logged = _ask(address, f"logged-models/{quote(model_id, safe='')}", {})
        location = str(logged["model"]["info"]["artifact_uri"])
    except (KeyError, TypeError) as error:
        raise RegistryError(
            f"The server's answer about {name} lacks {error}.", "Use a version that this project registered."
        ) from None
    folder = _local(location) or ProjectPaths(root).state / "models" / name / number
    if not (folder / storage.MARKER_NAME).exists():
        _download(address, location, folder)
    if (sha256 := storage.sealed_sha256(folder)) != expected:
        raise CorruptError(
            f"The files of version {number} of {name} are not those that were registered: "
            f"sha256 {sha256[:12]}, registered {expected[:12]}.",
            f"Delete {folder} and run the same command again.",
        )
    return ModelRef(name, number, found.get("run_id") or None, ""), folder


def _version(address: str, name: str, *, alias: str | None, version: str | None) -> dict[str, Any]:
    if version is None:
        answer = _ask(address, "registered-models/alias", {"name": name, "alias": alias or ""})
    else:
        answer = _ask(address, "model-versions/get", {"name": name, "version": version})
    found = answer.get("model_version")
    return found if isinstance(found, dict) else {}


def _ask(address: str, path: str, query: dict[str, str]) -> dict[str, Any]:
    answer = json.loads(_get(address, f"/api/2.0/mlflow/{path}?{urlencode(query)}"))
    return answer if isinstance(answer, dict) else {}


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
        with urlopen(Request(url, headers=headers), timeout=_TIMEOUT_S) as response:
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


def _local(location: str) -> Path | None:
    """The folder of the files, if this machine has the server's artifacts."""
    parts = urlsplit(location)
    if parts.scheme not in ("", "file"):
        return None
    folder = Path(unquote(parts.path)) / _MODEL_FOLDER
    return folder if folder.is_dir() else None


def _download(address: str, location: str, folder: Path) -> None:
    if not location.startswith(_PROXY):
        raise RegistryError(
            f"The files of the model are at {location}, which only MLflow can read.",
            "Install it (pip install mlflow), or serve the artifacts with mlflow server --serve-artifacts.",
        )
    place = f"{location.removeprefix(_PROXY).strip('/')}/{_MODEL_FOLDER}"
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
