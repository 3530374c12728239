"""Commands that score images."""

from __future__ import annotations

import json
import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quality_model.cli.flags import PATH, command, with_input_choice, with_params
from quality_model.errors import ImageError, InputErrorsAboveLimit, QualityModelError, UsageError, redacted
from quality_model.paths import ProjectPaths
from quality_model.records import HEADS, QualityScores

if TYPE_CHECKING:
    from quality_model.core.predict import Scorer
    from quality_model.evaluate.ratings import RatedDataset
    from quality_model.params import Params, RegistryParams, ScoringParams
    from quality_model.score.inputs import InputChoice
    from quality_model.score.job import Check
    from quality_model.score.reading import Reading


@command()
@click.argument("images", metavar="IMAGES", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@with_params("score", needs_project=False)
def predict(params: Params | ScoringParams, images: tuple[str, ...], as_json: bool) -> None:
    """Print the scores and flags of a few images.

    0: absent, 1: severe; the overall score is 1 for an image without a fault.
    """
    from quality_model.core.measures import chosen_sets
    from quality_model.core.predict import Scorer
    from quality_model.score.reading import read_images

    model = Scorer(
        params.score.model,
        params.score.device,
        params.limits,
        registry=_registry(params),
        engine=None if params.score.engine == "auto" else params.score.engine,
        views=params.score.views,
    )
    columns = (*HEADS, "overall")
    names, sources = zip(*map(_named_source, images), strict=True)
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
        measure=chosen_sets(params.score.measures) if as_json else (),
    )
    unreadable = 0
    for reading, name in zip(readings, names, strict=True):
        try:
            scores = _scores(model, reading)
        except ImageError as error:
            unreadable += 1
            problem = {"path": name, "error_code": error.reason, "error_detail": error.detail}
            click.echo(json.dumps(problem) if as_json else f"{name:{width}}  {error}")
            continue
        if as_json:
            click.echo(json.dumps({"path": name, **scores.to_dict(), **(reading.measures or {})}))
        else:
            cells = (f"{getattr(scores, column):10.3f}" for column in columns)
            click.echo("  ".join([f"{name:{width}}", *cells, ", ".join(scores.flags) or "-"]))
    if model.thresholds is None:
        click.echo("Nothing is flagged: the model has no thresholds.", err=True)
    if unreadable:
        folders = [
            name
            for name, source in zip(names, sources, strict=True)
            if isinstance(source, ImageError) and source.reason == "not_a_file"
        ]
        raise InputErrorsAboveLimit(
            f"{unreadable} of {len(images)} images could not be scored.",
            f"Score the images of a folder with: quality-model score {folders[0]}" if folders else "",
        )


def _named_source(text: str) -> tuple[str, Path | ImageError]:
    """An argument's name to print, without credentials, and its path or why there is nothing to read."""
    from quality_model.core.folders import input_path, printable

    if not text:  # Path("") is the current folder
        return text, ImageError("missing", "the name is empty")
    try:
        path = input_path(text)
    except UsageError:
        address = re.sub(r"^([^:/]+:)/(?!/)", r"\1//", text)
        return printable(redacted(address)), ImageError("url", "URLs are not fetched: download the image")
    name = printable(str(path))
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises on a name that is too long
        return name, ImageError("not_a_file", "it is a folder: use `score`")
    return name, path


def _scores(model: Scorer, reading: Reading) -> QualityScores:
    """The scores of an image that was read.

    Raises:
        ImageError: It could not be read, or not scored.
    """
    if reading.views is None:
        raise ImageError(reading.error_code or "unreadable", reading.error_detail or "")
    try:
        return model.predict_views([reading.views])[0]
    except QualityModelError:
        raise
    except Exception as error:  # the other images have scores all the same
        raise ImageError("not_scored", f"{type(error).__name__}: {error}") from error


@command()
@click.argument("inputs", metavar="INPUTS")
@click.option(
    "--output",
    type=PATH,
    help="Folder of the result; the same one resumes an interrupted job.  [default: scores/<name>]",
)
@click.option("--overwrite", is_flag=True, help="Replace another job's result in the output folder.")
@with_input_choice
@with_params("score", needs_project=False)
def score(
    params: Params | ScoringParams,
    inputs: str,
    output: Path | None,
    overwrite: bool,
    choice: InputChoice,
) -> None:
    """Score a collection into Parquet; resumes.

    INPUTS is a folder of images, Parquet files, or tar shards.
    """
    from quality_model.core.folders import input_path
    from quality_model.score import job

    folder = input_path(inputs)
    place = folder.resolve()
    output = (
        input_path(output)
        if output
        else ProjectPaths().scores / (place.name if place.is_dir() else place.stem)
    )

    summary = job.score(
        params.score,
        params.limits,
        root=Path(),
        inputs=folder,
        output=output,
        overwrite=overwrite,
        registry=_registry(params),
        check=_check(),
        choice=choice,
    )
    for line in summary.lines():
        click.echo(line)
    click.echo(f"Scores: {output}")


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
        registry=_registry(params),
    )
    click.echo(ratings.agreement_table(found))
    click.echo(f"Agreement: {output}")


def _check() -> Check | None:
    """The check of a job's scores, if Great Expectations is installed."""
    if find_spec("great_expectations") is None:
        return None
    from quality_model.data.checks.score_checks import check_scores

    return check_scores


def _registry(params: Params | ScoringParams) -> RegistryParams | None:
    from quality_model.params import Params

    return params.registry if isinstance(params, Params) else None


COMMANDS = [predict, score, agree]
