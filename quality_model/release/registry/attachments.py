"""What stands beside a version and its run for people to read: verdict, model card, comparison."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from quality_model.release.registry.connection import Connection, speaking_to

CARD_FILE: Final = "MODEL_CARD.md"
COMPARISON_FOLDER: Final = "comparison"

MAX_DESCRIPTION: Final = 5000
"""Characters of a description; MLflow's table has no room for more (SQLite alone would take them)."""

_CUT: Final = f"\n\n(The rest is in {CARD_FILE}, among the files of the run.)\n"


def attach_verdict(
    connection: Connection, name: str, verdict: Mapping[str, Any], *, run_id: str, version: str | None
) -> None:
    """Tags ``verdict`` and ``verdict_json``, and gate/verdict.json with the run."""
    word = "passed" if verdict.get("passed") is True else "refused"
    text = json.dumps(verdict, ensure_ascii=False, default=str)
    client = connection.client
    with speaking_to(connection.shown, "Attaching the verdict"):
        client.set_tag(run_id, "verdict", word)
        client.log_text(
            run_id, json.dumps(verdict, ensure_ascii=False, default=str, indent=2), "gate/verdict.json"
        )
        if version is not None:
            client.set_model_version_tag(name, version, "verdict", word)
            client.set_model_version_tag(name, version, "verdict_json", text)


def attach_card(connection: Connection, name: str, text: str, *, run_id: str | None, version: str) -> None:
    """The version's description, as far as it has room, and the whole as MODEL_CARD.md with the run."""
    with speaking_to(connection.shown, "Attaching the model card"):
        connection.client.update_model_version(name, version, _shortened(text))
        if run_id is not None:
            connection.client.log_text(run_id, text, CARD_FILE)


def attach_comparison(
    connection: Connection,
    name: str,
    summary: Mapping[str, Any],
    files: Iterable[Path],
    *,
    run_id: str | None,
    version: str,
) -> None:
    """Tag ``comparison_json``, and the files in the run's folder ``comparison``; the last one stays."""
    with speaking_to(connection.shown, "Attaching the comparison"):
        connection.client.set_model_version_tag(
            name, version, "comparison_json", json.dumps(summary, ensure_ascii=False)
        )
        if run_id is not None:
            for path in files:
                connection.client.log_artifact(run_id, str(path), COMPARISON_FOLDER)


def _shortened(text: str) -> str:
    """The text, cut at the end of a line where it is longer than a description may be."""
    if len(text) <= MAX_DESCRIPTION:
        return text
    room = text[: MAX_DESCRIPTION - len(_CUT)]
    return (room.rpartition("\n")[0] or room) + _CUT
