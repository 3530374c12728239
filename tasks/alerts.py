"""`make alerts`: the alerts of prefect.yaml become automations of the Prefect server, which notify blocks."""

import sys
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound

from quality_model.errors import UsageError
from quality_model.params_file import parse_yaml
from tasks.ending import run_by_hand


def set_alerts(definitions: Path, blocks: Sequence[str]) -> list[str]:
    """Make or replace an automation for each alert; one that exists is found by its name.

    Args:
        definitions: prefect.yaml; `definitions.alerts` has name, trigger, subject and body of each.
        blocks: Notification blocks of the server, as TYPE/NAME; each gets every alert.

    Returns:
        The names of the alerts.

    Raises:
        UsageError: No block was named, or there is no such block.
    """
    if not blocks:
        raise UsageError("No block was named.", 'For example: make alerts BLOCKS="slack-webhook/team".')
    alerts = parse_yaml(definitions.read_text(encoding="utf-8"))["definitions"]["alerts"]
    with get_client(sync_client=True) as client:
        ids = [_block_id(client, block) for block in blocks]
        for alert in alerts:
            made = AutomationCore(
                name=alert["name"],
                trigger={"type": "event", "posture": "Reactive", **alert["trigger"]},
                actions=[
                    SendNotification(block_document_id=one, subject=alert["subject"], body=alert["body"])
                    for one in ids
                ],
            )
            found = client.read_automations_by_name(alert["name"])
            for earlier in found[1:]:
                client.delete_automation(earlier.id)
            if found:
                client.update_automation(found[0].id, made)
            else:
                client.create_automation(made)
    return [alert["name"] for alert in alerts]


def _block_id(client: SyncPrefectClient, block: str) -> UUID:
    kind, _, name = block.partition("/")
    try:
        return client.read_block_document_by_name(name, kind).id
    except ObjectNotFound:
        raise UsageError(
            f"The Prefect server has no block {block}.",
            "Make it in its page (Blocks), or see docs/daily.md; its name is TYPE/NAME.",
        ) from None


def main() -> None:
    for name in set_alerts(Path("prefect.yaml"), sys.argv[1:]):
        sys.stdout.write(f"{name} -> {', '.join(sys.argv[1:])}\n")


if __name__ == "__main__":
    run_by_hand(main)
