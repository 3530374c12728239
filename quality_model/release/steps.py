"""From a trained candidate to a champion: the gate, the registry, the promotion, the way back."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from quality_model import pretrained
from quality_model.core import storage
from quality_model.data.dataset import TrainingSet
from quality_model.errors import (
    ChampionChangedError,
    GateRefusedError,
    NoEarlierChampionError,
    RegistryError,
    UsageError,
)
from quality_model.params import EvaluateParams, GateParams, PerHead, RegistryParams
from quality_model.paths import DESCRIPTION_NAME, EVIDENCE_NAME, RUN_NAME, VERDICT_NAME, ProjectPaths
from quality_model.release import gate as gates
from quality_model.release.baseline import ensure_baseline, is_bundled, register_bundled
from quality_model.release.card import publish_card
from quality_model.release.decisions import evidence_of, kept_verdict, put_on_record, unrecorded_move
from quality_model.release.registry import (
    ModelVersion,
    Registry,
    ResolvedModel,
    decision_line,
    is_reference,
    read_decisions,
    record_decision,
    run_origin,
)
from quality_model.release.standing import gate_sha256
from quality_model.release.tracking import resume_run, run_exists

log = logging.getLogger(__name__)


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
) -> gates.Verdict:
    """Score the candidate and the champion on the same test set, and let the gate decide.

    Where there is no champion yet the bundled model becomes it first (`ensure_baseline`). The verdict
    goes to ``report`` (JSON and Markdown), to the candidate's run, to its version if that is what
    ``model`` names, and to the ledger.

    Args:
        section: How both are measured, and the bootstrap that compares them.
        gate: Thresholds.
        registry: Where the champion is.
        root: The project folder.
        training_set: Folder whose test split is used.
        model: Folder of the candidate, or a reference to a version of the registry.
        report: Folder for evidence.json, verdict.json and verdict.md.
        loss_weights: Weight of each head in the loss.

    Raises:
        CheckpointError: The candidate does not load.
        IncompleteError, CorruptError: The training dataset is not whole.
        RegistryError: The champion cannot be had; without it there is no comparison.
        UsageError: The champion works at another image size than this test set, or is the candidate.
    """
    from quality_model.core.device import choose_device
    from quality_model.evaluate.step import gather_evidence, require_size
    from quality_model.networks.checkpoints import load_model

    samples = TrainingSet.open(training_set)
    device = choose_device(section.device)
    version = None
    if not Path(model).exists() and is_reference(str(model)):
        catalogue = Registry(root, registry)
        version = catalogue.find(str(model))
        model = catalogue.resolve(version.version).path
    model = Path(model)
    candidate = load_model(model, device)
    require_size(candidate, samples)
    ensure_baseline(registry, root=root, image_size_px=samples.image_size_px)
    champion = _champion(registry, root, samples.image_size_px)
    reigning = load_model(champion.path, device) if champion else None

    model_sha256 = storage.sealed_sha256(model)
    if champion is not None and champion.sha256 == model_sha256:
        raise UsageError(
            f"{model} is the champion already, version {champion.version}.",
            "Train another candidate: there is nothing to compare this one with.",
        )
    evidence = gather_evidence(
        section,
        samples,
        candidate,
        reigning,
        model_sha256=model_sha256,
        loss_weights=loss_weights,
        evaluation=ProjectPaths(root).evaluation_report,
    )
    verdict = replace(gates.decide(gate, evidence), compared_with=champion.version if champion else None)
    facts = {
        "model_sha256": model_sha256,
        "data_sha256": samples.data_sha256,
        "gate_sha256": gate_sha256(gate, section),
        "compared_with": verdict.compared_with,
    }
    told = {**verdict.to_dict(), **facts, "measures": evidence.summary()}
    storage.sweep(report)
    evidence.write(report / EVIDENCE_NAME)
    storage.write_json(report / VERDICT_NAME, told)
    storage.write_text(report / "verdict.md", verdict.markdown())
    log.info("%s\n%s", verdict.table(), verdict.summary())
    if version is None:
        run_id = _attach_to_run(registry, root, model, told)
    else:
        run_id = version.run_id or ""
        Registry(root, registry).attach_verdict(told, run_id=run_id, version=version.version)
    record_decision(
        root,
        "passed" if verdict.passed else "refused",
        {
            **(run_origin(root, run_id) if run_id else {}),
            **facts,
            "version": version.version if version else None,
            "run_id": run_id,
            "reasons": list(verdict.refusals),
            "evidence": evidence_of(told),
        },
    )
    return verdict


def require_comparable(registry: RegistryParams, *, root: Path, image_size_px: int) -> None:
    """Make sure that the champion, if there is one, can be compared on images of this size.

    Raises:
        UsageError: It works at another size, so that no candidate of this one could be judged.
    """
    _champion(registry, root, image_size_px)


def register_candidate(registry: RegistryParams, *, root: Path, model: Path, report: Path) -> str:
    """Make a version of a candidate that passed the gate, and let the alias ``candidate`` name it.

    Args:
        registry: Name of the registered model.
        root: The project folder.
        model: Folder of the candidate.
        report: Folder of the gate's verdict; the model card goes there too.

    Returns:
        The version.

    Raises:
        GateRefusedError: The verdict in ``report`` is a refusal, or is about another model.
        RegistryError: MLflow does not take it.
    """
    verdict = _verdict(report)
    if verdict.get("passed") is not True:
        raise GateRefusedError(
            "The gate refused this candidate.", f"The reasons are in {report}. {gates.AFTER_A_REFUSAL}"
        )
    if verdict.get("model_sha256") != storage.sealed_sha256(model):
        raise GateRefusedError(f"The verdict in {report} is about another model.", "Run the gate again.")
    run_id = resume_and_deliver(registry, root, model)
    catalogue = Registry(root, registry)
    version = catalogue.register(run_id)
    if version.tags.get("model_sha256") != verdict["model_sha256"]:
        raise RegistryError(
            f"Run {run_id} holds another model than {model}.", "Train again, then run the gate."
        )
    catalogue.attach_verdict(verdict, run_id=run_id, version=version.version)
    publish_card(catalogue, version, model=model, report=report)
    catalogue.set_candidate(version.version, "passed the gate")
    return version.version


def promote_candidate(registry: RegistryParams, *, root: Path, version: str, report: Path) -> bool:
    """Let the version that passed the gate reign.

    Args:
        registry: Name of the registered model.
        root: The project folder.
        version: Its number.
        report: Folder of the gate's verdict, which names the champion that it was compared with.

    Returns:
        False if the champion changed since the comparison: the gate has to compare with that one.

    Raises:
        RegistryError: The version's files are not whole; the old champion stays.
    """
    verdict = _verdict(report)
    catalogue = Registry(root, registry)
    try:
        catalogue.promote(version, "passed the gate", compared_with=verdict["compared_with"])
    except ChampionChangedError as error:
        log.warning("%s", error.problem)
        return False
    facts = {key: verdict.get(key) for key in ("model_sha256", "data_sha256", "gate_sha256", "compared_with")}
    put_on_record("promoted", root, catalogue.find(version), "passed the gate", facts)
    return True


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
        reason: Kept in the history.

    Raises:
        ModelNotFoundError: It names nothing.
        GateRefusedError: The gate refused the version, or passed it by other thresholds or against
            another champion.
        RegistryError: MLflow does not answer; or the version's files are not whole. The old champion stays.
    """
    catalogue = Registry(root, registry)
    if pretrained.bundled_name(reference) == pretrained.NAME:
        version = register_bundled(registry, root=root)
    else:
        version = catalogue.find(reference)
    champion = catalogue.champion()
    if is_bundled(version) or (champion and champion.version == version.version):
        moved = catalogue.promote(version.version, reason)
    else:
        _require_standing_verdict(version, gate_sha256(gate, section), champion)
        against = champion.version if champion else None
        moved = catalogue.promote(version.version, reason, compared_with=against)
    if moved or unrecorded_move(root, catalogue, "promoted", reason):
        put_on_record("promoted", root, version, reason)
    return version.version


def _require_standing_verdict(version: ModelVersion, gate: str, champion: ModelVersion | None) -> None:
    verdict, number = kept_verdict(version), version.version
    against = champion.version if champion else None
    again = f"Judge it again: quality-model gate --model {number}, then promote it."
    if verdict.get("passed") is not True:
        raise GateRefusedError(
            f"The gate has not let version {number} pass, so it cannot become champion.",
            f"{again} {gates.AFTER_A_REFUSAL}",
        )
    if verdict.get("gate_sha256") != gate:
        raise GateRefusedError(
            f"Version {number} passed the gate by other thresholds or measures than those of now.", again
        )
    if verdict.get("compared_with") != against:
        raise GateRefusedError(
            f"Version {number} was compared with {_version(verdict.get('compared_with'))}; the champion is"
            f" {_version(against)}.",
            again,
        )


def _version(number: object) -> str:
    return f"version {number}" if number else "none"


def roll_back(registry: RegistryParams, *, root: Path, reason: str) -> str:
    """Put the previous champion back, the bundled model if there is none before; returns its version.

    Where the same command did so before and was ended before it was on record, it is put on record only.

    Raises:
        RegistryError: The bundled model is the champion, and the first one.
    """
    catalogue = Registry(root, registry)
    version = unrecorded_move(root, catalogue, "rolled back", reason)
    if version is None:
        try:
            version = catalogue.rollback(reason)
        except NoEarlierChampionError:
            version = register_bundled(registry, root=root)
            if not catalogue.promote(version.version, reason, action="rolled back"):
                raise NoEarlierChampionError(
                    f"The champion is the bundled model, version {version.version}: there is none before it.",
                    "See the history; promote a version by its number.",
                ) from None
    put_on_record("rolled back", root, version, reason)
    return version.version


def history_lines(registry: RegistryParams, *, root: Path) -> Iterator[str]:
    """Every move of an alias and every decision, oldest first, a line each."""
    moves = [
        (
            event.time,
            f"{event.alias} {event.action}: version {event.from_version or '-'} -> {event.to_version} "
            f"({event.reason})",
        )
        for event in Registry(root, registry).history()
    ]
    moves += [(decision["time"], f"decision {decision_line(decision)}") for decision in read_decisions(root)]
    for time, what in sorted(moves, key=lambda line: line[0]):
        yield f"{time}  {what}"


def resume_and_deliver(registry: RegistryParams, root: Path, model: Path) -> str:
    """MLflow's id of the run that made a model, once everything of it is delivered.

    Raises:
        RegistryError: The model has no run here, or the server does not answer.
    """
    note = model / RUN_NAME
    if not note.exists():
        raise RegistryError(
            f"{model} has no {RUN_NAME}: no run made it.", "Register a model that `train` made."
        )
    with resume_run(root, registry, storage.read_json(note)["run_key"]) as run:
        return run.require_delivered()


def _champion(registry: RegistryParams, root: Path, image_size_px: int) -> ResolvedModel | None:
    """The champion, read once, which must work at this image size. Its weights are not read."""
    catalogue = Registry(root, registry)
    champion = catalogue.champion()
    if champion is None:
        return None
    resolved = catalogue.resolve(champion.version)
    works_at_px = storage.read_json(resolved.path / DESCRIPTION_NAME)["image_size_px"]
    if works_at_px != image_size_px:
        raise UsageError(
            f"The champion works at {works_at_px} px; generate.image_size is {image_size_px}.",
            "Generate at the champion's size, or start another line of models with registry.model_name.",
        )
    return resolved


def _attach_to_run(
    registry: RegistryParams, root: Path, model: Path, verdict: Mapping[str, Any]
) -> str | None:
    """Keep the verdict with the run that made a model; returns MLflow's id of it, None if it has none."""
    note = model / RUN_NAME
    if not note.exists() or not run_exists(root, registry, storage.read_json(note)["run_key"]):
        return None
    run_id = resume_and_deliver(registry, root, model)
    Registry(root, registry).attach_verdict(verdict, run_id=run_id)
    return run_id


def _verdict(report: Path) -> dict[str, Any]:
    found = storage.read_json(report / VERDICT_NAME)
    return found if isinstance(found, dict) else {}
