"""An interrupted generation resumes behind its finished parts, and ends with the same bytes.

Here a step of it raises; tests/faults kills the command itself, at any moment.
"""

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
from quality_model.data import generate as generate_module
from quality_model.data.dataset import IMAGES_NAME, TrainingSet
from quality_model.data.generate import generate
from quality_model.errors import IncompleteError, StorageError

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


@pytest.fixture(scope="module")
def interrupt(table: Path, section, limits) -> Callable[[Path, Any, str, int], None]:
    """Generate until a function is called for the n-th time, as Ctrl-C would stop it there."""

    def interrupt(output: Path, module: Any, name: str, call: int) -> None:
        function, calls = getattr(module, name), 0

        def interrupted(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call:
                raise KeyboardInterrupt
            return function(*arguments, **options)

        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(module, name, interrupted)
            generate(section(), limits, table, output)

    return interrupt


@pytest.fixture(scope="module")
def halfway(interrupt, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a dataset of which three parts are finished; never changed."""
    output = tmp_path_factory.mktemp("halfway") / "training"
    interrupt(output, generate_module, "make_part", 4)
    return unfinished(output)


@pytest.fixture
def work(halfway: Path, output: Path) -> Path:
    """A copy beside this test's output."""
    return Path(shutil.copytree(halfway, unfinished(output)))


@pytest.mark.parametrize("workers", [1, 2])
def test_finished_parts_are_not_made_again_by_any_number_of_workers(
    work: Path, again: Again, output: Path, made, workers: int
) -> None:
    with pytest.raises(IncompleteError):
        TrainingSet.open(output)
    assert again(workers=workers) == 3 * PART_SAMPLES
    assert hashes(output) == hashes(made[0])
    assert not work.exists()


@pytest.mark.parametrize("step", ["move", "seal"])
def test_a_generation_that_ends_while_it_is_published_makes_nothing_again(
    interrupt, again: Again, output: Path, made, step: str
) -> None:
    interrupt(output, storage, step, 1)
    with pytest.raises(IncompleteError):
        TrainingSet.open(output)
    assert again() == NUM_SAMPLES
    assert hashes(output) == hashes(made[0])
    assert not unfinished(output).exists()


def test_an_earlier_dataset_stays_complete_until_the_new_one_is(
    interrupt, again: Again, output: Path, made
) -> None:
    again(seed=43)
    before = hashes(output)
    interrupt(output, generate_module, "make_part", 6)
    assert hashes(output) == before
    assert again() == 5 * PART_SAMPLES
    assert hashes(output) == hashes(made[0])


@pytest.mark.parametrize("change", [{"seed": 43}, {"samples_per_image": 2}, {"image_size": 40}])
def test_parts_of_another_dataset_are_not_used(
    work: Path, again: Again, table, section, limits, output: Path, tmp_path: Path, change
) -> None:
    assert again(**change) == 0
    generate(section(**change), limits, table, tmp_path / "other")
    assert hashes(output) == hashes(tmp_path / "other")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "damage", "kept"),
    [
        ("data/part-00001.parquet", cut, 2 * PART_SAMPLES),
        ("data/part-00001.parquet", Path.unlink, 2 * PART_SAMPLES),
        ("plan.json", cut, 0),
        (IMAGES_NAME, cut, 0),
        (IMAGES_NAME, empty, 0),
        (IMAGES_NAME, Path.unlink, 0),
    ],
)
def test_what_is_damaged_or_missing_is_made_again(
    work: Path, again: Again, output: Path, made, name: str, damage: Callable[[Path], None], kept: int
) -> None:
    damage(work / name)
    assert again() == kept
    assert hashes(output) == hashes(made[0])


def test_an_error_of_the_system_while_resuming_keeps_the_finished_parts(
    work: Path, again: Again, output: Path, made, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(path: Path, **options: Any) -> Any:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(np, "load", stale)
        with pytest.raises(StorageError):
            again()
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


def test_a_full_disk_is_an_error_before_any_work_and_leaves_nothing(
    again: Again, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match="No space is left for"):
        again()
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


def test_a_killed_run_leaves_no_marker_and_no_process(table, output: Path) -> None:
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
