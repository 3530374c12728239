"""Making a trained model the one that ships: half precision, and nothing in it of the machine it is from."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from quality_model.core import storage
from quality_model.data.expression import without_folders
from quality_model.params import values_sha256
from quality_model.paths import RUN_NAME

FROM_RUN: Final = ("run_id", "package_version", "code_sha256", "git_commit", "git_dirty")
"""What run.json, beside a trained model, tells of the training."""

_VERSION_LENGTH: Final = 12
_OF_A_MACHINE: Final = frozenset({"device", "workers", "host", "hostname", "user", "root"})
"""Last words of the keys of facts that say where, not how, a model was trained."""

_DATASET: Final = "source.dataset"
_PATH: Final = re.compile(r"(?:[/~\\]|\.{1,2}[/\\]|[A-Za-z]:[/\\]|file:)")
_SEPARATOR: Final = re.compile(r"[/\\]+")


def ship(model: Path, output: Path) -> dict[str, Any]:
    """Write a trained model as one that can ship: model.safetensors, model.json and their marker.

    The facts gain ``version`` (the short hash of the trained weights), ``trained_sha256`` (the
    whole one), ``model_sha256`` (of the trained model's folder, by which the ledger knows it),
    ``params_sha256`` (of the settings) and `FROM_RUN`, each None where it is not known. Other files
    of ``output``, such as its model card, stay as they are.

    Args:
        model: Folder or file of a trained model (see `checkpoints.load_model`).
        output: Folder for the files; a model that it holds is replaced.

    Returns:
        The marker (see `storage.seal`).

    Raises:
        CheckpointError: The model does not load, or a weight is too large for 16 bits.
    """
    import torch

    from quality_model.networks.checkpoints import load_model, save_model

    loaded = load_model(model, torch.device("cpu"))
    settings = loaded.facts.get("settings")
    facts = {
        **_portable(loaded.facts),
        "version": loaded.sha256[:_VERSION_LENGTH],
        "trained_sha256": loaded.sha256,
        "model_sha256": loaded.folder_sha256,
        "params_sha256": None if settings is None else values_sha256(settings),
        **_run_of(model),
    }
    return save_model(
        output, loaded.model, image_size_px=loaded.image_size_px, facts=facts, half_precision=True
    )


def _run_of(model: Path) -> dict[str, str | None]:
    note = model / RUN_NAME
    known = storage.read_json(note) if note.exists() else {}
    return {key: known.get(key) for key in FROM_RUN}


def _portable(value: Any) -> Any:
    """The value without what depends on the machine: its keys are left out, paths keep their last name."""
    if isinstance(value, Mapping):
        return {
            key: without_folders(inner) if key == _DATASET and isinstance(inner, str) else _portable(inner)
            for key, inner in value.items()
            if str(key).rpartition(".")[2] not in _OF_A_MACHINE
        }
    if isinstance(value, list | tuple):
        return [_portable(inner) for inner in value]
    if isinstance(value, str) and _PATH.match(value):
        return _SEPARATOR.split(value.rstrip("/\\"))[-1]
    return value
