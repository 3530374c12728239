"""One decision is one record: a finished folder in ``state/records``, written once and never changed.

A record holds decision.json and, as far as there are, evidence.json, verdict.md, beside_champion.html and the
model card. What MLflow shows of a decision is a projection of its record (`project`), which can be repeated
at any time: a tag of the registered model, so that other machines see it, and tags, files and description of
run and version. `read_decisions` joins the records of this machine with those tags.

Decisions of earlier releases (``state/ledger.jsonl``, and ``history.*`` tags of the registered model) are
read, never written.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from pydantic import TypeAdapter, ValidationError

from quality_model.core import storage
from quality_model.core.models import database_exists
from quality_model.errors import CorruptError, ParameterError, RegistryError
from quality_model.params import RegistryParams
from quality_model.params_file import parse_yaml, to_yaml
from quality_model.paths import BESIDE_CHAMPION_NAME, CARD_NAME, DECISION_NAME, EVIDENCE_NAME, ProjectPaths
from quality_model.records import ModelRef
from quality_model.release.gate import Row, Verdict
from quality_model.release.registry import ModelVersion, Registry

log = logging.getLogger(__name__)

Action = Literal["baseline", "passed", "refused", "registered", "declined", "promoted", "rolled back"]
"""``baseline``: the bundled model became the first champion. ``passed``, ``refused``: by the gate.
``registered``: a version was made. ``declined``: a person, or nobody in time, approved of it. ``promoted``,
``rolled back``: the alias ``champion`` moved."""

OF_THE_GATE: Final[tuple[Action, ...]] = ("passed", "refused")
OF_THE_CHAMPION: Final = ("baseline", "promoted", "rolled back")

KIND: Final = "decision"
"""Of the completion marker of a record."""

VERDICT_TEXT_NAME: Final = "verdict.md"

_CUT: Final = f"\n\n(The rest is in {CARD_NAME}, among the files of the run.)\n"
_TAG_PREFIX: Final = "decision."
_ROOM: Final = 5000
"""Characters of a tag or a description in MLflow's tables; SQLite alone would take more."""

_NUM_REASONS, _REASON_LENGTH = 20, 200
_EARLIER_PREFIX: Final = "history."
_NAME_DIGITS: Final = 20
_SHORT: Final = 8  # characters of a hash that a person compares


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided about a model, when and why.

    Attributes:
        action: What was decided.
        time: When, ISO 8601 in UTC.
        model: Which model; its name is the registered model's, its version is None until it has one.
        model_sha256: Hash of the model's folder.
        champion: The champion before; for a decision of the gate the one that it compared with.
        champion_sha256: Hash of that model's folder.
        data_sha256: Of the training dataset whose test split decided; without a verdict, the model's own.
        gate_sha256: Of the gate's thresholds and measures.
        params_sha256: Of the parameters that the weights depend on.
        git_commit: Of the code that trained the model.
        reason: Given by a person, or by the command.
        refusals: The gate's reasons to refuse.
        tested_on: Digests of the test images and groups that decided; empty in what was read from a server.
        rows: The evidence in short: each rule of the gate with its value. Empty where the gate did not
            decide, and in what was read from a server.
    """

    action: Action
    time: str
    model: ModelRef
    model_sha256: str
    champion: ModelRef | None = None
    champion_sha256: str | None = None
    data_sha256: str | None = None
    gate_sha256: str | None = None
    params_sha256: str | None = None
    git_commit: str | None = None
    reason: str = ""
    refusals: tuple[str, ...] = ()
    tested_on: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the gate passed the model."""
        return self.action != "refused" and self.gate_sha256 is not None

    @property
    def verdict(self) -> Verdict:
        """The gate's verdict that the decision rests on."""
        return Verdict(self.passed, self.rows, self.champion.version if self.champion else None)

    def line(self) -> str:
        """The decision in short: action, version, data, commit and the first reason."""
        data, commit = ((value or "-")[:_SHORT] for value in (self.data_sha256, self.git_commit))
        reasons = self.refusals or ((self.reason,) if self.reason else ())
        more = f"; and {len(reasons) - 1} more" if reasons[1:] else ""
        why = f" ({reasons[0]}{more})" if reasons else ""
        return f"{self.action}: version {self.model.version or '-'}, data {data}, commit {commit}{why}"


_DECISION: Final = TypeAdapter(Decision)


def now() -> str:
    """Return the time for a decision that is made now."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


# -- records


def write_record(
    root: Path, decision: Decision, *, evidence: str = "", page: str = "", card: str = ""
) -> Path:
    """Write a decision as a finished folder and return it; the decision is made when this returns.

    Args:
        root: The project folder.
        decision: What was decided.
        evidence: JSON text of what the gate decided by.
        page: HTML of the samples beside the champion's scores.
        card: The model card.

    Raises:
        StorageError: It could not be written; then nothing was decided.
    """
    text = _DECISION.dump_json(decision, indent=2).decode() + "\n"
    folder = ProjectPaths(root).records / hashlib.sha256(text.encode()).hexdigest()[:_NAME_DIGITS]
    verdict = decision.verdict.markdown() if decision.rows else ""
    texts = {
        DECISION_NAME: text,
        EVIDENCE_NAME: evidence,
        VERDICT_TEXT_NAME: verdict,
        BESIDE_CHAMPION_NAME: page,
        CARD_NAME: card,
    }
    files = {name: content for name, content in texts.items() if content}
    for name, content in files.items():
        storage.write_text(folder / name, content)
    storage.seal(folder, list(files), rows=1, kind=KIND)
    log.info("Decision: %s.", decision.line())
    return folder


def read_record(folder: Path) -> Decision:
    """Read the decision of a record.

    Raises:
        IncompleteError, CorruptError: The record is not complete, or not as it was written.
    """
    storage.require_sealed(folder, verify=True)
    return _parse((folder / DECISION_NAME).read_text(encoding="utf-8"), folder)


def finished_records(root: Path) -> dict[Path, Decision]:
    """Return the decisions that were made on this machine with the folders of their records, oldest first.

    A folder without completion marker is of a process that was killed: that decision was not made.

    Raises:
        CorruptError: A record is not as it was written.
    """
    folders = [path.parent for path in ProjectPaths(root).records.glob(f"*/{storage.MARKER_NAME}")]
    found = [(folder, read_record(folder)) for folder in folders]
    return dict(sorted(found, key=lambda record: record[1].time))


def find_record(root: Path, *actions: Action, **facts: object) -> Path | None:
    """Return the last record of this machine with one of the actions and these facts; None if there is none.

    Args:
        root: The project folder.
        actions: Of the decision.
        facts: Fields of `Decision` and their values.
    """
    for folder, decision in reversed(finished_records(root).items()):
        if decision.action in actions and all(getattr(decision, key) == facts[key] for key in facts):
            return folder
    return None


def read_decisions(root: Path, registry: RegistryParams) -> list[Decision]:
    """Return the decisions of this machine and of others that use the same registry, oldest first.

    Where the registry does not answer, a warning says so, and only those of this machine are returned.

    Raises:
        CorruptError: A record or a line of an earlier ledger is not as it was written.
    """
    try:
        if database_exists(root):
            return decisions_of(Registry(root, registry))
    except RegistryError as error:
        log.warning("%s Decisions of other machines are not shown.", error.problem)
    return _joined(root, registry.model_name, {})


def decisions_of(catalogue: Registry) -> list[Decision]:
    """As `read_decisions`, of a registry that must answer.

    Raises:
        RegistryError: It does not.
    """
    return _joined(catalogue.root, catalogue.name, catalogue.tags())


def _joined(root: Path, name: str, tags: Mapping[str, str]) -> list[Decision]:
    records = finished_records(root)
    local = {f"{_TAG_PREFIX}{folder.name}" for folder in records}
    others = [
        _parse(text, key) for key, text in tags.items() if key.startswith(_TAG_PREFIX) and key not in local
    ]
    return sorted([*_earlier(root, name, tags), *records.values(), *others], key=lambda made: made.time)


def _parse(text: str, place: object) -> Decision:
    """The decision in a record, which is JSON, or in a tag, which is YAML, and JSON of an earlier release."""
    try:
        return (
            _DECISION.validate_json(text) if text[:1] == "{" else _DECISION.validate_python(parse_yaml(text))
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}."
    except ParameterError as error:
        problem = error.problem
    raise CorruptError(
        f"{place} is not a decision: {problem}",
        "Restore it from a backup, or remove it: then that decision is no longer known.",
    )


def _earlier(root: Path, name: str, tags: Mapping[str, str]) -> list[Decision]:
    """The decisions that earlier releases appended to a ledger, and the moves that they kept as tags."""
    lines = storage.read_lines(ProjectPaths(root).state / "ledger.jsonl")
    for key, value in tags.items():
        if key.startswith(_EARLIER_PREFIX):
            with suppress(ValueError):  # a tag of someone else
                lines.append(json.loads(value))
    found = []
    for line in lines:
        with suppress(ValidationError, AttributeError, KeyError):  # of someone else
            action = line.get("outcome") or line["action"]
            before = line.get("compared_with", line.get("from_version"))
            version = line.get("version", line.get("to_version"))
            facts = {
                "action": {"set": "registered", "found": "promoted"}.get(action, action),
                "time": line.get("time"),
                "model": ModelRef(name, version, line.get("run_id"), ""),
                "model_sha256": line.get("model_sha256") or "",
                "champion": before and ModelRef(name, before, None, ""),
                "data_sha256": line.get("data_sha256"),
                "git_commit": line.get("git_commit"),
                "reason": line.get("reason") or "; ".join(line.get("reasons", [])),
            }
            found.append(_DECISION.validate_python(facts))
    return found


# -- what the records say


def last_verdict(decisions: Sequence[Decision], model_sha256: str) -> Decision | None:
    """Return the gate's last decision on a model; None if it has not decided.

    Args:
        decisions: Oldest first.
        model_sha256: Hash of the model's folder.
    """
    about = [one for one in decisions if one.action in OF_THE_GATE and one.model_sha256 == model_sha256]
    return about[-1] if about else None


def succession(decisions: Sequence[Decision], versions: Sequence[ModelVersion]) -> list[str]:
    """Return the numbers of the champions that precede one another, the last one on record last.

    A rollback removes the last one, or all where it leads to a version that was none of them, as the
    bundled model may be; each other change of the champion adds one.

    Args:
        decisions: Oldest first.
        versions: Of the registry. A champion that it no longer has, or whose number another model has
            since the database was replaced, is left out.
    """
    models = {version.version: version.model_sha256 for version in versions}
    line: list[str] = []
    for decision in decisions:
        number = decision.model.version
        if decision.action not in OF_THE_CHAMPION or number not in models:
            continue
        if decision.model_sha256 not in ("", models[number]) or line[-1:] == [number]:
            continue
        if decision.action == "rolled back":
            while line and line[-1] != number:
                line.pop()
        if line[-1:] != [number]:
            line.append(number)
    return line


# -- what MLflow shows


def project(record: Path, catalogue: Registry) -> str:
    """Show a decision in MLflow; doing it again changes nothing.

    The registered model gets a tag, by which other machines know the decision. The run gets the files of
    the record and the tag ``verdict``; so does the version, with the model card as its description. A
    version or run that is about another model, since the database was replaced, is left alone, and so is
    one that shows a later decision.

    Args:
        record: Folder of the decision.
        catalogue: The versions of the model that it is about.

    Returns:
        MLflow's id of the run; empty if no run of this server made the model.

    Raises:
        RegistryError: MLflow does not answer, or does not take it.
        IncompleteError, CorruptError: The record is not complete.
    """
    decision, card_path = read_record(record), record / CARD_NAME
    card = card_path.read_text(encoding="utf-8") if card_path.exists() else ""
    client, name = catalogue.client, catalogue.name
    catalogue.ensure_registered_model()
    with catalogue.errors("Recording the decision"):
        client.set_registered_model_tag(name, f"{_TAG_PREFIX}{record.name}", _in_short(decision))
    asked = decision.model.run_id
    run = catalogue.find_run(asked) if asked else None
    run_id = run.info.run_id if run else ""
    if run is not None:
        with catalogue.errors("Adding the decision to its run"):
            client.log_artifacts(run_id, str(record), f"decisions/{record.name}")
            if run.data.tags.get("decided", "") <= decision.time:
                for key, value in _tags(decision).items():
                    client.set_tag(run_id, key, value)
                if card:
                    client.log_text(run_id, card, CARD_NAME)
    elif asked:
        log.warning("The run %s is not at %s.", asked, catalogue.connection.shown)
    version = catalogue.look_up(number=decision.model.version) if decision.model.version else None
    if version is None or version.model_sha256 != decision.model_sha256:
        return run_id
    if version.tags.get("decided", "") <= decision.time:
        with catalogue.errors("Adding the decision to its version"):
            for key, value in _tags(decision).items():
                client.set_model_version_tag(name, version.version, key, value)
            if card:
                client.update_model_version(name, version.version, _shortened(card))
    return run_id


def try_project(catalogue: Registry, *records: Path) -> None:
    """Show decisions in MLflow if that answers (see `project`); the records stand without it."""
    for record in records:
        try:
            project(record, catalogue)
        except RegistryError as error:
            log.warning("%s The decision is in %s. Run `quality-model publish` later.", error.problem, record)


def _tags(decision: Decision) -> dict[str, str]:
    """``verdict``: passed, refused or baseline; ``decided``: the time."""
    word = "baseline" if decision.action == "baseline" else "passed" if decision.passed else "refused"
    has_verdict = decision.action == "baseline" or decision.gate_sha256 is not None
    return {"decided": decision.time, **({"verdict": word} if has_verdict else {})}


def _in_short(decision: Decision) -> str:
    """The decision as lines that a tag has room for: without the rows, and long reasons cut."""
    refusals = tuple(reason[:_REASON_LENGTH] for reason in decision.refusals[:_NUM_REASONS])
    short = replace(
        decision, rows=(), tested_on=(), refusals=refusals, reason=decision.reason[:_REASON_LENGTH]
    )
    values = _DECISION.dump_python(short, mode="json")
    return to_yaml({key: value for key, value in values.items() if value or key == "model_sha256"})


def _shortened(text: str) -> str:
    """The text, cut at the end of a line where it is longer than a description may be."""
    if len(text) <= _ROOM:
        return text
    room = text[: _ROOM - len(_CUT)]
    return (room.rpartition("\n")[0] or room) + _CUT
