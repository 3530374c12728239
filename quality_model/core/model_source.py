"""Which model a name means. PyTorch is not imported for it, MLflow only where a registry is asked."""

import multiprocessing
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from quality_model import pretrained
from quality_model.core.processes import start_process
from quality_model.core.redaction import guard_logs
from quality_model.errors import ModelNotFoundError, QualityModelError
from quality_model.params import RegistryParams, is_project, load_params
from quality_model.paths import ProjectPaths, user_path
from quality_model.release.registry import Registry, ResolvedModel, resolve
from quality_model.release.registry.connection import database_exists

AUTO: Final = "auto"
"""Names the champion if there is one, else the bundled model."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model came from.

    ``version`` and ``run_id`` are None for a file that no registry knows; the bundled model's
    are those that it was bundled with. ``sha256`` is that of its weights, empty until they are
    loaded. ``decided`` says what ``auto`` came to mean.
    """

    name: str
    version: str | None
    run_id: str | None
    sha256: str
    path: Path
    decided: str = ""


def find_model(reference: str | Path, root: Path, registry: RegistryParams | None = None) -> ModelSource:
    """Find the model that a name means.

    Args:
        reference: See `inference.MultiHeadQualityInference`.
        root: The project folder whose registry a reference means.
        registry: Registry parameters; by default those of the project's params.yaml.

    Raises:
        ModelNotFoundError: It names nothing, or this installation has no bundled weights.
        RegistryError: The registry does not answer.
        CorruptError, IncompleteError: The files are not those that were registered.
    """
    return _without_registry(reference, root, registry) or _from_registry(reference, root, registry)


def find_model_meanwhile(
    reference: str | Path, root: Path, registry: RegistryParams | None = None
) -> Callable[[], ModelSource]:
    """Begin to find the model that a name means, and return what waits for the answer.

    A registry is asked in a process of its own: importing MLflow takes about as long as importing
    PyTorch, which the caller can do meanwhile. Arguments and errors as of `find_model`; an error
    is raised by what is returned.
    """
    known = _without_registry(reference, root, registry)
    if known is not None:
        return lambda: known
    ours, theirs = multiprocessing.Pipe(duplex=False)
    start_process(_tell, theirs, reference, root, registry)
    theirs.close()

    def answer() -> ModelSource:
        try:
            told = ours.recv()
        except EOFError:  # it died, or met what is no error of ours, which is met again here
            return _from_registry(reference, root, registry)
        if isinstance(told, QualityModelError):
            raise told
        assert isinstance(told, ModelSource)
        return told

    return answer


def _tell(to: Connection, reference: str | Path, root: Path, registry: RegistryParams | None) -> None:
    guard_logs()
    with suppress(Exception):
        try:
            to.send(_from_registry(reference, root, registry))
        except QualityModelError as error:
            to.send(error)


def _without_registry(
    reference: str | Path, root: Path, registry: RegistryParams | None
) -> ModelSource | None:
    """The model, unless a registry must be asked for it.

    A folder without a params.yaml of ours is no project, so nothing there says whose champion is meant.
    """
    if (bundled := pretrained.bundled_name(reference)) is not None:
        return _bundled(bundled)
    if reference == AUTO:
        may_have_champion = registry is not None or is_project(root)
        return None if may_have_champion and database_exists(root) else _no_champion()
    path = user_path(reference)
    if path.exists() or _is_a_path(os.fspath(reference)):
        return ModelSource(path.name, None, None, "", path)
    return None


def _from_registry(reference: str | Path, root: Path, registry: RegistryParams | None) -> ModelSource:
    """What a registry calls by the name; for ``auto`` the bundled model where it has no champion.

    Where a champion does not load, nothing takes its place.
    """
    if reference != AUTO:
        return _registered(resolve(os.fspath(reference), root=root, section=registry))
    versions = Registry(root, registry or load_params(ProjectPaths(root).params).registry)
    champion = versions.champion()
    if champion is None:
        return _no_champion()
    return _registered(
        versions.resolve(champion.version),
        f"The champion scores: version {champion.version} of {champion.name}.",
    )


def _no_champion() -> ModelSource:
    return _bundled(
        pretrained.NAME,
        "No champion is registered, and ",
        "No champion is registered: the bundled model scores.",
    )


def _bundled(name: str, before: str = "", decided: str = "") -> ModelSource:
    folder = pretrained.pretrained_folder(name)
    if folder is None:
        problem = f"{before}this installation has no bundled weights."
        raise ModelNotFoundError(
            problem[0].upper() + problem[1:],
            "Train and promote a model, or name one: a version of the registry or a checkpoint file.",
        )
    return ModelSource(name, None, None, "", folder, decided)


def _registered(resolved: ResolvedModel, decided: str = "") -> ModelSource:
    return ModelSource(resolved.name, resolved.version, resolved.run_id, "", resolved.path, decided)


def _is_a_path(reference: str) -> bool:
    """Whether this can only be meant as a path, so that a missing file is called a missing file."""
    if reference.startswith("models:/"):
        return False
    return os.sep in reference or reference.endswith((".safetensors", ".pt", ".pth"))
