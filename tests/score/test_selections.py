"""Several inputs, globs, lists, CSV files, zip archives and folders that `datasets` saved."""

import io
import os
import zipfile
from pathlib import Path

import datasets
import pytest

from quality_model.errors import InputErrorsAboveLimit, UsageError
from quality_model.score.selection import Selection

from .conftest import encode, outcome


@pytest.fixture
def place(tmp_path, crops, monkeypatch) -> Path:
    """A current folder with a/1.jpg, a/2.jpg and b/1.jpg, three different images."""
    for number, name in enumerate(("a/1.jpg", "a/2.jpg", "b/1.jpg")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(crops[number])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def keys(run, *arguments: str, **options) -> list[str]:
    run(Selection(arguments, **options), overwrite=True, max_error_share=1.0)
    return list(outcome(Path("scores")))


def test_several_folders_and_files_keep_the_names_that_were_written(place, run):
    assert keys(run, "a", "b", "a/1.jpg") == ["a/1.jpg", "a/2.jpg", "b/1.jpg"]
    assert keys(run, "./a/2.jpg", "b") == ["a/2.jpg", "b/1.jpg"]


def test_files_of_one_name_in_several_roots_have_different_keys(place, run):
    assert keys(run, "b", "a/1.jpg") == ["b/1.jpg", "a/1.jpg"]


def test_a_quoted_glob_is_expanded_and_one_that_matches_nothing_is_an_error(place, run):
    assert keys(run, "**/1.jpg") == ["a/1.jpg", "b/1.jpg"]
    with pytest.raises(UsageError, match=r"Nothing matches c/\*\.jpg"):
        keys(run, "c/*.jpg")


def test_a_list_may_have_comments_blank_lines_crlf_a_mark_and_repeated_lines(place, run):
    Path("list.txt").write_bytes(b"\xef\xbb\xbf# mine\r\n\r\na/1.jpg\r\nb/1.jpg\n   \na/1.jpg\n./b/1.jpg")
    summary = run(Selection(["@list.txt"]))
    assert list(outcome(place / "scores")) == ["a/1.jpg", "b/1.jpg"]
    assert summary.skipped == {"listed more than once": 2}


def test_paths_of_a_list_are_relative_to_it_and_may_be_absolute_or_missing(place, run):
    (place / "lists").mkdir()
    Path("lists/l.txt").write_text(f"../a/1.jpg\n{place}/b/1.jpg\ngone.jpg\nno-suffix\n")
    keys(run, "@lists/l.txt")
    found = outcome(place / "scores")
    assert list(found) == ["../a/1.jpg", f"{place}/b/1.jpg", "gone.jpg", "no-suffix"]
    assert list(found.values())[2:] == ["missing", "missing"]


def test_an_empty_list_is_an_error(place, run):
    Path("list.txt").write_text("# nothing\n")
    with pytest.raises(UsageError, match="holds nothing to score"):
        keys(run, "@list.txt")
    with pytest.raises(UsageError, match=r"none\.txt is not there"):
        Selection(["@none.txt"])


def test_standard_input_is_a_list_and_between_nul_bytes_names_may_have_line_ends(place, run, monkeypatch):
    odd = "b/é\n2.jpg"
    os.rename("a/2.jpg", odd)  # noqa: PTH104
    data = io.TextIOWrapper(io.BytesIO(b"a/1.jpg\0" + odd.encode() + b"\0"))
    monkeypatch.setattr("sys.stdin", data)
    assert keys(run, "-") == ["a/1.jpg", odd]


def test_the_column_of_a_csv_file_is_found_or_named_and_commas_may_be_quoted(place, run):
    os.rename("a/2.jpg", "a/x, y.jpg")  # noqa: PTH104
    Path("t.csv").write_text('id,path,other\n1,a/1.jpg,b/1.jpg\n2,"a/x, y.jpg",b/1.jpg\n3,,\n')
    assert keys(run, "t.csv") == ["a/1.jpg", "a/x, y.jpg", "t.csv#2"]
    assert outcome(place / "scores")["t.csv#2"] == "missing"
    assert keys(run, "t.csv", column="other") == ["b/1.jpg", "t.csv#2"]
    with pytest.raises(UsageError, match="no column 'nothing'; its columns are id, path, other"):
        keys(run, "t.csv", column="nothing")


def test_addresses_are_rows_that_are_not_fetched_unless_asked(place, run):
    Path("l.txt").write_text("https://example.com/1.jpg\nftp://host/2.jpg\n")
    with pytest.raises(InputErrorsAboveLimit):
        run(Selection(["@l.txt"]))
    assert outcome(place / "scores") == {"https://example.com/1.jpg": "url", "ftp://host/2.jpg": "url"}


def test_a_zip_archive_is_read_in_place_and_what_is_wrong_with_a_member_is_its_row(place, run, crops):
    with zipfile.ZipFile("z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/1.jpg", crops[0])
        archive.writestr("../../escapes.jpg", crops[1])
        archive.writestr("bomb.jpg", bytes(3_000_000))
        archive.writestr("notes.txt", b"x")
        archive.writestr("empty.jpg", b"")
        archive.writestr("locked.jpg", crops[2])
    data = bytearray(Path("z.zip").read_bytes())
    entry = data.rindex(b"locked.jpg")
    data[entry - 38] |= 1  # the flag of encryption in the directory
    Path("z.zip").write_bytes(data)
    summary = run(Path("z.zip"), limits={"max_bytes": 1_000_000}, max_error_share=1.0)
    found = outcome(place / "scores")
    assert list(found) == [
        f"z.zip#{name}" for name in ("x/1.jpg", "../../escapes.jpg", "bomb.jpg", "empty.jpg", "locked.jpg")
    ]
    assert list(found.values())[2:] == ["too_many_bytes", "empty", "encrypted"]
    assert (summary.scored, summary.skipped) == (2, {"members of zip archives": 1})
    assert not (place.parent / "escapes.jpg").exists()


def test_a_damaged_zip_archive_is_a_row(place, run, crops):
    (place / "zips").mkdir()
    with zipfile.ZipFile("zips/a.zip", "w") as archive:
        archive.writestr("1.jpg", crops[0])
    Path("zips/b.zip").write_bytes(b"PK\x03\x04 not an archive")
    run(Path("zips"), max_error_share=1.0)
    assert outcome(place / "scores")["b.zip"] == "broken_archive"


@pytest.mark.parametrize("embedded", [True, False])
def test_a_folder_that_datasets_saved_is_scored(place, run, crops, embedded):
    rows = {"image": [{"bytes": crop, "path": None} for crop in crops[:3]], "id": ["p", "q", "r"]}
    made = datasets.Dataset.from_dict(rows)
    if embedded:
        made = made.cast_column("image", datasets.Image())
    datasets.DatasetDict({"train": made}).save_to_disk(place / "saved")
    run(place / "saved")
    assert list(outcome(place / "scores")) == ["p", "q", "r"]


def test_a_damaged_arrow_file_beside_a_good_one_is_a_row(place, run, crops):
    made = datasets.Dataset.from_dict({"image": [{"bytes": crop, "path": None} for crop in crops[:3]]})
    made.save_to_disk(place / "saved")
    (place / "saved" / "x.arrow").write_bytes(b"no table")
    summary = run(place / "saved", max_error_share=1.0)
    assert (summary.scored, summary.errors) == (3, {"unreadable_rows": 1})


def test_a_pixel_is_scored_as_in_a_folder(place, run):
    import numpy as np

    Path("one.png").write_bytes(encode(np.full((40, 40, 3), 255, np.uint8), "PNG"))
    assert keys(run, "one.png", "a") == ["one.png", "a/1.jpg", "a/2.jpg"]
