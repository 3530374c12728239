"""Commands that look at a scoring result and act on it."""

from __future__ import annotations

from pathlib import Path

import click

from quality_model.cli.flags import PATH, command


@command()
@click.argument("output", metavar="OUT", type=PATH)
@click.option("--to", type=PATH, metavar="FILE", help="Write the groups: .parquet or .csv.")
@click.option(
    "--max-distance",
    default=6,
    show_default=True,
    help="Bits of 64 in which a hash may differ from that of the best, 0 to 10.",
)
def duplicates(output: Path, to: Path | None, max_distance: int) -> None:
    """Find groups of near duplicates, and the best of each.

    OUT is the folder of a finished result. FILE gets a row for each image in a group: key, group, is_best,
    distance.
    """
    from quality_model.curate.duplicates import report_duplicates, require_table_name

    if to is not None:
        require_table_name(to)
    found = report_duplicates(output, max_distance)
    for line in found.lines():
        click.echo(line)
    if to is not None:
        found.write(to)
        click.echo(f"Groups: {to}")


COMMANDS: list[click.Command] = [duplicates]
