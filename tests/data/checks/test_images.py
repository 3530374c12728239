from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quality_model.data.checks import validate_images
from quality_model.errors import ValidationError
from quality_model.params import Params
from quality_model.records import CleanImage

from .conftest import failures, write_table


def check(params: Params, table: Path, report: Path, **limits: Any) -> dict[str, Any]:
    return validate_images(params.validation.model_copy(update=limits), table, report)


def unreadable(image: CleanImage, number: int) -> CleanImage:
    return replace(image, image_id=f"broken {number}", width=None, height=None, reason="truncated", data=b"")


def test_a_sound_table_passes_with_as_many_unreadable_images_as_are_allowed(
    params: Params, images: list[CleanImage], tmp_path: Path
) -> None:
    rows = [*images, unreadable(images[0], 1)]
    table = write_table(tmp_path / "t", rows)
    assert check(params, table, tmp_path / "r", min_images=24, max_unreadable_share=0.04)["passed"]


@pytest.fixture(scope="module")
def spoiled(params: Params, images: list[CleanImage], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What is told about a table with many defects."""
    rows = [*images, *(unreadable(images[0], number) for number in range(5))]
    rows[1] = replace(rows[1], sha256=rows[0].sha256)
    rows[2] = replace(rows[2], image_id="p03")
    rows[4] = replace(rows[4], width=12)
    rows[5] = replace(rows[5], height=None)
    rows[6] = replace(rows[6], group=" ")
    rows[7] = replace(rows[7], origin="")
    rows[-1] = replace(rows[-1], width=80)
    place = tmp_path_factory.mktemp("images")
    with pytest.raises(ValidationError) as caught:
        check(params, write_table(place / "t", rows), place / "r", min_images=25)
    return failures(caught.value)


@pytest.mark.parametrize(
    ("where", "expectation", "told"),
    [
        ("readable_images", "expect_table_row_count_to_be_between (min_value 25)", "found 24"),
        ("readable_images.sha256", "expect_column_values_to_be_unique", "image_id p00"),
        ("all_images.image_id", "expect_column_values_to_be_unique", "origin photo, crop 3"),
        ("readable_images.width", "expect_column_values_to_be_between (min_value 64)", "width 12"),
        ("readable_images.height", "expect_column_values_to_not_be_null", "image_id p05"),
        ("all_images.group", "expect_column_values_to_match_regex", "image_id p06"),
        ("all_images.origin", "expect_column_values_to_match_regex", "image_id p07"),
        ("all_images.reason", "expect_column_values_to_be_null (mostly 0.95)", "5 of 29 fail"),
        ("all_images.reason", "expect_column_values_to_be_null (mostly 0.95)", "reason truncated"),
        ("unreadable_images.width", "expect_column_values_to_be_null", "width 80, image_id broken 4"),
    ],
)
def test_a_defect_is_named_with_its_column_and_an_example(
    spoiled: list[str], where: str, expectation: str, told: str
) -> None:
    lines = [line for line in spoiled if line.startswith(f"{where}: {expectation}")]
    assert len(lines) == 1, spoiled
    assert told in lines[0]


def test_a_table_without_images_is_named(params: Params, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="There are images"):
        check(params, write_table(tmp_path / "t", []), tmp_path / "r")
