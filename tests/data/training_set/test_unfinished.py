"""A generation that was ended goes on behind its last whole part, and ends with the same bytes."""

import logging
import os
import shutil
import signal
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quality_model.core import storage
from quality_model.data.training_set.generate import generate
from quality_model.data.training_set.store import IMAGES_NAME, TrainingSet
from quality_model.errors import StorageError
from quality_model.params import GenerateParams, LimitsParams
from tests.faults.processes import start

from .conftest import hashes, unfinished

PARTS = "quality_model.data.training_set.generate._PART_SAMPLES"
PART_SAMPLES = 24
NUM_SAMPLES = 144
SAMPLE_BYTES = 32 * 32 * 3

Section = Callable[..., GenerateParams]
Again = Callable[..., int]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PARTS, PART_SAMPLES)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "training"


@pytest.fixture(scope="module")
def undisturbed(
    images: Path, section: Section, limits: LimitsParams, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    whole = tmp_path_factory.mktemp("undisturbed") / "training"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PARTS, PART_SAMPLES)
        generate(section(), limits, images, whole)
    return hashes(whole)


@pytest.fixture
def again(
    images: Path, section: Section, limits: LimitsParams, output: Path, caplog: pytest.LogCaptureFixture
) -> Again:
    """Generate; gives the number of samples that were there already."""

    def again(**changes: object) -> int:
        caplog.clear()
        with caplog.at_level(logging.INFO):
            generate(section(**changes), limits, images, output)
        told = [record.args for record in caplog.records if record.msg.startswith("Going on")]
        assert len(told) <= 1
        return int(told[0][0]) if told else 0  # type: ignore[index]

    return again


def generate_and_die(
    images: str, output: str, section: GenerateParams, limits: LimitsParams, step: str, name: str
) -> None:
    """Generate in this process and kill it where storage reaches a step with a file of this name."""
    import sys

    module = import_module("quality_model.data.training_set.generate")
    module._PART_SAMPLES = PART_SAMPLES  # type: ignore[attr-defined]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == f"quality_model.core.storage.{step}" and Path(arguments[0]).name == name:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    generate(section, limits, Path(images), Path(output))


@pytest.fixture(scope="module")
def kill(images: Path, section: Section, limits: LimitsParams) -> Callable[[Path, str, str], None]:
    """Generate in a process that is killed at a step of a file."""

    def kill(output: Path, step: str, name: str) -> None:
        process = start(generate_and_die, str(images), str(output), section(), limits, step, name)
        process.join(120)
        assert process.exitcode == -signal.SIGKILL

    return kill


@pytest.fixture(scope="module")
def halfway(kill: Callable[[Path, str, str], None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a set in the making of which three parts were done; never changed."""
    output = tmp_path_factory.mktemp("halfway") / "training"
    kill(output, "renamed", "part-00002.parquet")
    return unfinished(output)


@pytest.fixture
def killed_halfway(halfway: Path, output: Path) -> Path:
    """The same beside this test's output."""
    return Path(shutil.copytree(halfway, unfinished(output)))


@pytest.mark.parametrize(
    ("step", "name", "there"),
    [
        ("written", "part-00000.parquet", 0),
        ("renamed", "part-00000.parquet", PART_SAMPLES),
        ("flushed", "part-00003.parquet", 3 * PART_SAMPLES),
        ("renamed", "part-00005.parquet", NUM_SAMPLES),
        ("renamed", "manifest.parquet", NUM_SAMPLES),
        ("flushed", "images.npy", NUM_SAMPLES),
        ("renamed", "images.npy", NUM_SAMPLES),
        ("sealing", "training", NUM_SAMPLES),
    ],
)
def test_no_more_than_a_part_is_made_again_after_a_kill(
    kill: Callable[[Path, str, str], None], again: Again, output: Path, undisturbed: dict[str, str],
    step: str, name: str, there: int,
) -> None:  # fmt: skip
    kill(output, step, name)
    with pytest.raises(storage.IncompleteError):
        TrainingSet.open(output)
    assert again() == there
    assert hashes(output) == undisturbed
    assert not unfinished(output).exists()


def test_another_number_of_workers_goes_on_too(
    killed_halfway: Path, again: Again, output: Path, undisturbed: dict[str, str]
) -> None:
    assert again(workers=2) == 3 * PART_SAMPLES
    assert hashes(output) == undisturbed


def test_an_earlier_set_stays_whole_until_the_new_one_is(
    kill: Callable[[Path, str, str], None], again: Again, output: Path, undisturbed: dict[str, str]
) -> None:
    again(seed=43)
    before = hashes(output)
    kill(output, "renamed", "part-00005.parquet")
    assert hashes(output) == before
    assert again() == NUM_SAMPLES
    assert hashes(output) == undisturbed


@pytest.mark.parametrize("change", [{"seed": 43}, {"samples_per_image": 2}, {"image_size": 40}])
def test_of_another_set_nothing_is_taken_over(
    killed_halfway: Path, again: Again, images: Path, section: Section, limits: LimitsParams,
    output: Path, tmp_path: Path, change: dict[str, int],
) -> None:  # fmt: skip
    assert again(**change) == 0
    generate(section(**change), limits, images, tmp_path / "other")
    assert hashes(output) == hashes(tmp_path / "other")


def test_of_other_code_nothing_is_taken_over(
    killed_halfway: Path, again: Again, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quality_model.data.training_set.generate.code_sha256", lambda *code: "0" * 64)
    assert again() == 0


def flip_a_bit(path: Path, offset: int) -> None:
    with path.open("rb+") as handle:
        handle.seek(offset)
        value = handle.read(1)[0]
        handle.seek(offset)
        handle.write(bytes([value ^ 1]))


def pixels_of_the_second_part(folder: Path) -> None:
    flip_a_bit(folder / IMAGES_NAME, 128 + PART_SAMPLES * SAMPLE_BYTES + 5)


def rows_of_the_second_part(folder: Path) -> None:
    part = folder / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:-7])


def no_second_part(folder: Path) -> None:
    (folder / "part-00001.parquet").unlink()


def a_part_of_something_else(folder: Path) -> None:
    (folder / "part-00002.parquet").replace(folder / "part-00001.parquet")


@pytest.mark.parametrize(
    "damage",
    [pixels_of_the_second_part, rows_of_the_second_part, no_second_part, a_part_of_something_else],
)
def test_what_is_damaged_is_made_again(
    killed_halfway: Path, again: Again, output: Path, undisturbed: dict[str, str],
    damage: Callable[[Path], None],
) -> None:  # fmt: skip
    damage(killed_halfway)
    assert again() == PART_SAMPLES
    assert hashes(output) == undisturbed


@pytest.mark.parametrize("name", ["plan.json", IMAGES_NAME])
@pytest.mark.parametrize("content", [b"", b"{", b"\x93NUMPY\x01\x00"])
def test_work_whose_plan_or_pixels_are_lost_is_begun_anew(
    killed_halfway: Path, again: Again, output: Path, undisturbed: dict[str, str],
    name: str, content: bytes,
) -> None:  # fmt: skip
    (killed_halfway / name).write_bytes(content)
    assert again() == 0
    assert hashes(output) == undisturbed


def test_two_processes_do_not_make_the_same_set_at_once(again: Again, output: Path) -> None:
    output.mkdir()
    theirs = output / ".partial-0123-manifest.parquet"
    theirs.touch()
    with storage.only_maker(output), pytest.raises(StorageError) as busy:
        again()
    assert "Another process" in busy.value.problem
    assert theirs.exists()
    assert again() == 0


def test_labels_and_manifest_say_the_same(again: Again, output: Path) -> None:
    again()
    made = TrainingSet.open(output, verify=True)
    columns = made.manifest[["color_cast_label", "blurriness_label", "watermark_label", "noise_label"]]
    assert np.array_equal(made.labels, columns.to_numpy(dtype=np.float32))
