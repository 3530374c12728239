"""Clean images scored as collections are, with all their views: what flags rest on.

Every image counts twice: as it is, and as a square of it with a variation that is no degradation (frames,
text of the scene, black and white, graphic patterns), because those are what a threshold must not flag.
Training sets thresholds on those of the validation split, evaluation counts flags on those of the test split.
"""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from quality_model.core import decoding, storage, views
from quality_model.core.decoding import Pixels
from quality_model.core.views import ViewRecipe
from quality_model.data.dataset import TrainingSet
from quality_model.data.images_table import ImagesTable
from quality_model.degrade import PROFILES, SampleRandomness
from quality_model.degrade.severity import to_lab
from quality_model.evaluate.predictions import predict_scores
from quality_model.params import LimitsParams
from quality_model.records import REFERENCE_SIDE_PX, Split

log = logging.getLogger(__name__)

NIGHT_LIGHTNESS: Final = 20.0
HIGH_KEY_LIGHTNESS: Final = 75.0
"""Mean L* (0 to 100) below which an image counts as night, and above which as high-key."""

GREY_CHROMA: Final = 2.0
LOW_CHROMA: Final = 8.0
"""Mean chroma in CIELAB's a*b* plane of a black and white image, at most, and of one of low saturation."""


class CleanImageShown(NamedTuple):
    """A clean image as it is, or a look-alike of it.

    Attributes:
        group: Of the image.
        slices: To which it belongs: ``as it is`` and, by its pixels, ``night``, ``high-key``,
            ``black and white`` or ``low saturation``; or ``look-alike`` and ``look-alike: KIND``.
        pixels: uint8 (height, width, 3).
    """

    group: str
    slices: tuple[str, ...]
    pixels: Pixels


@dataclass(frozen=True, slots=True)
class CleanScores:
    """Scores of n clean images.

    Attributes:
        of_images: Whether they are whole images and look-alikes; else clean samples of the dataset.
        scores: Of each recipe float32 (n, 4), in the order of `records.HEADS`; of samples the squeezed one.
        groups: (n,) names.
        slices: Of each image those that it belongs to (`CleanImageShown`); of samples none.
    """

    of_images: bool
    scores: Sequence[npt.NDArray[np.float32]]
    groups: Sequence[str]
    slices: Sequence[Collection[str]] = field(default=())

    def slice_masks(self) -> Mapping[str, npt.NDArray[np.bool_]]:
        """The images of each slice, bool (n,), by name."""
        names = sorted({name for found in self.slices for name in found})
        return {name: np.array([name in found for found in self.slices], dtype=bool) for name in names}


def score_clean(
    model: torch.nn.Module,
    training_set: TrainingSet,
    split: Split,
    recipes: Sequence[ViewRecipe],
    *,
    images: Path | None,
    limits: LimitsParams,
    seed: int,
    batch_size: int,
    device: torch.device,
    excluded_groups: Collection[str] = (),
) -> CleanScores:
    """Score the clean images of a split: whole images and their look-alikes, by each of some recipes.

    Where the images table is missing, or is not the one that the dataset was generated from, the dataset's
    clean samples are scored instead, as the squeezed view.

    Args:
        model: Is moved to ``device``.
        training_set: Names the images.
        split: Of the images.
        recipes: Views to score by.
        images: Folder of the images table that the dataset was generated from.
        limits: What an image may be.
        seed: Of the look-alikes.
        batch_size: Samples per forward pass.
        device: To score on.
        excluded_groups: Groups that do not count; they do if no others are left.
    """
    model.to(device)
    rows = training_set.counted(split, excluded_groups)
    if images is not None and _has_images(images, training_set, rows):
        shown = _read_clean(images, training_set, rows, limits, seed=seed, recipes=recipes)
        return _score_shown(model, training_set.image_size_px, recipes, shown, device)
    log.warning("%s is not the images table of the dataset: its clean samples are measured.", images)
    clean = rows[training_set.is_untouched[rows]]
    scores = predict_scores(model, training_set.images, clean, batch_size=batch_size, device=device)
    return CleanScores(False, [scores], [*training_set.manifest["group"].iloc[clean]])


def has_images(images: Path | None) -> bool:
    """Whether a folder holds a complete images table."""
    return images is not None and (images / storage.MARKER_NAME).exists()


def _has_images(images: Path, training_set: TrainingSet, rows: npt.NDArray[np.int64]) -> bool:
    if not has_images(images):
        return False
    with ImagesTable(images) as table:
        return _clean_ids(training_set, rows) <= {*table.frame(["image_id"])["image_id"]}


def _clean_ids(training_set: TrainingSet, rows: npt.NDArray[np.int64]) -> set[str]:
    """The images among the rows that are clean as they are."""
    manifest = training_set.manifest.iloc[rows]
    return {*manifest["image_id"][manifest["is_clean"]]}


def _read_clean(
    images: Path,
    training_set: TrainingSet,
    rows: npt.NDArray[np.int64],
    limits: LimitsParams,
    *,
    seed: int,
    recipes: Sequence[ViewRecipe],
) -> Iterator[CleanImageShown]:
    """Clean images, and a look-alike behind each, if the dataset's profile makes any."""
    wanted = _clean_ids(training_set, rows)
    profile = PROFILES[str(training_set.manifest["profile"].iloc[0])]
    shortest_px = recipes[0].decoded_px
    with ImagesTable(images) as table:
        for image in table.images():
            if image.image_id not in wanted:
                continue
            pixels = decoding.decode(image.data, limits, shortest_px=shortest_px)
            yield CleanImageShown(image.group, ("as it is", *pixel_slices(pixels)), pixels)
            randomness = SampleRandomness(seed, f"clean {image.image_id}")
            varied = profile.look_alike(central_square(pixels), randomness)
            if varied is not None:
                kind = f"look-alike: {varied.kind.replace('_', ' ')}"
                yield CleanImageShown(image.group, ("look-alike", kind), varied.pixels)


def pixel_slices(pixels: Pixels) -> list[str]:
    """The slices that an image, uint8 (height, width, 3), belongs to by its mean lightness and chroma."""
    lab = to_lab(views.squeezed(pixels, REFERENCE_SIDE_PX))
    lightness, chroma = float(lab[..., 0].mean()), float(np.hypot(lab[..., 1], lab[..., 2]).mean())
    found = {
        "night": lightness < NIGHT_LIGHTNESS,
        "high-key": lightness > HIGH_KEY_LIGHTNESS,
        "black and white": chroma <= GREY_CHROMA,
        "low saturation": GREY_CHROMA < chroma <= LOW_CHROMA,
    }
    return [name for name, belongs in found.items() if belongs]


def central_square(pixels: Pixels, *, multiple_px: int = 1) -> Pixels:
    """The largest square in the middle of an image whose side is such a multiple; uint8 (side, side, 3)."""
    side = min(pixels.shape[:2]) // multiple_px * multiple_px
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])


def _score_shown(
    model: torch.nn.Module,
    size_px: int,
    recipes: Sequence[ViewRecipe],
    images: Iterator[CleanImageShown],
    device: torch.device,
) -> CleanScores:
    def score(pixels: Pixels) -> npt.NDArray[np.float32]:
        return predict_scores(model, pixels, np.arange(len(pixels)), batch_size=len(pixels), device=device)

    found: list[list[npt.NDArray[np.float32]]] = [[] for _ in recipes]
    groups, slices = [], []
    for image in images:
        groups.append(image.group)
        slices.append(image.slices)
        for recipe, scores in zip(recipes, found, strict=True):
            seen = views.cut(image.pixels, size_px, recipe).all
            scores.append(views.score_images(score, [seen], recipe)[0])
    arrays = [np.array(scores, np.float32).reshape(-1, 4) for scores in found]
    return CleanScores(True, arrays, groups, slices)
