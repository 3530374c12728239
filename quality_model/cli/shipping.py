"""The command that makes a trained model the bundled one."""

from pathlib import Path

import click

from quality_model.cli.flags import folder_option
from quality_model.paths import ProjectPaths

_PATHS = ProjectPaths()
_BUNDLED = Path("quality_model", "pretrained", "standard")


@click.command()
@folder_option("--model", _PATHS.model, "Folder of the trained model.")
@folder_option("--output", _BUNDLED, "Folder for the bundled model.")
@click.option("--image-licence", help="Licence of the training images, for the card.")
def ship(model: Path, output: Path, image_licence: str | None) -> None:
    """Make a trained model the bundled one: in half precision, free of machine details, with a card."""
    from quality_model.release.bundle import bundle_model

    written = bundle_model(model, output, root=Path(), image_licence=image_licence)
    files = ", ".join(f"{name} ({num_bytes} bytes)" for name, num_bytes in written)
    click.echo(f"The bundled model: {output}: {files}.")


COMMANDS = [ship]
