"""The bundled model in the registry: the first champion, and the way back to it."""

import logging
from pathlib import Path
from typing import Final

from quality_model import pretrained
from quality_model.core import storage
from quality_model.errors import ChampionChangedError, ModelNotFoundError, RegistryError, StorageError
from quality_model.params import RegistryParams
from quality_model.paths import DESCRIPTION_NAME
from quality_model.release.cards import CARD_NAME
from quality_model.release.decisions import put_on_record, unrecorded_move
from quality_model.release.publish import publish
from quality_model.release.registry import ModelVersion, Registry

log = logging.getLogger(__name__)

REASON: Final = "the bundled model is the first champion; its evidence is its model card"
"""Kept with the decision `baseline`, which claims no pass of the gate."""


def ensure_baseline(registry: RegistryParams, *, root: Path, image_size_px: int) -> None:
    """Make the bundled model the first champion where there is none.

    Nothing changes where a champion is there, where this installation has no bundled weights, or
    where the project works at another image size: its line of models has no baseline then.

    Args:
        registry: Names the registered model.
        root: The project folder.
        image_size_px: Side of the images that the project's models score.

    Raises:
        RegistryError: MLflow does not answer, or does not take it.
    """
    folder = pretrained.pretrained_folder()
    if folder is None:
        return
    bundled_px = storage.read_json(folder / DESCRIPTION_NAME)["image_size_px"]
    if bundled_px != image_size_px:
        log.warning(
            "This project works at %d px, the bundled model at %d px: they cannot be compared, and the first"
            " champion is judged by the thresholds alone.",
            image_size_px,
            bundled_px,
        )
        return
    catalogue = Registry(root, registry)
    if catalogue.champion() is None:
        version = register_bundled(registry, root=root)
        try:
            catalogue.promote(version.version, REASON, compared_with=None, action="baseline")
        except ChampionChangedError:  # another process was first
            return
        log.info("Version %s, the bundled model, is the first champion.", version.version)
    champion = unrecorded_move(root, catalogue, "baseline", REASON)
    if champion is not None:
        put_on_record("baseline", root, champion, REASON, {"evidence": {"model_card": _card_sha256(folder)}})


def register_bundled(registry: RegistryParams, *, root: Path) -> ModelVersion:
    """The version that holds the bundled model, which is made if there is none.

    Its run carries what the model's own facts say of its origin.

    Raises:
        ModelNotFoundError: This installation has no bundled weights.
        RegistryError: MLflow does not answer, or does not take it.
    """
    folder = pretrained.pretrained_folder()
    if folder is None:
        raise ModelNotFoundError(
            "This installation has no bundled weights.", "Promote a version of the registry instead."
        )
    catalogue = Registry(root, registry)
    for version in catalogue.versions():
        if is_bundled(version) and _is_whole(catalogue, version):
            return _described(catalogue, version, folder)
    run_id = publish(folder, root=root, registry=registry)
    return _described(catalogue, catalogue.register(run_id), folder)


def _is_whole(catalogue: Registry, version: ModelVersion) -> bool:
    """Whether a version's files are there as they were registered; another one is made otherwise."""
    try:
        catalogue.resolve(version.version)
    except (RegistryError, StorageError) as error:
        log.warning("%s", error.problem)
        return False
    return True


def _described(catalogue: Registry, version: ModelVersion, folder: Path) -> ModelVersion:
    """The version with its card and the tag that says which kind of decision let it in."""
    if version.tags.get("verdict") == "baseline":
        return version
    card = folder / CARD_NAME
    if card.exists():
        catalogue.attach_card(version, card.read_text(encoding="utf-8"))
    catalogue.tag(version, "verdict", "baseline")
    return catalogue.find(version.version)


def is_bundled(version: ModelVersion) -> bool:
    """Whether a version holds the model that is bundled with this installation."""
    folder = pretrained.pretrained_folder()
    return folder is not None and version.tags.get("model_sha256") == storage.sealed_sha256(folder)


def _card_sha256(folder: Path) -> str | None:
    card = folder / CARD_NAME
    return storage.file_sha256(card) if card.exists() else None
