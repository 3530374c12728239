"""Commands that look at a scoring result and act on it."""

from __future__ import annotations

from pathlib import Path

import click

from quality_model.cli.flags import PATH


@click.command()
@click.argument("scores", metavar="OUT", type=PATH)
@click.option("--to", type=PATH, metavar="FILE", help="The page.  [default: OUT/report/gallery.html]")
def gallery(scores: Path, to: Path | None) -> None:
    """Write a page that shows what the scores mean.

    OUT is a finished result. The page is one HTML file of at most 20 MB that needs no network: the worst
    images of each head, those around its threshold, a sample, histograms, and what a limit would drop.
    """
    from quality_model.curate.gallery import write_gallery

    click.echo(f"Gallery: {write_gallery(scores, to)}")


COMMANDS: list[click.Command] = [gallery]
