"""From a trained candidate to a champion: the gate, the registry, the promotion, the way back."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from quality_model import gates, storage
from quality_model.checkpoints import LoadedModel, load_model
from quality_model.device import choose_device
from quality_model.errors import GateRefusedError, RegistryError, UsageError
from quality_model.evaluation import evaluate, require_size
from quality_model.params import EvaluateParams, GateParams, PerHead, RegistryParams, params_sha256
from quality_model.paths import RUN_NAME, VERDICT_NAME
from quality_model.registry import ModelVersion, Registry, read_decisions, record_decision
from quality_model.tracking import resume_run, run_exists
from quality_model.training_set.store import TrainingSet

log = logging.getLogger(__name__)


def judge_candidate(
    section: EvaluateParams,
    gate: GateParams,
    registry: RegistryParams,
    *,
    root: Path,
    training_set: Path,
    model: Path,
    report: Path,
    loss_weights: PerHead,
) -> gates.Verdict:
    """Score the candidate and the champion on the same test set, and let the gate decide.

    The verdict goes to ``report`` (JSON and Markdown) and to the candidate's run; a refusal goes
    to the ledger.

    Args:
        section: How both are measured.
        gate: Thresholds.
        registry: Where the champion is.
        root: The project folder.
        training_set: Folder whose test split is used.
        model: Folder of the candidate.
        report: Folder for verdict.json and verdict.md.
        loss_weights: Weight of each head in the loss.

    Raises:
        CheckpointError: The candidate does not load.
        RegistryError: The champion cannot be had; without it there is no comparison.
        UsageError: The champion works at another picture size than this test set.
    """
    samples = TrainingSet.open(training_set)
    device = choose_device(section.device)
    candidate = load_model(model, device)
    require_size(candidate, samples)
    champion, reigning = _champion(registry, root, samples.image_size_px, device)

    def measure(loaded: LoadedModel) -> dict[str, Any]:
        return evaluate(section, loaded.model, samples, loss_weights=loss_weights.as_dict()).metrics

    verdict = gates.decide(gate, measure(candidate), measure(reigning) if reigning else None)
    facts = {
        "model_sha256": _model_sha256(model),
        "data_sha256": samples.data_sha256,
        "gate_sha256": params_sha256(gate),
        "compared_with": champion.version if champion else None,
    }
    storage.write_json(report / VERDICT_NAME, {**verdict.to_dict(), **facts})
    storage.write_text(report / "verdict.md", verdict.markdown())
    log.info("%s\n%s", verdict.table(), verdict.summary())
    _attach_to_run(registry, root, model, {**verdict.to_dict(), **facts})
    if not verdict.passed:
        record_decision(root, "refused", {**facts, "version": None, "reasons": list(verdict.refusals)})
    return verdict


def require_comparable(registry: RegistryParams, *, root: Path, image_size_px: int) -> None:
    """Make sure that the champion, if there is one, can be compared on pictures of this size.

    Raises:
        UsageError: It works at another size, so that no candidate of this one could be judged.
    """
    _champion(registry, root, image_size_px, choose_device("cpu"))


def register_candidate(registry: RegistryParams, *, root: Path, model: Path, report: Path) -> str:
    """Make a version of a candidate that passed the gate, and let the alias ``candidate`` name it.

    Returns:
        The version.

    Raises:
        GateRefusedError: The verdict in ``report`` is a refusal, or is about another model.
        RegistryError: MLflow does not take it.
    """
    verdict = _verdict(report)
    if verdict.get("passed") is not True:
        raise GateRefusedError("The gate refused this candidate.", f"The reasons are in {report}.")
    if verdict.get("model_sha256") != _model_sha256(model):
        raise GateRefusedError(f"The verdict in {report} is about another model.", "Run the gate again.")
    run_id = resume_and_deliver(registry, root, model)
    catalogue = Registry(root, registry)
    version = catalogue.register(run_id)
    if version.tags.get("model_sha256") != verdict["model_sha256"]:
        raise RegistryError(
            f"Run {run_id} holds another model than {model}.", "Train again, then run the gate."
        )
    catalogue.attach_verdict(verdict, run_id=run_id, version=version.version)
    catalogue.set_candidate(version.version, "passed the gate")
    return version.version


def promote_candidate(registry: RegistryParams, *, root: Path, version: str, report: Path) -> str:
    """Let the version that passed the gate reign, unless the champion changed since the comparison.

    Raises:
        ChampionChangedError: It did; the gate has to compare again.
        RegistryError: The version's files are not whole; the old champion stays.
    """
    verdict = _verdict(report)
    catalogue = Registry(root, registry)
    catalogue.promote(version, "passed the gate", compared_with=verdict["compared_with"])
    facts = {key: verdict.get(key) for key in ("model_sha256", "data_sha256", "gate_sha256", "compared_with")}
    _record("promoted", root, catalogue.find(version), "passed the gate", facts)
    return version


def promote_by_hand(registry: RegistryParams, *, root: Path, reference: str, reason: str) -> str:
    """Let a registered version reign, whoever the champion is; returns its number."""
    catalogue = Registry(root, registry)
    version = catalogue.find(reference)
    if catalogue.promote(version.version, reason):
        _record("promoted", root, version, reason)
    return version.version


def roll_back(registry: RegistryParams, *, root: Path, reason: str) -> str:
    """Put the previous champion back; returns its version.

    Raises:
        RegistryError: There is none.
    """
    version = Registry(root, registry).rollback(reason)
    _record("rolled back", root, version, reason)
    return version.version


def settled_reason(
    registry: RegistryParams, gate: GateParams, *, root: Path, model: Path, training_set: Path
) -> str | None:
    """Why there is nothing to decide: this model, data and thresholds were decided on before.

    A refusal counts only while the champion is the one that the candidate was compared with; a
    promotion only while the version is there.
    """
    facts = {
        "model_sha256": _model_sha256(model),
        "data_sha256": TrainingSet.open(training_set).data_sha256,
        "gate_sha256": params_sha256(gate),
    }
    decided = [
        decision
        for decision in read_decisions(root)
        if decision["outcome"] in ("promoted", "refused")
        and all(decision.get(key) == value for key, value in facts.items())
    ]
    if not decided:
        return None
    last = decided[-1]
    catalogue = Registry(root, registry)
    since = f"data, parameters and model are those of {last['time']}"
    if last["outcome"] == "promoted":
        known = any(version.version == last["version"] for version in catalogue.versions())
        return f"{since}, when version {last['version']} was promoted" if known else None
    champion = catalogue.champion()
    same = (champion.version if champion else None) == last["compared_with"]
    return f"{since}, when the gate refused: {'; '.join(last['reasons'])}" if same else None


def record_no_op(registry: RegistryParams, *, root: Path, model: Path, reason: str) -> None:
    """Put on record that there was nothing to decide."""
    champion = Registry(root, registry).champion()
    log.info("Nothing to do: %s.", reason)
    record_decision(
        root,
        "no-op",
        {
            "model_sha256": _model_sha256(model),
            "version": champion.version if champion else None,
            "reasons": [reason],
        },
    )


def history_lines(registry: RegistryParams, *, root: Path) -> Iterator[str]:
    """Every move of an alias and every decision, oldest first, a line each."""
    moves = [
        (
            event.time,
            f"{event.alias} {event.action}: version {event.from_version or '-'} -> {event.to_version}",
            [event.reason],
        )
        for event in Registry(root, registry).history()
    ]
    decisions = [
        (decision["time"], f"retraining {decision['outcome']}", decision.get("reasons", []))
        for decision in read_decisions(root)
    ]
    for time, what, reasons in sorted([*moves, *decisions], key=lambda line: line[0]):
        yield f"{time}  {what}" + (f" ({'; '.join(map(str, reasons))})" if reasons else "")


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


def _champion(
    registry: RegistryParams, root: Path, image_size_px: int, device: torch.device
) -> tuple[ModelVersion, LoadedModel] | tuple[None, None]:
    """The champion, read once, and its model, which must work at this picture size."""
    catalogue = Registry(root, registry)
    champion = catalogue.champion()
    if champion is None:
        return None, None
    loaded = load_model(catalogue.resolve(champion.version).path, device)
    if loaded.image_size_px != image_size_px:
        raise UsageError(
            f"The champion works at {loaded.image_size_px} px; generate.image_size is {image_size_px}.",
            "Generate at the champion's size, or start another line of models with registry.model_name.",
        )
    return champion, loaded


def _attach_to_run(registry: RegistryParams, root: Path, model: Path, verdict: Mapping[str, Any]) -> None:
    note = model / RUN_NAME
    if note.exists() and run_exists(root, registry, storage.read_json(note)["run_key"]):
        Registry(root, registry).attach_verdict(verdict, run_id=resume_and_deliver(registry, root, model))


def _verdict(report: Path) -> dict[str, Any]:
    found = storage.read_json(report / VERDICT_NAME)
    return found if isinstance(found, dict) else {}


def _model_sha256(model: Path) -> str:
    return str(storage.require_sealed(model)["sha256"])


def _record(
    outcome: Any, root: Path, version: ModelVersion, reason: str, facts: Mapping[str, Any] | None = None
) -> None:
    origin = {
        key: version.tags.get(key) for key in ("model_sha256", "data_sha256", "params_sha256", "git_commit")
    }
    record_decision(
        root,
        outcome,
        {
            **origin,
            **(facts or {}),
            "version": version.version,
            "run_id": version.run_id,
            "reasons": [reason],
        },
    )
