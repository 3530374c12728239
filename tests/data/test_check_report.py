"""The report of a validation: its content, its folder, and that it does not change by itself."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from quality_model.data.checks.expectations import Table, among, between, unique, validate
from quality_model.errors import ValidationError


def table(**columns: Any) -> Table:
    frame = pd.DataFrame({"name": ["a", "b", "c"], "size": [1.0, 2.0, 30.0], **columns})
    return Table(
        "things",
        frame,
        ("name",),
        [
            between("size", 0.0, 10.0, "Things are small."),
            unique("name", "Things have names."),
            among("colour", ["red"], "Things are red."),
        ],
    )


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_failure_names_expectation_column_and_examples_in_error_json_and_pages(tmp_path: Path) -> None:
    with pytest.raises(ValidationError) as caught:
        validate("set of things", [table(colour=["red", "red", "blue"])], tmp_path)
    assert str(caught.value).splitlines() == [
        "The set of things does not meet 2 of 3 expectations:",
        "  - things.size: expect_column_values_to_be_between (min_value 0, max_value 10): 1 of 3 fail,"
        " for example size 30, name c. Things are small.",
        "  - things.colour: expect_column_values_to_be_in_set (value_set ['red']): 1 of 3 fail,"
        " for example colour blue, name c. Things are red.",
        f"  See {tmp_path / 'docs' / 'index.html'}; the limits are in the section validation of params.yaml.",
    ]
    assert ValidationError.exit_code == 6
    kept = json.loads((tmp_path / "validation.json").read_text())
    assert (kept["passed"], kept["evaluated"], kept["failed"]) == (False, 3, 2)
    colour = kept["expectations"][2]
    assert (colour["column"], colour["failing"], colour["checked"]) == ("colour", 1, 3)
    assert colour["examples"] == [{"colour": "blue", "name": "c"}]
    (page,) = [path for path in (tmp_path / "docs").rglob("*.html") if "validations" in path.parts]
    assert {"blue", "Failed"} <= set(re.findall(r"\w+", page.read_text()))
    assert str(page.relative_to(tmp_path / "docs")) in (tmp_path / "docs" / "index.html").read_text()


def test_an_expectation_that_cannot_be_evaluated_fails_with_its_error(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"things\.colour: .*colour.* does not exist"):
        validate("set of things", [table()], tmp_path)


def test_the_same_table_gives_the_same_bytes_without_times_and_images_of_the_network(tmp_path: Path) -> None:
    for name in ("one", "two"):
        validate("set of things", [table(size=[1, 2, 3], colour="red")], tmp_path / name)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    for page in (tmp_path / "one" / "docs").rglob("*.html"):
        text = page.read_text()
        assert "amazonaws" not in text
        assert not re.search(r"20\d{6}T\d{6}", text)
        for logo in re.findall(r'src="([^"]*logo[^"]*)"', text):
            assert (page.parent / logo).exists()


def test_a_new_report_replaces_the_old_one(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        validate("set of things", [table(colour="blue")], tmp_path)
    (tmp_path / "docs" / "left.html").write_text("old")
    outcomes = validate("set of things", [table(size=[1, 2, 3], colour="red")], tmp_path)
    assert [outcome.passed for outcome in outcomes] == [True] * 3
    assert json.loads((tmp_path / "validation.json").read_text())["passed"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["docs", "validation.json"]
    assert not (tmp_path / "docs" / "left.html").exists()


def test_nothing_is_written_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, variable in (("home", "HOME"), ("temporary", "TMPDIR")):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / name))
    monkeypatch.chdir(tmp_path / "home")
    with pytest.raises(ValidationError):
        validate("set of things", [table()], tmp_path / "report")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "report", "temporary"]
    assert not [*(tmp_path / "home").rglob("*"), *(tmp_path / "temporary").rglob("*")]
