"""Batch scoring with the model that the parameters name: by default the champion."""

from datetime import UTC, datetime
from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run

from quality_model.core.folders import input_path
from quality_model.core.stores import is_in_store, typed_path
from quality_model.params import UserPath
from quality_model.params_file import load_params
from quality_model.paths import ProjectPaths
from quality_model.score.selection import Kind
from quality_model.score.summary import ScoreSummary
from tasks import scoring
from tasks.naming import run_name


@flow(name="score", flow_run_name=run_name)
def score(
    inputs: UserPath,
    output: UserPath | None = None,
    project: UserPath = Path(),
    *,
    kind: Kind | None = None,
    image_column: str | None = None,
    key_column: str | None = None,
) -> ScoreSummary:
    """Score a folder, Parquet files or tar shards. Relative paths are below the project folder.

    Args:
        inputs: What to score.
        output: Folder of the result; without it a folder below ``scores/`` named after the
            time for which the run was scheduled, so that a retried run goes on in it.
        project: Folder of params.yaml and of the registry's state.
        kind: ``images``, ``tar`` or ``parquet``: what to score where ``inputs`` has several kinds.
        image_column: The column of images of Parquet files; by default it is found.
        key_column: The column of keys of Parquet files; by default it is found.
    """
    paths = ProjectPaths(project)
    params = load_params(paths.params)
    output = _place(paths, typed_path(output)) if output else paths.scores / _scheduled_time()
    return scoring.score(
        params.score,
        params.limits,
        project,
        _place(paths, input_path(inputs)),
        output,
        kind=kind,
        image_column=image_column,
        key_column=key_column,
    )


def _place(paths: ProjectPaths, path: Path) -> Path:
    return path if is_in_store(path) else paths.place(path)


def _scheduled_time() -> str:
    scheduled = flow_run.scheduled_start_time or datetime.now(UTC)
    return scheduled.astimezone(UTC).strftime("%Y-%m-%dT%H%M%SZ")
