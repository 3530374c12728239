"""Commands from clean images to a measured model: make and check data, train, evaluate, publish."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quality_model.cli.flags import LOCAL, PATH, command, folder_option, with_on, with_params
from quality_model.errors import UsageError
from quality_model.paths import HISTORY_NAME, ProjectPaths
from quality_model.records import SPLITS, Split

if TYPE_CHECKING:
    from quality_model.data.download import DownloadSummary
    from quality_model.data.generate import GenerateSummary
    from quality_model.params import Params

_PATHS = ProjectPaths()
_ROOT = Path()
_IMAGES_IN = folder_option("--data-dir", _PATHS.images, "Folder of the clean images.", is_read=True)
_IMAGES_OF_DATASET_IN = folder_option(
    "--images",
    _PATHS.images,
    "Folder of the images table that the dataset was generated from.",
    is_read=True,
)
_TRAINING_SET_IN = folder_option(
    "--data-dir", _PATHS.training_set, "Folder of the training dataset.", is_read=True
)


@command("list-datasets")
def list_datasets() -> None:
    """List the presets of --dataset."""
    from quality_model.core.figures import text_table
    from quality_model.data.sources import PRESETS

    rows = [
        (name, preset.repository or "embedded", preset.image_column or "-", preset.description)
        for name, preset in PRESETS.items()
    ]
    click.echo(text_table(("NAME", "DATASET", "IMAGE COLUMN", "DESCRIPTION"), rows))
    click.echo("\nAlso: any Hugging Face dataset as owner/name, or the path of a folder of images.")


@command()
@folder_option("--output", _PATHS.images, "Folder for the clean images.")
@with_params("source")
def download(params: Params, output: Path) -> None:
    """Fetch clean images from a preset, a hub or a folder."""
    _download(params, output)


@command("validate-images")
@_IMAGES_IN
@folder_option("--output", _PATHS.images_report, "Folder for the results.")
@with_params("validation")
def validate_images(params: Params, data_dir: Path, output: Path) -> None:
    """Check the clean images against their expectations."""
    from quality_model.data.checks import validate_images
    from quality_model.release.pages import write_index

    try:
        validate_images(params.validation, data_dir, output)
    finally:
        write_index(_ROOT)
    click.echo(f"The images meet their expectations: {output}")


@command()
@_IMAGES_IN
@folder_option("--output", _PATHS.training_set, "Folder for the training dataset.")
@with_on
@with_params("generate")
def generate(params: Params, data_dir: Path, output: Path, on: str) -> None:
    """Degrade clean images into a training dataset.

    It has the labelled samples that train.samples asks for.
    """
    _generate(params, data_dir, output, on)


@command("generate-hf")
@folder_option("--images", _PATHS.images, "Folder for the clean images.")
@folder_option("--output", _PATHS.training_set, "Folder for the training dataset.")
@with_params("source", "generate")
def generate_hf(params: Params, images: Path, output: Path) -> None:
    """Download, then generate: both in one command."""
    _download(params, images)
    _generate(params, images, output, "local")


@command("validate-training-set")
@_TRAINING_SET_IN
@folder_option("--output", _PATHS.training_set_report, "Folder for the results.")
@with_params("validation", "generate")
def validate_training_set(params: Params, data_dir: Path, output: Path) -> None:
    """Check the training dataset against its expectations."""
    from quality_model.data.checks import validate_training_set
    from quality_model.release.pages import write_index

    try:
        validate_training_set(params.validation, params.generate, data_dir, output)
    finally:
        write_index(_ROOT)
    click.echo(f"The training dataset meets its expectations: {output}")


@command("export-samples")
@_TRAINING_SET_IN
@click.option("--split", type=click.Choice(SPLITS), default="test", show_default=True)
@click.option("--count", type=click.IntRange(min=1), default=24, show_default=True, help="Samples to write.")
@click.option(
    "--output",
    type=PATH,
    default=Path("samples"),
    show_default=True,
    help="Folder for PNGs.",
)
def export_samples(data_dir: Path, split: Split, count: int, output: Path) -> None:
    """Write samples of the training dataset as PNG files."""
    from quality_model.data.dataset import export_samples

    written = export_samples(data_dir, split=split, count=count, output=output)
    click.echo(f"{written} samples of the {split} split: {output}")


@command()
@_TRAINING_SET_IN
@_IMAGES_OF_DATASET_IN
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
@_IMAGES_OF_DATASET_IN
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


def _download(params: Params, output: Path) -> None:
    from quality_model.data.download import download

    _report("download", download(params.source, params.limits, output), output)


def _generate(params: Params, images: Path, output: Path, on: str) -> None:
    from quality_model.data.generate import generate

    samples = params.train.samples
    summary = generate(params.generate, params.limits, images, output, train_samples=samples, on=on)
    _report("generate", summary, output)


def _report(name: str, summary: DownloadSummary | GenerateSummary, output: Path) -> None:
    counts = ", ".join(
        f"{key.replace('_', ' ')} {value}"
        for key, value in asdict(summary).items()
        if isinstance(value, int | str)
    )
    click.echo(f"{name}: {counts}\n  -> {output}")


COMMANDS = [
    list_datasets,
    download,
    validate_images,
    generate,
    generate_hf,
    validate_training_set,
    export_samples,
    train,
    evaluate,
    publish,
]
