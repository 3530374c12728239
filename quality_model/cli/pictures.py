"""Commands that score pictures."""

import json
from pathlib import Path

import click

from quality_model.cli.flags import with_params
from quality_model.errors import InputErrorsAboveLimit, PictureError
from quality_model.params import Params
from quality_model.paths import ProjectPaths
from quality_model.records import HEADS


@click.command()
@click.argument("pictures", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@with_params("score")
def predict(params: Params, pictures: tuple[Path, ...], as_json: bool) -> None:
    """Print the four scores (0 absent, 1 severe) and the overall one (1 best) of PICTURES."""
    from quality_model.inference import MultiHeadQualityInference

    model = MultiHeadQualityInference(
        model_path=params.score.model, device=params.score.device, limits=params.limits
    )
    columns = (*HEADS, "overall")
    width = max(len(str(picture)) for picture in pictures)
    if not as_json:
        click.echo("  ".join([" " * width, *(f"{column:>10}" for column in columns)]))
    unreadable = 0
    for picture in pictures:
        try:
            scores = model.predict(picture).to_dict()
        except PictureError as error:
            unreadable += 1
            click.echo(
                json.dumps({"path": str(picture), "reason": error.reason, "detail": error.detail})
                if as_json
                else f"{picture!s:{width}}  {error}"
            )
            continue
        if as_json:
            click.echo(json.dumps({"path": str(picture), **scores}))
        else:
            cells = (f"{scores[column]:10.3f}" for column in columns)
            click.echo("  ".join([f"{picture!s:{width}}", *cells]))
    if unreadable:
        raise InputErrorsAboveLimit(f"{unreadable} of {len(pictures)} pictures could not be read.")


@click.command()
@click.argument("inputs", type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Folder for the Parquet shards; the same one resumes an interrupted job.  [default: scores/<name>]",
)
@click.option("--overwrite", is_flag=True, help="Throw away another job's result in the output folder.")
@with_params("score")
def score(params: Params, inputs: Path, output: Path | None, overwrite: bool) -> None:
    """Score INPUTS: a folder of pictures, Parquet files, or tar shards."""
    from quality_model.stages.scoring import score_collection

    output = output or ProjectPaths().scores / inputs.resolve().stem

    summary = score_collection(
        params.score, params.limits, root=Path(), inputs=inputs, output=output, overwrite=overwrite
    )
    for line in summary.lines():
        click.echo(line)
    click.echo(f"Scores: {output}")


COMMANDS = [predict, score]
