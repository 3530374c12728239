"""Batch scoring with the model that the parameters name: by default the champion, else the shipped one."""

from datetime import UTC, datetime
from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run

from quality_model.params import load_params
from quality_model.paths import ProjectPaths, UserPath
from quality_model.scoring import ScoreSummary
from tasks import scoring


@flow(name="score")
def score(inputs: UserPath, output: UserPath | None = None, project: UserPath = Path()) -> ScoreSummary:
    """Score a folder, Parquet files or tar shards.

    Args:
        inputs: What to score.
        output: Folder of the result; without it a folder below ``scores/`` named after the
            time for which the run was scheduled, so that a retried run goes on in it.
        project: Folder of params.yaml and of the registry's state.
    """
    params = load_params(ProjectPaths(project).params)
    output = output or ProjectPaths(project).scores / _scheduled_time()
    return scoring.score(params.score, params.limits, project, inputs, output)


def _scheduled_time() -> str:
    scheduled = flow_run.scheduled_start_time or datetime.now(UTC)
    return scheduled.astimezone(UTC).strftime("%Y-%m-%dT%H%M%SZ")
