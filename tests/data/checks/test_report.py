"""The report: what stands in it, where it lies, and that it does not change by itself."""

import json
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from quality_model.data.checks.expectations import (
    Table,
    among,
    between,
    exactly_rows,
    matches,
    not_null,
    null,
    unique,
)
from quality_model.data.checks.report import validate
from quality_model.errors import ValidationError


def table(**columns: Any) -> Table:
    frame = pd.DataFrame({"name": ["a", "b", "c"], "size": [1.0, 2.0, 30.0], **columns})
    return Table(
        "things",
        [frame],
        ("name",),
        [
            between("size", 0.0, 10.0, "Things are small."),
            unique("name", "Things have names."),
            among("colour", ["red"], "Things are red."),
        ],
    )


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_failure_names_expectation_column_examples_and_the_page(tmp_path: Path) -> None:
    with pytest.raises(ValidationError) as caught:
        validate("set of things", [table(colour=["red", "red", "blue"])], tmp_path / "r")
    assert str(caught.value).splitlines() == [
        "The set of things does not meet 2 of 3 expectations:",
        "  - things.size: expect_column_values_to_be_between (min_value 0, max_value 10): 1 of 3 fail,"
        " for example size 30, name c. Things are small.",
        "  - things.colour: expect_column_values_to_be_in_set (value_set ['red']): 1 of 3 fail,"
        " for example colour blue, name c. Things are red.",
        f"  See {tmp_path / 'r' / 'docs' / 'index.html'}; the limits are in the section validation of"
        " params.yaml.",
    ]
    assert ValidationError.exit_code == 6


def test_an_expectation_that_cannot_be_evaluated_fails_and_says_why(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"things\.colour: .*colour.* does not exist"):
        validate("set of things", [table()], tmp_path / "r")


def test_results_are_kept_as_json_and_as_pages_also_of_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        validate("set of things", [table(colour=["red", "red", "blue"])], tmp_path)
    kept = json.loads((tmp_path / "validation.json").read_text())
    assert (kept["passed"], kept["evaluated"], kept["failed"]) == (False, 3, 2)
    colour = kept["expectations"][2]
    assert (colour["column"], colour["failing"], colour["checked"]) == ("colour", 1, 3)
    assert colour["examples"] == [{"colour": "blue", "name": "c"}]
    assert "Things are red." in colour["meaning"]
    pages = [path for path in (tmp_path / "docs").rglob("*.html") if "validations" in path.parts]
    assert len(pages) == 1
    text = pages[0].read_text()
    assert "blue" in text
    assert "Failed" in text
    assert str(pages[0].relative_to(tmp_path / "docs")) in (tmp_path / "docs" / "index.html").read_text()


def test_the_same_table_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        validate("set of things", [table(size=[1, 2, 3], colour="red")], tmp_path / name)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def without_fingerprint(pages: dict[str, bytes]) -> dict[str, bytes]:
    """Pages but for the hash of the whole table, which is not had of batches."""
    row = re.compile(rb"<tr>\s*<td (?:(?!<tr>).)*?pandas_data_fingerprint.*?</tr>", re.DOTALL)
    return {name: row.sub(b"", text) for name, text in pages.items()}


def in_batches(frame: pd.DataFrame, *starts: int) -> Table:
    ends = [*starts[1:], len(frame)]
    return Table(
        "things",
        (frame.iloc[start:end].reset_index(drop=True) for start, end in zip(starts, ends, strict=True)),
        ("name",),
        [
            exactly_rows(6, "There are six."),
            between("size", 0.0, 10.0, "Things are small."),
            not_null("size", "Things have a size."),
            null("trouble", "Things are no trouble."),
            among("colour", ["red"], "Things are red."),
            matches("name", "^[a-f]$", "Names are letters."),
        ],
    )


@pytest.mark.parametrize("starts", [(0, 3), (0, 1, 2, 3, 4, 5), (0, 6)], ids=str)
@pytest.mark.parametrize("is_sound", [True, False], ids=["sound", "with defects"])
def test_batches_give_the_report_of_the_whole_table(
    tmp_path: Path, starts: tuple[int, ...], is_sound: bool
) -> None:
    columns: dict[str, list[Any]] = {
        "name": list("abcdef"),
        "size": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        "trouble": [None] * 6,
        "colour": ["red", None, "red", "red", "red", None],
    }
    if not is_sound:
        columns["size"][1:5] = [20.0, None, 30.0, 20.0]
        columns["trouble"][4] = "much"
        columns["colour"][5] = "blue"
    reports, pages = [], []
    for name, cut in (("whole", (0,)), ("batches", starts)):
        with nullcontext() if is_sound else pytest.raises(ValidationError):
            validate("set of things", [in_batches(pd.DataFrame(columns), *cut)], tmp_path / name)
        reports.append(json.loads((tmp_path / name / "validation.json").read_text()))
        pages.append(without_fingerprint(files(tmp_path / name / "docs")))
    assert reports[1] == reports[0]
    assert pages[1] == pages[0]
    assert reports[0]["failed"] == (0 if is_sound else 4)


def test_an_expectation_that_a_later_batch_cannot_evaluate_fails_and_says_why(tmp_path: Path) -> None:
    frames = [pd.DataFrame({"size": [1], "colour": ["red"]}), pd.DataFrame({"size": [1]})]
    things = Table("things", frames, (), [among("colour", ["red"], "Things are red.")])
    with pytest.raises(ValidationError, match=r"things\.colour: .*colour.* does not exist"):
        validate("set of things", [things], tmp_path)


def test_a_new_report_replaces_the_old_one(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        validate("set of things", [table(colour="blue")], tmp_path)
    (tmp_path / "docs" / "left.html").write_text("old")
    assert validate("set of things", [table(size=[1, 2, 3], colour="red")], tmp_path)["passed"]
    assert json.loads((tmp_path / "validation.json").read_text())["passed"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["docs", "validation.json"]
    assert not (tmp_path / "docs" / "left.html").exists()


def test_pages_load_no_images_from_the_network_and_tell_no_times(tmp_path: Path) -> None:
    validate("set of things", [table(size=[1, 2, 3], colour="red")], tmp_path)
    for page in (tmp_path / "docs").rglob("*.html"):
        text = page.read_text()
        assert "amazonaws" not in text
        assert not re.search(r"20\d{6}T\d{6}", text)
        for logo in re.findall(r'src="([^"]*logo[^"]*)"', text):
            assert (page.parent / logo).exists()


def test_nothing_is_written_elsewhere_and_nothing_heavy_is_imported_before(tmp_path: Path) -> None:
    """Run by itself in an empty folder with an empty home."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    script = """
import sys
from contextlib import nullcontext
from pathlib import Path
from quality_model.data import checks as validation
assert not {"great_expectations", "torch"} & set(sys.modules)
import pandas as pd
from quality_model.data.checks.expectations import Table, unique
from quality_model.data.checks.report import validate
validate("t", [Table("t", [pd.DataFrame({"a": [1]})], ("a",), [unique("a", "")])], Path(sys.argv[1]))
"""
    project = Path(__file__).resolve().parents[3]
    home = {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "here"), "PYTHONPATH": str(project)}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "report")],
        cwd=tmp_path / "here",
        env={**os.environ, **home},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list((tmp_path / "home").rglob("*"))
    assert not list((tmp_path / "here").rglob("*"))
    assert (tmp_path / "report" / "validation.json").exists()
