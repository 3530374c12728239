"""Commands that train and measure a model."""

from pathlib import Path

import click

from quality_model.cli.flags import folder_option, with_params
from quality_model.params import Params, flatten
from quality_model.paths import HISTORY_NAME, ProjectPaths

_PATHS = ProjectPaths()
_TRAINING_SET_IN = folder_option("--data-dir", _PATHS.training_set, "Folder of the training dataset.")


@click.command()
@_TRAINING_SET_IN
@folder_option("--output", _PATHS.model, "Folder for the trained model.")
@folder_option("--report", _PATHS.training_report, "Folder for metrics.json, history.json and history.csv.")
@folder_option("--checkpoints", _PATHS.checkpoints, "Folder for what an interrupted run goes on from.")
@with_params("train")
def train(params: Params, data_dir: Path, output: Path, report: Path, checkpoints: Path) -> None:
    """Train a model on a training dataset."""
    from quality_model.core.system import retain_heap
    from quality_model.train.training_step import train_candidate

    retain_heap()
    train_candidate(
        params.train,
        params.registry,
        root=Path(),
        training_set=data_dir,
        output=output,
        report=report,
        checkpoints=checkpoints,
        settings=flatten(params),
    )
    click.echo(f"The trained model: {output}")


@click.command()
@_TRAINING_SET_IN
@folder_option("--model", _PATHS.model, "Folder or file of the model.")
@folder_option("--history", _PATHS.training_report, "Folder of the training's report.")
@folder_option("--output", _PATHS.evaluation_report, "Folder for measures and figures.")
@with_params("evaluate")
def evaluate(params: Params, data_dir: Path, model: Path, history: Path, output: Path) -> None:
    """Measure a model on the test split."""
    from quality_model.evaluate.step import evaluate_candidate, summary_table

    evaluation = evaluate_candidate(
        params.evaluate,
        training_set=data_dir,
        model=model,
        history=history if (history / HISTORY_NAME).exists() else None,
        output=output,
        loss_weights=params.train.loss_weights,
    )
    click.echo(summary_table(evaluation.measured))
    click.echo(f"Measures and figures: {output}")


COMMANDS = [train, evaluate]
