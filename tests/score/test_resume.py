"""Interruption at any moment: the same command resumes and ends with the same bytes."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest

from quality_model.core import storage
from quality_model.core.jobs import LOCK_NAME
from quality_model.errors import CorruptError, StorageError, UsageError
from quality_model.params import Params
from quality_model.score.result import ScoringModel
from tests.hostile import decoders_obey_images, hostile

from .conftest import (
    IDENTITY,
    THRESHOLDS,
    Interrupted,
    MeanScorer,
    PerCoreScorer,
    bytes_of,
    copy,
    fill,
    rows_of,
    runner,
)

PROJECT = Path(__file__).resolve().parents[2]


class Forbidden(MeanScorer):
    """Must not be asked."""

    def score_pixels(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        raise AssertionError("scored again")


@pytest.mark.parametrize("after", [0, 2, 3])
def test_an_interrupted_job_resumes_and_ends_with_the_same_bytes(folder, run, tmp_path, undisturbed, after):
    with pytest.raises(KeyboardInterrupt):
        run(folder, scorer=Interrupted(after))
    assert not (tmp_path / "scores" / "job.json").exists()
    scorer = MeanScorer()
    summary = run(folder, scorer=scorer)
    assert summary.parts_before == after // 2
    assert len(scorer.batches) == 6 - 2 * (after // 2)
    assert bytes_of(tmp_path / "scores") == undisturbed


def test_an_interrupt_while_processes_read_ends_them(folder, run, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(folder, scorer=Interrupted(1), workers=2)
    left = [child.cmdline() for child in psutil.Process().children(recursive=True)]
    assert not [line for line in left if "spawn_main" in " ".join(line)]
    assert run(folder).scored == 20


def test_a_killed_job_resumes_and_ends_with_the_same_bytes(folder, run, tmp_path, undisturbed):
    output = tmp_path / "scores"
    script = tmp_path / "slow.py"
    script.write_text(
        dedent(
            f"""
            import sys, time
            from pathlib import Path
            sys.path[:0] = [{str(PROJECT)!r}]
            import numpy as np
            from quality_model.params_file import load_params
            from quality_model.score.job import score
            from quality_model.score.result import ScoringModel

            class Slow:
                engine = None

                def score_pixels(self, pixels):
                    time.sleep(0.3)
                    channels = pixels.mean(axis=(1, 2)) / 255.0
                    return np.column_stack([channels, channels.mean(axis=1)]).astype(np.float32)

            if __name__ == "__main__":
                params = load_params(Path({str(PROJECT / "params.yaml")!r}))
                section = params.score.model_copy(update=dict(shard_size=7, batch_size=4, workers=1))
                score(section, params.limits, inputs=Path({str(folder)!r}), output=Path({str(output)!r}),
                      scorer=Slow(),
                      model=ScoringModel("grey", "3", "a1b2", "c" * 64, 32, thresholds={THRESHOLDS!r}))
            """
        )
    )
    process = subprocess.Popen([sys.executable, script])
    deadline = time.monotonic() + 60
    while not (output / "parts" / "part-00000.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=30) == -signal.SIGKILL
    summary = run(folder)
    assert 1 <= summary.parts_before < 3
    assert bytes_of(output) == undisturbed


def test_a_complete_job_is_not_done_again(folder, run, tmp_path, undisturbed):
    copy(undisturbed, tmp_path / "scores")
    again = run(folder, scorer=Forbidden())
    assert bytes_of(tmp_path / "scores") == undisturbed
    assert (again.parts_before, again.scored, again.elapsed_s) == (3, 20, 0.0)
    assert again.quantiles == json.loads(undisturbed["report/summary.json"])["quantiles"]


def test_a_part_that_is_not_what_its_marker_says_is_made_again(folder, run, tmp_path, undisturbed):
    output = copy(undisturbed, tmp_path / "scores")
    part, marker = output / "data/part-00001.parquet", output / "parts/part-00001.json"
    data = part.read_bytes()
    middle = len(data) // 2
    damages: list[Callable[[], object]] = [
        lambda: part.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]),
        lambda: part.write_bytes(data[:-10]),
        lambda: part.unlink(),
        lambda: marker.unlink(),
        lambda: marker.write_text("{"),
    ]
    for damage in damages:
        damage()
        assert run(folder).parts_before == 2
        assert bytes_of(output) == undisturbed


def test_a_marker_or_summary_that_is_lost_or_damaged_is_written_again_without_scoring(folder, run, tmp_path):
    output = tmp_path / "scores"
    run(folder, figure=True)
    before = bytes_of(output)
    for name, damage in {"job.json": b"{}", "report/summary.json": b"", "report/summary.png": None}.items():
        (output / name).unlink()
        if damage is not None:
            (output / name).write_bytes(damage)
        assert run(folder, scorer=Forbidden(), figure=True).parts_before == 3
        assert bytes_of(output) == before, (name, damage)


def test_a_duplicated_part_is_refused_by_its_name_though_a_marker_verifies_it(
    folder, run, tmp_path, undisturbed
):
    output = copy(undisturbed, tmp_path / "scores")
    for name in ("data/part-0000{}.parquet", "parts/part-0000{}.json"):
        (output / name.format(1)).write_bytes(undisturbed[name.format(0)])
    with pytest.raises(StorageError, match=r"part-00001\.parquet does not hold the inputs of its plan"):
        run(folder)


def other_model(**changes: str) -> ScoringModel:
    return replace(IDENTITY, **changes)


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "shard size": ({"shard_size": 5}, "shard_size was 7 and is 5"),
    "measures": ({"measures": ("none",)}, "measures was .*'hash'.* and is \\(\\)"),
    "batch size": ({"batch_size": 2}, "batch_size was 4 and is 2"),
    "limit": ({"limits": {"max_pixels": 9999}}, "max_pixels was 100000000 and is 9999"),
    "model version": (
        {"model": replace(IDENTITY, version="4")},
        "model version was '3' and is '4'",
    ),
    "weights": ({"model": other_model(sha256="d" * 64)}, "model sha256 was"),
    "thresholds": (
        {"model": replace(IDENTITY, thresholds=None)},
        "the threshold of noise was .* and is none",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_job_is_not_resumed_with_another_model_or_other_parameters(
    folder, run, tmp_path, undisturbed, change
):
    changes, message = CHANGES[change]
    copy(undisturbed, tmp_path / "scores")
    (tmp_path / "scores" / "parts" / "part-00002.json").unlink()
    with pytest.raises(UsageError, match=message):
        run(folder, **changes)


def test_where_images_are_scored_one_by_one_their_batches_decide_nothing(folder, run):
    run(folder, scorer=PerCoreScorer())
    assert run(folder, scorer=PerCoreScorer(), batch_size=1).parts_before == 3


def test_a_job_with_other_inputs_is_done_anew_with_overwrite(folder, run, tmp_path, undisturbed, crops):
    copy(undisturbed, tmp_path / "scores")
    (folder / "new.jpg").write_bytes(crops[30])
    summary = run(folder, overwrite=True)
    assert (summary.scored, summary.parts_before) == (21, 0)
    assert len(rows_of(tmp_path / "scores")) == 21


def test_overwrite_keeps_what_the_same_job_has_done(folder, run):
    with pytest.raises(KeyboardInterrupt):
        run(folder, scorer=Interrupted(3))
    assert run(folder, overwrite=True).parts_before == 1


def test_changing_the_number_of_processes_or_the_allowed_errors_is_the_same_job(
    folder, run, tmp_path, undisturbed
):
    copy(undisturbed, tmp_path / "scores")
    assert run(folder, scorer=Forbidden(), workers=2, max_error_share=0.5).parts_before == 3


@pytest.mark.parametrize("name", ["plan.parquet", "plan.json"])
def test_a_damaged_plan_is_refused_and_can_be_overwritten(folder, run, tmp_path, undisturbed, name):
    copy(undisturbed, tmp_path / "scores")
    (tmp_path / "scores" / name).write_bytes(b"{}")
    with pytest.raises(CorruptError, match="plan"):
        run(folder)
    assert run(folder, overwrite=True).scored == 20


def test_a_plan_without_its_job_is_made_again(folder, run, tmp_path):
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "plan.parquet").write_bytes(b"half a plan")
    (tmp_path / "scores" / ".partial-123-part-00000.parquet").write_bytes(b"half a shard")
    assert run(folder).scored == 20
    assert not list((tmp_path / "scores").glob(".partial-*"))


def test_two_jobs_cannot_write_to_one_folder(folder, run, tmp_path):
    with (
        storage.locked(tmp_path / "scores" / LOCK_NAME, timeout_s=1),
        pytest.raises(StorageError, match="Another process"),
    ):
        run(folder)
    assert [path.name for path in (tmp_path / "scores").iterdir()] == [LOCK_NAME]


def test_a_plan_of_another_release_is_refused_with_a_remedy(folder, run, tmp_path):
    import pyarrow.parquet as pq

    run(folder)
    output = tmp_path / "scores"
    table = pq.read_table(output / "plan.parquet")
    pq.write_table(table.drop_columns(["columns"]), output / "plan.parquet")
    facts = storage.read_json(output / "plan.json")
    storage.write_json(
        output / "plan.json", {**facts, "plan_sha256": storage.file_sha256(output / "plan.parquet")}
    )
    (output / "job.json").unlink()
    with pytest.raises(CorruptError, match="a plan of another release") as refused:
        run(folder)
    assert "--overwrite" in refused.value.remedy
    assert run(folder, overwrite=True).scored == 20


DIED, SLOW = "day/005.jpg", "night/018.jpg"
SHORT = {"max_seconds": 2.0}


@pytest.fixture(scope="module")
def once_disturbed(tmp_path_factory: pytest.TempPathFactory, params: Params, crops: list[bytes]) -> Path:
    """A folder of images two of which cost two workers each, beside its scores, which say so."""
    place = tmp_path_factory.mktemp("disturbed")
    folder = fill(place / "images", crops)
    (folder / DIED).write_bytes(hostile(crops[5], "crash"))
    (folder / SLOW).write_bytes(hostile(crops[18], "hang"))
    with pytest.MonkeyPatch.context() as patch:
        decoders_obey_images(place / "site", patch)
        summary = runner(params, place / "scores")(folder, workers=1, limits=SHORT)
    assert (summary.errors, summary.retried) == ({"too_slow": 1, "worker_died": 1}, 0)
    return place


@pytest.fixture
def disturbed(once_disturbed: Path, tmp_path: Path) -> Path:
    """A copy of the folder, and of its scores in tmp_path/scores."""
    shutil.copytree(once_disturbed / "scores", tmp_path / "scores")
    return Path(shutil.copytree(once_disturbed / "images", tmp_path / "images"))


def test_inputs_that_a_worker_crashed_on_or_that_were_too_slow_are_read_again_and_they_alone(
    disturbed, run, tmp_path
):
    scorer = MeanScorer()
    again = run(disturbed, scorer=scorer)
    assert sum(scorer.batches) == 2
    assert (again.scored, again.retried, again.parts_before) == (20, 2, 3)
    assert "Retried: 2 inputs" in "\n".join(again.lines())
    run(disturbed, tmp_path / "undisturbed")
    assert bytes_of(tmp_path / "scores") == bytes_of(tmp_path / "undisturbed")
    assert run(disturbed, scorer=Forbidden()).retried == 0


def test_an_input_that_fails_again_changes_nothing(disturbed, run, tmp_path, monkeypatch):
    before = bytes_of(tmp_path / "scores")
    decoders_obey_images(tmp_path / "site", monkeypatch)
    assert run(disturbed, workers=1, limits=SHORT).retried == 2
    assert bytes_of(tmp_path / "scores") == before


def test_while_inputs_are_read_again_the_result_is_incomplete(disturbed, run, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(disturbed, scorer=Interrupted(0))
    assert not (tmp_path / "scores" / "job.json").exists()
    assert run(disturbed).retried == 2
