"""The model that ships inside the package, for pictures that no champion is there to score.

Its folder, ``standard``, holds the files of a trained model (weights in half precision) with
MODEL_CARD.md and the licences of the training pictures. An installation without weights is
one too: then there is no shipped model.
"""

from pathlib import Path
from typing import Final

from quality_model.pretrained.shipping import FROM_RUN, ship
from quality_model.storage import MARKER_NAME

NAME: Final = "pretrained"
"""Names the shipped model where a registry reference could stand, and in columns of scores."""

FOLDER: Final = Path(__file__).parent / "standard"

__all__ = ["FOLDER", "FROM_RUN", "NAME", "pretrained_folder", "ship"]


def pretrained_folder() -> Path | None:
    """The folder of the shipped model, None if this installation has none.

    A folder with a marker whose files are damaged is given all the same: loading says what is
    wrong with it.
    """
    return FOLDER if (FOLDER / MARKER_NAME).exists() else None
