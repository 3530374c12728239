"""The table of what a filter drops: of each input why, and nothing else is written."""

from pathlib import Path

import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from quality_model.curate.dropped_table import DROPPED_SCHEMA

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
