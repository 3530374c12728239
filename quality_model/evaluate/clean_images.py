"""Clean images scored as collections are, with all their views: what the thresholds of the flags rest on.

Every image counts twice: as it is, and as a square of it with a variation that is no degradation (frames,
text of the scene, black and white, graphic patterns), because those are what a threshold must not flag.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from quality_model.core import decoding, views
from quality_model.core.decoding import Pixels
from quality_model.core.views import ViewRecipe
from quality_model.data.dataset import TrainingSet
from quality_model.data.images_table import ImagesTable
from quality_model.degrade import PROFILES, SampleRandomness
from quality_model.evaluate.predictions import predict_scores
from quality_model.params import LimitsParams
from quality_model.records import Split


def clean_ids(training_set: TrainingSet, split: Split) -> list[str]:
    """The images of a split that are clean as they are."""
    manifest = training_set.manifest
    return [*manifest["image_id"][(manifest["split"] == split) & manifest["is_clean"]]]


def read_clean(
    images: Path, ids: list[str], limits: LimitsParams, *, profile: str, seed: int, shortest_px: int | None
) -> Iterator[Pixels]:
    """Clean images, each uint8 (height, width, 3), and a look-alike behind each, if the profile makes any.

    Args:
        images: Folder of the images table.
        ids: Which of them.
        limits: What an image may be.
        profile: Its look-alikes are made.
        seed: Of the look-alikes.
        shortest_px: Short side that is enough (see `decoding.decode_image`).
    """
    wanted = {*ids}
    with ImagesTable(images) as table:
        for image in table.images():
            if image.image_id not in wanted:
                continue
            pixels = decoding.decode(image.data, limits, shortest_px=shortest_px)
            yield pixels
            randomness = SampleRandomness(seed, f"clean {image.image_id}")
            varied = PROFILES[profile].look_alike(central_square(pixels), randomness)
            if varied is not None:
                yield varied


def central_square(pixels: Pixels, *, multiple_px: int = 1) -> Pixels:
    """The largest square in the middle of an image whose side is such a multiple; uint8 (side, side, 3)."""
    side = min(pixels.shape[:2]) // multiple_px * multiple_px
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])


def score_clean(
    model: torch.nn.Module,
    size_px: int,
    recipes: list[ViewRecipe],
    images: Iterator[Pixels],
    device: torch.device,
) -> list[npt.NDArray[np.float32]]:
    """Score images by each of some recipes: float32 (n, 4) of each, in the order of `records.HEADS`."""

    def score(pixels: Pixels) -> npt.NDArray[np.float32]:
        return predict_scores(model, pixels, np.arange(len(pixels)), batch_size=len(pixels), device=device)

    found: list[list[npt.NDArray[np.float32]]] = [[] for _ in recipes]
    for pixels in images:
        for recipe, scores in zip(recipes, found, strict=True):
            seen = views.cut(pixels, size_px, recipe).all
            scores.append(views.score_images(score, [seen], recipe)[0])
    return [np.array(scores, np.float32).reshape(-1, 4) for scores in found]
