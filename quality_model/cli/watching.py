"""Commands that watch collections over time."""

from __future__ import annotations

from pathlib import Path

import click

from quality_model.cli.flags import PATH, command
from quality_model.errors import UsageError


@command()
@click.argument("output", metavar="OUT", type=PATH)
@click.option(
    "--against",
    type=PATH,
    metavar="REF",
    required=True,
    help="The reference, a result by the same model.",
)
@click.option(
    "--look",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Which comparison with REF this is.",
)
@click.option("--to", type=PATH, metavar="FILE", help="Write the keys of the images that moved it.")
@click.option("--gallery", "page", type=PATH, metavar="FILE", help="Show these images: an HTML file.")
@click.option("--fail", is_flag=True, help="Exit with code 14 if anything moved.")
def drift(output: Path, against: Path, look: int, to: Path | None, page: Path | None, fail: bool) -> None:
    """Show what moved between two results.

    OUT is a finished result of `score`, REF an earlier one of the same model. Scores, sizes, exposure and
    error codes are compared, corrected for many columns and for many looks.
    """
    from quality_model.core import storage
    from quality_model.core.folders import is_inside
    from quality_model.curate.gallery import require_place
    from quality_model.watch.drift import compare, moving_images, write_moving

    for folder in (output, against):
        if to is not None and is_inside(to, folder):
            raise UsageError(f"--to {to} is among the files of {folder}.", "Write it somewhere else.")
        if page is not None:
            require_place(page, folder)
    found = compare(output, against, look=look)
    click.echo("\n".join(found.lines()))
    images = moving_images(found) if to or page else []
    if to is not None:
        storage.write_text(to, "".join(f"{image.key}\n" for image in images))
        click.echo(f"Images that moved it: {len(images)} keys in {to}")
    if page is not None:
        shown = (
            f"Gallery: {write_moving(found, images, page)}" if images else "No gallery: no image moved it."
        )
        click.echo(shown)
    if fail:
        found.require_none()


COMMANDS: list[click.Command] = [drift]
