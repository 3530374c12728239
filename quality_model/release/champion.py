"""Who is champion: the bundled model first, then what is promoted, and the way back."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from quality_model import pretrained
from quality_model.core import storage
from quality_model.core.model_files import read_description
from quality_model.errors import (
    ChampionChangedError,
    GateRefusedError,
    ModelNotFoundError,
    NoEarlierChampionError,
)
from quality_model.params import EvaluateParams, GateParams, RegistryParams
from quality_model.paths import CARD_NAME
from quality_model.records import ModelRef
from quality_model.release.decisions import (
    Action,
    Decision,
    decisions_of,
    last_verdict,
    now,
    succession,
    try_project,
    write_record,
)
from quality_model.release.gate import AFTER_A_REFUSAL, gate_sha256
from quality_model.release.publish import publish
from quality_model.release.registry import ModelVersion, Registry

log = logging.getLogger(__name__)

FIRST: Final = "the bundled model is the first champion; its evidence is its model card"
"""Reason of the decision `baseline`, which claims no pass of the gate."""

PASSED: Final = "passed the gate"
"""Reason of a registration, and of a promotion that asks nobody."""

OUTSIDE: Final = "the alias was moved in MLflow, or by a command that was interrupted"
"""Reason of a promotion that is found on the alias alone."""

ANY: Final = "any"
"""`_change` the champion, whatever it is."""


def ensure_baseline(registry: RegistryParams, *, root: Path, image_size_px: int) -> None:
    """Make the bundled model the first champion where there is none.

    Where there is a champion, only its record is written if that is missing. Nothing changes where this
    installation has no bundled weights, or where the project works at another image size: its line of
    models has no baseline then.

    Args:
        registry: Names the registered model.
        root: The project folder.
        image_size_px: Side of the images that the project's models score.

    Raises:
        RegistryError: MLflow does not answer, or does not take it.
    """
    catalogue = Registry(root, registry)
    version = catalogue.champion()
    if version is None:
        folder = pretrained.pretrained_folder()
        if folder is None:
            return
        bundled_px = read_description(folder).image_size_px
        if bundled_px != image_size_px:
            log.warning(
                "This project works at %d px, the bundled model at %d px: they cannot be compared, and the"
                " first champion is judged by the thresholds alone.",
                image_size_px,
                bundled_px,
            )
            return
        version = register_bundled(catalogue)
    action: Action = "baseline" if is_bundled(version) else "promoted"
    try:
        make_champion(catalogue, version, action, FIRST if action == "baseline" else OUTSIDE, None)
    except ChampionChangedError:
        log.info("Another process made the first champion.")


def promote_candidate(
    registry: RegistryParams, *, root: Path, decision: Decision, reason: str = PASSED
) -> bool:
    """Make the version that passed the gate the champion.

    Args:
        registry: Name of the registered model.
        root: The project folder.
        decision: The registration; it names the champion that the gate compared the version with.
        reason: Recorded in the history: who approved, where somebody was asked.

    Returns:
        False if the champion changed since the comparison: the gate has to compare with that one.

    Raises:
        RegistryError: The version's files are not complete; the old champion stays.
    """
    catalogue = Registry(root, registry)
    version = catalogue.find(decision.model.version or "")
    try:
        make_champion(catalogue, version, "promoted", reason, decision.champion_sha256)
    except ChampionChangedError as error:
        log.warning("%s", error.problem)
        return False
    return True


def decline_candidate(registry: RegistryParams, *, root: Path, decision: Decision, reason: str) -> None:
    """Record that a version that passed the gate does not become champion, and why.

    Args:
        registry: Name of the registered model.
        root: The project folder.
        decision: The registration.
        reason: Who declined, and why.
    """
    record = write_record(root, replace(decision, action="declined", time=now(), reason=reason))
    try_project(Registry(root, registry), record)


def promote_by_hand(
    section: EvaluateParams,
    gate: GateParams,
    registry: RegistryParams,
    *,
    root: Path,
    reference: str,
    reason: str,
) -> str:
    """Make a registered version champion, if its verdict still holds; returns its number.

    Args:
        section: How the gate measures.
        gate: Its thresholds.
        registry: Name of the registered model.
        root: The project folder.
        reference: A version, an alias, or ``bundled``: the bundled model, which needs no verdict.
        reason: Recorded in the history.

    Raises:
        ModelNotFoundError: It names nothing.
        GateRefusedError: The gate refused the version, or passed it by other thresholds or against
            another champion.
        RegistryError: MLflow does not answer; or the version's files are not complete. The old champion
            stays.
    """
    catalogue = Registry(root, registry)
    if pretrained.bundled_name(reference) == pretrained.NAME:
        version = register_bundled(catalogue)
    else:
        version = catalogue.find(reference)
    champion = catalogue.champion()
    expected: str | None = ANY
    if not is_bundled(version) and (champion is None or champion.version != version.version):
        _require_valid_verdict(decisions_of(catalogue), version, gate_sha256(gate, section, root), champion)
        expected = champion.model_sha256 if champion else None
    make_champion(catalogue, version, "promoted", reason, expected)
    return version.version


def roll_back(registry: RegistryParams, *, root: Path, reason: str) -> str:
    """Make the previous champion, the bundled model if there is none before, the champion again.

    A rollback that was interrupted before its record was written is only recorded.

    Returns:
        The version.

    Raises:
        NoEarlierChampionError: The bundled model is the champion, and the first one.
    """
    catalogue = Registry(root, registry)
    records: list[Path] = []
    with catalogue.changing():
        current = catalogue.champion()
        earlier = succession(decisions_of(catalogue), catalogue.versions())
        if current is not None and current.version in earlier[-2:]:  # the last but one: see above
            del earlier[-1]
        if earlier:
            target = catalogue.find(earlier[-1])
            records = _change(catalogue, target, "rolled back", reason)
    if not earlier:
        target = register_bundled(catalogue)
        if not make_champion(catalogue, target, "rolled back", reason):
            raise NoEarlierChampionError(
                f"The champion is the bundled model, version {target.version}: there is none before it.",
                "See the history; promote a version by its number.",
            )
    try_project(catalogue, *records)
    return target.version


def make_champion(
    catalogue: Registry, version: ModelVersion, action: Action, reason: str, expected: str | None = ANY
) -> bool:
    """Let ``champion`` name a version, and record it.

    Args:
        catalogue: The versions of the registered model.
        version: Which.
        action: What the record calls it.
        reason: Recorded.
        expected: Hash of the champion that the version was compared with, None if there was none; if
            there is another by now, nothing changes.

    Returns:
        False if it was the champion already.

    Raises:
        ChampionChangedError: There is another champion than expected.
        RegistryError, IncompleteError, CorruptError: The version's files are not available, or are not
            those that were registered. The old champion stays.
    """
    with catalogue.changing():
        before = catalogue.champion()
        records = _change(catalogue, version, action, reason, expected)
    try_project(catalogue, *records)
    return before is None or before.version != version.version


def _change(
    catalogue: Registry, version: ModelVersion, action: Action, reason: str, expected: str | None = ANY
) -> list[Path]:
    """Move the alias and record it, under the lock; what was moved without a record is recorded first."""
    current = catalogue.champion()
    decided = decisions_of(catalogue)
    recorded = next(reversed(succession(decided, catalogue.versions())), None)
    decision = _about(version, decided, action, reason)
    if current is not None and current.version == version.version:
        if recorded == version.version:
            return []
        return [write_record(catalogue.root, decision, card=_card(version))]
    if expected not in (ANY, current.model_sha256 if current else None):
        raise ChampionChangedError(
            f"The champion is version {current.version if current else None} by now; version"
            f" {version.version} was compared with another.",
            "Run the gate again.",
        )
    decision = replace(decision, model=catalogue.fetch(version).ref, champion=None, champion_sha256=None)
    records: list[Path] = []
    if current is not None:
        found = _about(current, decided, "promoted", OUTSIDE)
        if recorded != current.version:
            records.append(write_record(catalogue.root, found))
        decision = replace(decision, champion=found.model, champion_sha256=current.model_sha256)
    catalogue.move_alias("champion", version)
    return [*records, write_record(catalogue.root, replace(decision, time=now()), card=_card(version))]


def _about(version: ModelVersion, decided: Sequence[Decision], action: Action, reason: str) -> Decision:
    """A decision about a version that is made now, with the evidence that let the version in."""
    model = ModelRef(version.name, version.version, version.run_id, "")
    for known in reversed(decided):
        if known.model_sha256 == version.model_sha256 and known.action != "refused":
            model = replace(model, sha256=known.model.sha256)
            return replace(known, action=action, time=now(), model=model, reason=reason)
    return Decision(
        action,
        now(),
        model,
        version.model_sha256,
        data_sha256=version.tags.get("data_sha256"),
        params_sha256=version.tags.get("params_sha256"),
        git_commit=version.tags.get("git_commit"),
        reason=reason,
    )


def _require_valid_verdict(
    decided: Sequence[Decision], version: ModelVersion, gate: str, champion: ModelVersion | None
) -> None:
    number, verdict = version.version, last_verdict(decided, version.model_sha256)
    again = f"Judge it again: quality-model gate --model {number}, then promote it."
    if verdict is None or not verdict.passed:
        problem = f"The gate has not let version {number} pass, so it cannot become champion."
        raise GateRefusedError(problem, f"{again} {AFTER_A_REFUSAL}")
    if verdict.gate_sha256 != gate:
        problem = f"Version {number} passed the gate by other thresholds or measures than those of now."
        raise GateRefusedError(problem, again)
    if verdict.champion_sha256 != (champion.model_sha256 if champion else None):
        compared = f"version {verdict.champion.version}" if verdict.champion else "none"
        current = f"version {champion.version}" if champion else "none"
        problem = f"Version {number} was compared with {compared}; the champion is {current}."
        raise GateRefusedError(problem, again)


# -- the bundled model in the registry


def register_bundled(catalogue: Registry) -> ModelVersion:
    """Return the version that holds the bundled model; it is made if there is none with all its files.

    Raises:
        ModelNotFoundError: This installation has no bundled weights.
        RegistryError: MLflow does not answer, or does not take it.
    """
    folder = pretrained.pretrained_folder()
    if folder is None:
        raise ModelNotFoundError(
            "This installation has no bundled weights.", "Promote a version of the registry instead."
        )
    return catalogue.register(publish(folder, root=catalogue.root, registry=catalogue.section))


def is_bundled(version: ModelVersion) -> bool:
    """Whether a version holds the model that is bundled with this installation."""
    folder = pretrained.pretrained_folder()
    return folder is not None and version.model_sha256 == storage.sealed_sha256(folder)


def _card(version: ModelVersion) -> str:
    """The bundled model's card, if the version holds that; a trained one got its own at the registration."""
    folder = pretrained.pretrained_folder()
    card = folder / CARD_NAME if folder and is_bundled(version) else None
    return card.read_text(encoding="utf-8") if card and card.exists() else ""
