"""What is expected of the images table."""

from pathlib import Path

from quality_model.data.checks.expectations import (
    Expectation,
    Outcome,
    Table,
    at_least_rows,
    between,
    matches,
    not_null,
    null,
    unique,
    validate,
)
from quality_model.data.images_table import ImagesTable
from quality_model.params import ValidationParams


def validate_images(section: ValidationParams, images: Path, report: Path) -> list[Outcome]:
    """Validate the images table in the folder ``images`` (see `expectations.validate`).

    Raises:
        ValidationError: Names each failed expectation, its column and examples.
        IncompleteError, CorruptError: There is no sound table to validate.
    """
    with ImagesTable(images) as table:
        rows = table.frame()
    names = ("image_id", "origin")
    is_readable = rows["error_code"].isna()
    every_row = [
        at_least_rows(1, "There are images."),
        unique("image_id", "No two images have the same name."),
        *_named("image_id", "Every image has a name."),
        *_named("group", "Every image belongs to a group, or the split would leak."),
        *_named("origin", "The origin of every image is known."),
        null("error_code", "Few images are unreadable.", mostly=1.0 - section.max_unreadable_share),
    ]
    readable = [
        at_least_rows(section.min_images, "There are enough readable images."),
        unique("sha256", "No image occurs twice."),
    ]
    unreadable = []
    for side in ("width", "height"):
        readable.append(not_null(side, "A readable image has a size."))
        readable.append(
            between(side, section.min_side_px, None, "No image is too small to show its quality.")
        )
        unreadable.append(null(side, "An unreadable image has no size."))
    tables = [
        Table("all_images", rows, names, every_row),
        Table("readable_images", rows[is_readable].reset_index(drop=True), names, readable),
        Table("unreadable_images", rows[~is_readable].reset_index(drop=True), names, unreadable),
    ]
    return validate("table of images", tables, report)


def _named(column: str, meaning: str) -> list[Expectation]:
    return [not_null(column, meaning), matches(column, r"\S", meaning)]
