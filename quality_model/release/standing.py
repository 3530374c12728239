"""Whether anything is to be decided about a candidate: the decision on it that stands already."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from quality_model.core import storage
from quality_model.data.dataset import TrainingSet
from quality_model.params import EvaluateParams, GateParams, RegistryParams, flatten, values_sha256
from quality_model.release.registry import Registry, read_decisions, record_decision

log = logging.getLogger(__name__)

_DECIDING: Final = ("promoted", "refused")
"""Outcomes that stand until data, model, measuring or thresholds change; who passed may still be promoted."""


@dataclass(frozen=True, slots=True)
class Settled:
    """A decision that stands, as the ledger has it, and the reason why nothing is to be decided anew."""

    decision: Mapping[str, Any]
    reason: str


def find_settled(
    section: EvaluateParams,
    gate: GateParams,
    registry: RegistryParams,
    *,
    root: Path,
    model: Path,
    training_set: Path,
) -> Settled | None:
    """The decision on this model, data, measuring and thresholds; None if there is one to make.

    A refusal counts only while the champion is the one that the candidate was compared with; a
    promotion only while that version, with this model in it, is there. By other thresholds there is nothing
    to decide about a candidate that is the champion: no model is better than itself.

    Args:
        section: Decides about the figures.
        gate: Thresholds.
        registry: Name of the registered model.
        root: The project folder.
        model: Folder of the candidate.
        training_set: Folder whose test split decides.

    Raises:
        IncompleteError, CorruptError: The model or the training dataset is not whole.
        RegistryError: MLflow does not answer.
    """
    catalogue = Registry(root, registry)
    champion = catalogue.champion()
    facts = {
        "model_sha256": storage.sealed_sha256(model),
        "data_sha256": TrainingSet.open(training_set).data_sha256,
        "gate_sha256": gate_sha256(gate, section),
    }
    decided = [
        decision
        for decision in read_decisions(root)
        if decision["outcome"] in _DECIDING
        and all(decision.get(key) == value for key, value in facts.items())
    ]
    if not decided:
        if champion is None or champion.tags.get("model_sha256") != facts["model_sha256"]:
            return None
        about = {**facts, "version": champion.version, "run_id": champion.run_id}
        return Settled(about, f"the candidate is the champion already, version {champion.version}")
    last = decided[-1]
    since = f"data, parameters and model are those of {last['time']}"
    if last["outcome"] == "promoted":
        known = any(
            (version.version, version.tags.get("model_sha256")) == (last["version"], facts["model_sha256"])
            for version in catalogue.versions()
        )
        return Settled(last, f"{since}, when version {last['version']} was promoted") if known else None
    same = (champion.version if champion else None) == last["compared_with"]
    return Settled(last, f"{since}, when the gate refused: {'; '.join(last['reasons'])}") if same else None


def record_no_op(registry: RegistryParams, *, root: Path, settled: Settled) -> None:
    """Put on record that there was nothing to decide, and the decision that stands, with its evidence.

    ``compared_with`` names the version that is champion now.
    """
    champion = Registry(root, registry).champion()
    log.info("Nothing to do: %s.", settled.reason)
    record_decision(
        root,
        "no-op",
        {
            **{key: value for key, value in settled.decision.items() if key not in ("time", "outcome")},
            "compared_with": champion.version if champion else None,
            "reasons": [settled.reason],
        },
    )


def gate_sha256(gate: GateParams, section: EvaluateParams) -> str:
    """One hash for the thresholds and all that decides about the figures, versions of measures included."""
    from quality_model.evaluate.measure import measuring

    return values_sha256([flatten(gate), measuring(section)])
