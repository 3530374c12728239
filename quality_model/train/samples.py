"""What an epoch trains on: the stored samples, or fresh ones made of the set's clean images.

Both hang on (seed, epoch) alone, so that a resumed run sees what an undisturbed one sees.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch

from quality_model.degrade import PROFILES, Profile, SampleRandomness
from quality_model.errors import TrainingError
from quality_model.params import TrainParams
from quality_model.records import HEADS, REFERENCE_SIDE_PX
from quality_model.train.stored import Batch, Indices, StoredRows
from quality_model.train.variation import vary

if TYPE_CHECKING:
    from quality_model.data.training_set.store import TrainingSet

_ORDER: Final = 1
"""Purpose of the random stream that shuffles an epoch."""

Degrade = Callable[[npt.NDArray[np.uint8], Sequence[SampleRandomness], float], Batch]
"""Makes samples of clean images, given each one's randomness and `Profile.degrade`'s ``scale``."""


class Samples(Protocol):
    """Training samples, epoch by epoch (1-based)."""

    def batch_sizes(self, epoch: int) -> list[int]: ...
    def batches(self, epoch: int) -> Iterator[Batch]: ...


def open_samples(
    section: TrainParams, training_set: "TrainingSet", rows: Indices, stored: StoredRows, device: torch.device
) -> Samples:
    """The samples that ``section.samples`` names, of the rows of the train split.

    Fresh ones are degraded image by image on the CPU or, where that is possible, in batches on
    the device.

    Raises:
        TrainingError: Fresh ones were asked for, and no image is clean or large enough.
    """
    if section.samples == "stored":
        return StoredSamples(section, stored, rows)
    profile = PROFILES[str(training_set.manifest["profile"].iloc[rows[0]])]
    degrade = image_by_image(profile)
    return FreshSamples(section, training_set, rows, degrade)


def image_by_image(profile: Profile) -> Degrade:
    """Degrading on the CPU."""

    def degrade(clean: npt.NDArray[np.uint8], randomness: Sequence[SampleRandomness], scale: float) -> Batch:
        images = np.empty_like(clean)
        labels = np.empty((len(clean), len(HEADS)), dtype=np.float32)
        for place, (image, random) in enumerate(zip(clean, randomness, strict=True)):
            sample = profile.degrade(image, random, scale=scale)
            images[place], labels[place] = sample.image, sample.labels
        return images, labels

    return degrade


def shuffled(rows: Indices, seed: int, epoch: int) -> Indices:
    """Stored rows in the order in which a 1-based epoch has them."""
    return np.random.default_rng([seed, epoch, _ORDER]).permutation(rows)


class StoredSamples:
    """The samples of the training dataset, each once an epoch, in random order."""

    def __init__(self, section: TrainParams, stored: StoredRows, rows: Indices) -> None:
        self._section = section
        self._stored = stored
        self._rows = rows

    def batch_sizes(self, epoch: int) -> list[int]:
        return sizes_of_batches(len(self._rows), self._section.batch_size)

    def batches(self, epoch: int) -> Iterator[Batch]:
        order = shuffled(self._rows, self._section.seed, epoch)
        start = 0
        for size in self.batch_sizes(epoch):
            yield self._stored.read(order[start : start + size])
            start += size


class FreshSamples:
    """Clean images of the set, varied (`variation.vary`) and degraded anew for every sample.

    The next batch is made while the last one is trained on.
    """

    def __init__(
        self, section: TrainParams, training_set: "TrainingSet", rows: Indices, degrade: Degrade
    ) -> None:
        manifest = training_set.manifest.iloc[rows]
        kept = manifest["sample_id"].str.endswith("#00") & manifest["is_clean"]
        self._clean = rows[kept.to_numpy(dtype=bool)]
        self._section = section
        self._set = training_set
        self._degrade = degrade
        if len(self._clean) == 0:
            raise TrainingError(
                "No image of the train split is clean, so none can be degraded anew.",
                "Use sharper or larger images, or train.samples stored.",
            )
        too_large = [side for side in section.crops_px if side > training_set.image_size_px]
        if too_large:
            raise TrainingError(
                f"train.crops_px has {too_large[0]}, but the images are {training_set.image_size_px} px.",
                "Crop smaller squares, or generate larger images.",
            )

    def batch_sizes(self, epoch: int) -> list[int]:
        return sizes_of_batches(self._section.samples_per_epoch, self._section.batch_size)

    def batches(self, epoch: int) -> Iterator[Batch]:
        order = self._order(epoch)
        starts = np.cumsum([0, *self.batch_sizes(epoch)])
        with ThreadPoolExecutor(1) as maker:
            waiting = None
            for start, end in pairwise(starts):
                following = maker.submit(self._make, epoch, int(start), order[start:end])
                if waiting is not None:
                    yield waiting.result()
                waiting = following
            if waiting is not None:
                yield waiting.result()

    def side_px(self, epoch: int) -> int:
        """Side of the squares of an epoch."""
        sides = self._section.crops_px or (self._set.image_size_px,)
        return sides[min(len(sides) - 1, (epoch - 1) * len(sides) // self._section.epochs)]

    def _order(self, epoch: int) -> Indices:
        """Rows of clean images: each as often as any other, give or take one."""
        generator = np.random.default_rng([self._section.seed, epoch, _ORDER])
        rounds = -(-self._section.samples_per_epoch // len(self._clean))
        shuffled = [generator.permutation(self._clean) for _ in range(rounds)]
        return np.concatenate(shuffled)[: self._section.samples_per_epoch]

    def _make(self, epoch: int, start: int, rows: Indices) -> Batch:
        side_px = self.side_px(epoch)
        scale = self._set.image_size_px / REFERENCE_SIDE_PX
        seed = self._section.seed
        randomness = [SampleRandomness(seed, f"fresh {epoch} {start + place}") for place in range(len(rows))]
        clean = np.empty((len(rows), side_px, side_px, 3), dtype=np.uint8)
        for place, row in enumerate(rows):
            clean[place] = vary(self._set.images[row], side_px, randomness[place].stream("variation"))
        return self._degrade(clean, randomness, scale)


def sizes_of_batches(count: int, batch_size: int) -> list[int]:
    """Sizes of batches; a lone last sample sits out this epoch, for one sample has no batch statistics."""
    whole, rest = divmod(count, batch_size)
    return [batch_size] * whole + ([rest] if rest > 1 else [])
