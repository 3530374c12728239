"""The files of a version: in place where this machine holds them, else downloaded once; always checked."""

import shutil
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from quality_model.core.storage import flush_folder, locked, require_sealed
from quality_model.errors import CorruptError, IncompleteError, RegistryError
from quality_model.paths import ProjectPaths
from quality_model.release.registry.connection import Connection, speaking_to
from quality_model.release.registry.flavor import MODEL_FOLDER

_DOWNLOAD_WAIT_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A version with its files: ``path`` is a sealed folder with model.safetensors and model.json."""

    name: str
    version: str
    run_id: str | None
    path: Path
    sha256: str
    reference: str
    tags: dict[str, str]


def fetch(
    connection: Connection,
    *,
    name: str,
    version: str,
    run_id: str | None,
    model_id: str | None,
    tags: Mapping[str, str],
    reference: str,
) -> ResolvedModel:
    """Find or download the files of a version, and check them against the hash in its tags.

    Raises:
        RegistryError: They cannot be had.
        IncompleteError, CorruptError: They are not those that were registered.
    """
    if model_id is None:
        raise RegistryError(
            f"Version {version} of {name} was not registered by this project: it has no logged model.",
            "Use another version.",
        )
    expected = tags.get("model_sha256", "")
    with speaking_to(connection.shown, f"Finding the files of version {version}"):
        location = connection.client.get_logged_model(model_id).artifact_location
    local = _local_path(location)
    if local is not None:
        if not (local / MODEL_FOLDER).is_dir():
            raise RegistryError(
                f"The files of version {version} of {name} are not at {local}.",
                "Bring that folder back, use another version, or train again.",
            )
        folder = local / MODEL_FOLDER
    else:
        folder = ProjectPaths(connection.root).state / "models" / name / version
        with locked(folder.with_name(f"{version}.lock"), timeout_s=_DOWNLOAD_WAIT_S):
            if not _is_good(folder, expected):
                _download(connection, location, version, folder)
    marker = require_sealed(folder, verify=True)
    if marker["sha256"] != expected:
        raise CorruptError(
            f"The files of version {version} of {name} are not those that were registered: "
            f"sha256 {marker['sha256'][:12]}, registered {expected[:12] or 'none'}.",
            "Use another version, or train again.",
        )
    return ResolvedModel(name, version, run_id, folder, marker["sha256"], reference, dict(tags))


def _local_path(location: str) -> Path | None:
    parts = urlsplit(location)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return Path(location) if parts.scheme == "" else None


def _is_good(folder: Path, sha256: str) -> bool:
    try:
        return bool(require_sealed(folder, verify=True)["sha256"] == sha256)
    except (IncompleteError, CorruptError):
        return False


def _download(connection: Connection, location: str, version: str, folder: Path) -> None:
    from mlflow.artifacts import download_artifacts

    for stale in folder.parent.glob(f".partial-*-{version}"):
        shutil.rmtree(stale, ignore_errors=True)
    temporary = folder.parent / f".partial-{uuid.uuid4().hex[:12]}-{version}"
    try:
        with speaking_to(connection.shown, f"Downloading version {version}"):
            got = download_artifacts(
                artifact_uri=f"{location.rstrip('/')}/{MODEL_FOLDER}",
                dst_path=str(temporary),
                tracking_uri=connection.uri,
                registry_uri=connection.uri,
            )
        require_sealed(Path(got), verify=True)
        if folder.exists():
            shutil.rmtree(folder)
        Path(got).replace(folder)
        flush_folder(folder.parent)
    finally:
        with suppress(OSError):
            shutil.rmtree(temporary)
