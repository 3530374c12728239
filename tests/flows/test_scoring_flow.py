"""The scoring flow: where its paths are, which failures are tried again, and how it reports them."""

import base64
import io
import json
import re
import subprocess
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytest
from PIL import Image
from prefect import Task, task
from prefect.client.schemas.objects import TaskRun
from prefect.states import Failed

from flows.retrain import retrain
from flows.score import score
from quality_model import errors
from quality_model.core.decoding import Pixels
from quality_model.core.storage import explain
from quality_model.release.mlflow_connection import RequestRefusedError
from tasks import examples, pipeline, release, scoring
from tasks.failures import can_heal
from tests.flows.conftest import run_scenes, small_project
from tests.servers import free_port

TASKS = [
    member
    for module in (examples, pipeline, release, scoring)
    for member in vars(module).values()
    if isinstance(member, Task)
]


@task
def any_task() -> None:
    """Stands for a task that failed."""


def is_retried(error: BaseException) -> bool:
    """What Prefect is answered about a task that ended with this error."""
    return can_heal(any_task, cast(TaskRun, None), Failed(data=error))


def from_the_system(error: OSError) -> errors.QualityModelError:
    """The library's error for one of the system's."""
    try:
        raise explain(error, "scores") from error
    except errors.QualityModelError as raised:
        return raised


def test_what_a_user_has_to_correct_is_not_retried() -> None:
    for error in (
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
        from_the_system(PermissionError(13, "Permission denied")),
        from_the_system(NotADirectoryError(20, "Not a directory")),
        KeyError("a bug"),
        *(subprocess.CalledProcessError(status, "dvc repro") for status in (2, 3, 4, 6, 7, 8, 11)),
    ):
        assert not is_retried(error), error


def test_what_can_heal_is_retried() -> None:
    for error in (
        errors.RegistryError("Connection refused"),
        errors.NetworkUnavailableError("The hub does not answer."),
        errors.StorageError("No space left on device"),
        errors.MemoryExhaustedError("There is not enough memory."),
        ConnectionResetError(104, "Connection reset by peer"),
        TimeoutError(),
        MemoryError(),
        BrokenProcessPool(),
        from_the_system(OSError(28, "No space left on device")),
        *(subprocess.CalledProcessError(status, "dvc repro") for status in (1, 5, 9, 10, 12, 255, -9)),
    ):
        assert is_retried(error), error


@pytest.mark.parametrize("one", TASKS, ids=lambda one: one.name)
def test_every_task_is_retried_for_what_can_heal_alone(one: Task[..., Any]) -> None:
    assert one.retries >= 1
    assert one.retry_condition_fn is can_heal


def test_a_tilde_in_the_paths_of_a_deployment_is_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    scored = score.validate_parameters({"inputs": "~/photos", "output": "~/scores", "project": "~"})
    paths = {"inputs": tmp_path / "photos", "output": tmp_path / "scores", "project": tmp_path}
    assert paths.items() <= scored.items()
    trained = retrain.validate_parameters({"project": Path(), "compare_on": "~/photos"})
    assert trained == {"project": Path(), "compare_on": tmp_path / "photos"}
    assert score.validate_parameters({"inputs": "a", "output": None, "project": "."})["output"] is None


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, photo: Pixels) -> Path:
    """A project with images and broken files, beside a folder from which its flows are started."""
    quick = {"score": {"workers": 1, "model": "bundled", "engine": "torch-float32"}}
    project = small_project(tmp_path_factory.mktemp("scoring") / "project", quick)
    for folder, name in ((project, "right"), (project.with_name("elsewhere"), "wrong")):
        (folder / "mine").mkdir(parents=True)
        Image.fromarray(photo[:64, :64]).save(folder / "mine" / f"{name}.png")
    (project / "broken").mkdir()
    (project / "broken" / "a.jpg").write_bytes(b"no")
    return project


@pytest.fixture(scope="module")
def printed(project: Path) -> dict[str, str]:
    """What each of six runs printed; they were started outside the project folder."""
    address = f"http://127.0.0.1:{free_port()}"
    scenes = {
        "good": "score(Path('mine'), Path('scored'), project=Path('../project'), kind='images')",
        "flagged": """
from quality_model.data.sample_photos import write_example_images
from quality_model.params_file import load_params
from prefect.artifacts import Artifact
from prefect.client.orchestration import get_client
write_example_images(Path("../project/shown"), load_params(Path("../project/params.yaml")).limits)
Path("../project/shown/cat-blurred.jpg").rename("../project/shown/a|<b>*_blurred_*.jpg")
score(Path("shown"), Path("out-shown"), project=Path("../project"))
with get_client(sync_client=True) as client:
    print("\\n".join(run.name for run in client.read_flow_runs()))
print(Artifact.get("scores").data)
""",
        "broken": "score(Path('broken'), Path('out'), project=Path('../project'))",
        "nowhere": "score(Path('nowhere'), project=Path('../project'))",
        "by hand": """
from tasks.ending import run_by_hand
run_by_hand(lambda: score(Path("nowhere"), project=Path("../project")))
""",
        "unreachable": f"""
change_params(Path("../project"), score={{"model": "champion"}})
os.environ.update(MLFLOW_TRACKING_URI="{address}", MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
score(Path("mine"), Path("never"), project=Path("../project"))
""",
    }
    return run_scenes(project, scenes, cwd=project.with_name("elsewhere"))


def test_relative_paths_are_below_the_project_wherever_the_flow_was_started(
    project: Path, printed: dict[str, str]
) -> None:
    assert "failed with" not in printed["good"]
    assert pd.read_parquet(project / "scored" / "data")["key"].tolist() == ["right.png"]
    assert not (project.with_name("elsewhere") / "scored").exists()


def test_a_run_is_called_by_its_day_its_inputs_and_its_model(printed: dict[str, str]) -> None:
    assert re.search(r"Beginning flow run '\d{4}-\d\d-\d\d shown by bundled'", printed["flagged"])
    assert re.search(
        r"^\d{4}-\d\d-\d\d shown by [a-z-]+ version [0-9a-f]+$", printed["flagged"], re.MULTILINE
    )


def test_the_artifact_of_a_run_shows_what_it_flagged_the_worst_first_and_names_are_no_markup(
    printed: dict[str, str],
) -> None:
    sheet = printed["flagged"].partition("### Flagged, the worst first")[2]
    thumbnails = re.findall(r"!\[\]\(data:image/jpeg;base64,([^)]+)\)", sheet)
    sizes = [Image.open(io.BytesIO(base64.b64decode(one))).size for one in thumbnails]
    assert 6 <= len(sizes) <= 12 and max(map(max, sizes)) == 256
    scores = [float(score) for score in re.findall(r"<br>\w+ (0\.\d\d)", sheet)]
    assert len(scores) == len(sizes) and scores == sorted(scores, reverse=True)
    assert "<br>a&#124;&#60;b&#62;&#42;&#95;blurred&#95;&#42;.jpg<br>blurriness 0." in sheet


def test_a_run_that_scored_nothing_or_has_no_inputs_fails_at_once_in_one_message(
    project: Path, printed: dict[str, str]
) -> None:
    for name, words in (("broken", "None of the 1 inputs could be scored"), ("nowhere", "nowhere")):
        assert "Finished in state Failed" in printed[name]
        assert "Retry" not in printed[name] and 'File "' not in printed[name]
        logged = [line for line in printed[name].splitlines() if "ERROR" in line]
        assert any(words in line for line in logged)
        assert len(logged) <= 2
    assert json.loads((project / "out" / "job.json").read_text())["errors"] == {"not_an_image": 1}


def test_a_registry_that_does_not_answer_is_asked_again(printed: dict[str, str]) -> None:
    assert "Retry 1/1 will start" in printed["unreachable"]
    assert "failed with RegistryError(" in printed["unreachable"]


def test_a_users_mistake_in_a_flow_started_by_hand_ends_with_its_exit_code_and_no_traceback(
    printed: dict[str, str],
) -> None:
    assert "Error: ../project/nowhere is not there.\n  Name a folder" in printed["by hand"]
    assert "Traceback" not in printed["by hand"] and 'File "' not in printed["by hand"]
    assert "failed with SystemExit(2)" in printed["by hand"]
