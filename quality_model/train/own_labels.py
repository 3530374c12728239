"""Training on images that a person called good or bad: the split, and the loss of a pair.

A label says which images are worse, not how severe their defect is. So the loss asks for the order alone:
of a good and a bad image, the bad one is to score higher. The samples of the same step keep the scale of the
scores. A third of the labels takes no part in training: the order of these, before and after, is what the
gate looks at (`OwnLabelFacts`).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from quality_model.core import folders, views
from quality_model.core.decoding import Pixels, decode_image, read_bytes
from quality_model.core.measures import MeasuredImage, near, of_hash
from quality_model.core.provenance import OwnLabelFacts
from quality_model.core.views import ViewRecipe
from quality_model.curate.labels import Floats, Labels, area_under_curve, auc_interval, read_labels
from quality_model.errors import ImageError, UsageError
from quality_model.networks.model import (
    LoadedModel,
    MultiHeadQualityAssessmentModel,
    predict_scores,
    to_model_input,
)
from quality_model.params import LimitsParams, values_sha256
from quality_model.records import HEADS, Head
from quality_model.score.sketches import order_of

WEIGHT: Final = 0.05
"""Of the loss of a pair, beside that of the samples."""

TEMPERATURE: Final = 0.1
"""The difference of scores that counts as clear: the loss of a pair falls off beyond it."""

HELD_OUT_SHARE: Final = 1 / 3
FEWEST_HELD_OUT: Final = 5
FEWEST: Final = 2 * FEWEST_HELD_OUT
"""Good or bad images of a head below which there is no fine-tuning on them."""

_TILES: Final = 2
"""Most tiles of an image in a step; scoring takes them all."""

_PAIRS = 4
"""Purpose of a random stream, besides those of `epochs` and `samples`."""

Split = tuple[list[str], list[str]]
"""Keys of good and of bad images."""


@dataclass(frozen=True, slots=True)
class OwnLabels:
    """Labelled images, split.

    Attributes:
        views: The views of each image (`views.Views.all`), by key.
        train, held_out: By head.
        size_px, recipe: By which the views were cut.
        sha256: Of labels and images.
    """

    views: Mapping[str, Sequence[Pixels]]
    train: Mapping[Head, Split]
    held_out: Mapping[Head, Split]
    size_px: int
    recipe: ViewRecipe
    sha256: str

    def pair(self, seed: int, epoch: int, step: int) -> tuple[Head, list[list[Pixels]]]:
        """A head, and some views of a good and of a bad image for one step: the heads take turns."""
        generator = np.random.default_rng([seed, epoch, _PAIRS, step])
        head = [*self.train][step % len(self.train)]
        chosen = []
        for keys in self.train[head]:
            whole, *tiles = self.views[keys[generator.integers(len(keys))]]
            kept = generator.permutation(len(tiles))[:_TILES]
            chosen.append([whole, *(tiles[place] for place in kept)])
        return head, chosen

    def loss(
        self,
        model: MultiHeadQualityAssessmentModel,
        device: torch.device,
        seed: int,
        epoch: int,
        step: int,
    ) -> Tensor:
        """The loss of one pair, float32 (): `TEMPERATURE` log(1 + exp((good - bad) / `TEMPERATURE`)).

        Source: Burges et al., Learning to rank using gradient descent (RankNet), ICML 2005. The network is
        run as for scoring, without dropout and batch statistics, and is then again in training mode.
        """
        head, images = self.pair(seed, epoch, step)
        model.eval()
        good, bad = (_score(model, shown, head, self.recipe, device) for shown in images)
        model.train()
        return WEIGHT * TEMPERATURE * functional.softplus((good - bad) / TEMPERATURE)

    def compare(
        self, before: LoadedModel, after: MultiHeadQualityAssessmentModel, device: torch.device
    ) -> dict[Head, OwnLabelFacts]:
        """How well both models order the held-out images, scored with all views."""
        keys = sorted({key for split in self.held_out.values() for side in split for key in side})
        scores: list[dict[str, Floats]] = []
        for model in (before.model.to(device), after):
            found = views.score_images(
                partial(predict_scores, model, batch_size=16, device=device),
                [self.views[key] for key in keys],
                self.recipe,
            )
            scores.append(dict(zip(keys, found.astype(np.float64), strict=True)))
        facts = {}
        for head, split in self.held_out.items():
            at = HEADS.index(head)
            sides = [[np.array([of[key][at] for key in side]) for side in split] for of in scores]
            areas = [area_under_curve(good, bad) for good, bad in sides]
            ends = auc_interval(areas[1], *map(len, split))
            facts[head] = OwnLabelFacts(
                num_train=sum(map(len, self.train[head])),
                num_good=len(split[0]),
                num_bad=len(split[1]),
                before=areas[0],
                after=areas[1],
                low=ends.low,
                high=ends.high,
            )
        return facts


def open_own_labels(
    labels: Path, folder: Path, limits: LimitsParams, *, size_px: int, recipe: ViewRecipe
) -> OwnLabels:
    """Read the labelled images of a folder, and split them.

    Of every head a third of the good and of the bad images is held out, at least `FEWEST_HELD_OUT` of each:
    the first by the hash of their keys. Near duplicates are on one side.

    Args:
        labels: A file as of `curate.labels.read_labels`; its keys are paths in ``folder``.
        folder: Of the images.
        limits: What an image may be.
        size_px, recipe: Of the model: how it views an image.

    Raises:
        UsageError: The labels cannot be read; an image is missing or unreadable; there are too few.
    """
    given = read_labels(labels)
    for head, of_head in given.items():
        bad = sum(of_head.values())
        _require_enough(head, len(of_head) - bad, bad)
    cut, hashes, files = {}, {}, {}
    digest = hashlib.sha256()
    for key in sorted({key for of_head in given.values() for key in of_head}):
        try:
            data = read_bytes(folders.inside(folder, key), limits)
            decoded = decode_image(data, limits)
        except ImageError as error:
            raise UsageError(
                f"The labelled image {key} in {folder} cannot be read: {error}.",
                "Name the folder that was scored, or remove its lines from the labels.",
            ) from None
        files[key] = hashlib.sha256(data).digest()
        digest.update(files[key])
        cut[key] = views.cut(decoded.pixels, size_px, recipe).all
        hashes[key] = int(of_hash(MeasuredImage.of(decoded, len(data)))["phash"] or 0)
    train, held_out = split_labels(given, hashes, files)
    facts = {head: sorted(of_head.items()) for head, of_head in given.items()}
    return OwnLabels(cut, train, held_out, size_px, recipe, values_sha256([facts, digest.hexdigest()]))


def split_labels(
    labels: Labels, hashes: Mapping[str, int], files: Mapping[str, bytes] | None = None
) -> tuple[dict[Head, Split], dict[Head, Split]]:
    """The labels to train on, and those held out (`open_own_labels`).

    Args:
        labels: At least `FEWEST` good and bad ones of each head.
        hashes: The perceptual hash of each image.
        files: The SHA-256 of each image.

    Raises:
        UsageError: So many are near duplicates that too few are left on a side.
    """
    groups = sorted(near_duplicates(hashes, files), key=lambda keys: order_of(keys[0]))
    held: set[str] = set()
    for of_head in labels.values():
        for is_bad in (False, True):
            side = {key for key, label in of_head.items() if label == is_bad}
            wanted = max(FEWEST_HELD_OUT, round(HELD_OUT_SHARE * len(side)))
            for group in groups:
                if len(side & held) >= wanted:
                    break
                if side & set(group):
                    held |= set(group)
    split: tuple[dict[Head, Split], dict[Head, Split]] = ({}, {})
    for head, of_head in labels.items():
        for is_held, sides in zip((False, True), split, strict=True):
            keys = [key for key in sorted(of_head) if (key in held) == is_held]
            sides[head] = ([k for k in keys if not of_head[k]], [k for k in keys if of_head[k]])
            if min(map(len, sides[head])) < FEWEST_HELD_OUT:
                raise UsageError(
                    f"{head}: near duplicates leave too few labels to train on and to hold out.",
                    "Label more images that are unlike each other.",
                )
    return split


def near_duplicates(hashes: Mapping[str, int], files: Mapping[str, bytes] | None = None) -> list[list[str]]:
    """Keys in groups: in a chain of images, each is a near duplicate of the next, or the same file.

    Sorted, as are the keys.
    """
    keys = sorted(hashes)
    bits = np.array([hashes[key] for key in keys], dtype=np.int64).view(np.uint64)
    same = np.array([(files or {}).get(key, key.encode()) for key in keys], dtype=object)
    group = np.arange(len(keys))
    for place in range(len(keys)):
        joined = near(bits, bits[place]) | (same == same[place])
        group[np.isin(group, group[joined])] = group[joined].min()
    return [[keys[place] for place in np.flatnonzero(group == one)] for one in np.unique(group)]


def _require_enough(head: Head, num_good: int, num_bad: int) -> None:
    if min(num_good, num_bad) < FEWEST:
        raise UsageError(
            f"{head}: {num_good} good and {num_bad} bad images are too few to train on and to hold some out.",
            f"Label at least {FEWEST} of each; remove the lines of heads that have fewer.",
        )


def _score(
    model: MultiHeadQualityAssessmentModel,
    shown: Sequence[Pixels],
    head: Head,
    recipe: ViewRecipe,
    device: torch.device,
) -> Tensor:
    """The image's score by one head, float32 (), from some of its views, as `views.aggregate` has it."""
    at, rule = HEADS.index(head), recipe.heads[head]
    seen: list[Tensor] = [
        model(to_model_input(view[None], device))["all_scores"].float()[0, at] for view in shown
    ]
    whole = seen[0]
    if len(seen) == 1:
        return whole
    tiles = torch.quantile(torch.stack(seen[1:]), rule.tiles)
    return torch.maximum(whole, tiles) if rule.highest else rule.whole * whole + (1.0 - rule.whole) * tiles
