"""Prepare a trained model as the bundled one: half precision, with a card, and nothing of a machine in it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from quality_model.core import storage
from quality_model.data.sources.expression import without_folders
from quality_model.params import values_sha256
from quality_model.release.card import card_of
from quality_model.release.decisions import CARD_NAME, OF_THE_GATE, find_record

_FROM_RUN: Final = ("run_id", "package_version", "code_sha256", "git_commit", "git_dirty")
"""Facts about the training that a bundled model states, None where they are not known."""

_VERSION_LENGTH: Final = 12
_OF_A_MACHINE: Final = frozenset({"device", "workers", "host", "hostname", "user", "root"})
"""Last words of the keys of facts that say where, not how, a model was trained."""

_DATASET: Final = "source.dataset"
_PATH: Final = re.compile(r"(?:[/~\\]|\.{1,2}[/\\]|[A-Za-z]:[/\\]|file:)")
_SEPARATOR: Final = re.compile(r"[/\\]+")


def bundle_model(
    model: Path, output: Path, *, root: Path, image_licence: str | None
) -> list[tuple[str, int]]:
    """Write a trained model as one that can be bundled: model files and card.

    The facts gain ``version`` (the short hash of the trained weights), ``trained_sha256`` (the whole one),
    ``model_sha256`` (of the trained model's folder, which decisions name) and ``params_sha256`` (of the
    settings). Other files of ``output``, such as a licence, stay as they are.

    Args:
        model: Folder or file of a trained model (see `checkpoints.load_model`).
        output: Folder for the files; a model that it holds is replaced.
        root: The project folder; the card shows the gate's last decision there on this model.
        image_licence: That of the training images, for the card.

    Returns:
        Name and length in bytes of the files.

    Raises:
        CheckpointError: The model does not load, or a weight is too large for 16 bits.
    """
    import torch

    from quality_model.networks.checkpoints import load_model, save_model

    loaded = load_model(model, torch.device("cpu"))
    settings = loaded.facts.settings
    facts = {
        **_portable(loaded.facts.to_json()),
        "version": loaded.sha256[:_VERSION_LENGTH],
        "trained_sha256": loaded.sha256,
        "model_sha256": loaded.folder_sha256,
        "params_sha256": None if settings is None else values_sha256(settings),
        **{key: getattr(loaded.facts, key) for key in _FROM_RUN},
    }
    marker = save_model(
        output, loaded.model, image_size_px=loaded.image_size_px, facts=facts, half_precision=True
    )
    record = find_record(root, *OF_THE_GATE, model_sha256=loaded.folder_sha256)
    storage.write_text(output / CARD_NAME, card_of(output, record, image_licence=image_licence))
    return [(entry["name"], entry["bytes"]) for entry in marker["files"]]


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
