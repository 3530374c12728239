"""An interrupted generation resumes behind its finished parts, and ends with the same bytes."""

import errno
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from quality_model.core import storage
from quality_model.core.storage import MARKER_NAME
from quality_model.data.dataset import IMAGES_NAME, TrainingSet
from quality_model.data.generate import generate
from quality_model.errors import IncompleteError, StorageError
from quality_model.params import GenerateParams, LimitsParams
from tests.faults.processes import files_at_most, start, tree

from .conftest import hashes, unfinished

PART_SAMPLES = 24
NUM_SAMPLES = 144

Again = Callable[..., int]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "training"


@pytest.fixture
def again(table: Path, section, limits, output: Path, caplog: pytest.LogCaptureFixture) -> Again:
    """Generate; returns the number of samples that were there already."""

    def again(**changes: object) -> int:
        caplog.clear()
        with caplog.at_level(logging.INFO):
            generate(section(**changes), limits, table, output)
        resumed = [record.args for record in caplog.records if record.msg.startswith("Resuming")]
        return int(resumed[0][0]) if resumed else 0  # type: ignore[index]

    return again


def generate_and_die(
    table: str, output: str, section: GenerateParams, limits: LimitsParams, step: str, name: str
) -> None:
    """Generate in this process and kill it when storage reaches a step with a file of this name."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == f"quality_model.core.storage.{step}" and Path(arguments[0]).name == name:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    generate(section, limits, Path(table), Path(output))


@pytest.fixture(scope="module")
def kill(table: Path, section, limits) -> Callable[[Path, str, str], None]:
    """Generate in a process that is killed at a step of a file."""

    def kill(output: Path, step: str, name: str) -> None:
        process = start(generate_and_die, str(table), str(output), section(), limits, step, name)
        process.join(120)
        assert process.exitcode == -signal.SIGKILL

    return kill


@pytest.fixture(scope="module")
def halfway(kill, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a dataset of which three parts are finished; never changed."""
    output = tmp_path_factory.mktemp("halfway") / "training"
    kill(output, "renamed", "part-00002.json")
    return unfinished(output)


@pytest.fixture
def killed_halfway(halfway: Path, output: Path) -> Path:
    """A copy beside this test's output."""
    return Path(shutil.copytree(halfway, unfinished(output)))


@pytest.mark.parametrize(
    ("step", "name", "finished"),
    [
        ("flushed", "part-00003.parquet", 3 * PART_SAMPLES),
        ("renamed", "images.npy", NUM_SAMPLES),
        ("sealing", "training", NUM_SAMPLES),
    ],
)
def test_no_more_than_a_part_is_made_again_after_a_kill(
    kill, again: Again, output: Path, made, step: str, name: str, finished: int
) -> None:
    kill(output, step, name)
    with pytest.raises(IncompleteError):
        TrainingSet.open(output)
    assert again() == finished
    assert hashes(output) == hashes(made[0])
    assert not unfinished(output).exists()


def test_another_number_of_workers_resumes_too(killed_halfway, again: Again, output: Path, made) -> None:
    assert again(workers=2) == 3 * PART_SAMPLES
    assert hashes(output) == hashes(made[0])


def test_an_earlier_dataset_stays_complete_until_the_new_one_is(
    kill, again: Again, output: Path, made
) -> None:
    again(seed=43)
    before = hashes(output)
    kill(output, "renamed", "part-00005.json")
    assert hashes(output) == before
    assert again() == NUM_SAMPLES
    assert hashes(output) == hashes(made[0])


@pytest.mark.parametrize("change", [{"seed": 43}, {"samples_per_image": 2}, {"image_size": 40}])
def test_parts_of_another_dataset_are_not_used(
    killed_halfway, again: Again, table, section, limits, output: Path, tmp_path: Path, change
) -> None:
    assert again(**change) == 0
    generate(section(**change), limits, table, tmp_path / "other")
    assert hashes(output) == hashes(tmp_path / "other")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize("damage", [cut, Path.unlink])
def test_a_damaged_or_missing_part_is_made_again(
    killed_halfway: Path, again: Again, output: Path, made, damage: Callable[[Path], None]
) -> None:
    damage(killed_halfway / "data" / "part-00001.parquet")
    assert again() == 2 * PART_SAMPLES
    assert hashes(output) == hashes(made[0])


@pytest.mark.parametrize("name", ["plan.json", IMAGES_NAME])
def test_work_whose_plan_or_pixels_are_lost_begins_anew(
    killed_halfway: Path, again: Again, output: Path, made, name: str
) -> None:
    cut(killed_halfway / name)
    assert again() == 0
    assert hashes(output) == hashes(made[0])


def test_an_error_of_the_system_while_resuming_keeps_the_finished_parts(
    killed_halfway: Path, again: Again, output: Path, made, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(killed_halfway)

    def stale(path: Path, **options: Any) -> Any:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(np, "load", stale)
        with pytest.raises(StorageError):
            again()
    assert tree(killed_halfway) == before
    assert again() == 3 * PART_SAMPLES
    assert hashes(output) == hashes(made[0])


def test_two_processes_do_not_make_the_same_dataset_at_once(again: Again, output: Path) -> None:
    output.mkdir()
    theirs = output / ".partial-0123-manifest.parquet"
    theirs.touch()
    with storage.only_maker(output), pytest.raises(StorageError) as busy:
        again()
    assert "Another process" in busy.value.problem
    assert theirs.exists()
    assert again() == 0


def generate_on_a_full_disk(table: str, output: str, section: GenerateParams, limits: LimitsParams) -> None:
    files_at_most(200_000)()
    try:
        generate(section, limits, Path(table), Path(output))
    except StorageError as error:
        sys.exit(37 if error.problem.startswith("No space is left for") else str(error))


def test_a_full_disk_is_an_error_before_any_work_and_leaves_nothing(
    table, section, limits, output: Path
) -> None:
    process = start(generate_on_a_full_disk, str(table), str(output), section(), limits)
    process.join(120)
    assert process.exitcode == 37
    assert not output.exists()
    assert not unfinished(output).exists()


SCRIPT = """
import sys
from pathlib import Path
from quality_model.data.generate import generate
from quality_model.params_file import load_params

if __name__ == "__main__":
    small = {"profile": "seed", "image_size": 32, "samples_per_image": 200, "workers": 2}
    params = load_params(Path("params.yaml"), {f"generate.{name}": value for name, value in small.items()})
    generate(params.generate, params.limits, Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_killed_run_leaves_no_marker_and_no_process(made, table, again: Again, output: Path) -> None:
    project = Path(__file__).resolve().parents[2]
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, table, output], cwd=project)
    family = psutil.Process(process.pid)
    end = time.monotonic() + 60
    while not list(unfinished(output).glob("data/part-*.parquet")):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    children = family.children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()

    assert children
    assert not (output / MARKER_NAME).exists()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not [child for child in alive if child.status() != psutil.STATUS_ZOMBIE]
    assert again() == 0
    assert hashes(output) == hashes(made[0])
