"""The gate, the registry and the champion's announcement as Prefect tasks."""

from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event
from prefect.logging import get_run_logger

from quality_model.params import EvaluateParams, GateParams, GenerateParams, Params, PerHead, RegistryParams
from quality_model.paths import ProjectPaths
from quality_model.release import baseline, standing
from quality_model.release import steps as release
from quality_model.release.gate import Verdict
from quality_model.release.registry import Registry
from tasks.failures import can_heal

CHAMPION_PROMOTED = "quality-model.champion.promoted"
"""The event that a scoring deployment waits for (prefect.yaml)."""


@task(retries=2, retry_delay_seconds=10, retry_condition_fn=can_heal)
def ensure_baseline(registry: RegistryParams, generate: GenerateParams, paths: ProjectPaths) -> None:
    """Make the bundled model the first champion where there is none."""
    baseline.ensure_baseline(registry, root=paths.root, image_size_px=generate.image_size)


@task(retries=2, retry_delay_seconds=10, retry_condition_fn=can_heal)
def check_size(registry: RegistryParams, generate: GenerateParams, paths: ProjectPaths) -> None:
    """Refuse before work is wasted to train at another image size than the champion's."""
    release.require_comparable(registry, root=paths.root, image_size_px=generate.image_size)


@task(retries=2, retry_delay_seconds=10, retry_condition_fn=can_heal)
def find_settled(
    evaluate: EvaluateParams, gate: GateParams, registry: RegistryParams, paths: ProjectPaths
) -> standing.Settled | None:
    """The decision on the candidate that stands already, or None."""
    return standing.find_settled(
        evaluate, gate, registry, root=paths.root, model=paths.model, training_set=paths.training_set
    )


@task(retries=2, retry_delay_seconds=10, retry_condition_fn=can_heal)
def record_no_op(registry: RegistryParams, paths: ProjectPaths, settled: standing.Settled) -> None:
    """Put a retraining that changed nothing on record."""
    standing.record_no_op(registry, root=paths.root, settled=settled)
    get_run_logger().info("Nothing to do: %s.", settled.reason)
    create_markdown_artifact(f"Nothing to do: {settled.reason}", key="retraining")


@task(retries=2, retry_delay_seconds=10, retry_condition_fn=can_heal)
def judge(
    evaluate: EvaluateParams,
    gate: GateParams,
    registry: RegistryParams,
    loss_weights: PerHead,
    paths: ProjectPaths,
) -> Verdict:
    """Let the gate decide on the candidate."""
    verdict = release.judge_candidate(
        evaluate,
        gate,
        registry,
        root=paths.root,
        training_set=paths.training_set,
        model=paths.model,
        report=paths.gate_report,
        loss_weights=loss_weights,
    )
    get_run_logger().info("%s\n%s", verdict.table(), verdict.summary())
    create_markdown_artifact(verdict.markdown(), key="gate", description="The gate's reasons")
    return verdict


@task(retries=2, retry_delay_seconds=10, retry_condition_fn=can_heal)
def register(registry: RegistryParams, paths: ProjectPaths) -> str:
    """Register the candidate that passed; returns its version."""
    return release.register_candidate(registry, root=paths.root, model=paths.model, report=paths.gate_report)


@task(retries=1, retry_delay_seconds=10, retry_condition_fn=can_heal)
def compare(params: Params, paths: ProjectPaths, version: str, folder: Path) -> None:
    """Attach to a version how many of a folder's images would change their flags with it.

    Where no champion reigns there is nothing to compare with.
    """
    from quality_model.release.comparisons import attach_comparison
    from quality_model.score.compare import compare_models

    if Registry(paths.root, params.registry).champion() is None:
        return
    comparison = compare_models(
        params.score,
        params.limits,
        params.registry,
        root=paths.root,
        folder=paths.place(folder),
        model=version,
        against="champion",
        output=paths.comparison_report,
    )
    attach_comparison(params.registry, paths.root, comparison, paths.comparison_report)
    get_run_logger().info("%s\n%s", comparison.headline(), comparison.table())
    create_markdown_artifact(comparison.headline(), key="comparison")


@task(retries=2, retry_delay_seconds=10, retry_condition_fn=can_heal)
def promote(registry: RegistryParams, paths: ProjectPaths, version: str) -> bool:
    """Make the version that passed the gate the champion; False if another became it meanwhile."""
    return release.promote_candidate(registry, root=paths.root, version=version, report=paths.gate_report)


@task(retries=2, retry_delay_seconds=10, retry_condition_fn=can_heal)
def announce(registry: RegistryParams, version: str) -> None:
    """Tell Prefect that there is a new champion, so that what waits for one can run."""
    emit_event(
        event=CHAMPION_PROMOTED,
        resource={
            "prefect.resource.id": f"quality-model.{registry.model_name}",
            "prefect.resource.name": registry.model_name,
        },
        payload={"version": version},
    )
