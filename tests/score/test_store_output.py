"""Results in a real S3 server: the bytes of a local one, whatever happens to the job or to the server."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from quality_model.cli import run as run_command
from quality_model.core.stores import store_path
from quality_model.curate.finished import open_finished
from quality_model.errors import CorruptError, IncompleteError, StorageError, UsageError
from quality_model.release.trace import trace
from quality_model.score.job import merge
from quality_model.score.result import read_rows
from quality_model.score.shares import Share
from quality_model.score.summary import ScoreSummary, worst_first
from quality_model.watch.drift import distributions_of
from tests.s3_server import READER, Fault, FaultProxy, S3Server, use_environment

from .conftest import Interrupted, bytes_of, rows_of

servers = pytest.mark.servers
PROJECT = Path(__file__).resolve().parents[2]
LOCKS = (".lock", ".planning.lock")


@pytest.fixture
def output(proxy: FaultProxy, hasty: None, request: pytest.FixtureRequest) -> Path:
    """A folder of its own in the bucket, behind the proxy."""
    return store_path(f"s3://bucket/{hashlib.md5(request.node.nodeid.encode()).hexdigest()}/scores")


def objects_of(s3: S3Server, output: Path) -> dict[str, bytes]:
    """What a job leaves in the bucket, as `bytes_of` gives it."""
    prefix = str(output).removeprefix("s3://bucket/") + "/"
    objects = {
        key.removeprefix(prefix): data for key, data in s3.objects("bucket").items() if key.startswith(prefix)
    }
    for name in LOCKS:
        objects.pop(name, None)
    if "job.json" in objects:
        job = json.loads(objects["job.json"])
        for name in ("root", "absolute_root"):
            job["inputs"].pop(name, None)
        objects["job.json"] = json.dumps(job).encode()
    return objects


def test_a_result_in_a_store_has_the_bytes_of_a_local_one(
    s3: S3Server, output: Path, run: Callable[..., ScoreSummary], folder: Path, undisturbed
) -> None:
    """The one test of the ordinary run: also its rows are read, by what job.json names."""
    summary = run(folder, output)
    assert summary.scored == 20
    assert objects_of(s3, output) == undisturbed
    assert run(folder, output).parts_before == 3  # it is done
    result = open_finished(output)
    assert result.rows(["key", "noise"]).num_rows == 20
    assert read_rows(output, ["key"]).num_rows == 20
    assert len([*worst_first(output, 5)]) == 6


@servers
@pytest.mark.parametrize("after", [0, 1, 3])
def test_an_interrupted_job_resumes_to_the_same_bytes(
    s3: S3Server, output: Path, run: Callable[..., ScoreSummary], folder: Path, undisturbed, after: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(folder, output, scorer=Interrupted(after))
    assert "job.json" not in objects_of(s3, output)
    with pytest.raises(IncompleteError):
        open_finished(output)
    run(folder, output)
    assert objects_of(s3, output) == undisturbed


@servers
def test_an_update_and_a_replacement_give_the_bytes_of_local_ones(
    s3: S3Server, output: Path, run: Callable[..., ScoreSummary], folder: Path, tmp_path: Path
) -> None:
    local = tmp_path / "local"
    for each in (local, output):
        run(folder, each)
    (folder / "day" / "003.jpg").unlink()
    shutil.copy2(folder / "night" / "004.jpg", folder / "day" / "new.jpg")
    for each in (local, output):
        assert run(folder, each).changes == {"new": 1, "changed": 0, "removed": 1, "unchanged": 19}
    assert objects_of(s3, output) == bytes_of(local)
    with pytest.raises(UsageError, match="another job"):
        run(folder, output, shard_size=5)
    for each in (local, output):
        run(folder, each, shard_size=5, overwrite=True)
    assert objects_of(s3, output) == bytes_of(local)


@servers
def test_an_update_that_is_interrupted_leaves_the_earlier_result(
    s3: S3Server, output: Path, run: Callable[..., ScoreSummary], folder: Path
) -> None:
    run(folder, output)
    before = open_finished(output)
    shutil.copy2(folder / "night" / "004.jpg", folder / "day" / "new.jpg")
    with pytest.raises(KeyboardInterrupt):
        run(folder, output, scorer=Interrupted(0))
    assert open_finished(output) == before
    assert before.rows(["key"]).num_rows == 20
    run(folder, output)
    assert open_finished(output).rows(["key"]).num_rows == 21


@servers
def test_shares_over_a_store_make_the_same_bytes(
    s3: S3Server, output: Path, run: Callable[..., ScoreSummary], folder: Path, undisturbed, params
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(folder, output, share=Share(1, 2), scorer=Interrupted(1))
    run(folder, output, share=Share(2, 2))
    section = params.score.model_copy(update={"shard_size": 7, "batch_size": 4, "workers": 0})
    with pytest.raises(IncompleteError, match="--part 1 of 2"):
        merge(section, params.limits, inputs=folder, output=output)
    with pytest.raises(UsageError, match="shared by 2"):
        run(folder, output, share=Share(1, 3))
    run(folder, output, share=Share(1, 2))
    merge(section, params.limits, inputs=folder, output=output)
    found = objects_of(s3, output)
    found.pop("report/summary.png", None)  # where matplotlib is, which the other result was made without
    of_shares, alone = json.loads(found.pop("job.json")), json.loads(undisturbed["job.json"])
    assert of_shares["parts"] == alone["parts"]
    assert found == {name: data for name, data in undisturbed.items() if name != "job.json"}


@servers
def test_a_job_goes_on_through_throttling_lost_answers_and_a_slow_store(
    s3: S3Server,
    proxy: FaultProxy,
    output: Path,
    run: Callable[..., ScoreSummary],
    folder: Path,
    undisturbed,
) -> None:
    for fault in (Fault.THROTTLED, Fault.LOST, Fault.CUT, Fault.SLOW):
        proxy.fail(fault, times=8, where="(PUT|GET|HEAD) ", delay_s=0.3)
    run(folder, output)
    assert objects_of(s3, output) == undisturbed


@servers
def test_credentials_that_expire_in_the_middle_end_the_job_and_new_ones_resume_it(
    s3: S3Server,
    proxy: FaultProxy,
    output: Path,
    run: Callable[..., ScoreSummary],
    folder: Path,
    undisturbed,
) -> None:
    def expire(request: str) -> None:
        if "PUT" in request and "part-00001.parquet" in request:
            proxy.fail(Fault.EXPIRED)

    proxy.on_request = expire
    with pytest.raises(StorageError, match="credentials have expired"):
        run(folder, output)
    proxy.on_request = lambda _: None
    proxy.heal()
    assert run(folder, output).parts_before == 1
    assert objects_of(s3, output) == undisturbed


@servers
def test_a_part_that_vanished_or_was_changed_is_made_again(
    s3: S3Server, output: Path, run: Callable[..., ScoreSummary], folder: Path, undisturbed
) -> None:
    run(folder, output)
    (output / "data" / "part-00001.parquet").unlink()
    with pytest.raises(IncompleteError, match="part-00001"):
        open_finished(output)
    run(folder, output)
    assert objects_of(s3, output) == undisturbed
    whole = (output / "data" / "part-00002.parquet").read_bytes()
    (output / "data" / "part-00002.parquet").write_bytes(whole + b"more")
    with pytest.raises(CorruptError, match="part-00002"):
        open_finished(output)
    run(folder, output)
    assert objects_of(s3, output) == undisturbed


@servers
def test_a_bucket_that_may_only_be_read_is_read_and_refused_for_writing(
    s3: S3Server,
    output: Path,
    run: Callable[..., ScoreSummary],
    folder: Path,
    impatient: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(folder, output)
    use_environment(monkeypatch, s3.environment(READER))
    monkeypatch.chdir(tmp_path)
    result = open_finished(output)
    assert result.rows(["key"]).num_rows == 20
    assert distributions_of(result).scored == 20
    assert trace(None, root=tmp_path, path=output).model.name == "grey"
    assert trace(None, root=tmp_path, path=output / "data" / "part-00001.parquet").model.name == "grey"
    with pytest.raises(StorageError, match="access is denied"):
        run(folder, output.parent / "other")
    assert run_command(["gallery", str(output), "--to", "page.html"]) == 0
    assert run_command(["filter", str(output), "--max", "noise=.5", "--to", "kept.txt"]) == 0
    assert run_command(["duplicates", str(output), "--to", "groups.csv"]) == 0
    assert run_command(["thresholds", str(output), "--target-flag-rate", "10%"]) == 0
    capsys.readouterr()
    assert run_command(["gallery", str(output)]) == 10
    said = capsys.readouterr().err
    assert "access is denied" in said and len(said.strip().splitlines()) == 2


@servers
def test_lists_rows_and_pages_are_written_to_a_store_and_images_are_not(
    s3: S3Server,
    output: Path,
    run: Callable[..., ScoreSummary],
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    local = tmp_path / "local"
    for each in (local, output):
        run(folder, each)
        place = each.parent / "kept" if each is output else tmp_path / "kept"
        words = ["filter", str(each), "--max", "noise=.45", "--to", f"{place}/keys.txt"]
        words += ["--to", f"{place}/rows.parquet", "--dropped", f"{place}/why.csv"]
        assert run_command([*words, "--gallery", f"{place}/dropped.html"]) == 0
    kept = output.parent / "kept"
    for name in ("keys.txt", "rows.parquet", "why.csv"):
        assert (kept / name).read_bytes() == (tmp_path / "kept" / name).read_bytes()
    assert (kept / "dropped.html").is_file()
    assert run_command(["gallery", str(output)]) == 0
    assert (output / "report" / "gallery.html").is_file()
    for flag in ("--copy", "--link", "--shards"):
        capsys.readouterr()
        assert run_command(["filter", str(output), "--max", "noise=.5", flag, str(kept / "images")]) == 2
        assert "not written to an object store" in capsys.readouterr().err
    assert run_command(["filter", str(output), "--max", "noise=.5", "--copy", str(tmp_path / "good")]) == 0
    assert any((tmp_path / "good").rglob("*.jpg"))


@servers
def test_a_store_without_the_bucket_is_one_line(
    s3: S3Server, proxy: FaultProxy, monkeypatch, impatient: None, capsys: pytest.CaptureFixture[str]
) -> None:
    use_environment(monkeypatch, s3.environment(READER))
    for command in ("gallery", "duplicates", "trace"):
        assert run_command([command, "s3://no-such-bucket/scores"]) in (2, 10)
        said = capsys.readouterr().err.strip()
        assert "bucket" in said and len(said.splitlines()) <= 2


COMMAND = ("--model", "bundled", "--no-project", "--workers", "1", "--set", "score.shard_size=5")


def start(folder: Path, output: Path, *more: str) -> subprocess.Popen[str]:
    """The command of a user, as a process of its own."""
    words = [sys.executable, "-m", "quality_model", "score", str(folder), "--output", str(output)]
    return subprocess.Popen(
        [*words, *COMMAND, *more], cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture
def by_command(folder: Path, tmp_path: Path) -> dict[str, bytes]:
    """The bytes of a local result of the command."""
    process = start(folder, tmp_path / "local")
    _, said = process.communicate()
    assert process.returncode == 0, said
    return bytes_of(tmp_path / "local")


@servers
def test_a_process_that_is_killed_anywhere_is_resumed_by_another(
    s3: S3Server, proxy: FaultProxy, output: Path, folder: Path, by_command
) -> None:
    """Killed at four places; the last process takes over the lease of the dead one, and ends with code 0."""
    for where in (
        "PUT .*plan.json",
        "PUT .*part-00001.parquet",
        "PUT .*parts/part-00002",
        "PUT .*summary.json",
    ):
        proxy.fail(Fault.SLOW, where=where, delay_s=3)
        process = start(folder, output)
        seen = len(proxy.requests)
        deadline = time.monotonic() + 120
        pattern = where.removeprefix("PUT .*")
        while not any(r.startswith("PUT") and pattern in r for r in proxy.requests[seen:]):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        proxy.heal()
        (output / ".lock").unlink()  # lest the test waits: that it is taken over shows another
    process = start(folder, output)
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert objects_of(s3, output) == by_command


def wait_for_second_part(process: subprocess.Popen[str], proxy: FaultProxy) -> None:
    """Until a job begins to put its second part."""
    while not any("part-00001" in request and "PUT" in request for request in proxy.requests):
        assert process.poll() is None
        time.sleep(0.02)


@servers
def test_a_second_process_is_refused_and_a_killed_one_is_replaced(
    s3: S3Server, proxy: FaultProxy, output: Path, folder: Path, by_command
) -> None:
    proxy.fail(Fault.SLOW, where="PUT .*part-00001.parquet", delay_s=14)
    first = start(folder, output)
    wait_for_second_part(first, proxy)
    second = start(folder, output)
    _, said = second.communicate()
    assert second.returncode == 10 and "Another process" in said
    assert first.poll() is None
    first.kill()
    first.communicate()
    proxy.heal()
    third = start(folder, output)
    _, said = third.communicate()
    assert third.returncode == 0, said
    assert objects_of(s3, output) == by_command


@servers
def test_a_job_survives_that_the_server_is_killed_and_started_again(
    s3: S3Server, proxy: FaultProxy, output: Path, folder: Path, by_command
) -> None:
    process = start(folder, output)
    wait_for_second_part(process, proxy)
    s3.kill()
    time.sleep(2)
    s3.start()
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert objects_of(s3, output) == by_command


@servers
def test_shares_that_run_at_once_make_the_same_bytes(
    s3: S3Server, output: Path, folder: Path, by_command
) -> None:
    processes = [start(folder, output, "--part", f"{number}/3") for number in (1, 2, 3)]
    for process in processes:
        _, said = process.communicate()
        assert process.returncode == 0, said
    merged = start(folder, output, "--merge")
    _, said = merged.communicate()
    assert merged.returncode == 0, said
    assert objects_of(s3, output) == by_command


@servers
def test_processes_that_used_a_store_end_with_code_0(
    output: Path, run: Callable[..., ScoreSummary], folder
) -> None:
    """PyArrow's threads and open objects once aborted the interpreter, now and then, at its end."""
    run(folder, output)
    script = (
        "import sys\nfrom quality_model.core.stores import store_path\n"
        "from quality_model.curate.finished import open_finished\n"
        "print(open_finished(store_path(sys.argv[1])).rows(['key', 'noise']).num_rows)"
    )
    for _ in range(10):
        done = subprocess.run([sys.executable, "-c", script, str(output)], capture_output=True, check=False)
        assert (done.returncode, done.stdout) == (0, b"20\n"), done.stderr


def test_rows_of_a_local_result_are_read_as_pandas_reads_them(
    run: Callable[..., ScoreSummary], folder: Path, tmp_path: Path
) -> None:
    run(folder, tmp_path / "scores")
    table = read_rows(tmp_path / "scores", ["key", "noise"])
    rows = rows_of(tmp_path / "scores")
    assert table["key"].to_pylist() == list(rows["key"])
    assert np.array_equal(table["noise"].to_numpy(), rows["noise"])
