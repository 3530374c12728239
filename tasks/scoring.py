"""Batch scoring as a Prefect task."""

from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger

from quality_model.data.checks.score_checks import validate_scores
from quality_model.params import LimitsParams, ScoreParams
from quality_model.score import job
from quality_model.score.inputs import InputChoice
from quality_model.score.selection import Kind
from quality_model.score.summary import ScoreSummary
from tasks.failures import can_heal


@task(retries=1, retry_delay_seconds=10, retry_condition_fn=can_heal)
def score(
    section: ScoreParams,
    limits: LimitsParams,
    root: Path,
    inputs: Path,
    output: Path,
    *,
    kind: Kind | None = None,
    image_column: str | None = None,
    key_column: str | None = None,
) -> ScoreSummary:
    """Score a collection; asked again for the same output, it resumes."""
    summary = job.score(
        section,
        limits,
        root=root,
        inputs=inputs,
        output=output,
        choice=InputChoice(kind, image_column, key_column),
        check=validate_scores,
    )
    lines = "\n".join(summary.lines())
    get_run_logger().info(lines)
    create_markdown_artifact(f"```\n{lines}\n```", key="scores", description=f"Scores of {inputs}")
    return summary
