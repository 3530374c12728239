"""The ledger of decisions: what was decided, of which model and on which evidence; append-only."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from quality_model.core.storage import append_line, read_lines
from quality_model.paths import ProjectPaths

Outcome = Literal["baseline", "passed", "refused", "promoted", "no-op", "rolled back"]

FACTS: Final = (
    "version",  # of the registered model; None where none is made of it (yet)
    "run_id",  # MLflow's, of the training
    "model_sha256",
    "data_sha256",  # of the training dataset whose test split decided
    "params_sha256",  # of the parameters that the weights hang on
    "git_commit",  # of the code that trained the model
    "gate_sha256",  # of thresholds and measuring
    "compared_with",  # the version that was champion then
    "reasons",
    "evidence",  # the verdict's rows and each head's measures
)
"""What a decision tells; None where it is not known or there is none."""

_SHORT: Final = 8
"""Characters of a hash that a person compares."""


def record_decision(root: Path, outcome: Outcome, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Append a decision durably and return it as it stands in the ledger.

    Args:
        root: The project folder.
        outcome: What was decided.
        facts: JSON values, see `FACTS`; what is left out is None, of the reasons an empty list.

    Raises:
        StorageError: It could not be written; then it is not in the ledger.
    """
    record = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "outcome": outcome,
        **dict.fromkeys(FACTS),
        "reasons": [],
        **facts,
    }
    append_line(_ledger(root), record)
    return record


def read_decisions(root: Path) -> list[dict[str, Any]]:
    """Every decision, oldest first.

    Raises:
        CorruptError: A line that is not JSON.
    """
    return read_lines(_ledger(root))


def decision_line(decision: Mapping[str, Any]) -> str:
    """A decision in short: outcome, version, data, commit, and the first of its reasons."""
    data, commit = (str(decision.get(key) or "-")[:_SHORT] for key in ("data_sha256", "git_commit"))
    reasons = [str(reason) for reason in decision.get("reasons") or []]
    more = f"; and {len(reasons) - 1} more" if reasons[1:] else ""
    told = f" ({reasons[0]}{more})" if reasons else ""
    version = decision.get("version") or "-"
    return f"{decision['outcome']}: version {version}, data {data}, commit {commit}{told}"


def _ledger(root: Path) -> Path:
    return ProjectPaths(root).state / "ledger.jsonl"
