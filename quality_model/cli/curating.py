"""Commands that look at a scoring result and act on it."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from quality_model.cli.flags import PATH, command, share_of, with_download
from quality_model.errors import UsageError
from quality_model.records import HEADS, Head

_ALL: Final = "all"

if TYPE_CHECKING:
    from quality_model.curate.rules import Rule
    from quality_model.score.reading import DownloadRules


@command()
@click.argument("output", metavar="OUT", type=PATH)
@click.option(
    "--only", type=PATH, metavar="FILE", help="Show the keys in a file alone, such as those to label next."
)
@click.option(
    "--head", type=click.Choice(HEADS), metavar="HEAD", help="With --only: show, and label, this score first."
)
@click.option(
    "--to",
    type=PATH,
    metavar="FILE",
    help="The page.  [default: OUT/report/gallery.html; with --only chosen.html]",
)
def gallery(output: Path, only: Path | None, head: Head | None, to: Path | None) -> None:
    """Write a page that shows what the scores mean.

    OUT is a finished result. The page is one HTML file of at most 20 MB that needs no network: the worst
    images of each head, those around its threshold, a sample, histograms, and what a limit would drop.
    """
    from quality_model.curate.gallery import write_chosen, write_gallery

    if head and not only:
        raise UsageError("--head is of --only.", "Without it the page shows every head.")
    page = write_chosen(output, to, only, head) if only else write_gallery(output, to)
    click.echo(f"Gallery: {page}")


@command("filter")
@click.argument("output", metavar="OUT", type=PATH)
@click.option("--flagged", multiple=True, metavar="HEAD", help="Drop what this head flags, or all heads do.")
@click.option(
    "--max", "highest", multiple=True, metavar="NAME=VALUE", help="Drop above this score or number."
)
@click.option(
    "--min", "lowest", multiple=True, metavar="NAME=VALUE", help="Drop below: overall=.8, width=512."
)
@click.option(
    "--drop-worst", multiple=True, metavar="[HEAD=]SHARE", help="Drop this share, such as 10% or noise=5%."
)
@click.option(
    "--where",
    multiple=True,
    metavar="CONDITION",
    help="Keep what this is true for: 'noise < .3 or width > 900'.",
)
@click.option("--only", type=PATH, multiple=True, metavar="FILE", help="Keep the keys in a file alone.")
@click.option(
    "--best-of-duplicates", is_flag=True, help="Drop near duplicates of a better image that is kept."
)
@click.option(
    "--thresholds", type=PATH, metavar="FILE", help="Flag by these thresholds: JSON of heads and scores."
)
@click.option("--balance", metavar="COLUMN", help="Drop the same share of each value of a column.")
@click.option("--strata", type=PATH, metavar="FILE", help="CSV or Parquet with that column, and key.")
@click.option(
    "--to", "lists", type=PATH, multiple=True, metavar="FILE", help="Write the keys, or to .parquet the rows."
)
@click.option(
    "--dropped", type=PATH, metavar="FILE", help="Write what is dropped, and why: .csv or .parquet."
)
@click.option("--null", is_flag=True, help="End keys in NUL bytes.")
@click.option("--keep-errors", is_flag=True, help="List inputs with an error code too.")
@click.option("--copy", type=PATH, metavar="DIR", help="Copy the originals.")
@click.option("--link", type=PATH, metavar="DIR", help="Make hard links; copies on another file system.")
@click.option("--symlink", is_flag=True, help="Make the links symbolic.")
@click.option("--shards", type=PATH, metavar="DIR", help="Write tar shards, or Parquet shards of tables.")
@click.option(
    "--shard-size", type=click.IntRange(1), default=10_000, show_default=True, help="Images a shard."
)
@click.option("--originals", type=PATH, metavar="PATH", help="Where the originals are, if they moved.")
@click.option(
    "--dry-run", is_flag=True, help="Say what each rule drops, and write --dropped and --gallery alone."
)
@click.option("--gallery", "page", type=PATH, metavar="FILE", help="Show what each rule drops: an HTML file.")
@with_download
def filter_(
    output: Path,
    flagged: tuple[str, ...],
    highest: tuple[str, ...],
    lowest: tuple[str, ...],
    drop_worst: tuple[str, ...],
    where: tuple[str, ...],
    only: tuple[Path, ...],
    best_of_duplicates: bool,
    thresholds: Path | None,
    balance: str | None,
    strata: Path | None,
    lists: tuple[Path, ...],
    dropped: Path | None,
    null: bool,
    keep_errors: bool,
    copy: Path | None,
    link: Path | None,
    symlink: bool,
    shards: Path | None,
    shard_size: int,
    originals: Path | None,
    dry_run: bool,
    page: Path | None,
    download: DownloadRules | None,
) -> None:
    """List, copy, link or shard what is good of a result.

    OUT is the folder of a result. An image is dropped if one rule drops it; without a rule, what is flagged
    is dropped. Originals are never changed. Run the same command again to resume.
    """
    from quality_model.curate.filter import Outputs, filter_result
    from quality_model.curate.rules import Balance, BestOfDuplicates, Bound, Only, Where

    if page is not None:
        from quality_model.curate.gallery import require_place

        require_place(page, output)
    if (copy and link) or (symlink and not link) or (strata and not balance):
        raise UsageError(
            "--copy excludes --link, --symlink needs --link, and --strata needs --balance.", "See --help."
        )
    rules: list[Rule] = [Bound(*_bound("--max", text)) for text in highest]
    rules += [Bound(*_bound("--min", text), is_lowest=True) for text in lowest]
    rules += [_worst(text) for text in drop_worst]
    rules += [Where(text) for text in where]
    rules += [Only(file) for file in only]
    rules += [BestOfDuplicates()] if best_of_duplicates else []
    folder = copy or link
    files = None if folder is None else (folder, "copy" if copy else "symlink" if symlink else "link")
    to = Outputs(
        lists=lists,
        dropped=dropped,
        files=files,  # type: ignore[arg-type]
        shards=shards,
        shard_size=shard_size,
        null=null,
        keep_errors=keep_errors,
        originals=originals,
        download=download,
    )
    if dry_run:  # but the list of what is dropped is of a dry run too
        to = Outputs(dropped=dropped)
    is_written = bool(dropped) or (not dry_run and bool(lists or folder or shards))
    outcome = filter_result(
        output,
        rules,
        to if is_written else None,
        flagged=_heads(flagged),
        thresholds=thresholds,
        balance=Balance(balance, strata) if balance else None,
    )
    if not (rules or flagged or thresholds):
        click.echo("No rule is given: what is flagged is dropped.")
    for line in outcome.lines():
        click.echo(line)
    if page is not None:
        from quality_model.curate.dropped import show_dropped

        page_path = show_dropped(output, outcome.verdict, page, outcome.thresholds, originals)
        click.echo(f"Gallery: {page_path}")
    if not is_written and not dry_run and page is None:
        click.echo("Nothing is written: give --to FILE, --copy DIR, --link DIR or --shards DIR.")
    outcome.require_complete()


def _heads(names: tuple[str, ...]) -> tuple[Head, ...]:
    names = tuple(name.strip() for text in names for name in text.split(","))
    for name in names:
        if name not in (*HEADS, _ALL):
            close = get_close_matches(name.lower(), (*HEADS, _ALL), n=1, cutoff=0.5)
            guess = f"Did you mean {close[0]}? " if close else ""
            raise UsageError(
                f"--flagged {name!r} is no head.", f"{guess}Heads are {', '.join(HEADS)}; or {_ALL}."
            )
    return tuple(head for head in HEADS if head in names or _ALL in names)


def _bound(option: str, text: str) -> tuple[str, float]:
    name, equals, value = (part.strip() for part in text.partition("="))
    if value.endswith("%") and name:
        raise UsageError(
            f"{option} {text}: a limit is a value of {name}, not a share of the images.",
            f"For example {option} noise=0.3; a share is --drop-worst {name}={value}.",
        )
    try:
        limit = float(value)
    except ValueError:
        limit = float("nan")
    if not (name and equals) or limit != limit:
        raise UsageError(f"{option} {text!r} is not NAME=VALUE.", f"For example {option} noise=0.3.")
    return name, limit


def _worst(text: str) -> Rule:
    from quality_model.curate.rules import Worst

    name, equals, value = text.rpartition("=")
    share = share_of(value)
    if share is None or not 0 < share < 1 or (equals and not name.strip()):
        raise UsageError(
            f"--drop-worst {text!r} is not a share between 0 and 1.",
            "For example --drop-worst 10%, or noise=5%.",
        )
    return Worst(share, name.strip()) if name else Worst(share)


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


COMMANDS: list[click.Command] = [gallery, filter_, duplicates]
