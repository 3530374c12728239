"""The report of a validation: its content, its folder, and that it does not change by itself."""

import json
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


def test_a_failure_names_expectation_column_and_examples_in_error_and_json(tmp_path: Path) -> None:
    with pytest.raises(ValidationError) as caught:
        validate("set of things", [table(colour=["red", "red", "blue"])], tmp_path)
    assert str(caught.value).splitlines() == [
        "The set of things does not meet 2 of 3 expectations:",
        "  - things.size: expect_column_values_to_be_between (min_value 0, max_value 10): 1 of 3 fail,"
        " for example size 30, name c. Things are small.",
        "  - things.colour: expect_column_values_to_be_in_set (value_set ['red']): 1 of 3 fail,"
        " for example colour blue, name c. Things are red.",
        f"  See {tmp_path / 'validation.json'}; the limits are in the section validation of params.yaml.",
    ]
    assert ValidationError.exit_code == 6
    kept = json.loads((tmp_path / "validation.json").read_text())
    assert (kept["passed"], kept["evaluated"], kept["failed"]) == (False, 3, 2)
    colour = kept["expectations"][2]
    assert (colour["column"], colour["failing"], colour["checked"]) == ("colour", 1, 3)
    assert colour["examples"] == [{"colour": "blue", "name": "c"}]


def test_an_expectation_that_cannot_be_evaluated_fails_with_its_error(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"things\.colour: .*colour.* does not exist"):
        validate("set of things", [table()], tmp_path)


def test_the_same_table_gives_the_same_bytes_and_replaces_an_earlier_report(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        validate("set of things", [table(colour="blue")], tmp_path / "two")
    for name in ("one", "two"):
        outcomes = validate("set of things", [table(size=[1, 2, 3], colour="red")], tmp_path / name)
        assert [outcome.passed for outcome in outcomes] == [True] * 3
    (one,), (two,) = ((tmp_path / name).iterdir() for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    assert json.loads(two.read_text())["passed"]


def test_nothing_is_written_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, variable in (("home", "HOME"), ("temporary", "TMPDIR")):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / name))
    monkeypatch.chdir(tmp_path / "home")
    with pytest.raises(ValidationError):
        validate("set of things", [table()], tmp_path / "report")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "report", "temporary"]
    assert not [*(tmp_path / "home").rglob("*"), *(tmp_path / "temporary").rglob("*")]
