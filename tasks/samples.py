"""Samples to look at as a Prefect task."""

from pathlib import Path

from prefect import task

from quality_model.training_set.export import export_samples
from tasks.failures import can_heal


@task(retries=1, retry_delay_seconds=10, retry_condition_fn=can_heal)
def export(training_set: Path, output: Path, count: int = 24) -> Path:
    """Write samples of the test split as PNG files; returns their folder."""
    export_samples(training_set, split="test", count=count, output=output)
    return output
