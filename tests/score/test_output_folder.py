"""What the output folder may hold when a job starts: nothing, what systems leave, or a result."""

import errno
from pathlib import Path

import pytest

from quality_model.core import storage
from quality_model.core.folders import is_result
from quality_model.errors import StorageError, UsageError

from .conftest import IDENTITY, bytes_of, copy, rows_of
from .earlier import write_earlier_result

SYSTEM_FILES = [".gitkeep", ".gitignore", ".DS_Store", "Thumbs.db", "desktop.ini", ".nfs0001", ".directory"]


def test_hidden_and_system_files_in_the_output_folder_do_not_refuse_the_job(folder, run, tmp_path):
    (tmp_path / "scores").mkdir()
    for name in SYSTEM_FILES:
        (tmp_path / "scores" / name).write_text("x")
    assert run(folder).scored == 20
    assert run(folder).parts_before == 3
    for name in SYSTEM_FILES:
        assert (tmp_path / "scores" / name).read_text() == "x"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["thesis.txt", "job.json", "plan.json", "data/part-00000.parquet"])
def test_a_folder_with_files_of_someone_else_is_refused_and_left_alone(
    folder, run, tmp_path, name, overwrite
):
    path = tmp_path / "scores" / name
    path.parent.mkdir(parents=True)
    path.write_text('{"mine": true}')
    (tmp_path / "scores" / ".DS_Store").write_text("x")
    with pytest.raises(UsageError, match=f"not empty and holds no scoring job: {name.split('/')[0]}"):
        run(folder, overwrite=overwrite)
    assert path.read_text() == '{"mine": true}'


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["notes.txt", "part-00007.parquet", "Thumbs.db"])
def test_what_is_no_part_of_the_job_among_the_score_rows_is_named_and_stays(
    folder, run, tmp_path, undisturbed, name, overwrite
):
    copy(undisturbed, tmp_path / "scores")
    (tmp_path / "scores" / "data" / name).write_bytes(b"mine")
    with pytest.raises(UsageError, match=rf"for score rows alone and holds {name}"):
        run(folder, overwrite=overwrite, shard_size=5 if overwrite else 7)
    assert (tmp_path / "scores" / "data" / name).read_bytes() == b"mine"


def test_hidden_files_among_the_score_rows_stay_and_the_dataset_opens(folder, run, tmp_path):
    hidden = tmp_path / "scores" / "data" / ".DS_Store"
    hidden.parent.mkdir(parents=True)
    hidden.write_bytes(b"x")
    run(folder)
    assert run(folder).parts_before == 3
    run(folder, overwrite=True, shard_size=5)
    assert hidden.read_bytes() == b"x"
    assert len(rows_of(tmp_path / "scores")) == 20


def test_what_a_user_put_into_a_result_survives_overwriting(folder, run, tmp_path):
    run(folder)
    mine = [tmp_path / "scores" / name for name in ("shard-mine.parquet", "summary.json", "report/mine.txt")]
    for path in mine:
        path.write_bytes(b"mine")
    (folder / "day" / "001.jpg").unlink()
    run(folder, overwrite=True)
    assert [path.read_bytes() for path in mine] == [b"mine"] * 3


@pytest.mark.parametrize("unfinished", [False, True])
def test_a_result_of_the_earlier_layout_is_refused_by_name_and_can_be_replaced_wholly(
    folder, run, tmp_path, undisturbed, unfinished
):
    output = write_earlier_result(tmp_path / "scores", IDENTITY)
    if unfinished:
        for name in (storage.MARKER_NAME, "summary.json", "summary.png", "shard-00001.json"):
            (output / name).unlink()
    before = bytes_of_any(output)
    with pytest.raises(UsageError, match=r"earlier layout \(shard-\*\.parquet\)(.|\n)*--overwrite"):
        run(folder)
    assert bytes_of_any(output) == before
    run(folder, overwrite=True)
    assert bytes_of(output) == undisturbed


def bytes_of_any(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_another_job_is_replaced_wholly(folder, run, tmp_path, undisturbed):
    run(folder, shard_size=3)
    with pytest.raises(UsageError, match=r"shard_size was 3 and is 7\.\n.*--overwrite"):
        run(folder)
    run(folder, overwrite=True)
    assert bytes_of(tmp_path / "scores") == undisturbed


def test_what_cannot_be_planned_replaces_nothing(folder, run, tmp_path):
    """The images of the new job vanish after they were seen: the result of the old job stays."""
    run(folder)
    before = bytes_of(tmp_path / "scores")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "empty.tar").write_bytes(bytes(10240))
    with pytest.raises(UsageError, match="holds nothing to score"):
        run(tmp_path / "none", overwrite=True)
    assert bytes_of(tmp_path / "scores") == before


@pytest.mark.parametrize("layout", ["earlier", "new"])
def test_overwriting_that_is_interrupted_anywhere_can_be_repeated_and_shows_no_mixed_result(
    folder, run, tmp_path, undisturbed, monkeypatch, layout
):
    output = tmp_path / "scores"
    if layout == "earlier":
        write_earlier_result(output, IDENTITY)
    else:
        run(folder, shard_size=3)
    unlink = Path.unlink

    def stop_at(path: Path, missing_ok: bool = False) -> None:
        nonlocal left
        if path.exists() and not path.name.startswith("."):
            left -= 1
            if left < 0:
                raise OSError(errno.EIO, "interrupted")
        unlink(path, missing_ok=missing_ok)

    for stop_after in range(1, 20):  # at the first removal nothing has happened yet
        left = stop_after
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", stop_at)
            try:
                run(folder, overwrite=True)
                break
            except (StorageError, OSError):
                assert not complete(output), stop_after
                assert is_result(output), stop_after
    assert stop_after > 3
    assert bytes_of(output) == undisturbed


def complete(output: Path) -> bool:
    return (output / storage.MARKER_NAME).exists() or (
        (output / "job.json").exists() and (output / "plan.json").exists()
    )
