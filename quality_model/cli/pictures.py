"""Commands that score pictures."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quality_model.cli.flags import PATH, with_params
from quality_model.errors import InputErrorsAboveLimit, PictureError, QualityModelError
from quality_model.params import Params, RegistryParams, ScoringParams
from quality_model.paths import ProjectPaths
from quality_model.records import HEADS, QualityScores

if TYPE_CHECKING:
    from quality_model.inference import MultiHeadQualityInference
    from quality_model.scoring.reading import Reading

if TYPE_CHECKING:
    from quality_model.scoring import Kind


@click.command()
@click.argument("pictures", nargs=-1, required=True, type=PATH)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@with_params("score", needs_project=False)
def predict(params: Params | ScoringParams, pictures: tuple[Path, ...], as_json: bool) -> None:
    """Print scores of PICTURES (0 absent, 1 severe), the overall one (1 best), and what is flagged."""
    from quality_model.folders import printable
    from quality_model.model_source import find_model_meanwhile
    from quality_model.scoring.reading import image_reader

    find = find_model_meanwhile(params.score.model, Path(), _registry(params))
    with image_reader(params.score.workers, len(pictures), params.limits) as reader:
        from quality_model.inference import MultiHeadQualityInference  # and with it PyTorch

        model = MultiHeadQualityInference(
            model_path=find(),
            device=params.score.device,
            limits=params.limits,
            # To find the fastest engine takes longer than a few pictures do; `score` is for many.
            engine="torch-float32" if params.score.engine == "auto" else params.score.engine,
        )
        columns = (*HEADS, "overall")
        names = [printable(str(picture)) for picture in pictures]
        width = max(map(len, names))
        if not as_json:
            click.echo("  ".join([" " * width, *(f"{column:>10}" for column in columns), "flags"]))
        unreadable = 0
        readings = reader.map((_source(picture), model.image_size_px) for picture in pictures)
        for reading, name in zip(readings, names, strict=True):
            try:
                scores = _scores(model, reading)
            except PictureError as error:
                unreadable += 1
                click.echo(
                    json.dumps({"path": name, "error_code": error.reason, "error_detail": error.detail})
                    if as_json
                    else f"{name:{width}}  {error}"
                )
                continue
            if as_json:
                click.echo(json.dumps({"path": name, **scores.to_dict()}))
            else:
                cells = (f"{getattr(scores, column):10.3f}" for column in columns)
                click.echo("  ".join([f"{name:{width}}", *cells, ", ".join(scores.flags) or "-"]))
    if model.thresholds is None:
        click.echo("Nothing is flagged: the model has no thresholds.", err=True)
    if unreadable:
        folders = [name for picture, name in zip(pictures, names, strict=True) if picture.is_dir()]
        raise InputErrorsAboveLimit(
            f"{unreadable} of {len(pictures)} images could not be scored.",
            f"Score the images of a folder with: quality-model score {folders[0]}" if folders else "",
        )


def _source(path: Path) -> "Path | PictureError":
    if path.is_dir():
        return PictureError("not_a_file", "it is a folder: use `score`")
    return path


def _scores(model: "MultiHeadQualityInference", reading: "Reading") -> QualityScores:
    """The scores of an image that was read.

    Raises:
        PictureError: It could not be read, or not scored.
    """
    if reading.pixels is None:
        raise PictureError(reading.reason or "unreadable", reading.detail or "")
    try:
        return model.predict(reading.pixels)
    except QualityModelError:
        raise
    except Exception as error:  # the other images have scores all the same
        raise PictureError("not_scored", f"{type(error).__name__}: {error}") from error


@click.command()
@click.argument("inputs", metavar="INPUTS")
@click.option(
    "--output",
    type=PATH,
    help="Folder for the Parquet shards; the same one resumes an interrupted job.  [default: scores/<name>]",
)
@click.option("--overwrite", is_flag=True, help="Throw away another job's result in the output folder.")
@click.option(
    "--kind",
    type=click.Choice(["images", "tar", "parquet"]),
    help="What to score, where INPUTS has several kinds.",
)
@click.option("--image-column", help="Column of images of Parquet files; dots lead into records.")
@click.option("--key-column", help="Column of keys of Parquet files.")
@with_params("score", needs_project=False)
def score(
    params: Params | ScoringParams,
    inputs: str,
    output: Path | None,
    overwrite: bool,
    kind: "Kind | None",
    image_column: str | None,
    key_column: str | None,
) -> None:
    """Score INPUTS: a folder of images, Parquet files, or tar shards."""
    from quality_model.folders import input_path
    from quality_model.stages.scoring import score_collection

    folder = input_path(inputs)
    place = folder.resolve()
    output = (
        input_path(output)
        if output
        else ProjectPaths().scores / (place.name if place.is_dir() else place.stem)
    )

    summary = score_collection(
        params.score,
        params.limits,
        root=Path(),
        inputs=folder,
        output=output,
        overwrite=overwrite,
        registry=_registry(params),
        kind=kind,
        image_column=image_column,
        key_column=key_column,
    )
    for line in summary.lines():
        click.echo(line)
    click.echo(f"Scores: {output}")


def _registry(params: Params | ScoringParams) -> RegistryParams | None:
    return params.registry if isinstance(params, Params) else None


COMMANDS = [predict, score]
