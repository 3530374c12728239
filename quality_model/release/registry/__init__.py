"""The model registry: versions, aliases with their history, and the ledger of decisions.

Aliases only, no stages: ``candidate`` is the newest model that passed its gate, ``champion``
the one that scoring uses.
"""

from pathlib import Path

from quality_model.core.models import is_reference, parse_reference
from quality_model.errors import ModelNotFoundError
from quality_model.params import RegistryParams, load_params
from quality_model.paths import ProjectPaths
from quality_model.release.registry.connection import database_exists
from quality_model.release.registry.files import ResolvedModel
from quality_model.release.registry.history import Action, AliasEvent
from quality_model.release.registry.ledger import decision_line, read_decisions, record_decision
from quality_model.release.registry.origin import run_origin
from quality_model.release.registry.store import ModelVersion, Registry

__all__ = [
    "Action",
    "AliasEvent",
    "ModelVersion",
    "Registry",
    "ResolvedModel",
    "decision_line",
    "is_reference",
    "read_decisions",
    "record_decision",
    "resolve",
    "run_origin",
]


def resolve(
    reference: str, *, root: Path | None = None, section: RegistryParams | None = None
) -> ResolvedModel:
    """The version that a reference names, with its files on this machine.

    Args:
        reference: ``champion``, ``candidate``, a version number, ``models:/name@alias`` or
            ``models:/name/3``.
        root: The project folder; the current one if left out.
        section: Registry parameters; those of the project's params.yaml if left out.

    Raises:
        ModelNotFoundError: It names nothing; the message lists what there is.
        RegistryError: MLflow does not answer, or the files cannot be had.
        CorruptError, IncompleteError: The files are not those that were registered.
    """
    root = root or Path()
    parse_reference(reference)
    if not database_exists(root):
        raise ModelNotFoundError(
            f"{reference!r} names no model: there is no registry in {root.resolve()} yet.",
            "Run the retraining, set MLFLOW_TRACKING_URI, or name a file or the bundled model: bundled.",
        )
    section = section or load_params(ProjectPaths(root).params).registry
    return Registry(root, section).resolve(reference)
