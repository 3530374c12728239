import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quality_model.errors import UsageError
from quality_model.scoring.collection import file_name, printable, survey, walk

NOWHERE = Path("no-such-output")


def names(root: Path, leave_out: Path = NOWHERE) -> list[str]:
    return [file.name for file in walk(root, leave_out=leave_out)]


def test_files_come_in_the_order_of_their_names_with_folders_in_place(tmp_path: Path) -> None:
    for name in ("b/2.jpg", "b/10.jpg", "a.jpg", "c.jpg", "b/a/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert names(tmp_path) == ["a.jpg", "b/10.jpg", "b/2.jpg", "b/a/1.jpg", "c.jpg"]


def test_a_loop_of_links_ends_and_each_folder_is_entered_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_bytes(b"x")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "z").symlink_to(tmp_path / "a")
    assert names(tmp_path) == ["a/1.jpg"]


def test_links_to_pictures_are_followed_and_broken_ones_are_listed(tmp_path: Path) -> None:
    (tmp_path / "real.jpg").write_bytes(b"x")
    (tmp_path / "link.jpg").symlink_to("real.jpg")
    (tmp_path / "gone.jpg").symlink_to("nothing.jpg")
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    assert names(tmp_path) == ["gone.jpg", "link.jpg", "real.jpg", "self.jpg"]


def test_a_name_that_is_not_utf8_is_listed_and_can_be_opened(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9\\1.jpg")).write_bytes(b"x")
    (name,) = names(tmp_path)
    assert printable(name) == "caf\\xe9\\\\1.jpg"
    assert (tmp_path / file_name(printable(name))).read_bytes() == b"x"


@given(st.binary(max_size=40))
def test_every_name_has_one_printable_form_that_leads_back(raw: bytes) -> None:
    name = raw.decode("utf-8", "surrogateescape")
    printed = printable(name)
    printed.encode("utf-8")
    assert file_name(printed) == name


def test_a_folder_that_cannot_be_listed_is_given_itself(tmp_path: Path) -> None:
    """Its path is longer than the system allows, which stops even the superuser."""
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        for _ in range(21):
            Path("d" * 200).mkdir()
            os.chdir("d" * 200)
    finally:
        os.chdir(here)
    (found,) = walk(tmp_path, leave_out=NOWHERE)
    assert found.is_folder
    assert found.name.startswith("d" * 200 + "/")


def test_the_output_folder_is_no_input_even_inside_the_inputs(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "summary.png").write_bytes(b"x")
    assert names(tmp_path, leave_out=tmp_path / "scores") == ["a.jpg"]


def test_other_files_of_a_folder_of_pictures_are_skipped_and_counted(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.PNG", "notes.txt", "more.txt", "table.parquet", "README"):
        (tmp_path / name).write_bytes(b"x")
    found = survey(tmp_path, NOWHERE)
    assert (found.kind, found.num_files) == ("pictures", 2)
    assert found.skipped == {"": 1, ".parquet": 1, ".txt": 2}


@pytest.mark.parametrize("change", ["name", "length", "time", "one more"])
def test_the_fingerprint_changes_when_a_file_does(tmp_path: Path, change: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"x")
    os.utime(path, ns=(10**18, 10**18))
    before = survey(tmp_path, NOWHERE).fingerprint
    assert survey(tmp_path, NOWHERE).fingerprint == before
    if change == "name":
        path.rename(tmp_path / "b.jpg")
    elif change == "length":
        path.write_bytes(b"xy")
        os.utime(path, ns=(10**18, 10**18))
    elif change == "time":
        os.utime(path, ns=(10**18, 10**18 + 1))
    else:
        (tmp_path / "b.jpg").write_bytes(b"x")
    assert survey(tmp_path, NOWHERE).fingerprint != before


@pytest.mark.parametrize("name", ["a.jpg", "a.parquet", "a.tar.gz", "a.TGZ"])
def test_one_file_is_a_collection_too(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    (tmp_path / "other.jpg").write_bytes(b"x")
    found = survey(tmp_path / name, NOWHERE)
    assert (found.num_files, found.base) == (1, tmp_path)


def test_nothing_to_score_is_an_error_that_says_what_counts(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"nothing to score.*1 files(.|\n)*\.jpg"):
        survey(tmp_path, NOWHERE)
    with pytest.raises(UsageError, match="is not there"):
        survey(tmp_path / "missing", NOWHERE)


def test_parquet_files_beside_tar_shards_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"x")
    (tmp_path / "b.tar").write_bytes(b"x")
    with pytest.raises(UsageError, match="both Parquet files and tar shards"):
        survey(tmp_path, NOWHERE)
