"""Which images a filter keeps, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from quality_model.cli import run
from quality_model.errors import UsageError

from .conftest import filtered, key, keys, names_in, rows_of, tree


def test_without_a_rule_what_is_flagged_is_dropped_and_the_table_says_by_whom(place: Path, capsys) -> None:
    (place / "own.json").write_text('{"color_cast": 0.5, "blurriness": 0.5, "watermark": 0.5}')
    assert filtered("--to", "keys.txt") == 0
    assert set((place / "keys.txt").read_text().splitlines()) == keys(0, 1, 2, 3)
    said = capsys.readouterr().out
    assert "No rule is given" in said
    counts = {line.split()[1]: line.split()[-2:] for line in said.splitlines() if line.startswith("flagged")}
    assert counts == {
        **{"color_cast": ["3", "0"], "blurriness": ["4", "0"], "watermark": ["6", "2"], "noise": ["0", "0"]}
    }
    assert "not scored: not_an_image      1" in said
    assert "Kept: 4 of 11." in said
    line = next(line for line in said.splitlines() if line.startswith("Flagged by color_cast 30 %, "))
    assert "watermark 60 % (" in line and line.endswith("look at them first: quality-model gallery out")
    assert filtered("--thresholds", "own.json", "--dry-run") == 0
    assert "look at them first" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--flagged", "color_cast"], range(7)),
        (["--flagged", "all", "--min", "overall=0"], range(4)),
        (["--max", "noise=.2", "--min", "overall=.85"], range(2)),
        (["--drop-worst", "30%"], range(7)),
        (["--drop-worst", "noise=.3", "--where", "width == 8 and contains(key, 'odd/')"], (1, 3, 5)),
        (["--flagged", "color_cast, blurriness"], range(6)),
        (["--thresholds", "own.json"], range(3)),
        (["--thresholds", "own.json", "--flagged", "noise"], range(5)),
        (["--drop-worst", "40%", "--balance", "side", "--strata", "sides.csv"], range(6)),
    ],
)
def test_rules_combine(place: Path, arguments: list[str], expected: Any) -> None:
    (place / "own.json").write_text('{"noise": 0.32, "watermark": 0.2}')
    sides = "".join(f"{key(number)},{number % 2}\n" for number in range(10))
    (place / "sides.csv").write_text(f"key,side\n{sides}")
    before = tree(place / "out")
    assert filtered(*arguments, "--to", "keys.txt") == 0
    assert set((place / "keys.txt").read_text().splitlines()) == keys(*expected)
    assert tree(place / "out") == before


def test_a_table_of_what_is_kept_has_the_rows_schema_and_metadata_of_the_result(place: Path) -> None:
    assert filtered("--max", "noise=.3", "--to", "kept.parquet", "--to", "all.parquet", "--keep-errors") == 0
    kept, parts = pq.read_table("kept.parquet"), sorted(Path("out/data").glob("*.parquet"))
    assert kept.schema.equals(pq.read_schema(parts[0]), check_metadata=True)
    original = {**rows_of(parts[0]), **rows_of(parts[1])}
    assert {row["key"]: row for row in kept.to_pylist()} == {
        name: original[name] for name in keys(0, 1, 2, 3) | {"odd/damaged.png"}
    }


def test_a_list_of_ours_is_replaced_and_another_file_never(place: Path, capsys) -> None:
    assert filtered("--max", "noise=.3", "--to", "keys.txt") == 0
    assert filtered("--max", "noise=.1", "--to", "keys.txt") == 0
    assert set((place / "keys.txt").read_text().splitlines()) == keys(0, 1)
    record = json.loads((place / "keys.txt.filter.json").read_text())
    assert [rule["title"] for rule in record["rules"]] == ["noise > 0.1"]
    assert record["counts"] == {"rows": 11, "kept": 2, "errors": {"not_an_image": 1}}
    (place / "notes.txt").write_text("mine")
    assert filtered("--to", "notes.txt") == 2
    assert (place / "notes.txt").read_text() == "mine"
    assert "was not written by filter" in capsys.readouterr().err


@pytest.mark.parametrize("what", [["--copy"], ["--shards"], ["--to"], ["--link"]])
def test_nothing_is_written_into_the_originals_or_the_result(place: Path, what: list[str], capsys) -> None:
    before = tree(place)
    for target in ("images/kept", "images", "out", "out/data/kept"):
        assert filtered("--max", "noise=.3", *what, target) == 2
        assert "is inside" in capsys.readouterr().err
    assert tree(place) == before


def test_a_dry_run_says_the_same_and_writes_nothing(place: Path, capsys) -> None:
    before = tree(place)
    assert filtered("--max", "noise=.3", "--dry-run", "--copy", "kept", "--to", "keys.txt") == 0
    said = capsys.readouterr().out
    assert "noise > 0.3                   6      6" in said
    assert tree(place) == before
    assert filtered("--max", "noise=.3", "--to", "keys.txt") == 0
    assert capsys.readouterr().out == said + "Written: keys.txt\n"


def test_nothing_kept_is_an_error_before_anything_is_written_and_all_kept_is_said(
    place: Path, capsys
) -> None:
    before = tree(place)
    assert filtered("--min", "noise=1", "--to", "keys.txt", "--copy", "kept") == 2
    assert "Nothing is kept" in capsys.readouterr().err
    assert tree(place) == before
    (place / "images" / "odd" / "damaged.png").unlink()
    assert filtered("--min", "noise=1", "--dry-run") == 0
    assert "Nothing is kept: all 11 are dropped." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dry-run", "--max", "nois=.3"], "Did you mean noise"),
        (["--dry-run", "--max", "noise"], "NAME=VALUE"),
        (["--dry-run", "--max", "noise=nan"], "NAME=VALUE"),
        (["--dry-run", "--max", "noise=30"], "--max noise=30: scores end at 1. --max noise=0.3?"),
        (["--dry-run", "--min", "overall=80"], "--min overall=80: scores end at 1. --min overall=0.8?"),
        (["--dry-run", "--max", "noise=-.1"], "--max noise=-0.1: scores begin at 0."),
        (["--dry-run", "--max", "noise=30%"], "a share is --drop-worst noise=30%"),
        (["--dry-run", "--flagged", "hue"], "Heads are color_cast"),
        (["--dry-run", "--flagged", "blur"], "Did you mean blurriness?"),
        (["--dry-run", "--flagged", "blurry"], "Did you mean blurriness?"),
        (["--dry-run", "--flagged", "cast"], "Did you mean color_cast?"),
        (
            ["--dry-run", "--flagged", "noise,colour_cast"],
            "'colour_cast' is no head.\n  Did you mean color_cast?",
        ),
        (["--dry-run", "--flagged", "mark"], "Did you mean watermark?"),
        (["--dry-run", "--flagged", "Noisy"], "Did you mean noise?"),
        (["--dry-run", "--drop-worst", "110%"], "between 0 and 1"),
        (["--dry-run", "--drop-worst", "noise=x"], "between 0 and 1"),
        (["--dry-run", "--drop-worst", "1e999999999"], "between 0 and 1"),
        (["--dry-run", "--thresholds", "own.json"], "is no file of thresholds: nose"),
        (["--dry-run", "--thresholds", "nowhere.json"], "nowhere.json is not there"),
        (["--dry-run", "--strata", "own.json"], "--strata needs --balance"),
        (["--copy", "a", "--link", "b"], "excludes --link"),
        (["--copy", "a", "--shards", "a"], "is inside a"),
        (["--copy", "a", "--to", "a/keys.txt"], "is inside a"),
        (["--to", "a", "--to", "a"], "in one place"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(
    place: Path, arguments: list[str], said: str, capsys
) -> None:
    (place / "own.json").write_text('{"nose": 0.3}')
    assert filtered(*arguments) == 2
    assert said in capsys.readouterr().err


def test_images_that_were_scored_by_another_name_get_no_copies_among_them(
    place: Path, score_into: Callable[[str, Path], None], monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    (place / "link").symlink_to("images")
    score_into("link", place / "by-link")
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    assert run(["filter", "../by-link", "--copy", "../images/kept"]) == 2
    assert "is inside what was scored" in capsys.readouterr().err


def test_without_an_output_it_says_what_would_be_dropped_and_how_to_write(place: Path, capsys) -> None:
    assert filtered("--max", "noise=.3", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert filtered("--max", "noise=.3") == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert lines == shown.splitlines() and last.startswith("Nothing is written: give --to FILE")
    assert {path.name for path in place.iterdir()} == {"images", "out"}


def test_thresholds_of_another_scale_are_refused_and_those_written_by_hand_are_used(
    place: Path, capsys
) -> None:
    by_hand = {"noise": 0.5}
    (place / "own.json").write_text(json.dumps(by_hand))
    assert filtered("--thresholds", "own.json", "--flagged", "noise") == 0
    assert "flagged noise (> 0.5)" in capsys.readouterr().out
    model = {"name": "other", "version": None, "sha256": "a" * 64, "scale_version": "99"}
    (place / "own.json").write_text(json.dumps({"thresholds": by_hand, "model": model}))
    assert filtered("--thresholds", "own.json") == 2
    assert "scale version 99, and the scores are of 1" in capsys.readouterr().err


def test_python_gives_what_the_command_does(place: Path) -> None:
    from quality_model.curate.filter import Outputs, filter_result
    from quality_model.curate.rules import Bound

    found = filter_result(Path("out"), [Bound("noise", 0.3)], Outputs(files=(Path("kept"), "copy")))
    assert (found.num_rows, found.num_kept, found.losses.total) == (11, 4, 0)
    assert found.errors == {"not_an_image": 1}
    assert names_in(place / "kept") == keys(0, 1, 2, 3)
    with pytest.raises(UsageError, match="Did you mean noise"):
        filter_result(Path("out"), [Bound("nois", 0.3)])


def test_a_gallery_shows_what_each_rule_drops(place: Path, capsys) -> None:
    assert filtered("--max", "noise=.5", "--min", "overall=.9", "--dry-run", "--gallery", "dropped.html") == 0
    page = (place / "dropped.html").read_text()
    assert "Dropped: noise > 0.5" in page
    assert "8 dropped, 5 of them by this rule alone" in page
    assert "Gallery: dropped.html" in capsys.readouterr().out
