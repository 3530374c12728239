"""The bundled models: trained weights inside the package, for images that no champion is there to score.

The folder of each holds the files of a trained model (weights in half precision) with its
MODEL_CARD.md, and LICENSES.md about its training images. An installation without weights is
possible: then there is no bundled model.
"""

from pathlib import Path
from typing import Final

from quality_model.core.storage import MARKER_NAME

NAME: Final = "bundled"
"""Names the bundled model where a registry reference could stand, and in columns of scores."""

FOLDERS: Final = {
    NAME: Path(__file__).parent / "small",
    "bundled-standard": Path(__file__).parent / "standard",
}
"""By name, the model of each architecture."""

_ALIASES: Final = {"pretrained": NAME}
"""Former names; old results use them."""


def bundled_name(reference: object) -> str | None:
    """The name in `FOLDERS` that a reference means, aliases included; None if it means no bundled model."""
    name = _ALIASES.get(reference, reference) if isinstance(reference, str) else None
    return name if name in FOLDERS else None


def pretrained_folder(name: str = NAME) -> Path | None:
    """The folder of the bundled model of a name of `FOLDERS`, None if this installation has none.

    A folder with a completion marker whose files are damaged is given all the same: loading says what is
    wrong with it.
    """
    folder = FOLDERS[name]
    return folder if (folder / MARKER_NAME).exists() else None
