"""What a run of a flow is called: the day, and the model that it is about."""

from datetime import UTC, datetime
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

from quality_model.errors import QualityModelError
from quality_model.params_file import load_params
from quality_model.paths import ProjectPaths


def run_name() -> str:
    """The name of a run that begins, for Prefect's ``flow_run_name``: its day, and what it is asked to do."""
    asked = flow_run.parameters
    try:
        params = load_params(ProjectPaths(Path(asked.get("project", ""))).params)
    except QualityModelError:  # the run will say so
        return f"{_day()} {flow_run.flow_name}"
    if "inputs" in asked:
        return f"{_day()} {Path(asked['inputs']).name} by {params.score.model}"
    return f"{_day()} {flow_run.flow_name} {params.train.architecture} from {params.train.start_from}"


def name_run(about: str) -> None:
    """Call the current run by its day and what it turned out to be about."""
    with get_client(sync_client=True) as client:
        client.update_flow_run(flow_run.id, name=f"{_day()} {about}")


def _day() -> str:
    scheduled = flow_run.scheduled_start_time or datetime.now(UTC)
    return scheduled.astimezone(UTC).strftime("%Y-%m-%d")
