"""What a model's name means: a path, a bundled model, or a version in a registry.

The registry's alias ``champion`` alone says which version that is, and it is asked every time, without
MLflow, which takes seconds to import (see `registry_versions`). MLflow answers, where it is installed, what
cannot be read without it.
"""

import importlib
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from quality_model import pretrained
from quality_model.core import storage
from quality_model.core.registry_versions import database_exists, read_version, version_folder
from quality_model.errors import ModelNotFoundError, RegistryError, StorageError
from quality_model.params import RegistryParams
from quality_model.params_file import is_project, load_params
from quality_model.paths import DECISION_NAME, ProjectPaths, user_path
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
        if path.exists() or _is_a_path(os.fspath(reference)):
            return FoundModel(ModelRef(path.name, None, None, ""), path)
    return _find_registered(os.fspath(reference), root, registry)


def deciding_record(root: Path, weights_sha256: str) -> str | None:
    """Name of the last record in ``state/records`` that is about a model with these weights.

    None if this machine has none. A record that cannot be read is skipped: it is no fault of the scores.
    """
    found = []
    for marker in ProjectPaths(root).records.glob(f"*/{storage.MARKER_NAME}"):
        with suppress(StorageError, KeyError, TypeError):
            decision: Any = storage.read_json(marker.with_name(DECISION_NAME))
            if decision["model"]["sha256"] == weights_sha256:
                found.append((str(decision["time"]), marker.parent.name))
    return max(found)[1] if found else None


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


def _find_registered(reference: str, root: Path, registry: RegistryParams | None) -> FoundModel:
    """What a registry calls by the name; for ``auto`` the bundled model where it has no champion.

    Where a champion does not load, nothing takes its place.
    """
    is_auto = reference == AUTO
    asked = CHAMPION if is_auto else reference
    name, alias, number = parse_reference(asked)
    if not database_exists(root):
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


def _is_a_path(reference: str) -> bool:
    """Whether this can only be meant as a path, so that a missing file is called a missing file."""
    if reference.startswith("models:/"):
        return False
    return os.sep in reference or reference.endswith((".safetensors", ".pt", ".pth"))
