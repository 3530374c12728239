"""The model card as a step: from the files of training and gate to the version or the shipped model."""

from pathlib import Path
from typing import Any, Final

from quality_model.core import storage
from quality_model.paths import DESCRIPTION_NAME, EVIDENCE_NAME, VERDICT_NAME
from quality_model.pretrained.shipping import FROM_RUN, ship
from quality_model.release.cards import CARD_NAME, model_card
from quality_model.release.registry import ModelVersion, Registry

_ORIGIN: Final = (
    *("data_name", "package_version", "code_sha256", "git_commit", "git_dirty"),
    *("model_sha256", "params_sha256"),
)


def publish_card(catalogue: Registry, version: ModelVersion, *, model: Path, report: Path) -> str:
    """Write the card of a version to ``report`` and attach it to the version and its run.

    Args:
        catalogue: Holds the version.
        version: Of the model in ``model``.
        model: Folder of the model.
        report: Folder of the gate's verdict and evidence about it; what is not there is called
            missing in the card.

    Returns:
        The card, Markdown.

    Raises:
        RegistryError: MLflow does not take it.
        CorruptError: A file is not JSON.
    """
    card = _card_of(
        model,
        report,
        about_sha256=storage.sealed_sha256(model),
        name=version.name,
        version=version.version,
        origin={"run_id": version.run_id, **{key: version.tags.get(key) for key in _ORIGIN}},
    )
    storage.write_text(report / CARD_NAME, card)
    catalogue.attach_card(version, card)
    return card


def ship_with_card(model: Path, output: Path, *, report: Path, image_licence: str | None) -> dict[str, Any]:
    """Make a trained model the one that ships (see `pretrained.ship`), with its card beside it.

    Args:
        model: Folder of the trained model.
        output: Folder for the model that ships.
        report: Folder of the gate's verdict and evidence; if they are about another model, or
            not there, the card calls them missing.
        image_licence: That of the images it learned from.

    Returns:
        The marker.

    Raises:
        CheckpointError: The model does not load.
    """
    marker = ship(model, output)
    shipped = storage.read_json(output / DESCRIPTION_NAME)["facts"]
    card = _card_of(
        output,
        report,
        about_sha256=storage.sealed_sha256(model),
        version=shipped["version"],
        origin={key: shipped[key] for key in ("model_sha256", "params_sha256", *FROM_RUN)},
        image_licence=image_licence,
    )
    storage.write_text(output / CARD_NAME, card)
    return marker


def _card_of(model: Path, report: Path, *, about_sha256: str, **known: Any) -> str:
    """The card of a model, by a report about the trained model of this hash."""
    verdict = _read_if_there(report / VERDICT_NAME)
    is_about_it = verdict is not None and verdict.get("model_sha256") == about_sha256
    return model_card(
        storage.read_json(model / DESCRIPTION_NAME),
        _read_if_there(report / EVIDENCE_NAME) if is_about_it else None,
        verdict if is_about_it else None,
        **known,
    )


def _read_if_there(path: Path) -> Any:
    return storage.read_json(path) if path.exists() else None
