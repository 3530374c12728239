"""DVC's stages as Prefect tasks. Which stages there are, and in which order, is DVC's answer."""

import os
import sys
from pathlib import Path

from prefect import task
from prefect.logging import get_run_logger

from quality_model.core import system
from quality_model.data.download import is_known_source, remember_source, source_sha256
from quality_model.params import LimitsParams, SourceParams
from quality_model.params_file import parse_yaml
from quality_model.paths import ProjectPaths
from tasks import dvc_process
from tasks.failures import can_heal


@task(retries=1, retry_delay_seconds=10, retry_condition_fn=can_heal)
def is_up_to_date(project: Path) -> bool:
    """Ask DVC once whether every stage's inputs and outputs are as recorded."""
    return dvc_process.is_up_to_date(project, environment=_environment(), log=get_run_logger().info)


@task(retries=1, retry_delay_seconds=10, retry_condition_fn=can_heal)
def stage_order(project: Path) -> list[str]:
    """Ask DVC for the names of its stages, upstream first."""
    system.silence_telemetry()
    from dvc.repo import Repo
    from dvc.repo.reproduce import plan_repro

    with Repo(str(project)) as repo:
        return [stage.name for stage in plan_repro(repo.index.graph)]


@task(retries=2, retry_delay_seconds=30, retry_condition_fn=can_heal)
def look_for_new_images(source: SourceParams, limits: LimitsParams, paths: ProjectPaths) -> bool:
    """Download the images again if those of the source have changed, which DVC cannot see.

    Returns:
        Whether they were downloaded again.
    """
    system.silence_telemetry()
    found = source_sha256(source, limits, root=paths.root)
    if is_known_source(paths.state, found):
        return False
    _repro(paths.root, "--force", "--single-item", "download")
    remember_source(paths.state, found)
    return True


@task(task_run_name="{stage}", retries=1, retry_delay_seconds=10, retry_condition_fn=can_heal)
def reproduce_stage(project: Path, stage: str) -> bool:
    """Bring one stage up to date; DVC checks its dependencies.

    Returns:
        Whether the stage's recorded inputs or outputs have changed.

    Raises:
        subprocess.CalledProcessError: The stage failed; its output is in the task's log.
    """
    before = _recorded(project, stage)
    _repro(project, stage)
    changed = _recorded(project, stage) != before
    get_run_logger().info("Stage %s: %s.", stage, "brought up to date" if changed else "unchanged")
    return changed


def _repro(project: Path, *arguments: str) -> None:
    dvc_process.repro(project, *arguments, environment=_environment(), log=get_run_logger().info)


def _environment() -> dict[str, str]:
    """Stages run with this interpreter, whether or not its environment is activated."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, **system.NO_TELEMETRY, "PATH": path}


def _recorded(project: Path, stage: str) -> object:
    try:
        lock = parse_yaml((project / "dvc.lock").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return lock.get("stages", {}).get(stage)
