from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quality_model.errors import ValidationError
from quality_model.params import Params
from quality_model.records import CleanPicture
from quality_model.validation import validate_pictures

from .conftest import failures, write_table


def check(params: Params, table: Path, report: Path, **limits: Any) -> dict[str, Any]:
    return validate_pictures(params.validation.model_copy(update=limits), table, report)


def unreadable(picture: CleanPicture, number: int) -> CleanPicture:
    return replace(
        picture, picture_id=f"broken {number}", width=None, height=None, reason="truncated", data=b""
    )


def test_a_sound_table_passes_with_as_many_unreadable_pictures_as_are_allowed(
    params: Params, pictures: list[CleanPicture], tmp_path: Path
) -> None:
    rows = [*pictures, unreadable(pictures[0], 1)]
    table = write_table(tmp_path / "t", rows)
    assert check(params, table, tmp_path / "r", min_pictures=24, max_unreadable_share=0.04)["passed"]


@pytest.fixture(scope="module")
def spoiled(
    params: Params, pictures: list[CleanPicture], tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """What is told about a table with many defects."""
    rows = [*pictures, *(unreadable(pictures[0], number) for number in range(5))]
    rows[1] = replace(rows[1], sha256=rows[0].sha256)
    rows[2] = replace(rows[2], picture_id="p03")
    rows[4] = replace(rows[4], width=12)
    rows[5] = replace(rows[5], height=None)
    rows[6] = replace(rows[6], group=" ")
    rows[7] = replace(rows[7], origin="")
    rows[-1] = replace(rows[-1], width=80)
    place = tmp_path_factory.mktemp("pictures")
    with pytest.raises(ValidationError) as caught:
        check(params, write_table(place / "t", rows), place / "r", min_pictures=25)
    return failures(caught.value)


@pytest.mark.parametrize(
    ("where", "expectation", "told"),
    [
        ("readable_pictures", "expect_table_row_count_to_be_between (min_value 25)", "found 24"),
        ("readable_pictures.sha256", "expect_column_values_to_be_unique", "picture_id p00"),
        ("all_pictures.picture_id", "expect_column_values_to_be_unique", "origin photo, crop 3"),
        ("readable_pictures.width", "expect_column_values_to_be_between (min_value 64)", "width 12"),
        ("readable_pictures.height", "expect_column_values_to_not_be_null", "picture_id p05"),
        ("all_pictures.group", "expect_column_values_to_match_regex", "picture_id p06"),
        ("all_pictures.origin", "expect_column_values_to_match_regex", "picture_id p07"),
        ("all_pictures.reason", "expect_column_values_to_be_null (mostly 0.95)", "5 of 29 fail"),
        ("all_pictures.reason", "expect_column_values_to_be_null (mostly 0.95)", "reason truncated"),
        ("unreadable_pictures.width", "expect_column_values_to_be_null", "width 80, picture_id broken 4"),
    ],
)
def test_a_defect_is_named_with_its_column_and_an_example(
    spoiled: list[str], where: str, expectation: str, told: str
) -> None:
    lines = [line for line in spoiled if line.startswith(f"{where}: {expectation}")]
    assert len(lines) == 1, spoiled
    assert told in lines[0]


def test_a_table_without_pictures_is_named(params: Params, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="There are pictures"):
        check(params, write_table(tmp_path / "t", []), tmp_path / "r")
