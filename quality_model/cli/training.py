"""Commands that train and evaluate a model, and mirror what is finished into MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from quality_model.cli.flags import LOCAL, PATH, command, folder_option, with_on, with_params
from quality_model.errors import UsageError
from quality_model.paths import HISTORY_NAME, ProjectPaths

if TYPE_CHECKING:
    from quality_model.params import Params

_PATHS = ProjectPaths()
_ROOT = Path()
_TRAINING_SET_IN = folder_option(
    "--data-dir", _PATHS.training_set, "Folder of the training dataset.", is_read=True
)
_IMAGES_IN = folder_option(
    "--images",
    _PATHS.images,
    "Folder of the images table that the dataset was generated from.",
    is_read=True,
)


@command()
@_TRAINING_SET_IN
@_IMAGES_IN
@folder_option("--output", _PATHS.model, "Folder for the trained model.")
@folder_option("--report", _PATHS.training_report, "Folder for metrics.json, history.json and history.csv.")
@folder_option("--checkpoints", _PATHS.checkpoints, "Folder for checkpoints, to resume an interrupted run.")
@click.option("--own-labels", type=PATH, metavar="FILE", help="Train on your labels, too: key,head,label.")
@click.option("--own-images", type=LOCAL, metavar="DIR", help="Folder of the images that --own-labels names.")
@with_params("train")
def train(
    params: Params,
    data_dir: Path,
    images: Path,
    output: Path,
    report: Path,
    checkpoints: Path,
    own_labels: Path | None,
    own_images: Path | None,
) -> None:
    """Train a model on a training dataset."""
    if (own_labels is None) != (own_images is None):
        raise UsageError("--own-labels and --own-images belong together.", "Give both, or neither.")
    from quality_model.core.system import retain_heap
    from quality_model.params import flatten
    from quality_model.release.live import LiveMirror
    from quality_model.release.publish import try_publish
    from quality_model.train.training_step import train_candidate

    retain_heap()
    with LiveMirror(_ROOT, params.registry) as on_epoch:
        train_candidate(
            params.train,
            params.registry,
            root=_ROOT,
            images=images,
            limits=params.limits,
            training_set=data_dir,
            output=output,
            report=report,
            checkpoints=checkpoints,
            settings=flatten(params),
            own_labels=own_labels,
            own_images=own_images,
            on_epoch=on_epoch,
        )
    try_publish(output, root=_ROOT, registry=params.registry, training_report=report)
    click.echo(f"The trained model: {output}")


@command()
@_TRAINING_SET_IN
@folder_option("--model", _PATHS.model, "Folder or file of the model.", is_read=True)
@_IMAGES_IN
@folder_option("--history", _PATHS.training_report, "Folder of the training's report.")
@folder_option("--output", _PATHS.evaluation_report, "Folder for measures and figures.")
@with_on
@with_params("evaluate")
def evaluate(
    params: Params, data_dir: Path, model: Path, images: Path, history: Path, output: Path, on: str
) -> None:
    """Evaluate a model on the test split."""
    from quality_model.evaluate.step import evaluate_candidate, summary_table
    from quality_model.release.pages import write_index
    from quality_model.release.publish import try_publish

    evaluation = evaluate_candidate(
        params.evaluate,
        training_set=data_dir,
        model=model,
        history=history if (history / HISTORY_NAME).exists() else None,
        output=output,
        loss_weights=params.train.loss_weights,
        images=images,
        limits=params.limits,
        on=on,
    )
    write_index(_ROOT)
    if model.is_dir():
        try_publish(
            model, root=_ROOT, registry=params.registry, training_report=history, evaluation_report=output
        )
    click.echo(summary_table(evaluation.measured))
    click.echo(f"Measures and figures: {output}")


@command()
@with_params()
def publish(params: Params) -> None:
    """Mirror finished models and decisions into MLflow.

    It may be repeated at any time, for example after the server was down.
    """
    from quality_model.release.publish import finished_folders, publish

    folders = finished_folders(_ROOT)
    for folder in folders:
        run_id = publish(folder, root=_ROOT, registry=params.registry)
        click.echo(f"{folder}: run {run_id}")
    if not folders:
        click.echo("Nothing is finished yet: there is nothing to publish.")


COMMANDS = [train, evaluate, publish]
