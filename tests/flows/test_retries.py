"""What a user has to correct is not tried again; what can heal is. Each failure ends in its own words."""

import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from PIL import Image
from prefect import Task, task
from prefect.client.schemas.objects import TaskRun
from prefect.states import Failed

from quality_model import errors
from quality_model.core.storage import explain
from quality_model.errors import QualityModelError
from quality_model.release.mlflow_connection import RequestRefusedError
from tasks import examples, pipeline, release, scoring
from tasks.failures import can_heal
from tests.flows.conftest import PROJECT, environment
from tests.flows.test_service import free_port

TASKS = [
    member
    for module in (examples, pipeline, release, scoring)
    for member in vars(module).values()
    if isinstance(member, Task)
]


@task
def any_task() -> None:
    """Stands for a task that failed."""


def is_tried_again(error: BaseException) -> bool:
    """The answer that Prefect gets about a task that ended with this error."""
    return can_heal(any_task, cast(TaskRun, None), Failed(data=error))


def from_the_system(error: OSError) -> QualityModelError:
    """An error of ours as it arises from one of the system's."""
    try:
        raise explain(error, "scores") from error
    except QualityModelError as told:
        return told


@pytest.mark.parametrize(
    "error",
    [
        errors.UsageError("There is no folder nowhere."),
        errors.ParameterError("train.epochs = -1"),
        errors.DeviceUnavailableError("cuda"),
        errors.GateRefusedError("noise"),
        errors.InputErrorsAboveLimit("3 of 4"),
        errors.SourceError("There is no such dataset."),
        errors.ValidationError("expect_table_row_count"),
        errors.TrainingError("The loss is nan."),
        errors.CheckpointError("model.safetensors does not load."),
        errors.ModelNotFoundError("Version 7"),
        errors.ChampionChangedError("The champion is version 3."),
        errors.IncompleteError("data/training"),
        errors.CorruptError("data/training"),
        RequestRefusedError("Invalid name."),
        FileNotFoundError(2, "No such file", "nowhere"),
        NotADirectoryError(20, "Not a directory", "a.jpg"),
        PermissionError(13, "Permission denied", "scores"),
        from_the_system(PermissionError(13, "Permission denied")),
        from_the_system(NotADirectoryError(20, "Not a directory")),
        KeyError("a bug"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_somebody_has_to_correct_is_not_tried_again(error: Exception) -> None:
    assert not is_tried_again(error)


@pytest.mark.parametrize(
    "error",
    [
        errors.RegistryError("Connection refused"),
        errors.NetworkUnavailableError("The hub does not answer."),
        errors.StorageError("No space left on device"),
        errors.MemoryExhaustedError("There is not enough memory."),
        OSError(5, "Input/output error"),
        ConnectionResetError(104, "Connection reset by peer"),
        TimeoutError(),
        MemoryError(),
        BrokenProcessPool(),
        from_the_system(OSError(28, "No space left on device")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_can_heal_is_tried_again(error: Exception) -> None:
    assert is_tried_again(error)


@pytest.mark.parametrize(
    ("status", "again"),
    [
        *((status, False) for status in (2, 3, 4, 6, 7, 8, 11)),
        *((status, True) for status in (1, 5, 9, 10, 12, 255, -9)),
    ],
)
def test_a_stage_that_failed_is_tried_again_by_its_exit_status(status: int, again: bool) -> None:
    assert is_tried_again(subprocess.CalledProcessError(status, ["dvc", "repro", "train"])) is again


@pytest.mark.parametrize("one", TASKS, ids=lambda one: one.name)
def test_every_task_is_tried_again_for_what_can_heal_and_for_nothing_else(one: Task[..., Any]) -> None:
    assert one.retries >= 1
    assert one.retry_condition_fn is can_heal


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with params.yaml and an image."""
    folder = tmp_path / "project"
    (folder / "state" / "prefect").mkdir(parents=True)
    params = yaml.safe_load((PROJECT / "params.yaml").read_text())
    params["score"] |= {"workers": 1, "model": "pretrained-compact"}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "images").mkdir()
    Image.new("RGB", (64, 64), "teal").save(folder / "images" / "1.png")
    return folder


def score(project: Path, inputs: str, **more: str) -> str:
    """What the scoring flow logs; it has to fail."""
    script = f"from pathlib import Path; from flows.score import score; score(Path({inputs!r}))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=project,
        env=environment(project) | {"PYTHONPATH": str(PROJECT)} | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode != 0, done.stdout
    return done.stdout


def test_a_wrong_path_ends_the_scoring_flow_at_once_in_one_message(project: Path) -> None:
    told = score(project, "nowhere")
    assert "Retry" not in told
    logged = told.partition("Traceback")[0]
    errors_logged = [line for line in logged.splitlines() if "ERROR" in line]
    assert any("nowhere" in line for line in errors_logged)
    assert len(errors_logged) <= 2
    assert 'File "' not in logged


def test_a_registry_that_does_not_answer_is_asked_again(project: Path) -> None:
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["score"]["model"] = "champion"
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    told = score(
        project,
        "images",
        MLFLOW_TRACKING_URI=f"http://127.0.0.1:{free_port()}",
        MLFLOW_HTTP_REQUEST_MAX_RETRIES="0",
    )
    assert "Retry 1/1 will start" in told
