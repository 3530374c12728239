"""The command that makes a trained model the one that ships inside the package."""

from pathlib import Path

import click

from quality_model.cli.flags import folder_option
from quality_model.paths import ProjectPaths

_PATHS = ProjectPaths()
_SHIPPED = Path("quality_model", "pretrained", "standard")


@click.command()
@folder_option("--model", _PATHS.model, "Folder of the trained model.")
@folder_option("--output", _SHIPPED, "Folder for the model that ships.")
@folder_option("--report", _PATHS.gate_report, "Folder of the gate's verdict and evidence, for the card.")
@click.option("--image-licence", help="Licence of the images it learned from, for the card.")
def ship(model: Path, output: Path, report: Path, image_licence: str | None) -> None:
    """Make a trained model the one that ships: in half precision, of no machine, with a card."""
    from quality_model.release.card import ship_with_card

    marker = ship_with_card(model, output, report=report, image_licence=image_licence)
    files = ", ".join(f"{entry['name']} ({entry['bytes']} bytes)" for entry in marker["files"])
    click.echo(f"The model that ships: {output}: {files}.")


COMMANDS = [ship]
