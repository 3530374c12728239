"""What is expected of the pictures table."""

from pathlib import Path
from typing import Any

from quality_model.params import ValidationParams
from quality_model.sources.table import PicturesTable
from quality_model.validation.expectations import (
    Expectation,
    Table,
    at_least_rows,
    between,
    matches,
    not_null,
    null,
    unique,
)
from quality_model.validation.report import validate


def validate_pictures(section: ValidationParams, pictures: Path, report: Path) -> dict[str, Any]:
    """Validate the pictures table in the folder ``pictures`` (see `report.validate`).

    Raises:
        ValidationError: Names each failed expectation, its column and examples.
        IncompleteError, CorruptError: There is no sound table to validate.
    """
    with PicturesTable.open(pictures) as table:
        rows = table.frame()
    names = ("picture_id", "origin")
    readable = rows[rows["reason"].isna()].reset_index(drop=True)
    unreadable = rows[rows["reason"].notna()].reset_index(drop=True)
    every_row = Table(
        "all_pictures",
        [rows],
        names,
        [
            at_least_rows(1, "There are pictures."),
            unique("picture_id", "No two pictures have the same name."),
            *_told("picture_id", "Every picture has a name."),
            *_told("group", "Every picture belongs to a group, or the split would leak."),
            *_told("origin", "It is known where every picture came from."),
            null(
                "reason",
                "Few pictures are unreadable; a value is the reason why one is.",
                mostly=1.0 - section.max_unreadable_share,
            ),
        ],
    )
    sound = Table(
        "readable_pictures",
        [readable],
        names,
        [
            at_least_rows(section.min_pictures, "There are enough readable pictures."),
            unique("sha256", "No picture is there twice."),
            *[
                expectation
                for side in ("width", "height")
                for expectation in (
                    not_null(side, "A picture without a reason has a size."),
                    between(side, section.min_side_px, None, "No picture is too small to show its quality."),
                )
            ],
        ],
    )
    broken = Table(
        "unreadable_pictures",
        [unreadable],
        names,
        [null(side, "A picture with a reason has no size.") for side in ("width", "height")],
    )
    return validate("table of pictures", [every_row, sound, broken], report)


def _told(column: str, meaning: str) -> list[Expectation]:
    return [not_null(column, meaning), matches(column, r"\S", meaning)]
