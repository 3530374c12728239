"""Commands that set thresholds of a person's own."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quality_model.cli.flags import PATH, command, registry_of, share_of, with_input_choice, with_params
from quality_model.errors import UsageError
from quality_model.paths import user_path
from quality_model.records import HEADS, Head

if TYPE_CHECKING:
    from quality_model.curate.calibrate import Calibration, LabelledScores
    from quality_model.curate.thresholds import OwnThresholds
    from quality_model.params import Params, ScoringParams
    from quality_model.score.inputs import InputChoice

_heads = click.option(
    "--head", "heads", type=click.Choice(HEADS), multiple=True, help="One head alone; may be repeated."
)
_to = click.option("--to", type=PATH, metavar="FILE", help="Write the thresholds; others in it stay.")


@click.command()
@click.argument("out", type=PATH)
@click.option(
    "--target-flag-rate",
    "target",
    metavar="SHARE",
    required=True,
    help="Share of the scored images to flag by each head, such as 5%.",
)
@_heads
@_to
def thresholds(out: Path, target: str, heads: tuple[Head, ...], to: Path | None) -> None:
    """Find thresholds that flag a share of a result.

    OUT is a finished result of `score`. Never more than the share is flagged: images with equal scores are
    flagged together or not at all.
    """
    from quality_model.core.figures import text_table
    from quality_model.curate.finished import open_finished
    from quality_model.curate.thresholds import OwnThresholds, shown, thresholds_for_rate

    share = share_of(target)
    if share is None or not 0 <= share < 1:
        raise UsageError(
            f"--target-flag-rate {target!r} is not a share from 0 to below 1.",
            "For example --target-flag-rate 5%.",
        )
    result = open_finished(out)
    found = thresholds_for_rate(result, float(share), heads or HEADS)
    titles = ("head", "threshold", "flags", "present threshold", "flags now")
    rows = [
        (
            one.head,
            shown(one.threshold),
            f"{one.rate:.2%}",
            "-" if one.present is None else f"{one.present:.4g}",
            "-" if one.present_rate is None else f"{one.present_rate:.2%}",
        )
        for one in found
    ]
    click.echo(text_table(titles, rows, right=titles[1:]))
    click.echo(f"Of {found[0].num_images} scored images.")
    by_head = {one.head: one.threshold for one in found}
    _hand_over(OwnThresholds.of(by_head, result.model, result.model.scale_version), to, out)


@command()
@click.argument("places", metavar="GOOD BAD | OUT", nargs=-1, required=True)
@_heads
@click.option("--labels", type=PATH, metavar="FILE", help="Labels of images of OUT: a CSV of key,head,label.")
@_to
@click.option("--next", "next_file", type=PATH, metavar="FILE", help="Write the keys to label next.")
@click.option(
    "--count", type=click.IntRange(1, 1000), default=20, show_default=True, help="Images to label next."
)
@with_input_choice
@with_params(
    "score",
    needs_project=False,
    unused=("shard_size", "batch_size", "max_error_share", "intervals", "measures", "thumbnails"),
)
def calibrate(
    params: Params | ScoringParams,
    places: tuple[str, ...],
    heads: tuple[Head, ...],
    labels: Path | None,
    to: Path | None,
    next_file: Path | None,
    count: int,
    choice: InputChoice,
) -> None:
    """Find thresholds from images that you labelled.

    GOOD and BAD are collections such as folders, which are scored for one --head. Or OUT is a finished
    result, whose images --labels calls good or bad. Ten to twenty images of each show whether a head works,
    and how many more its threshold takes.
    """
    if labels is not None:
        if len(places) != 1:
            raise UsageError("--labels are of the images of one result.", "Give OUT and --labels.")
        if next_file is not None and next_file.resolve() in [one.resolve() for one in (labels, to) if one]:
            raise UsageError(f"--next {next_file} is another file of this command.", "Choose another name.")
        _calibrate_result(user_path(places[0]), labels, heads, to, next_file, count)
        return
    if len(places) != 2 or len(heads) != 1:
        raise UsageError(
            f"Got {len(places)} places and {len(heads)} heads, without --labels.",
            "Give --head HEAD GOOD BAD, or OUT and --labels FILE.",
        )
    if next_file is not None:
        raise UsageError("--next names images of a result.", "Give OUT and --labels.")
    from quality_model.core.predict import Scorer
    from quality_model.curate.calibrate import scores_of_collections
    from quality_model.curate.thresholds import OwnThresholds

    scorer = Scorer.from_params(params.score, params.limits, registry=registry_of(params))
    (head,) = heads
    labelled = scores_of_collections(*places, head, scorer, choice=choice, workers=params.score.workers)
    found = _calibrated(labelled, (scorer.thresholds or {}).get(head))
    if found.threshold is not None:
        by_head: dict[Head, float] = {head: found.threshold.value}
        _hand_over(OwnThresholds.of(by_head, scorer.source, scorer.scale_version), to, None)


def _calibrate_result(
    out: Path, labels: Path, heads: tuple[Head, ...], to: Path | None, next_file: Path | None, count: int
) -> None:
    from quality_model.core import storage
    from quality_model.curate.calibrate import scores_in_result
    from quality_model.curate.finished import open_finished
    from quality_model.curate.labels import choose_next, read_labels
    from quality_model.curate.thresholds import OwnThresholds

    result, given = open_finished(out), read_labels(labels)
    if missing := [head for head in heads if head not in given]:
        raise UsageError(
            f"{labels} has no labels of {', '.join(missing)}.", f"It has those of {', '.join(given)}."
        )
    given = {head: of_head for head, of_head in given.items() if not heads or head in heads}
    found = [
        _calibrated(labelled, result.thresholds.get(labelled.head))
        for labelled in scores_in_result(result, given)
    ]
    by_head = {one.head: one.threshold.value for one in found if one.threshold is not None}
    if by_head:
        _hand_over(OwnThresholds.of(by_head, result.model, result.model.scale_version), to, out)
    chosen: dict[str, None] = {}
    has_hashes = "phash" in result.schema.names  # an earlier release did not measure them
    for head, threshold in by_head.items():
        columns = ["key", "sha256", head, *(["phash"] if has_hashes else [])]
        keys = choose_next(result.rows(columns), head, threshold, given[head], count)
        if keys:
            unlike = " and unlike each other" if has_hashes else ""
            click.echo(f"Label next for {head}, near the threshold{unlike}:")
            click.echo("".join(f"  {key}\n" for key in keys), nl=False)
        chosen |= dict.fromkeys(keys)
    if next_file is not None:
        storage.write_text(next_file, "".join(f"{key}\n" for key in chosen))
        of_head = f" --head {next(iter(by_head))}" if len(by_head) == 1 else ""
        places = shlex.join([str(out), "--only", str(next_file)])
        click.echo(f"To label them: quality-model gallery {places}{of_head}")


def _calibrated(labelled: LabelledScores, present: float | None) -> Calibration:
    """Calibrate a head, and print what was found."""
    from quality_model.curate.calibrate import calibrate as calibrate_head

    for text in labelled.not_scored:
        click.echo(f"Not scored: {text}", err=True)
    found = calibrate_head(labelled.head, labelled.good, labelled.bad, present=present)
    click.echo("\n".join(found.lines()))
    return found


def _hand_over(found: OwnThresholds, to: Path | None, out: Path | None) -> None:
    """Write the thresholds, and say how they are used."""
    from quality_model.curate.thresholds import lines_to_use

    if to is not None:
        found.merged_into(to).write(to)
        click.echo(f"Thresholds: {to}")
    click.echo("\n".join(["To use it:", *(f"  {line}" for line in lines_to_use(found.thresholds, to, out))]))


COMMANDS: list[click.Command] = [thresholds, calibrate]
