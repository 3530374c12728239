import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quality_model.core import storage
from quality_model.core.folders import file_name, input_path, inside, printable, walk
from quality_model.data.download import list_images
from quality_model.errors import ImageError, SourceError, UsageError
from quality_model.score.inputs import InputChoice, survey
from quality_model.score.selection import Kind, kind_of

NOWHERE = Path("no-such-output")
PROJECT = Path(__file__).resolve().parents[2]


def table(path: Path, /, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def names(root: Path, leave_out: Path = NOWHERE) -> list[str]:
    return [file.name for file in walk(root, leave_out=leave_out)]


def test_files_come_in_the_order_of_their_names_with_folders_in_place(tmp_path):
    for name in ("b/2.jpg", "b/10.jpg", "a.jpg", "c.jpg", "b/a/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert names(tmp_path) == ["a.jpg", "b/10.jpg", "b/2.jpg", "b/a/1.jpg", "c.jpg"]


def test_a_loop_of_links_ends_and_each_folder_is_entered_once(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_bytes(b"x")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "z").symlink_to(tmp_path / "a")
    assert names(tmp_path) == ["a/1.jpg"]


def test_links_to_images_are_followed_and_broken_ones_are_listed(tmp_path):
    (tmp_path / "real.jpg").write_bytes(b"x")
    (tmp_path / "link.jpg").symlink_to("real.jpg")
    (tmp_path / "gone.jpg").symlink_to("nothing.jpg")
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    assert names(tmp_path) == ["gone.jpg", "link.jpg", "real.jpg", "self.jpg"]


def test_a_name_that_is_not_utf8_is_listed_and_can_be_opened(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9\\1.jpg")).write_bytes(b"x")
    (name,) = names(tmp_path)
    assert printable(name) == "caf\\xe9\\\\1.jpg"
    assert (tmp_path / file_name(printable(name))).read_bytes() == b"x"


@given(st.binary(max_size=40))
def test_every_name_has_one_printable_form_that_leads_back(raw):
    name = raw.decode("utf-8", "surrogateescape")
    printed = printable(name)
    printed.encode("utf-8")
    assert file_name(printed) == name


def test_a_folder_that_cannot_be_listed_is_given_itself(tmp_path):
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


def test_the_output_folder_is_no_input_even_inside_the_inputs(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "summary.png").write_bytes(b"x")
    assert names(tmp_path, leave_out=tmp_path / "scores") == ["a.jpg"]


def test_other_files_of_a_folder_of_images_are_skipped_and_counted(tmp_path):
    for name in ("a.jpg", "b.PNG", "notes.txt", "more.txt", "table.parquet", "README"):
        (tmp_path / name).write_bytes(b"x")
    found = survey(tmp_path, NOWHERE)
    assert (found.kind, found.num_files) == ("images", 2)
    assert found.skipped == {"": 1, ".txt": 2, "unreadable Parquet files": 1}


def test_a_suffix_that_is_no_printable_text_is_counted_as_text(tmp_path):
    for name in (b"a.jpg", b"x.\xff", b"x.\x1b[31m", b"x.a\nb", b"x.\xc3\xa9"):
        (tmp_path / os.fsdecode(name)).write_bytes(b"x")
    found = survey(tmp_path, NOWHERE)
    assert found.skipped == {".\\xff": 1, ".\\x1b[31m": 1, ".a\\nb": 1, ".é": 1}
    json.dumps(found.skipped, ensure_ascii=False).encode()


@pytest.mark.parametrize("change", ["name", "length", "time", "one more"])
def test_the_fingerprint_changes_when_a_file_does(tmp_path, change):
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


@pytest.mark.parametrize("name", ["a.jpg", "a.parquet", "a.tar.gz", "a.TGZ", "a.tar.zst", "a.tbz2"])
def test_one_file_is_a_collection_too(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    if name == "a.parquet":
        table(tmp_path / name, image=[b"x"])
    (tmp_path / "other.jpg").write_bytes(b"x")
    found = survey(tmp_path / name, NOWHERE)
    assert (found.num_files, found.inputs.base) == (1, tmp_path)


def test_nothing_to_score_is_an_error_that_says_what_counts(tmp_path):
    (tmp_path / "notes.txt").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"nothing to score.*1 files(.|\n)*\.jpg"):
        survey(tmp_path, NOWHERE)
    with pytest.raises(UsageError, match="is not there"):
        survey(tmp_path / "missing", NOWHERE)


def test_two_kinds_of_inputs_are_refused_with_what_there_is_and_how_to_choose(tmp_path):
    """The case of one preview image beside shards, too."""
    for name in ("b.tar", "c.tar", "preview.jpg"):
        (tmp_path / name).write_bytes(b"x")
    table(tmp_path / "a.parquet", image=[b"x"])
    with pytest.raises(UsageError) as refused:
        survey(tmp_path, NOWHERE)
    assert "1 image (such as preview.jpg), 2 tar shards (such as b.tar), 1 Parquet file" in str(refused.value)
    assert "--kind images or --kind tar or --kind parquet" in str(refused.value)
    kinds: list[Kind] = ["images", "tar", "parquet"]
    found = [survey(tmp_path, NOWHERE, InputChoice(kind)) for kind in kinds]
    assert [survey.kind for survey in found] == kinds
    assert [survey.num_files for survey in found] == [1, 2, 1]
    assert found[1].skipped == {".jpg": 1, ".parquet": 1}


@pytest.mark.parametrize("name", ["00000.tar", "1.jpg"])
def test_parquet_files_without_images_beside_the_inputs_are_metadata(tmp_path, name):
    """As img2dataset and imagefolder leave them."""
    (tmp_path / name).write_bytes(b"x")
    (tmp_path / "00000_stats.json").write_bytes(b"{}")
    table(tmp_path / "00000.parquet", url=["https://a/1.jpg"], key=["1"], status=["success"])
    table(tmp_path / "metadata.parquet", file_name=["1.jpg"], path=["1.jpg"])
    found = survey(tmp_path, NOWHERE)
    assert (found.kind, found.num_files) == (kind_of(name), 1)
    assert found.skipped == {".json": 1, "Parquet files without images": 2}


def test_a_kind_that_is_not_there_is_refused_with_what_is(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"holds no tar shards, but 1 image \(such as a\.jpg\)"):
        survey(tmp_path, NOWHERE, InputChoice("tar"))
    with pytest.raises(UsageError, match="--image-column names a column of Parquet files"):
        survey(tmp_path, NOWHERE, InputChoice(image_column="image"))


@pytest.mark.parametrize("name", ["images.7z", "list.txt"])
def test_a_file_of_no_known_kind_is_refused_with_what_is_read(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UsageError, match=rf"{name} is no image(.|\n)*\.jpg(.|\n)*\.tar\.zst(.|\n)*unpacked"):
        survey(tmp_path / name, NOWHERE)
    assert survey(tmp_path / name, NOWHERE, InputChoice("tar")).num_files == 1


@pytest.mark.parametrize(
    "address", ["ftp://host/a//b", "https://example.com/a.tar?x=1", "file:///data/images", "ftp://b"]
)
def test_a_url_is_refused_and_shown_as_it_was_given(address):
    with pytest.raises(UsageError) as refused:
        input_path(address)
    assert address in refused.value.problem
    with pytest.raises(UsageError, match="is a URL"):
        survey(Path(address), NOWHERE)


def test_an_empty_path_is_refused_and_is_not_the_current_folder():
    with pytest.raises(UsageError, match="is empty"):
        input_path("")


def test_the_password_in_a_url_is_not_shown():
    with pytest.raises(UsageError) as refused:
        input_path("https://me:secret@example.com/a")
    assert "secret" not in str(refused.value)


SYSTEM = (
    "._1.jpg", ".hidden.jpg", ".trash/1.jpg", "@eaDir/1.jpg/THUMB.jpg", "__MACOSX/._1.jpg", "Thumbs.db",
    "desktop.ini", "$RECYCLE.BIN/1.jpg", "lost+found/1.jpg", "#recycle/1.jpg",
    "System Volume Information/1.jpg",
)  # fmt: skip


def test_scoring_and_training_skip_and_count_the_same_hidden_and_system_files(tmp_path):
    for name in ("1.jpg", "day/2.jpg", *SYSTEM):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found, listing = survey(tmp_path, NOWHERE), list_images(tmp_path)
    assert names(tmp_path) == ["1.jpg", "day/2.jpg"] == sorted(listing.images)
    assert found.skipped == listing.skipped == {"hidden and system files": len(SYSTEM)}


def test_a_hidden_folder_that_is_named_is_an_input(tmp_path):
    (tmp_path / ".thumbnails").mkdir()
    (tmp_path / ".thumbnails" / "1.jpg").write_bytes(b"x")
    assert survey(tmp_path / ".thumbnails", NOWHERE).num_files == 1


def result(folder: Path, name: str) -> Path:
    """A folder with images that holds what says that it is an output of ours."""
    folder.mkdir(parents=True)
    if name == "_complete.json":
        (folder / "largest_changes.png").write_bytes(b"x")
        storage.seal(folder, ["largest_changes.png"], rows=1, kind="comparison")
        return folder
    (folder / "report").mkdir()
    for image in ("summary.png", "report/logo.png"):
        (folder / image).write_bytes(b"x")
    table(folder / "part-00000.parquet", image=[b"x"])
    (folder / name).write_text(json.dumps({"plan_sha256": "0" * 64}))
    return folder


@pytest.mark.parametrize("marker", ["plan.json", "job.json", "_complete.json"])
@pytest.mark.parametrize("name", ["1.jpg", "0.tar", "0.parquet"])
def test_earlier_results_among_the_inputs_are_skipped_and_counted(tmp_path, marker, name):
    (tmp_path / name).write_bytes(b"x")
    if name == "0.parquet":
        table(tmp_path / name, image=[b"x"])
    before = survey(tmp_path, NOWHERE)
    result(tmp_path / "scores" / "one", marker)
    after = survey(tmp_path, NOWHERE)
    assert (after.kind, after.num_files, after.fingerprint) == (before.kind, 1, before.fingerprint)
    assert after.skipped == {"earlier results": 1}
    assert list_images(tmp_path).skipped == {"earlier results": 1}


@pytest.mark.parametrize("part", ["report", "report/logo.png", "summary.png"])
def test_a_link_into_an_earlier_result_is_skipped_and_counted(tmp_path, part):
    folder = result(tmp_path / "result", "plan.json")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.jpg").write_bytes(b"x")
    (tmp_path / "in" / f"link{Path(part).suffix}").symlink_to(folder / part)
    found = survey(tmp_path / "in", NOWHERE)
    assert (found.num_files, found.skipped) == (1, {"earlier results": 1})


def test_a_comparison_that_was_written_among_images_does_not_make_them_a_result(tmp_path):
    folder = result(tmp_path / "one", "_complete.json")
    (folder / "1.jpg").write_bytes(b"x")
    assert "1.jpg" in names(folder)
    assert "1.jpg" in list_images(folder).images


def test_a_folder_with_nothing_to_score_says_which_suffixes_its_files_have(tmp_path):
    for name in ("1.xcf", "2.XCF", "3.psd", "README"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UsageError, match=r"among its 4 files \(2 x \.xcf, 1 x \.psd, 1 x no suffix\)"):
        survey(tmp_path, NOWHERE)


@pytest.mark.parametrize("marker", ["plan.json", "job.json", "_complete.json"])
def test_an_earlier_result_is_no_input(tmp_path, marker):
    folder = result(tmp_path / "one", marker)
    with pytest.raises(UsageError, match="is an earlier result"):
        survey(folder, NOWHERE)
    with pytest.raises(SourceError, match="is an earlier result"):
        list_images(folder)


@pytest.mark.parametrize("part", ["part-00000.parquet", "report", "report/logo.png"])
def test_neither_is_a_part_of_one(tmp_path, part):
    with pytest.raises(UsageError, match="a part of one"):
        survey(result(tmp_path / "one", "plan.json") / part, NOWHERE)


@pytest.mark.parametrize("content", ["[]", "{}", "no JSON", "[" * 100_000, '{"files": 3}'])
def test_a_folder_whose_files_only_have_such_names_is_an_input(tmp_path, content):
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    for name in ("plan.json", "job.json", "_complete.json"):
        (folder / name).write_text(content)
    (folder / "1.jpg").write_bytes(b"x")
    assert survey(folder, NOWHERE).num_files == 1
    assert survey(tmp_path / "a", NOWHERE).num_files == 1


@pytest.mark.parametrize("name", ["../secret.jpg", "a/../../secret.jpg", "out/secret.jpg", "out.jpg"])
def test_a_name_that_leads_out_of_its_folder_is_refused(tmp_path, name):
    (tmp_path / "secret.jpg").write_bytes(b"x")
    folder = tmp_path / "in"
    (folder / "a").mkdir(parents=True)
    (folder / "out").symlink_to(tmp_path)
    (folder / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    for wanted in (name, str(folder / name)):
        with pytest.raises(ImageError, match="outside_folder"):
            inside(folder, wanted)


def test_a_name_that_stays_in_its_folder_is_a_path_in_it(tmp_path):
    folder = tmp_path / "in"
    (folder / "a").mkdir(parents=True)
    (folder / "link.jpg").symlink_to("a/1.jpg")
    (tmp_path / "other").symlink_to(folder)
    for name in ("a/1.jpg", "./a/1.jpg", "a/../a/1.jpg", "link.jpg", str(folder / "a/1.jpg")):
        assert inside(tmp_path / "other", name) == folder / "a" / "1.jpg"


def test_a_file_name_that_begins_as_a_data_url_is_a_path(tmp_path):
    assert inside(tmp_path, "data:1.jpg") == tmp_path / "data:1.jpg"


@pytest.mark.parametrize(
    ("name", "code"),
    [("https://a.com/1.jpg", "url"), ("s3://b/1.jpg", "url"), ("file:///etc/passwd", "url"),
     ("data:image/png;base64,AA", "base64_text"), ("a\0.jpg", "unreadable")],
)  # fmt: skip
def test_a_name_that_is_no_path_has_an_error_code(tmp_path, name, code):
    with pytest.raises(ImageError, match=code):
        inside(tmp_path, name)


def test_names_lead_back_to_their_files_in_a_locale_that_cannot_write_them(tmp_path):
    (tmp_path / "ü\\日本.jpg").write_bytes(b"x")
    code = (
        "from pathlib import Path\n"
        "from quality_model.core.folders import file_name, printable, walk\n"
        "for file in walk(Path()):\n"
        "    print(ascii(printable(file.name)), Path(file_name(printable(file.name))).exists())\n"
        "print(ascii(printable('\\xfc.jpg')))  # of an archive\n"
    )
    environment = {
        "LC_ALL": "POSIX",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONPATH": str(PROJECT),
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [f"{'ü' + 2 * chr(92) + '日本.jpg'!a} True", ascii("ü.jpg")]
