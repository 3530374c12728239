"""Commands that make and check data."""

from pathlib import Path
from typing import Any

import click

from quality_model.cli.flags import PATH, folder_option, with_params
from quality_model.params import Params
from quality_model.paths import ProjectPaths
from quality_model.records import SPLITS, Split

_PATHS = ProjectPaths()
_IMAGES_IN = folder_option("--data-dir", _PATHS.images, "Folder of the clean images.")
_TRAINING_SET_IN = folder_option("--data-dir", _PATHS.training_set, "Folder of the training dataset.")


@click.command("list-datasets")
def list_datasets() -> None:
    """List the presets of --dataset."""
    from quality_model.data.sources.presets import PRESETS

    rows = [
        (name, preset.repository or "embedded", preset.image_column or "-", preset.description)
        for name, preset in PRESETS.items()
    ]
    header = ("NAME", "DATA SET", "IMAGE COLUMN", "DESCRIPTION")
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(3)]
    for row in [header, *rows]:
        click.echo(
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]])
        )
    click.echo("\nAlso: any Hugging Face dataset as owner/name, or the path of a folder of images.")


@click.command()
@folder_option("--output", _PATHS.images, "Folder for the clean images.")
@with_params("source")
def download(params: Params, output: Path) -> None:
    """Fetch clean images from a preset, a Hugging Face dataset or a folder."""
    from quality_model.data.sources.download import download

    summary = download(params.source, params.limits, output)
    _say("download", summary, output)


@click.command("validate-images")
@_IMAGES_IN
@folder_option("--output", _PATHS.images_report, "Folder for the results.")
@with_params("validation")
def validate_images(params: Params, data_dir: Path, output: Path) -> None:
    """Check the clean images against their expectations."""
    from quality_model.data.checks import validate_images

    validate_images(params.validation, data_dir, output)
    click.echo(f"The images meet their expectations: {output}")


@click.command()
@_IMAGES_IN
@folder_option("--output", _PATHS.training_set, "Folder for the training dataset.")
@with_params("generate")
def generate(params: Params, data_dir: Path, output: Path) -> None:
    """Degrade clean images into a labelled training dataset."""
    from quality_model.data.training_set.generate import generate

    summary = generate(params.generate, params.limits, data_dir, output)
    _say("generate", summary, output)


@click.command("generate-hf")
@folder_option("--images", _PATHS.images, "Folder for the clean images.")
@folder_option("--output", _PATHS.training_set, "Folder for the training dataset.")
@with_params("source", "generate")
def generate_hf(params: Params, images: Path, output: Path) -> None:
    """Download, then generate: both in one command."""
    from quality_model.data.sources.download import download
    from quality_model.data.training_set.generate import generate

    _say("download", download(params.source, params.limits, images), images)
    _say("generate", generate(params.generate, params.limits, images, output), output)


@click.command("validate-training-set")
@_TRAINING_SET_IN
@folder_option("--output", _PATHS.training_set_report, "Folder for the results.")
@with_params("validation", "generate")
def validate_training_set(params: Params, data_dir: Path, output: Path) -> None:
    """Check the training dataset against its expectations."""
    from quality_model.data.checks import validate_training_set

    validate_training_set(params.validation, params.generate, data_dir, output)
    click.echo(f"The training dataset meets its expectations: {output}")


@click.command("export-samples")
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
    """Write samples of the training dataset as PNG files, to look at or to score."""
    from quality_model.data.training_set.export import export_samples

    written = export_samples(data_dir, split=split, count=count, output=output)
    click.echo(f"{written} samples of the {split} split: {output}")


def _say(what: str, summary: dict[str, Any], where: Path) -> None:
    facts = ", ".join(
        f"{key.replace('_', ' ')} {value}" for key, value in summary.items() if isinstance(value, int | str)
    )
    click.echo(f"{what}: {facts}\n  -> {where}")


COMMANDS = [
    list_datasets,
    download,
    validate_images,
    generate,
    generate_hf,
    validate_training_set,
    export_samples,
]
