"""What is expected of the images table."""

from pathlib import Path
from typing import Any

from quality_model.data.checks.expectations import (
    Expectation,
    Table,
    at_least_rows,
    between,
    matches,
    not_null,
    null,
    unique,
)
from quality_model.data.checks.report import validate
from quality_model.data.sources.table import ImagesTable
from quality_model.params import ValidationParams


def validate_images(section: ValidationParams, images: Path, report: Path) -> dict[str, Any]:
    """Validate the images table in the folder ``images`` (see `report.validate`).

    Raises:
        ValidationError: Names each failed expectation, its column and examples.
        IncompleteError, CorruptError: There is no sound table to validate.
    """
    with ImagesTable.open(images) as table:
        rows = table.frame()
    names = ("image_id", "origin")
    readable = rows[rows["reason"].isna()].reset_index(drop=True)
    unreadable = rows[rows["reason"].notna()].reset_index(drop=True)
    every_row = Table(
        "all_images",
        [rows],
        names,
        [
            at_least_rows(1, "There are images."),
            unique("image_id", "No two images have the same name."),
            *_told("image_id", "Every image has a name."),
            *_told("group", "Every image belongs to a group, or the split would leak."),
            *_told("origin", "It is known where every image came from."),
            null(
                "reason",
                "Few images are unreadable; a value is the reason why one is.",
                mostly=1.0 - section.max_unreadable_share,
            ),
        ],
    )
    sound = Table(
        "readable_images",
        [readable],
        names,
        [
            at_least_rows(section.min_images, "There are enough readable images."),
            unique("sha256", "No image is there twice."),
            *[
                expectation
                for side in ("width", "height")
                for expectation in (
                    not_null(side, "An image without a reason has a size."),
                    between(side, section.min_side_px, None, "No image is too small to show its quality."),
                )
            ],
        ],
    )
    broken = Table(
        "unreadable_images",
        [unreadable],
        names,
        [null(side, "An image with a reason has no size.") for side in ("width", "height")],
    )
    return validate("table of images", [every_row, sound, broken], report)


def _told(column: str, meaning: str) -> list[Expectation]:
    return [not_null(column, meaning), matches(column, r"\S", meaning)]
