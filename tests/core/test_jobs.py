"""A job's folder: what is finished is verified, what is not is made again."""

from pathlib import Path

import pytest

from quality_model.core.jobs import JobFolder
from quality_model.errors import CorruptError, StorageError


@pytest.fixture
def job(tmp_path: Path) -> JobFolder:
    """A job with one finished part of three rows."""
    folder = JobFolder(tmp_path / "job")
    folder.write_plan({"seed": 1})
    folder.write_part(0, b"three rows", rows=3, errors={"broken": 1})
    return folder


def test_what_was_written_is_read_back(job: JobFolder) -> None:
    assert job.read_plan() == {"seed": 1}
    found = job.read_part(0, rows=3)
    assert found is not None
    part, data = found
    assert (data, part.file) == (b"three rows", "data/part-00000.parquet")
    assert (part.errors, part.num_errors) == ({"broken": 1}, 1)
    assert job.read_part(0, rows=4) is None
    assert job.read_part(1, rows=3) is None


@pytest.mark.parametrize("name", ["data/part-00000.parquet", "parts/part-00000.json"])
@pytest.mark.parametrize("damage", [None, b"", b"{}", b"three bows"])
def test_a_part_that_its_completion_marker_does_not_verify_is_not_finished(
    job: JobFolder, name: str, damage: bytes | None
) -> None:
    if damage is None:
        (job.folder / name).unlink()
    else:
        (job.folder / name).write_bytes(damage)
    assert job.read_part(0, rows=3) is None


def test_what_the_system_cannot_read_is_an_error_and_not_an_unfinished_part(job: JobFolder) -> None:
    part = job.folder / "data/part-00000.parquet"
    part.unlink()
    part.mkdir()
    with pytest.raises(StorageError):
        job.read_part(0, rows=3)


def test_a_job_is_complete_from_its_completion_marker_on_until_it_is_reopened(job: JobFolder) -> None:
    found = job.read_part(0, rows=3)
    assert found is not None and job.completion() is None
    job.complete([found[0]], [], {"seed": 1})
    completion = job.completion()
    assert completion is not None
    assert (completion["rows"], completion["seed"]) == (3, 1)
    job.reopen()
    assert job.completion() is None


def test_a_plan_that_is_damaged_is_refused_and_none_is_none(job: JobFolder, tmp_path: Path) -> None:
    (job.folder / "plan.json").write_bytes(b"[]")
    with pytest.raises(CorruptError):
        job.read_plan()
    assert JobFolder(tmp_path / "other").read_plan() is None


def test_one_process_works_in_a_folder_and_removes_what_a_killed_one_left(job: JobFolder) -> None:
    left = job.folder / ".partial-123-part-00001.parquet"
    left.write_bytes(b"half a part")
    with job.locked():
        assert not left.exists()
        with pytest.raises(StorageError, match="Another process"), JobFolder(job.folder).locked():
            pass


def test_parts_are_removed_and_what_a_user_put_among_them_stays(job: JobFolder) -> None:
    (job.folder / "data" / "mine.txt").write_text("mine")
    job.keep_parts(())
    assert [path.name for path in (job.folder / "data").iterdir()] == ["mine.txt"]
    assert not (job.folder / "parts").exists()
