"""Example images to score as a Prefect task."""

from pathlib import Path

from prefect import task

from quality_model.data.sample_photos import write_example_images
from quality_model.params import LimitsParams
from tasks.failures import can_heal


@task(retries=1, retry_delay_seconds=10, retry_condition_fn=can_heal)
def write(output: Path, limits: LimitsParams) -> Path:
    """Write ordinary images, some with a visible fault; returns their folder."""
    write_example_images(output, limits)
    return output
