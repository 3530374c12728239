"""What a filter drops: a table of each input why, and a page with a tab for each rule."""

import json
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from quality_model.cli import run
from quality_model.curate.dropped import DROPPED_SCHEMA, tab_title
from quality_model.curate.rules import BestOfDuplicates, Bound, Flag, Only, Rule, Where, Worst
from quality_model.records import HEADS

from .conftest import filtered, image, key, keys, rows_of, tree


@pytest.fixture
def copied(place: Path, score_into) -> Path:
    """With an exact copy of n01.png, of which the name comes later."""
    (place / "images" / "odd" / "the copy, of n01.png").write_bytes(image(20))
    score_into("images", place / "out")
    return place


def test_every_dropped_input_has_a_row_that_says_why(copied: Path) -> None:
    rules = ["--max", "noise=.5", "--min", "overall=.5", "--best-of-duplicates"]
    assert filtered(*rules, "--dropped", "dropped.parquet") == 0
    assert filtered(*rules, "--dropped", "dropped.csv", "--to", "kept.txt") == 0
    assert pq.read_schema("dropped.parquet").equals(DROPPED_SCHEMA)
    found = rows_of(copied / "dropped.parquet")
    copy, damaged = "odd/the copy, of n01.png", "odd/damaged.png"
    assert set(found) == keys(7, 8, 9) | {copy, damaged}
    assert set(found).isdisjoint((copied / "kept.txt").read_text().splitlines())
    assert {row["rules"] for name, row in found.items() if name in keys(7, 8, 9)} == {
        "noise > 0.5; overall < 0.5"
    }
    assert found[key(9)]["worst_score"] == found[key(9)]["noise"] == pytest.approx(180 / 255)
    assert (found[copy]["rules"], found[copy]["duplicate_of"], found[copy]["distance"]) == (
        "near duplicates (within 6 bits)",
        key(1),
        0,
    )
    assert (found[damaged]["rules"], found[damaged]["error_code"]) == ("", "not_an_image")
    assert all(row["duplicate_of"] is row["distance"] is None for name, row in found.items() if name != copy)
    listed = pyarrow.csv.read_csv("dropped.csv")
    assert listed.column_names == DROPPED_SCHEMA.names
    assert set(listed["key"].to_pylist()) == set(found)


def test_a_dry_run_writes_it_alone_even_if_nothing_is_kept(place: Path, capsys) -> None:
    before = set(tree(place))
    assert filtered("--min", "noise=1", "--dry-run", "--copy", "kept", "--dropped", "dropped.csv") == 0
    assert set(tree(place)) - before == {"dropped.csv", "dropped.csv.filter.json"}
    assert len(pyarrow.csv.read_csv("dropped.csv")) == 11
    assert "Written: dropped.csv" in capsys.readouterr().out
    (place / "images" / "odd" / "damaged.png").unlink()
    assert (
        filtered("--where", "noise >= 0", "--dropped", "dropped.csv") == 0
    )  # replaced, now with errors alone
    assert pyarrow.csv.read_csv("dropped.csv")["key"].to_pylist() == ["odd/damaged.png"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dropped.txt", "neither .csv nor .parquet"),
        ("out/data/dropped.csv", "is inside the result"),
        ("images/dropped.csv", "is inside what was scored"),
        ("mine.csv", "was not written by filter"),
    ],
)
def test_a_place_that_is_not_for_it_is_refused_before_anything_is_written(
    place: Path, capsys, name: str, said: str
) -> None:
    (place / "mine.csv").write_text("mine")
    before = tree(place)
    assert filtered("--max", "noise=.3", "--dropped", name, "--to", "kept.txt", "--dry-run") == 2
    assert said in capsys.readouterr().err
    assert tree(place) == before


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL
    )
    assert found
    value: dict[str, Any] = json.loads(found[1])
    return value


def shown(data: dict[str, Any], tab: str) -> list[str]:
    (section,) = [one for one in data["sections"] if one["tab"] == tab]
    return [data["images"][place]["key"] for place in section["images"]]


def test_originals_that_moved_are_shown_from_where_a_user_says(place: Path) -> None:
    job = json.loads((place / "out" / "job.json").read_text())  # of a result without thumbnails
    job["files"] = [entry for entry in job["files"] if "thumbnails" not in entry["name"]]
    (place / "out" / "job.json").write_text(json.dumps(job))
    (place / "out" / "report" / "thumbnails.parquet").unlink()
    (place / "images").rename(place / "archive")
    show = ["--max", "noise=.5", "--dry-run", "--gallery", "dropped.html"]
    assert filtered(*show) == 2
    assert filtered(*show, "--originals", "archive") == 0
    assert shown(data_of(place / "dropped.html"), "Noise > 0.5") == [key(9), key(8), key(7)]


def test_a_rule_about_a_head_shows_that_head_and_others_the_worst_score(place: Path) -> None:
    rules = [
        "--max",
        "noise=.5",
        "--min",
        "overall=.5",
        "--flagged",
        "watermark",
        "--drop-worst",
        "noise=20%",
    ]
    assert filtered(*rules, "--dry-run", "--gallery", "dropped.html") == 0
    data = data_of(place / "dropped.html")
    heads = {one["tab"]: one["head"] for one in data["sections"]}
    noise, watermark = HEADS.index("noise"), HEADS.index("watermark")
    assert heads == {
        "Noise > 0.5": noise,
        "Overall < 0.5": None,
        "Noise worst 20%": noise,
        "Watermark flagged": watermark,
    }
    assert shown(data, "Noise > 0.5") == [key(9), key(8), key(7)]
    assert data["name"] == "out: kept 4 of 11"
    assert data["about"].startswith("Dropped: noise > 0.5; overall < 0.5; worst 20% by noise; flagged w")
    notes = {one["key"]: one["note"] for one in data["images"]}
    assert notes[key(7)] == "Noise > 0.5; Overall < 0.5; Watermark flagged"
    assert [section["count"] for section in data["sections"]] == [3, 3, 2, 6]


def test_a_near_duplicate_stands_behind_the_kept_image_and_says_which(place: Path, score_into) -> None:
    for number in (1, 3):
        (place / "images" / "odd" / f"x{number}.png").write_bytes(image(20 * number))
    score_into("images", place / "out")
    rules = ["--max", "noise=.7", "--best-of-duplicates"]
    assert filtered(*rules, "--dry-run", "--gallery", "dropped.html") == 0
    data = data_of(place / "dropped.html")
    assert shown(data, "Near duplicates") == [key(3), "odd/x3.png", key(1), "odd/x1.png"]
    notes = {one["key"]: one["note"] for one in data["images"]}
    assert notes["odd/x3.png"] == f"near {key(3)}, 0 bits"
    assert notes[key(3)].startswith("kept")


def test_flags_follow_the_thresholds_that_were_used(place: Path) -> None:
    (place / "own.json").write_text('{"noise": 0.32, "watermark": 0.2}')
    assert filtered("--thresholds", "own.json", "--dry-run", "--gallery", "dropped.html") == 0
    data = data_of(place / "dropped.html")
    heads = {one["name"]: (one["threshold"], one["flagged"]) for one in data["heads"]}
    assert heads["noise"] == (0.32, 5) and heads["watermark"] == (0.2, 7)
    assert heads["blurriness"] == (0.4, 4)
    flags = {one["key"]: one["flags"] for one in data["images"]}
    assert flags[key(3)] == [HEADS.index("watermark")]
    assert HEADS.index("noise") in flags[key(5)]


def test_a_gallery_of_the_keys_in_a_file_has_these_alone_in_their_order(place: Path, capsys) -> None:
    (place / "next.txt").write_text(f"{key(5)}\n{key(2)}\n{key(5)}\nodd/damaged.png\n")
    assert run(["gallery", "out", "--only", "next.txt", "--head", "noise"]) == 0
    assert "Gallery: out/report/chosen.html" in capsys.readouterr().out
    data = data_of(place / "out" / "report" / "chosen.html")
    assert {one["key"] for one in data["images"]} == keys(2, 5)
    assert shown(data, "Chosen") == [key(5), key(2)]
    assert data["sections"][0]["head"] == HEADS.index("noise")
    (place / "table.csv").write_text(f"key,x\n{key(1)},1\n")
    assert run(["gallery", "out", "--only", "table.csv", "--to", "page.html"]) == 0
    assert shown(data_of(place / "page.html"), "Chosen") == [key(1)]


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("", ["--only", "next.txt"], "has no keys"),
        ("nothing.png", ["--only", "next.txt"], "has scores in out"),
        ("", ["--head", "noise"], "--head is of --only"),
        ("", ["--only", "nowhere.txt"], "nowhere.txt cannot be read"),
    ],
)
def test_a_file_without_keys_of_the_result_is_refused(
    place: Path, capsys, text: str, options: list[str], said: str
) -> None:
    (place / "next.txt").write_text(text)
    assert run(["gallery", "out", *options]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rule", "title"),
    [
        (Flag("color_cast", 0.3), "Colour cast flagged"),
        (Bound("jpeg_quality", 60, is_lowest=True), "Jpeg quality < 60"),
        (Worst(Fraction(1, 8)), "Worst 12.5%"),
        (Where("width > 10 and\nheight > 10 and noise < 1"), "Not width > 10 and height..."),
        (Only(Path("some/keys.txt")), "Not in keys.txt"),
        (BestOfDuplicates(), "Near duplicates"),
    ],
)
def test_the_title_of_a_tab_is_short(rule: Rule, title: str) -> None:
    assert tab_title(rule) == title
