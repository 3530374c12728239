"""Commands that score images."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quality_model.cli.flags import PATH, command, registry_of, with_download, with_input_choice, with_params
from quality_model.errors import ImageError, InputErrorsAboveLimit, QualityModelError, UsageError, redacted
from quality_model.paths import ProjectPaths
from quality_model.records import HEADS, QualityScores

if TYPE_CHECKING:
    from quality_model.core.predict import Scorer
    from quality_model.evaluate.ratings import RatedDataset
    from quality_model.params import Params, ScoringParams
    from quality_model.score.inputs import InputChoice
    from quality_model.score.job import Check
    from quality_model.score.reading import DownloadRules, Reading, Stored, Url
    from quality_model.score.selection import Selection
    from quality_model.score.summary import ScoreSummary


@command()
@click.argument("images", metavar="IMAGES", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@with_download
@with_params(
    "score",
    needs_project=False,
    unused=("shard_size", "batch_size", "max_error_share", "intervals", "thumbnails"),
)
def predict(
    params: Params | ScoringParams, images: tuple[str, ...], as_json: bool, download: DownloadRules | None
) -> None:
    """Print the scores and flags of a few images.

    IMAGES are files, globs, @list, a CSV file, or - for a list from standard input. 0: absent, 1: severe; the
    overall score is 1 for an image without a fault.
    """
    from quality_model.core.measures import chosen_sets
    from quality_model.core.predict import Scorer
    from quality_model.score.document import DocumentRow, ScoreDocument
    from quality_model.score.reading import fetched, read_images

    model = Scorer.from_params(params.score, params.limits, registry=registry_of(params))
    columns = (*HEADS, "overall")
    measures = chosen_sets(params.score.measures) if as_json else ()
    names, named = _named_sources(images, may_fetch=download is not None)
    sources = list(fetched(named, download, params.limits))
    width = max(map(len, names))
    if not as_json:
        click.echo("  ".join([" " * width, *(f"{column:>10}" for column in columns), "flags"]))
    readings = read_images(
        sources,
        num_sources=len(sources),
        workers=params.score.workers,
        window=0,
        image_size_px=model.image_size_px,
        recipe=model.views,
        limits=params.limits,
        engine=None,
        measure=measures,
    )
    rows = []
    for reading, name in zip(readings, names, strict=True):
        scores = _scores(model, reading)
        rows.append(DocumentRow(name, reading, scores, measures))
        if as_json:
            continue
        if isinstance(scores, ImageError):
            click.echo(f"{name:{width}}  {scores}")
        else:
            cells = (f"{getattr(scores, column):10.3f}" for column in columns)
            click.echo("  ".join([f"{name:{width}}", *cells, ", ".join(scores.flags) or "-"]))
    if as_json:
        click.echo(json.dumps(ScoreDocument(model, rows).to_dict()))
    if model.thresholds is None:
        click.echo("Nothing is flagged: the model has no thresholds.", err=True)
    if unreadable := sum(row.error is not None for row in rows):
        folders = [
            name
            for name, source in zip(names, sources, strict=True)
            if isinstance(source, ImageError) and source.reason == "not_a_file"
        ]
        raise InputErrorsAboveLimit(
            f"{unreadable} of {len(names)} images could not be scored.",
            f"Score the images of a folder with: quality-model score {folders[0]}" if folders else "",
        )


def _named_sources(
    arguments: tuple[str, ...], *, may_fetch: bool
) -> tuple[list[str], list[Path | ImageError | Url | Stored]]:
    """Names to print and what to read, of arguments that may be lists and globs."""
    from quality_model.core.folders import is_url, place_of, printable
    from quality_model.score.reading import Url, image_at
    from quality_model.score.selection import Selection, is_selection

    found: list[tuple[str, Path | ImageError | Url | Stored]] = []
    for text in arguments:
        if is_url(text) or not is_selection([text]):
            is_fetched = may_fetch and is_url(text)
            found.append((redacted(text), Url(text)) if is_fetched else _named_source(text))
            continue
        chosen = Selection([text])
        for file in chosen.walk():
            if is_url(file.name):
                found.append((redacted(file.name), Url(file.name)))
            else:
                path = place_of(chosen.base, file.name)
                found.append((printable(file.name), file.problem or image_at(path)))
    if not found:
        raise UsageError("There is no image in the list.", "A list has a path a line.")
    names, sources = zip(*found, strict=True)
    return list(names), list(sources)


def _named_source(text: str) -> tuple[str, Path | ImageError | Stored]:
    """An argument's name to print, without credentials, and its path or why there is nothing to read."""
    from quality_model.core.folders import input_path, is_folder, printable, suffix
    from quality_model.core.stores import is_in_store, is_store_address
    from quality_model.score.reading import image_at

    if not text:  # Path("") is the current folder
        return text, ImageError("missing", "the name is empty")
    try:
        path = input_path(text)
    except UsageError:
        if is_store_address(text):
            raise
        address = re.sub(r"^([^:/]+:)/(?!/)", r"\1//", text)
        return printable(redacted(address)), ImageError("url", "URLs are fetched with --allow-download alone")
    name = printable(str(path))
    is_named = is_in_store(path) and bool(suffix(name))  # then it costs no request
    if not is_named and (is_folder(path) if is_in_store(path) else os.path.isdir(path)):  # noqa: PTH112 - Path.is_dir raises on a name that is too long
        return name, ImageError("not_a_file", "it is a folder: use `score`")
    return name, image_at(path)


def _scores(model: Scorer, reading: Reading) -> QualityScores | ImageError:
    """The scores of an image that was read, or why there are none."""
    if reading.views is None:
        return ImageError(reading.error_code or "unreadable", reading.error_detail or "")
    try:
        return model.predict_views([reading.views])[0]
    except QualityModelError:
        raise
    except Exception as error:  # noqa: BLE001 - the other images have scores all the same
        return ImageError("not_scored", f"{type(error).__name__}: {error}")


@command()
@click.argument("inputs", metavar="INPUTS", nargs=-1, required=True)
@click.option(
    "--output",
    type=PATH,
    help="Folder of the result; the same one resumes an interrupted job.  [default: scores/<name>]",
)
@click.option("--overwrite", is_flag=True, help="Replace another job's result in the output folder.")
@click.option("--verify", is_flag=True, help="Find changed images by their bytes, not by length and time.")
@click.option("--no-thumbnails", is_flag=True, help="Copy no images into the result, and remove those there.")
@click.option("--gallery", "with_gallery", is_flag=True, help="Then write a page to look at; see `gallery`.")
@click.option("--part", metavar="I/N", help="Make the I-th of N shares of a job, on one of N machines.")
@click.option("--merge", "is_merged", is_flag=True, help="Complete a job when all its shares are made.")
@click.option("--estimate", "only_estimate", is_flag=True, help="Say what a job will take and flag.")
@with_download
@with_input_choice
@with_params("score", needs_project=False)
def score(
    params: Params | ScoringParams,
    inputs: tuple[str, ...],
    output: Path | None,
    overwrite: bool,
    verify: bool,
    no_thumbnails: bool,
    with_gallery: bool,
    part: str | None,
    is_merged: bool,
    only_estimate: bool,
    download: DownloadRules | None,
    choice: InputChoice,
) -> None:
    """Score a collection into Parquet; resumes.

    INPUTS: a folder, files, or globs of images, tar or zip archives, Parquet or Arrow files; or a list of
    paths and URLs: @list, a CSV file, or - for standard input. After INPUTS changed, the same command scores
    what is new or changed and drops what is gone.
    """
    from quality_model.core.folders import JOB_NAME, input_path
    from quality_model.score import job
    from quality_model.score.inputs import named_inputs
    from quality_model.score.shares import Share

    given = {"--overwrite": overwrite, "--verify": verify, "--estimate": only_estimate}
    excluded = given | ({"--merge": is_merged, "--gallery": with_gallery} if part else {})
    if (part or is_merged) and (others := [name for name, is_given in excluded.items() if is_given]):
        raise UsageError(f"{'--part' if part else '--merge'} does not go with {others[0]}.", "Leave one out.")
    share = Share.parse(part) if part is not None else None
    folder, choice = named_inputs(inputs, choice)
    output = input_path(output) if output else ProjectPaths().scores / _default_name(folder)
    if only_estimate:
        _print_estimate(params, folder, output, choice, download)
        return

    section = params.score
    if no_thumbnails:
        section = section.model_copy(update={"thumbnails": False})
    scored = partial(
        job.score,
        overwrite=overwrite,
        verify=verify,
        download=download,
        registry=registry_of(params),
        share=share,
    )
    make: Callable[..., ScoreSummary] = job.merge if is_merged else scored
    try:
        summary = make(
            section,
            params.limits,
            root=Path(),
            inputs=folder,
            output=output,
            check=_check(),
            choice=choice,
        )
    except InputErrorsAboveLimit:  # the result is complete
        if with_gallery:
            _write_gallery(output)
        raise
    if share is not None and not summary.parts:
        click.echo(f"--part {share} has nothing to do: the job has fewer parts.")
        return
    for line in summary.lines():
        click.echo(line)
    if share is not None:
        click.echo(f"--part {share} is done" + ("." if summary.elapsed_s else ", and was before."))
        if not (output / JOB_NAME).exists():
            click.echo(
                f"When all are, complete {output} by the same command with --merge in place of --part."
            )
            return
    click.echo(f"Scores: {output}")
    if with_gallery:
        _write_gallery(output)


def _write_gallery(output: Path) -> None:
    from quality_model.curate.gallery import write_gallery

    click.echo(f"Gallery: {write_gallery(output)}")


def _default_name(inputs: Path | Selection) -> str:
    """The name of a result: that of the one folder, file, bucket or list."""
    from quality_model.core.folders import is_folder
    from quality_model.score.selection import Selection

    if not isinstance(inputs, Selection):
        place = inputs.resolve()
        return (place.name if is_folder(place) else place.stem) or place.parts[0].rstrip("/")
    name = Path(inputs.arguments[0].removeprefix("@")).stem
    if len(inputs.arguments) > 1 or re.search(r"[*?\[]", name) or name in ("", "-"):
        inputs.require_there()
        raise UsageError(f"The result of {inputs.title} has no name of its own.", "Name it with --output.")
    return name


def _print_estimate(
    params: Params | ScoringParams,
    inputs: Path | Selection,
    output: Path,
    choice: InputChoice,
    download: DownloadRules | None,
) -> None:
    from quality_model.core.predict import Scorer
    from quality_model.score.result import ScoringModel
    from quality_model.score.stream import estimate

    scorer = Scorer.from_params(params.score, params.limits, registry=registry_of(params))
    found = estimate(
        params.score,
        params.limits,
        inputs=inputs,
        output=output,
        scorer=scorer,
        choice=choice,
        download=download,
    )
    for line in [f"Model: {ScoringModel.of(scorer).title}.", *found.lines()]:
        click.echo(line)


@command()
@click.option("--koniq", type=PATH, metavar="DIR", help="Folder of KonIQ-10k.")
@click.option("--spaq", type=PATH, metavar="DIR", help="Folder of SPAQ.")
@click.option("--kadid", type=PATH, metavar="DIR", help="Folder of KADID-10k.")
@click.option("--output", type=PATH, help="Folder of the result.  [default: reports/agreement/<dataset>]")
@click.option("--overwrite", is_flag=True, help="Replace another job's scores in the output folder.")
@with_params("score", needs_project=False)
def agree(
    params: Params | ScoringParams, output: Path | None, overwrite: bool, **folders: Path | None
) -> None:
    """Correlate scores with human ratings of a dataset.

    You need the dataset: see docs/gate.md.
    """
    from quality_model.evaluate import ratings

    named: list[RatedDataset] = [name for name in ratings.READERS if folders[name] is not None]
    if len(named) != 1:
        flags = ", ".join(f"--{name}" for name in ratings.READERS)
        raise UsageError(f"agree takes one dataset at a time, and got {len(named)}.", f"Name one: {flags}.")
    (dataset,) = named
    folder = folders[dataset]
    assert folder is not None
    output = output or ProjectPaths().reports / "agreement" / dataset
    found = ratings.agree(
        dataset,
        folder,
        params.score,
        params.limits,
        output=output,
        overwrite=overwrite,
        root=Path(),
        registry=registry_of(params),
    )
    click.echo(ratings.agreement_table(found))
    click.echo(f"Agreement: {output}")


def _check() -> Check | None:
    """The check of a job's scores, if Great Expectations is installed."""
    if find_spec("great_expectations") is None:
        return None
    from quality_model.data.checks.score_checks import check_scores

    return check_scores


COMMANDS = [predict, score, agree]
