"""What is kept is copied and linked safely, and again after any interruption."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quality_model.cli import run
from quality_model.core import storage
from quality_model.curate.outputs import name_below

from .conftest import filtered, image, key, keys, members_of, names_in, not_written, rows_of, tree


def test_copies_have_the_bytes_and_times_of_the_originals_and_a_second_run_changes_nothing(
    place: Path,
) -> None:
    before = tree(place / "images")
    assert filtered("--max", "noise=.3", "--copy", "kept") == 0
    found = tree(place / "kept")
    assert names_in(place / "kept") == keys(0, 1, 2, 3)
    assert all(found[name] == before[name] for name in keys(0, 1, 2, 3))
    assert (place / "kept" / key(2)).stat().st_mtime_ns == (place / "images" / key(2)).stat().st_mtime_ns
    assert set(rows_of(place / "kept" / "filter.parquet")) == keys(0, 1, 2, 3)
    assert not_written(place / "kept") == {}
    assert filtered("--max", "noise=.3", "--copy", "kept") == 0
    assert tree(place / "kept") == found
    assert tree(place / "images") == before
    (place / "kept" / key(1)).unlink()  # what a user removed is there again
    assert filtered("--max", "noise=.3", "--copy", "kept") == 0
    assert tree(place / "kept") == found


def test_a_folder_of_another_rule_or_with_files_of_others_is_refused_untouched(place: Path, capsys) -> None:
    assert filtered("--max", "noise=.3", "--copy", "kept") == 0
    before = tree(place / "kept")
    assert filtered("--max", "noise=.1", "--copy", "kept") == 2
    assert "rules, counts, kept_sha256 differ" in capsys.readouterr().err
    assert filtered("--max", "noise=.3", "--link", "kept") == 2
    assert "output differ" in capsys.readouterr().err
    assert tree(place / "kept") == before
    for chosen in (0, 1):
        (place / "chosen.txt").write_text(key(chosen))
        assert filtered("--only", "chosen.txt", "--copy", "one") == 2 * chosen  # as many, but another
    (place / "other").mkdir()
    (place / "other" / "mine.txt").write_text("mine")
    assert filtered("--copy", "other") == 2
    assert "mine.txt" in capsys.readouterr().err


def test_links_share_the_file_or_lead_to_it(place: Path) -> None:
    for options in (["--link", "hard"], ["--link", "soft", "--symlink"]) * 2:
        assert filtered("--max", "noise=.3", *options) == 0
    assert names_in(place / "hard") == names_in(place / "soft") == keys(0, 1, 2, 3)
    assert (place / "hard" / key(0)).samefile(place / "images" / key(0))
    assert not (place / "hard" / key(0)).is_symlink()
    assert (place / "soft" / key(0)).readlink() == place / "images" / key(0)


def test_where_a_hard_link_cannot_be_made_files_are_copied_and_one_line_says_so(place: Path, caplog) -> None:
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == place.stat().st_dev:
        pytest.skip("there is one file system")
    target = elsewhere / f"quality-model-test-{os.getpid()}"
    try:
        assert filtered("--max", "noise=.3", "--link", str(target)) == 0
        assert names_in(target) == keys(0, 1, 2, 3)
        assert sum("cannot be linked" in line for line in caplog.messages) == 1
    finally:
        subprocess.run(["rm", "-r", str(target)], check=True)


def test_keys_that_lead_elsewhere_stay_below_the_folder(
    tmp_path: Path, monkeypatch, score_into, capsys
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "up.png").write_bytes(image(1))
    (tmp_path / "far.png").write_bytes(image(2))
    Path("filter.json.png").write_bytes(image(3))
    Path("filter.json").write_bytes(image(4))
    names = [
        "../up.png",
        str(tmp_path / "far.png"),
        "filter.json.png",
        "filter.json",
        "https://127.0.0.1:9/x.png?a",
    ]
    Path("list.txt").write_text("\n".join(names))
    score_into("@list.txt", Path("out"))
    capsys.readouterr()
    assert filtered("--max", "noise=.5", "--copy", "kept") == 0
    far = str(tmp_path / "far.png").lstrip("/")
    assert names_in(Path("kept")) == {"__/up.png", far, "filter.json.png", "_filter.json"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["far.png", "up.png", "work"]


def test_originals_that_are_gone_or_changed_are_not_written_and_the_rest_is(place: Path, capsys) -> None:
    saved = {name: (place / "images" / name).read_bytes() for name in (key(0), key(1))}
    (place / "images" / key(0)).unlink()
    (place / "images" / key(1)).write_bytes(image(21))
    for options in (["--copy", "kept"], ["--link", "links"], ["--shards", "shards"]):
        assert filtered("--max", "noise=.3", *options) == 4
        assert not_written(place / options[1]) == {"changed": [key(1)], "missing": [key(0)]}
        assert (
            "2 kept originals could not be written: 1 x missing (such as even/n00.png)"
            in capsys.readouterr().err
        )
    assert names_in(place / "kept") == names_in(place / "links") == keys(2, 3)
    for name, data in saved.items():
        (place / "images" / name).write_bytes(data)
    for options in (["--copy", "kept"], ["--link", "links"], ["--shards", "shards"]):
        assert filtered("--max", "noise=.3", *options) == 0
        assert not_written(place / options[1]) == {}
    assert names_in(place / "kept") == names_in(place / "links") == keys(0, 1, 2, 3)
    assert set(members_of(place / "shards")) == keys(0, 1, 2, 3)


@pytest.mark.parametrize("option", ["--copy", "--link", "--shards"])
def test_that_no_original_is_left_is_said_and_not_that_a_folder_is_written(
    place: Path, option: str, capsys
) -> None:
    (place / "images").rename(place / "archive")
    assert filtered("--max", "noise=.3", option, "kept", "--to", "keys.txt") == 4
    said = capsys.readouterr().out
    assert "No original is written to kept: all that are kept are gone or changed." in said
    assert "Written: keys.txt" in said and "Written: kept" not in said


def test_originals_that_moved_are_found_where_a_user_says(place: Path) -> None:
    (place / "images").rename(place / "archive")
    assert filtered("--max", "noise=.3", "--copy", "kept", "--originals", "archive") == 0
    assert names_in(place / "kept") == keys(0, 1, 2, 3)
    assert filtered("--copy", "again", "--originals", "nowhere") == 2


def test_a_selection_in_the_current_folder_can_be_filtered_beside_it(place: Path, score_into) -> None:
    score_into("images/*/*.png", place / "chosen")
    assert run(["filter", "chosen", "--max", "noise=.3", "--copy", "kept"]) == 0
    assert names_in(place / "kept") == {f"images/{name}" for name in keys(0, 1, 2, 3)}


def test_a_key_with_a_line_break_needs_nul_bytes(tmp_path: Path, monkeypatch, score_into, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"id": ["a\nb", "c"], "image": [image(9), image(10)]}), "t.parquet")
    score_into("t.parquet", Path("out"))
    assert filtered("--max", "noise=.5", "--to", "keys.txt") == 2
    assert "--null" in capsys.readouterr().err
    assert not Path("keys.txt").exists()
    assert filtered("--max", "noise=.5", "--to", "keys.txt", "--null") == 0
    assert Path("keys.txt").read_bytes() == b"a\nb\0c\0"
    assert filtered("--max", "noise=.5", "--copy", "kept") == 0
    assert names_in(Path("kept")) == {"a\nb.png", "c.png"}


@pytest.mark.parametrize("option", ["--copy", "--link", "--shards"])
def test_killed_at_any_step_the_same_command_ends_with_the_same_bytes(place: Path, option: str) -> None:
    command = ["filter", "out", "--max", "noise=.3", "--shard-size", "1", option]
    assert run([*command, "whole"]) == 0
    killing = """
import os, signal, sys
from quality_model.cli import main
left = int(sys.argv[1])
def hook(event, arguments):
    global left
    if event.startswith("quality_model.core.storage."):
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
main(sys.argv[2:])
"""
    for step in (1, 5, 7):
        done = subprocess.run([sys.executable, "-c", killing, str(step), *command, "kept"], check=False)
        assert done.returncode == -signal.SIGKILL
        with pytest.raises(Exception, match="not complete"):
            storage.require_sealed(place / "kept")
    assert run([*command, "kept"]) == 0
    assert tree(place / "kept") == tree(place / "whole")


def test_rows_follow_their_originals_through_an_update(place: Path, score_into) -> None:
    (place / "images" / key(2)).unlink()
    (place / "images" / "even" / "a.png").write_bytes(image(5))
    score_into("images", place / "out")
    assert filtered("--max", "noise=.3", "--copy", "kept") == 0
    assert names_in(place / "kept") == {"even/a.png", *keys(0, 1, 3)}


@pytest.mark.parametrize(
    "option", [["--to", "keys.txt"], ["--to", "rows.parquet"], ["--copy", "kept"], ["--shards", "kept"]]
)
def test_a_result_that_is_updated_while_it_is_read_gives_no_mixture(
    place: Path, score_into, capsys, option: list[str]
) -> None:
    updates = [lambda: score_into("images", place / "out")]

    def hook(event: str, _: object) -> None:
        if event == "quality_model.core.storage.written" and updates:  # the record: rules have judged
            updates.pop()()

    (place / "images" / key(0)).unlink()
    sys.addaudithook(hook)
    assert filtered("--max", "noise=.3", *option) == 10
    assert not updates
    assert "was changed while it was read" in capsys.readouterr().err
    written = place / option[1]
    assert not (written / "_complete.json" if written.is_dir() else written).exists()


def test_urls_that_differ_in_their_query_alone_have_places_of_their_own() -> None:
    urls = [f"https://host/{path}" for path in ("a.png", "a.png?1", "a.png?2", "get?id=1", "get?id=2#x", "b")]
    places = [name_below(url, "JPEG", is_path=True).as_posix() for url in urls]
    assert places[0] == "host/a.png" and places[5] == "host/b.jpg"
    assert len({*places}) == 6
    assert all(re.fullmatch(r"host/(a-[0-9a-f]{12}\.png|get-[0-9a-f]{12}\.jpg)", one) for one in places[1:5])


def test_after_an_update_that_was_killed_at_its_end_originals_wait_for_its_plan(
    place: Path, score_into, capsys
) -> None:
    earlier = {name: (place / "out" / name).read_bytes() for name in ("plan.json", "plan.parquet")}
    (place / "images" / key(2)).unlink()
    score_into("images", place / "out")
    finished = {name: (place / "out" / name).read_bytes() for name in earlier}
    for name, data in earlier.items():  # as before `update.finish`
        (place / "out" / name).write_bytes(data)
    assert filtered("--max", "noise=.3", "--to", "keys.txt") == 0
    assert set(Path("keys.txt").read_text().splitlines()) == keys(0, 1, 3)
    assert filtered("--max", "noise=.3", "--copy", "kept") == 10
    assert "an update did not end" in capsys.readouterr().err
    for name, data in finished.items():
        (place / "out" / name).write_bytes(data)
    assert filtered("--max", "noise=.3", "--copy", "kept") == 0
    assert names_in(place / "kept") == keys(0, 1, 3)
