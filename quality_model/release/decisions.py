"""What the ledger keeps of a decision about a version, put there once."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quality_model.release.registry import Action, ModelVersion, Registry, read_decisions, record_decision


def put_on_record(
    outcome: Any, root: Path, version: ModelVersion, reason: str, facts: Mapping[str, Any] | None = None
) -> None:
    """Put on record what became of a version, with its origin and the evidence that let it in."""
    origin = {
        key: version.tags.get(key) for key in ("model_sha256", "data_sha256", "params_sha256", "git_commit")
    }
    record_decision(
        root,
        outcome,
        {
            **origin,
            "evidence": evidence_of(kept_verdict(version)),
            **(facts or {}),
            "version": version.version,
            "run_id": version.run_id,
            "reasons": [reason],
        },
    )


def unrecorded_move(root: Path, catalogue: Registry, action: Action, reason: str) -> ModelVersion | None:
    """The champion, if what made it so was this action for this reason, and the ledger does not have it."""
    moves = [event for event in catalogue.history() if event.alias == "champion"]
    if not moves or (moves[-1].action, moves[-1].reason) != (action, reason):
        return None
    last = moves[-1]
    is_recorded = any(
        (decision["outcome"], decision["version"]) == (action, last.to_version)
        and decision["time"] >= last.time
        for decision in read_decisions(root)
    )
    return None if is_recorded else catalogue.champion()


def kept_verdict(version: ModelVersion) -> Mapping[str, Any]:
    """The verdict that is attached to a version; empty where there is none or it is not JSON."""
    try:
        verdict = json.loads(version.tags.get("verdict_json", "{}"))
    except ValueError:
        return {}
    return verdict if isinstance(verdict, dict) else {}


def evidence_of(verdict: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the ledger keeps of a verdict: every row, and the measures of each head."""
    return {"rows": verdict["rows"], "measures": verdict.get("measures")} if "rows" in verdict else None
