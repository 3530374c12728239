"""The ledger of decisions: every retraining's outcome, append-only, beside the registry."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from quality_model.paths import ProjectPaths
from quality_model.storage import append_line, read_lines

Outcome = Literal["promoted", "refused", "no-op", "rolled back"]


def record_decision(root: Path, outcome: Outcome, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Append a decision durably and return it as it stands in the ledger.

    Args:
        root: The project folder.
        outcome: What was decided.
        facts: JSON values; usually version, run_id, data_sha256, params_sha256, git_commit, reasons.

    Raises:
        StorageError: It could not be written; then it is not in the ledger.
    """
    record = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "outcome": outcome, **facts}
    append_line(_ledger(root), record)
    return record


def read_decisions(root: Path) -> list[dict[str, Any]]:
    """Every decision, oldest first.

    Raises:
        CorruptError: A line that is not JSON.
    """
    return read_lines(_ledger(root))


def _ledger(root: Path) -> Path:
    return ProjectPaths(root).state / "ledger.jsonl"
