"""The model card as a step: from the files of training and gate to the version that it describes."""

from pathlib import Path

from quality_model import storage
from quality_model.cards import CARD_NAME, model_card
from quality_model.checkpoints import DESCRIPTION_NAME
from quality_model.paths import EVIDENCE_NAME, VERDICT_NAME
from quality_model.registry import ModelVersion, Registry

_ORIGIN = ("data_name", "git_commit", "git_dirty", "model_sha256", "params_sha256")


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
    evidence, verdict = report / EVIDENCE_NAME, report / VERDICT_NAME
    card = model_card(
        storage.read_json(model / DESCRIPTION_NAME),
        storage.read_json(evidence) if evidence.exists() else None,
        storage.read_json(verdict) if verdict.exists() else None,
        name=version.name,
        version=version.version,
        origin={"run_id": version.run_id, **{key: version.tags.get(key) for key in _ORIGIN}},
    )
    storage.write_text(report / CARD_NAME, card)
    catalogue.attach_card(version, card)
    return card
