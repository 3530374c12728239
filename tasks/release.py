"""The gate, the registry and the champion's announcement as Prefect tasks."""

from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event
from prefect.logging import get_run_logger

from quality_model.params import (
    EvaluateParams,
    GateParams,
    GenerateParams,
    LimitsParams,
    Params,
    PerHead,
    RegistryParams,
)
from quality_model.paths import ProjectPaths
from quality_model.release import candidate, champion
from quality_model.release.decisions import Decision
from quality_model.release.registry import Registry
from tasks.failures import can_heal

CHAMPION_PROMOTED = "quality-model.champion.promoted"
"""The event that a scoring deployment waits for (prefect.yaml)."""

GATE_REFUSED = "quality-model.gate.refused"
"""The event that an alert waits for (flows/alerts.yaml)."""


@task(retries=2, retry_delay_seconds=10, retry_condition_fn=can_heal)
def ensure_baseline(registry: RegistryParams, generate: GenerateParams, paths: ProjectPaths) -> None:
    """Make the bundled model the first champion where there is none."""
    champion.ensure_baseline(registry, root=paths.root, image_size_px=generate.image_size)


@task(retries=2, retry_delay_seconds=10, retry_condition_fn=can_heal)
def check_size(registry: RegistryParams, generate: GenerateParams, paths: ProjectPaths) -> None:
    """Refuse before work is wasted to train at another image size than the champion's."""
    candidate.comparable_champion(Registry(paths.root, registry), generate.image_size)


@task(retries=2, retry_delay_seconds=10, retry_condition_fn=can_heal)
def find_past_decision(
    evaluate: EvaluateParams, gate: GateParams, registry: RegistryParams, paths: ProjectPaths
) -> str | None:
    """Why there is nothing to decide about the candidate, or None."""
    return candidate.past_decision(
        evaluate, gate, registry, root=paths.root, model=paths.model, training_set=paths.training_set
    )


@task(retries=2, retry_delay_seconds=10, retry_condition_fn=can_heal)
def judge(
    evaluate: EvaluateParams,
    gate: GateParams,
    registry: RegistryParams,
    loss_weights: PerHead,
    limits: LimitsParams,
    paths: ProjectPaths,
) -> Decision:
    """Let the gate decide on the candidate."""
    decision = candidate.judge_candidate(
        evaluate,
        gate,
        registry,
        root=paths.root,
        training_set=paths.training_set,
        model=paths.model,
        report=paths.gate_report,
        loss_weights=loss_weights,
        images=paths.images,
        limits=limits,
    )
    get_run_logger().info("%s\n%s", decision.verdict.table(), decision.verdict.summary())
    create_markdown_artifact(decision.verdict.markdown(), key="gate", description="The gate's reasons")
    return decision


@task(retries=2, retry_delay_seconds=10, retry_condition_fn=can_heal)
def register(registry: RegistryParams, paths: ProjectPaths, decision: Decision) -> Decision:
    """Register the candidate that passed; the decision that comes back names its version."""
    return candidate.register_candidate(
        registry, root=paths.root, model=paths.model, decision=decision, report=paths.gate_report
    )


@task(retries=1, retry_delay_seconds=10, retry_condition_fn=can_heal)
def compare(params: Params, paths: ProjectPaths, registered: Decision, folder: Path) -> None:
    """Attach to a version how many of a folder's images would change their flags with it.

    Without a champion there is nothing to compare with.
    """
    from quality_model.score.compare import compare_models

    if Registry(paths.root, params.registry).champion() is None:
        return
    comparison = compare_models(
        params.score,
        params.limits,
        params.registry,
        root=paths.root,
        folder=paths.place(folder),
        model=registered.model.version or "",
        against="champion",
        output=paths.comparison_report,
    )
    candidate.attach_comparison(params.registry, paths.root, comparison, paths.comparison_report)
    get_run_logger().info("%s\n%s", comparison.headline(), comparison.table())
    create_markdown_artifact(comparison.headline(), key="comparison")


@task(retries=2, retry_delay_seconds=10, retry_condition_fn=can_heal)
def promote(registry: RegistryParams, paths: ProjectPaths, registered: Decision, reason: str) -> bool:
    """Make the version that passed the gate the champion; False if there is another champion by now."""
    return champion.promote_candidate(registry, root=paths.root, decision=registered, reason=reason)


@task(retries=2, retry_delay_seconds=10, retry_condition_fn=can_heal)
def decline(registry: RegistryParams, paths: ProjectPaths, registered: Decision, reason: str) -> None:
    """Record that a person, or nobody in time, approved of the version."""
    champion.decline_candidate(registry, root=paths.root, decision=registered, reason=reason)


@task(retries=2, retry_delay_seconds=10, retry_condition_fn=can_heal)
def announce(registry: RegistryParams, registered: Decision) -> None:
    """Emit the event that a scoring deployment waits for: there is a new champion."""
    emit_event(
        event=CHAMPION_PROMOTED,
        resource=_resource(registry),
        payload={"version": registered.model.version},
    )


@task(retries=2, retry_delay_seconds=10, retry_condition_fn=can_heal)
def announce_refusal(registry: RegistryParams, decision: Decision) -> None:
    """Emit the event that an alert waits for: the gate refused a candidate."""
    emit_event(
        event=GATE_REFUSED,
        resource=_resource(registry),
        payload={"reasons": list(decision.refusals), "summary": decision.verdict.ending()},
    )


def _resource(registry: RegistryParams) -> dict[str, str]:
    name = registry.model_name
    return {"prefect.resource.id": f"quality-model.{name}", "prefect.resource.name": name}
