"""The command that makes a trained model the one that ships inside the package."""

from pathlib import Path

import click

from quality_model.cli.flags import folder_option
from quality_model.paths import ProjectPaths

_SHIPPED = Path("quality_model", "pretrained", "standard")


@click.command()
@folder_option("--model", ProjectPaths().model, "Folder of the trained model.")
@folder_option("--output", _SHIPPED, "Folder for the model that ships.")
def ship(model: Path, output: Path) -> None:
    """Make a trained model the one that ships: in half precision, without facts of this machine."""
    from quality_model.pretrained import ship

    marker = ship(model, output)
    files = ", ".join(f"{entry['name']} ({entry['bytes']} bytes)" for entry in marker["files"])
    click.echo(f"The model that ships: {output}: {files}.")


COMMANDS = [ship]
