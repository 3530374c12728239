"""What happened to the aliases: one event per change, kept as tags of the registered model.

So the history lives where the aliases live, and travels with a shared server. Tags are
only ever added. The key ends in random digits, so that writers on two machines, whom no
lock of ours holds apart, never write over each other.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Final, Literal

Action = Literal["set", "baseline", "promoted", "rolled back", "found"]
"""``baseline``: the bundled model became the first champion. ``found``: the alias had moved without an
event, by hand in the web UI or by a process that was killed."""

_PREFIX: Final = "history."


@dataclass(frozen=True, slots=True)
class AliasEvent:
    """One change of one alias; versions are None where the alias named nothing."""

    number: int
    time: str
    alias: str
    action: Action
    from_version: str | None
    to_version: str | None
    reason: str

    def to_tag(self) -> tuple[str, str]:
        """Key and value of the registered model's tag."""
        return f"{_PREFIX}{self.number:06d}.{uuid.uuid4().hex[:8]}", json.dumps(
            asdict(self), ensure_ascii=False
        )


def read_events(tags: Mapping[str, str]) -> list[AliasEvent]:
    """The events among a registered model's tags, oldest first; foreign tags are passed over."""
    found = []
    for key, value in tags.items():
        if key.startswith(_PREFIX):
            try:
                found.append((key, AliasEvent(**json.loads(value))))
            except (ValueError, TypeError):
                continue
    found.sort(key=lambda pair: (pair[1].number, pair[1].time, pair[0]))
    return [event for _, event in found]


def next_event(
    events: Sequence[AliasEvent],
    alias: str,
    action: Action,
    from_version: str | None,
    to_version: str | None,
    reason: str,
) -> AliasEvent:
    """The event that comes after ``events``, happening now."""
    number = max((event.number for event in events), default=0) + 1
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    return AliasEvent(number, time, alias, action, from_version, to_version, reason)


def last_version(events: Sequence[AliasEvent], alias: str) -> str | None:
    """The version that the events say ``alias`` names."""
    return next((event.to_version for event in reversed(events) if event.alias == alias), None)


def succession(events: Sequence[AliasEvent], alias: str) -> list[str]:
    """The versions that stand behind one another under ``alias``, the present one last.

    A rollback takes the last one off, or all where it leads to a version that was none of them, as the
    bundled model may be; everything else that names another version adds one.
    """
    stack: list[str] = []
    for event in events:
        if event.alias != alias or event.to_version is None:
            continue
        if stack and stack[-1] == event.to_version:
            continue
        if event.action == "rolled back":
            while stack and stack[-1] != event.to_version:
                stack.pop()
        if not stack or stack[-1] != event.to_version:
            stack.append(event.to_version)
    return stack
