"""One job by several processes, each with its share of the parts: the result is that of one process."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest

from quality_model.core import storage
from quality_model.core.jobs import LOCK_NAME, PLANNING_NAME, SHARES_NAME
from quality_model.errors import IncompleteError, StorageError, UsageError
from quality_model.params import Params
from quality_model.score import job, summary
from quality_model.score.shares import Share
from quality_model.score.summary import ScoreSummary
from quality_model.score.thumbnails import read_thumbnails

from .conftest import THRESHOLDS, Interrupted, MeanScorer, bytes_of, copy

PROJECT = Path(__file__).resolve().parents[2]
RUN = dedent(
    """
    import sys, time
    from pathlib import Path
    project, images, output, share, num_batches = sys.argv[1:]
    sys.path[:0] = [project]
    import numpy as np
    from quality_model import errors
    from quality_model.params_file import load_params
    from quality_model.score import summary
    from quality_model.score.job import score
    from quality_model.score.result import ScoringModel
    from quality_model.score.shares import Share

    class Hanging:
        engine, num_left = None, int(num_batches)

        def score_pixels(self, pixels):
            self.num_left -= 1
            time.sleep(600 if self.num_left < 0 else 0)
            channels = pixels.mean(axis=(1, 2)) / 255.0
            return np.column_stack([channels, channels.mean(axis=1)]).astype(np.float32)

    if __name__ == "__main__":
        params = load_params(Path(project, "params.yaml"))
        section = params.score.model_copy(update=dict(shard_size=7, batch_size=4, workers=1))
        summary.find_spec = lambda _: None  # no figure
        try:
            score(section, params.limits, inputs=Path(images), output=Path(output), scorer=Hanging(),
                  share=Share.parse(share),
                  model=ScoringModel("grey", "3", "a1b2", "c" * 64, 32, thresholds=THRESHOLDS))
        except errors.QualityModelError as error:
            sys.exit(str(error))
    """
).replace("THRESHOLDS", repr(THRESHOLDS))

Start = Callable[..., "subprocess.Popen[str]"]
Merge = Callable[[], ScoreSummary]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "scores"


@pytest.fixture
def start(tmp_path: Path, folder: Path, output: Path) -> Start:
    """Begin a process that makes a share, and hangs after some batches."""
    (tmp_path / "run.py").write_text(RUN)

    def start(share: str, num_batches: int = 99) -> "subprocess.Popen[str]":
        command = [sys.executable, tmp_path / "run.py", PROJECT, folder, output, share, str(num_batches)]
        return subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True)

    return start


@pytest.fixture
def merge(folder: Path, output: Path, params: Params, monkeypatch: pytest.MonkeyPatch) -> Merge:
    def merge() -> ScoreSummary:
        monkeypatch.setattr(summary, "find_spec", lambda _: None)
        section = params.score.model_copy(update={"shard_size": 7, "batch_size": 4})
        return job.merge(section, params.limits, inputs=folder, output=output)

    return merge


@pytest.fixture
def part(run: Any, folder: Path) -> Callable[..., ScoreSummary]:
    """Make a share in this process."""
    return lambda share, **values: run(folder, share=Share.parse(share), **values)


class Forbidden(MeanScorer):
    def score_pixels(self, pixels: Any) -> Any:
        raise AssertionError("scored again")


def left_by(output: Path) -> dict[str, bytes]:
    """What the result consists of, without locks."""
    return {name: data for name, data in bytes_of(output).items() if not name.endswith(".lock")}


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_processes_at_once_in_any_order_make_what_one_makes(start, merge, run, folder, output, undisturbed):
    processes = [start(share) for share in ("4/5", "2/5", "5/5", "1/5", "3/5")]  # of three parts
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 5, errors
    assert not (output / "job.json").exists()
    merged = merge()
    assert (merged.scored, merged.parts, merged.parts_before) == (20, 3, 3)
    assert left_by(output) == undisturbed
    assert merge().scored == 20
    assert run(folder, scorer=Forbidden()).parts_before == 3
    assert left_by(output) == undisturbed


def test_a_killed_process_resumes_and_its_share_has_one_process_at_a_time(
    start, part, merge, run, folder, output, undisturbed
):
    first = start("1/2", 2)  # parts 0 and 2
    wait_for(output / "parts/part-00000.json")
    with pytest.raises(StorageError, match=r"Another process has held .*share-1-of-2\.lock"):
        part("1/2")
    for exclusive in (merge, lambda: run(folder)):
        with pytest.raises(StorageError, match=r"Another process holds .*share-1-of-2\.lock"):
            exclusive()
    assert part("2/2").parts == 1
    first.send_signal(signal.SIGKILL)
    assert first.wait(timeout=30) == -signal.SIGKILL
    with pytest.raises(IncompleteError, match=r"missing are --part 1 of 2\."):
        merge()
    again = part("1/2")
    assert (again.parts, again.parts_before, again.inputs) == (2, 1, 13)
    done = part("1/2", scorer=Forbidden())
    assert (done.parts_before, done.elapsed_s) == (2, 0.0)
    merge()
    assert left_by(output) == undisturbed


def test_a_process_that_is_killed_while_it_plans_leaves_the_planning_to_the_next(
    part, merge, output, undisturbed
):
    output.mkdir()
    (output / "plan.parquet").write_bytes(b"half a plan")
    (output / ".partial-123-plan.parquet").write_bytes(b"half a plan")
    for share in ("2/2", "1/2"):
        part(share)
    merge()
    assert left_by(output) == undisturbed


def test_a_merge_names_the_missing_shares_and_a_plain_job_makes_them(
    part, merge, run, folder, output, undisturbed
):
    with pytest.raises(IncompleteError, match=r"has no plan\.json"):
        merge()
    part("2/3")
    with pytest.raises(IncompleteError, match=r"missing are --part 1,3 of 3\."):
        merge()
    (output / "data/part-00001.parquet").write_bytes(b"damaged")
    with pytest.raises(IncompleteError, match=r"missing are --part 1-3 of 3\."):
        merge()
    part("2/3")
    assert run(folder).parts_before == 1
    assert left_by(output) == undisturbed


def test_shares_resume_what_one_process_began_and_a_merge_counts_what_is_missing_of_it(
    part, merge, run, folder, output, undisturbed
):
    with pytest.raises(KeyboardInterrupt):
        run(folder, scorer=Interrupted(2))
    with pytest.raises(IncompleteError, match=r"2 of 3 parts of .* are missing"):
        merge()
    assert part("1/2").parts_before == 1
    part("2/2")
    merge()
    assert left_by(output) == undisturbed


def test_another_count_of_shares_is_refused_until_the_job_is_complete(part, merge, output):
    part("1/2")
    for share in ("1/3", "2/1000"):
        with pytest.raises(UsageError, match="are shared by 2 processes, not by"):
            part(share)
    part("2/2")
    merge()
    assert not [*output.glob(".share*")]
    before = left_by(output)
    assert part("2/3", scorer=Forbidden()).parts_before == 1
    assert left_by(output) == before


def test_changed_inputs_and_another_job_are_refused_before_and_after_the_merge(
    part, merge, run, folder, output, crops
):
    part("1/2")
    (folder / "new.jpg").write_bytes(crops[30])
    for refused in (lambda: part("2/2"), merge):
        with pytest.raises(UsageError, match=r"not those that were planned .*20 files then, 21 now"):
            refused()
    with pytest.raises(UsageError, match="shard_size was 7 and is 5"):
        part("2/2", shard_size=5)
    (folder / "new.jpg").unlink()
    part("2/2")
    merge()
    (folder / "new.jpg").write_bytes(crops[30])
    for refused in (lambda: part("2/2"), merge):
        with pytest.raises(UsageError, match="it does what is missing or has changed"):
            refused()
    assert run(folder).changes["new"] == 1
    assert merge().scored == 21


def test_an_update_that_is_not_complete_has_no_shares(part, merge, run, folder, output, undisturbed, crops):
    copy(undisturbed, output)
    (folder / "new.jpg").write_bytes(crops[30])
    with pytest.raises(KeyboardInterrupt):
        run(folder, scorer=Interrupted(0))
    for refused in (lambda: part("1/2"), merge):
        with pytest.raises(UsageError, match=r"The update of .* is not complete"):
            refused()


def test_thumbnails_do_not_depend_on_shares(part, merge, output, undisturbed, monkeypatch):
    from quality_model.score import thumbnails

    for share in ("3/3", "1/3", "2/3"):
        part(share)
    reads: list[int] = []
    read = thumbnails._read
    monkeypatch.setattr(thumbnails, "_read", lambda path: reads.append(1) or read(path))
    merge()
    assert len(reads) == 4  # that of the whole, and one part's at a time
    monkeypatch.undo()
    assert len(read_thumbnails(output)) == 20


def test_the_first_process_plans_and_the_others_wait_for_it(start, output, folder):
    output.mkdir()
    with storage.locked(output / PLANNING_NAME, timeout_s=1):
        waiting = [start("1/2"), start("2/2")]
        with pytest.raises(subprocess.TimeoutExpired):
            waiting[0].wait(timeout=3)
        assert not (output / "plan.json").exists()
    assert [process.wait(timeout=60) for process in waiting] == [0, 0]
    assert storage.read_json(output / SHARES_NAME) == {"count": 2}


def test_a_plain_job_keeps_shares_out(part, output):
    output.mkdir()
    with (
        storage.locked(output / LOCK_NAME, timeout_s=1),
        pytest.raises(StorageError, match=r"Another process has held .*/\.lock"),
    ):
        part("1/2")
    assert not (output / "plan.json").exists()


@pytest.mark.parametrize(
    "text", ["", "1", "0/2", "3/2", "-1/2", "1/0", "1/", "/2", "1/2/3", "a/b", "1.5/2", "٣/٤", "1 /2"]
)
def test_a_share_is_one_number_of_another(text):
    with pytest.raises(UsageError, match="is no share of a job"):
        Share.parse(text)


@pytest.mark.parametrize(("count", "num_parts"), [(1, 5), (3, 10), (7, 7), (9, 4)])
def test_every_part_is_in_one_share_and_shares_are_equal_to_within_one(count, num_parts):
    shares = [[*Share(number, count).of(range(num_parts))] for number in range(1, count + 1)]
    assert sorted(part for share in shares for part in share) == [*range(num_parts)]
    assert np.ptp([len(share) for share in shares]) <= 1
