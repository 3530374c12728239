"""Images scored as collections are, with all their views: what flags and intervals rest on.

A clean image counts twice: as it is, and as a square of it with a variation that is no degradation (frames,
text of the scene, black and white, graphic patterns), because those are what a threshold must not flag. It is
also degraded and labelled, as the profile draws samples: how far scores are from labels gives intervals.
Training sets thresholds and intervals by the images of the validation split; evaluation counts flags, and
what intervals cover, on those of the test split.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from quality_model.core import decoding, storage, views
from quality_model.core.decoding import Pixels
from quality_model.core.processes import Executor, Failure, InThisProcess
from quality_model.core.ray_nodes import lost_error
from quality_model.core.views import MULTIPLE_PX, ViewRecipe
from quality_model.data.dataset import TrainingSet
from quality_model.data.images_table import ImagesTable
from quality_model.degrade import PROFILES, DegradedSample, Profile, SampleRandomness
from quality_model.degrade.calibrated.point_spread import source_softness
from quality_model.degrade.severity import to_lab
from quality_model.networks.model import LoadedModel, predict_scores
from quality_model.params import LimitsParams
from quality_model.records import HEADS, REFERENCE_SIDE_PX, CleanImage, Split

log = logging.getLogger(__name__)

Scores = npt.NDArray[np.float32]

FEWEST_DEGRADED: Final = 100
MOST_PER_IMAGE: Final = 5
"""So many degraded images are made at least, if it takes no more than five of one clean image."""

FEWEST_BESIDE_CHAMPION: Final = 1000
"""The same where a champion scores them too: a share of images is compared, not an error of each."""

NIGHT_LIGHTNESS: Final = 20.0
HIGH_KEY_LIGHTNESS: Final = 75.0
"""Mean L* (0 to 100) below which an image counts as night, and above which as high-key."""

GREY_CHROMA: Final = 2.0
LOW_CHROMA: Final = 8.0
"""Mean chroma in CIELAB's a*b* plane of a black and white image, at most, and of one of low saturation."""


@dataclass(frozen=True, slots=True)
class CleanScores:
    """Scores of n clean images.

    Attributes:
        scores: Of each recipe float32 (n, 4), in the order of `records.HEADS`.
        groups: (n,) names.
        slices: Of each image those that it belongs to: ``as it is`` and, by its pixels, ``night``,
            ``high-key``, ``black and white`` or ``low saturation``; or ``look-alike`` and
            ``look-alike: KIND``. Of samples none.
    """

    scores: Sequence[Scores]
    groups: Sequence[str]
    slices: Sequence[Collection[str]] = field(default=())

    def slice_masks(self) -> Mapping[str, npt.NDArray[np.bool_]]:
        """The images of each slice, bool (n,), by name."""
        names = sorted({name for found in self.slices for name in found})
        return {name: np.array([name in found for found in self.slices], dtype=bool) for name in names}


@dataclass(frozen=True, slots=True)
class DegradedScores:
    """Scores and labels, float32 (n, 4) in the order of `records.HEADS`, of n images, and their groups."""

    scores: Scores
    labels: Scores
    groups: Sequence[str]


class ScoredImages(NamedTuple):
    """What was scored; ``of_images``: whole images with all views, else samples of the dataset.

    ``champion`` are another model's scores of the clean images, then of the degraded ones; or None.
    """

    clean: CleanScores
    degraded: DegradedScores
    of_images: bool
    champion: Scores | None = None


def score_whole_images(
    model: torch.nn.Module,
    training_set: TrainingSet,
    split: Split,
    recipes: Sequence[ViewRecipe],
    *,
    images: Path | None,
    limits: LimitsParams,
    seed: int,
    device: torch.device,
    excluded_groups: Collection[str] = (),
    champion: LoadedModel | None = None,
    executor: Executor | None = None,
) -> ScoredImages | None:
    """Score the images of a split: clean ones and look-alikes by each of some recipes, degraded ones by the
    first.

    Args:
        model: Is moved to ``device``.
        training_set: Names the images.
        split: Of the images.
        recipes: Views to score by.
        images: Folder of the images table that the dataset was generated from.
        limits: What an image may be.
        seed: Of the look-alikes and degradations.
        device: To score on.
        excluded_groups: Groups that do not count; they do if no others are left.
        champion: Scores the same images, as it does.
        executor: Where to score; by default in this process.

    Returns:
        None where the images table is missing, or is not the one that the dataset was generated from.
    """
    manifest = training_set.manifest.iloc[training_set.counted(split, excluded_groups)]
    wanted = None if images is None else _clean_ids(manifest, images)
    if images is None or wanted is None:
        log.warning("%s is not the images table of the dataset: its samples are measured.", images)
        return None
    profile = str(manifest["profile"].iloc[0])
    fewest = FEWEST_BESIDE_CHAMPION if champion else FEWEST_DEGRADED
    degraded_each = int(np.clip(np.ceil(fewest / max(1, len(wanted))), 1, MOST_PER_IMAGE))
    work = _Work(
        *(
            images.absolute(),
            wanted,
            limits,
            recipes,
            profile,
            training_set.image_size_px,
            seed,
            degraded_each,
        ),
        *(model, champion, device),
    )
    with ImagesTable(images) as table:
        groups = range(len(table.row_group_sizes))
    clean, degraded = _Scored(), _Scored()
    with closing((executor or InThisProcess()).run(work, groups)) as results:
        for found in results:
            if isinstance(found, Failure):
                raise lost_error()
            clean.extend(found[0])
            degraded.extend(found[1])
    return ScoredImages(
        CleanScores(
            [_rows([scores[place] for scores in clean.scores]) for place in range(len(recipes))],
            clean.groups,
            clean.slices,
        ),
        DegradedScores(
            _rows([scores[0] for scores in degraded.scores]), _rows(degraded.labels), degraded.groups
        ),
        of_images=True,
        champion=_rows([*clean.theirs, *degraded.theirs]) if champion else None,
    )


@dataclass(slots=True)
class _Scored:
    """What was scored of some images: by each recipe, and by the champion; the rest as of `ScoredImages`."""

    groups: list[str] = field(default_factory=list)
    scores: list[list[Scores]] = field(default_factory=list)
    theirs: list[Scores] = field(default_factory=list)
    slices: list[tuple[str, ...]] = field(default_factory=list)
    labels: list[npt.ArrayLike] = field(default_factory=list)

    def extend(self, other: "_Scored") -> None:
        for name in self.__slots__:
            getattr(self, name).extend(getattr(other, name))


@dataclass(frozen=True, slots=True)
class _Work:
    """Scores the images of a row group of the images table; arguments as of `score_whole_images`."""

    images: Path
    wanted: Collection[str]
    limits: LimitsParams
    recipes: Sequence[ViewRecipe]
    profile: str
    size_px: int
    seed: int
    degraded_each: int
    model: torch.nn.Module
    champion: LoadedModel | None
    device: torch.device

    def __call__(self, row_group: int) -> tuple[_Scored, _Scored]:
        """The clean ones, with look-alikes, and the degraded ones."""
        profile = PROFILES[self.profile]
        score = image_scorer(self.model.to(self.device), self.size_px, self.device)
        theirs = champion_scorer(self.champion, self.device)
        clean, degraded = _Scored(), _Scored()
        for image, pixels in self._read(row_group):
            randomness = SampleRandomness(self.seed, f"clean {image.image_id}")
            for shown, belongs in _clean_ones(pixels, profile, randomness):
                clean.groups.append(image.group)
                clean.slices.append(belongs)
                clean.scores.append([score(shown, recipe) for recipe in self.recipes])
                clean.theirs += theirs(shown)
            for number in range(self.degraded_each):
                randomness = SampleRandomness(self.seed, f"degraded {image.image_id} {number}")
                sample = degrade_image(pixels, profile, randomness, self.size_px, self.recipes[0])
                degraded.groups.append(image.group)
                degraded.labels.append(sample.labels)
                degraded.scores.append([score(sample.image, self.recipes[0])])
                degraded.theirs += theirs(sample.image)
        return clean, degraded

    def _read(self, row_group: int) -> Iterator[tuple[CleanImage, Pixels]]:
        with ImagesTable(self.images) as table:
            for image in table.row_group(row_group):
                if image.image_id in self.wanted:
                    yield (
                        image,
                        decoding.decode(image.data, self.limits, shortest_px=self.recipes[0].decoded_px),
                    )


def champion_scorer(champion: LoadedModel | None, device: torch.device) -> Callable[[Pixels], list[Scores]]:
    """What scores an image by another model's own recipe, if there is one."""
    if champion is None:
        return lambda pixels: []
    score, recipe = image_scorer(champion.model.to(device), champion.image_size_px, device), champion.views
    return lambda pixels: [score(pixels, recipe)]


def image_scorer(
    model: torch.nn.Module, size_px: int, device: torch.device
) -> Callable[[Pixels, ViewRecipe], Scores]:
    """What scores an image, uint8 (height, width, 3), by a recipe: float32 (4,), in the order of `HEADS`.

    Args:
        model: On ``device``.
        size_px: Its image size.
        device: To score on.
    """
    score_views = partial(predict_scores, model, device=device)

    def score(pixels: Pixels, recipe: ViewRecipe) -> Scores:
        seen = views.cut(pixels, size_px, recipe).all
        return np.asarray(views.score_images(score_views, [seen], recipe)[0])

    return score


def scored_samples(predictions: pd.DataFrame) -> ScoredImages:
    """The same of a dataset's samples (`TrainingSet.scored`), each one squeezed view.

    Of them the untouched ones are clean, and all of them are as the profile draws them.
    """
    scores, labels = (
        predictions[[f"{head}_{of}" for head in HEADS]].to_numpy(np.float32) for of in ("score", "label")
    )
    groups, clean = predictions["group"].to_numpy(), predictions["is_clean"].to_numpy(bool)
    return ScoredImages(
        CleanScores([scores[clean]], [*groups[clean]]),
        DegradedScores(scores, labels, [*groups]),
        of_images=False,
    )


def has_images(images: Path | None) -> bool:
    """Whether a folder holds a complete images table."""
    return images is not None and (images / storage.MARKER_NAME).exists()


def _clean_ids(manifest: pd.DataFrame, images: Path) -> set[str] | None:
    """The images that are clean as they are; None unless the table has all of them."""
    if not has_images(images):
        return None
    wanted = {*manifest["image_id"][manifest["is_clean"]]}
    with ImagesTable(images) as table:
        return wanted if wanted <= {*table.frame(["image_id"])["image_id"]} else None


def _clean_ones(
    pixels: Pixels, profile: Profile, randomness: SampleRandomness
) -> Iterator[tuple[Pixels, tuple[str, ...]]]:
    """An image, and a look-alike of it if the profile makes any, with the slices that they belong to."""
    yield pixels, ("as it is", *pixel_slices(pixels))
    varied = profile.look_alike(central_square(pixels), randomness)
    if varied is not None:
        yield varied.pixels, ("look-alike", f"look-alike: {varied.kind.replace('_', ' ')}")


def degrade_image(
    pixels: Pixels, profile: Profile, randomness: SampleRandomness, size_px: int, recipe: ViewRecipe
) -> DegradedSample:
    """A degraded square of an image, labelled at the resolution of its tiles; squeezed to one view if all
    that the recipe scores is that.

    Args:
        pixels: uint8 (height, width, 3).
        profile: Draws the degradations.
        randomness: For it.
        size_px: The model's image size.
        recipe: How the square will be scored.
    """
    enlarged_by = 1.0
    if recipe.squeezed:
        enlarged_by, square = size_px / min(pixels.shape[:2]), views.squeezed(pixels, size_px)
    else:  # at most two tiles wide, which takes a tenth of the time that 12 megapixels take
        square = central_square(views.at_size_of_use(pixels, 2 * size_px), multiple_px=MULTIPLE_PX)
    scale = size_px / REFERENCE_SIDE_PX
    softness_px = (
        source_softness(square, enlarged_by=enlarged_by) / scale if profile.measures_softness else 0.0
    )
    return profile.degrade(square, randomness, softness_px=softness_px, scale=scale)


def _rows(found: Sequence[npt.ArrayLike]) -> Scores:
    return np.array(found, np.float32).reshape(-1, len(HEADS))


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
