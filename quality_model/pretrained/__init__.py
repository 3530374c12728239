"""The models that ship inside the package, for pictures that no champion is there to score.

The folder of each holds the files of a trained model (weights in half precision) with its
MODEL_CARD.md; standard/LICENSES.md is about the training pictures of both. An installation
without weights is one too: then there is no shipped model.
"""

from pathlib import Path
from typing import Final

from quality_model.pretrained.shipping import FROM_RUN, ship
from quality_model.storage import MARKER_NAME

NAME: Final = "pretrained"
"""Names the shipped model where a registry reference could stand, and in columns of scores."""

FOLDERS: Final = {
    NAME: Path(__file__).parent / "standard",
    "pretrained-compact": Path(__file__).parent / "compact",
}
"""By name, the model of each architecture."""

__all__ = ["FOLDERS", "FROM_RUN", "NAME", "pretrained_folder", "ship"]


def pretrained_folder(name: str = NAME) -> Path | None:
    """The folder of the shipped model of a name of `FOLDERS`, None if this installation has none.

    A folder with a marker whose files are damaged is given all the same: loading says what is
    wrong with it.
    """
    folder = FOLDERS[name]
    return folder if (folder / MARKER_NAME).exists() else None
