"""A trained candidate: the gate decides about it, and the registry takes it."""

import json
import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from quality_model.core import storage
from quality_model.core.model_files import read_description
from quality_model.core.models import is_reference
from quality_model.data.dataset import TrainingSet, split_digests
from quality_model.errors import GateRefusedError, RegistryError, UsageError
from quality_model.params import (
    EvaluateParams,
    GateParams,
    LimitsParams,
    PerHead,
    RegistryParams,
    values_sha256,
)
from quality_model.paths import (
    BESIDE_CHAMPION_NAME,
    CARD_NAME,
    DECISION_NAME,
    EVIDENCE_NAME,
    VERDICT_NAME,
    ProjectPaths,
)
from quality_model.records import ModelRef
from quality_model.release.card import card_of
from quality_model.release.champion import PASSED, ensure_baseline
from quality_model.release.decisions import (
    OF_THE_GATE,
    VERDICT_TEXT_NAME,
    Decision,
    decisions_of,
    find_record,
    last_verdict,
    now,
    read_record,
    try_project,
    write_record,
)
from quality_model.release.gate import AFTER_A_REFUSAL, decide, gate_sha256
from quality_model.release.pages import beside_champion, write_index
from quality_model.release.publish import publish, try_publish
from quality_model.release.registry import Registry, ResolvedModel, weights_sha256
from quality_model.score.compare import FILES, Comparison

log = logging.getLogger(__name__)

_DECIDED_BY: Final = ("model_sha256", "data_sha256", "gate_sha256", "champion_sha256")
"""What the gate's decision depends on: the same is not decided twice."""


def judge_candidate(
    section: EvaluateParams,
    gate: GateParams,
    registry: RegistryParams,
    *,
    root: Path,
    training_set: Path,
    model: Path | str,
    report: Path,
    loss_weights: PerHead,
    images: Path | None,
    limits: LimitsParams,
) -> Decision:
    """Score the candidate and the champion on the same test set, and let the gate decide.

    Where there is no champion yet the bundled model becomes it first. A decision of this machine on the
    same model, data, champion, thresholds and measures stands: it is not made again. MLflow shows the
    decision as soon as it answers.

    Args:
        section: How both are measured, and the bootstrap that compares them.
        gate: Thresholds.
        registry: Where the champion is.
        root: The project folder; the decision is recorded there.
        training_set: Folder whose test split is used.
        model: Folder of the candidate, or a reference to a version of the registry.
        report: Folder for evidence.json, verdict.json, verdict.md and beside_champion.html, for people.
        loss_weights: Weight of each head in the loss.
        images: Folder of the images table that the dataset was generated from, for clean flags.
        limits: What an image may be.

    Raises:
        CheckpointError: The candidate does not load.
        IncompleteError, CorruptError: The training dataset is not complete.
        RegistryError: The champion is not available; without it there is no comparison.
        UsageError: The champion works at another image size than this test set, or is the candidate.
    """
    samples = TrainingSet.open(training_set)
    catalogue = Registry(root, registry)
    version = None
    if not Path(model).exists() and is_reference(str(model)):
        version = catalogue.resolve(str(model))
    folder = version.path if version else Path(model)
    ensure_baseline(registry, root=root, image_size_px=samples.image_size_px)
    champion = comparable_champion(catalogue, samples.image_size_px)
    model_sha256 = storage.sealed_sha256(folder)
    if champion is not None and champion.model_sha256 == model_sha256:
        raise UsageError(
            f"{folder} is the champion already, version {champion.version}.",
            "Train another candidate: there is nothing to compare this one with.",
        )
    decided_by: dict[str, Any] = {
        "model_sha256": model_sha256,
        "data_sha256": samples.data_sha256,
        "gate_sha256": gate_sha256(gate, section, root),
        "champion_sha256": champion.model_sha256 if champion else None,
    }
    record = find_record(root, *OF_THE_GATE, **decided_by)
    if record is None:
        run_id = None if version else try_publish(folder, root=root, registry=registry)
        from quality_model.core.torch_engine import choose_device
        from quality_model.evaluate.step import gather_evidence, require_size
        from quality_model.networks.model import load_model

        device = choose_device(section.device)
        candidate = load_model(folder, device)
        require_size(candidate, samples)
        tested_on, decided = split_digests(samples, "test"), decisions_of(catalogue)
        evidence, predictions = gather_evidence(
            section,
            samples,
            candidate,
            load_model(champion.path, device) if champion else None,
            loss_weights=loss_weights,
            evaluation=ProjectPaths(root).evaluation_report,
            images=images,
            limits=limits,
            real=gate.real,
            root=root,
            earlier_candidates=num_judged(decided, samples.data_sha256, tested_on, but=model_sha256),
        )
        verdict, facts = decide(gate, evidence), read_description(folder).facts
        own = ModelRef(registry.model_name, None, run_id, weights_sha256(folder))
        decision = Decision(
            "passed" if verdict.passed else "refused",
            now(),
            version.ref if version else own,
            champion=champion.ref if champion else None,
            params_sha256=None if facts.settings is None else values_sha256(facts.settings),
            git_commit=facts.git_commit,
            refusals=verdict.refusals,
            tested_on=tuple(sorted(tested_on)),
            rows=verdict.rows,
            **decided_by,
        )
        page = ""
        if predictions is not None:
            page = beside_champion(predictions, samples.images, evidence, decision.verdict)
        text = json.dumps(evidence.to_json(), indent=2)
        record = write_record(root, decision, evidence=text, page=page)
    decision = read_record(record)
    _write_report(record, report)
    write_index(root)
    log.info("%s\n%s", decision.verdict.table(), decision.verdict.summary())
    try_project(catalogue, record)
    return decision


def num_judged(decisions: Sequence[Decision], data_sha256: str, tested_on: Collection[str], but: str) -> int:
    """How many candidates the gate has judged on a training dataset's test split, or on a part of it.

    Args:
        decisions: Of this machine and of others; of these only the dataset is known.
        data_sha256: Of the training dataset.
        tested_on: Digests of its test images and groups; one in common is a part.
        but: Hash of the model's folder that does not count.
    """
    return len(
        {
            one.model_sha256
            for one in decisions
            if one.action in OF_THE_GATE
            and (one.data_sha256 == data_sha256 or not set(one.tested_on).isdisjoint(tested_on))
        }
        - {but}
    )


def past_decision(
    section: EvaluateParams,
    gate: GateParams,
    registry: RegistryParams,
    *,
    root: Path,
    model: Path,
    training_set: Path,
) -> str | None:
    """Say why there is nothing to decide about a candidate; None if there is.

    A refusal, by the gate or a person, holds for the same model, data, thresholds and measures, while the
    champion is the one that the candidate was compared with. A promotion holds while the registry has a
    version of this model. By other thresholds there is nothing to decide about a candidate that is the
    champion.

    Args:
        section: Decides about the figures.
        gate: Thresholds.
        registry: Name of the registered model.
        root: The project folder.
        model: Folder of the candidate.
        training_set: Folder whose test split decides.

    Raises:
        IncompleteError, CorruptError: The model or the training dataset is not complete.
        RegistryError: MLflow does not answer.
    """
    catalogue = Registry(root, registry)
    champion = catalogue.champion()
    model_sha256 = storage.sealed_sha256(model)
    key = (model_sha256, TrainingSet.open(training_set).data_sha256, gate_sha256(gate, section, root))
    if champion is not None and champion.model_sha256 == model_sha256:
        return f"the candidate is the champion already, version {champion.version}"
    for decision in reversed(decisions_of(catalogue)):
        if (decision.model_sha256, decision.data_sha256, decision.gate_sha256) != key:
            continue
        since = f"data, parameters and model are those of {decision.time}"
        if decision.action == "promoted" and any(
            version.model_sha256 == model_sha256 for version in catalogue.versions()
        ):
            return f"{since}, when version {decision.model.version} was promoted"
        compared = champion.model_sha256 if champion else None
        if decision.champion_sha256 == compared and decision.action == "refused":
            return f"{since}, when the gate refused: {'; '.join(decision.refusals)}"
        if decision.champion_sha256 == compared and decision.action == "declined":
            return f"{since}, when version {decision.model.version} was {decision.reason}"
    return None


def comparable_champion(catalogue: Registry, image_size_px: int) -> ResolvedModel | None:
    """Return the champion with its files, None where there is none; its weights are not read.

    Raises:
        UsageError: It works at another image size, so that no candidate of this one could be judged.
    """
    champion = catalogue.champion()
    if champion is None:
        return None
    resolved = catalogue.fetch(champion)
    works_at_px = read_description(resolved.path).image_size_px
    if works_at_px != image_size_px:
        raise UsageError(
            f"The champion works at {works_at_px} px; generate.image_size is {image_size_px}.",
            "Generate at the champion's size, or start another line of models with registry.model_name.",
        )
    return resolved


def register_candidate(
    registry: RegistryParams, *, root: Path, model: Path, report: Path, decision: Decision | None = None
) -> Decision:
    """Make a version of a candidate that passed the gate, and let the alias ``candidate`` name it.

    Args:
        registry: Name of the registered model.
        root: The project folder.
        model: Folder of the candidate.
        report: Folder for the model card, for people.
        decision: The gate's decision on it; the last one, if left out.

    Returns:
        The registration, which names the version.

    Raises:
        GateRefusedError: The gate has not decided on the model, or refused it.
        RegistryError: MLflow does not take it.
    """
    catalogue, sha256 = Registry(root, registry), storage.sealed_sha256(model)
    decision = decision or last_verdict(decisions_of(catalogue), sha256)
    if decision is None or decision.model_sha256 != sha256:
        raise GateRefusedError(f"The gate has not decided on {model}.", "Run the gate: quality-model gate.")
    if not decision.passed:
        raise GateRefusedError(
            "The gate refused this candidate.", f"The reasons are in {report}. {AFTER_A_REFUSAL}"
        )
    run_id = publish(model, root=root, registry=registry)
    version = catalogue.register(run_id)
    if version.model_sha256 != sha256:
        raise RegistryError(
            f"Run {run_id} holds another model than {model}.", "Train again, then run the gate."
        )
    with catalogue.changing():
        if "candidate" not in version.aliases:
            catalogue.move_alias("candidate", version)
        ref = replace(decision.model, version=version.version, run_id=run_id)
        same = {key: getattr(decision, key) for key in _DECIDED_BY}
        record = find_record(root, "registered", model=ref, **same)
        if record is None:
            registration = replace(decision, action="registered", time=now(), model=ref, reason=PASSED)
            card = card_of(model, find_record(root, *OF_THE_GATE, **same), registration)
            record = write_record(root, registration, card=card)
    _write_report(record, report)
    try_project(catalogue, record)
    return read_record(record)


def attach_comparison(registry: RegistryParams, root: Path, comparison: Comparison, output: Path) -> None:
    """Attach the comparison in ``output`` to the new model's version and run, if the registry has them.

    The version gets its headline as the tag ``comparison``, the run its files.
    """
    new = comparison.new
    if new.version is None or new.name != registry.model_name:
        return
    catalogue = Registry(root, registry)
    client, version = catalogue.client, catalogue.look_up(number=new.version)
    if version is None:
        log.warning("Version %s no longer exists; the comparison stays in %s.", new.version, output)
        return
    with catalogue.errors("Attaching the comparison"):
        client.set_model_version_tag(version.name, version.version, "comparison", comparison.headline())
        for name in FILES if version.run_id else ():
            client.log_artifact(version.run_id, str(output / name), "comparison")


def _write_report(record: Path, report: Path) -> None:
    """Copy what a record holds for people into a folder: verdict, evidence, samples and model card."""
    storage.sweep(report)
    for name in (DECISION_NAME, EVIDENCE_NAME, VERDICT_TEXT_NAME, BESIDE_CHAMPION_NAME, CARD_NAME):
        if (record / name).exists():
            shown = VERDICT_NAME if name == DECISION_NAME else name
            storage.write_bytes(report / shown, (record / name).read_bytes())
