"""What an epoch trains on: the stored samples, or fresh ones made of the set's clean pictures.

Both hang on (seed, epoch) alone, so that a resumed run sees what an undisturbed one sees.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
import numpy.typing as npt

from quality_model.degradations import PROFILES, SampleRandomness
from quality_model.degradations.severity import REFERENCE_SIDE_PX
from quality_model.errors import TrainingError
from quality_model.params import TrainParams
from quality_model.records import HEADS
from quality_model.training.variation import vary

if TYPE_CHECKING:
    from quality_model.training_set.store import TrainingSet

Indices = npt.NDArray[np.int64]
Batch = tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]
"""Pictures, uint8 (n, S, S, 3), and labels, float32 (n, 4)."""

_ORDER: Final = 1
"""Purpose of the random stream that shuffles an epoch."""


class Samples(Protocol):
    """Training samples, epoch by epoch (1-based)."""

    def batch_sizes(self, epoch: int) -> list[int]: ...
    def batches(self, epoch: int) -> Iterator[Batch]: ...


def open_samples(section: TrainParams, training_set: "TrainingSet", rows: Indices) -> Samples:
    """The samples that ``section.samples`` names, of the rows of the train split.

    Raises:
        TrainingError: Fresh ones were asked for, and no picture is clean or large enough.
    """
    if section.samples == "stored":
        return StoredSamples(section, training_set, rows)
    return FreshSamples(section, training_set, rows)


class StoredSamples:
    """The samples of the training set, each once an epoch, in random order."""

    def __init__(self, section: TrainParams, training_set: "TrainingSet", rows: Indices) -> None:
        self._section = section
        self._set = training_set
        self._rows = rows

    def batch_sizes(self, epoch: int) -> list[int]:
        return _sizes(len(self._rows), self._section.batch_size)

    def batches(self, epoch: int) -> Iterator[Batch]:
        order = np.random.default_rng([self._section.seed, epoch, _ORDER]).permutation(self._rows)
        start = 0
        for size in self.batch_sizes(epoch):
            yield read_rows(self._set, order[start : start + size])
            start += size


class FreshSamples:
    """Clean pictures of the set, varied (`variation.vary`) and degraded anew for every sample.

    The next batch is made while the last one is trained on.
    """

    def __init__(self, section: TrainParams, training_set: "TrainingSet", rows: Indices) -> None:
        manifest = training_set.manifest.iloc[rows]
        kept = manifest["sample_id"].str.endswith("#00") & manifest["is_clean"]
        self._clean = rows[kept.to_numpy(dtype=bool)]
        self._section = section
        self._set = training_set
        self._profile = PROFILES[str(manifest["profile"].iloc[0])]
        if len(self._clean) == 0:
            raise TrainingError(
                "No picture of the train split is clean, so none can be degraded anew.",
                "Use sharper or larger pictures, or train.samples stored.",
            )
        too_large = [side for side in section.crops_px if side > training_set.image_size_px]
        if too_large:
            raise TrainingError(
                f"train.crops_px has {too_large[0]}, but the pictures are {training_set.image_size_px} px.",
                "Crop smaller squares, or generate larger pictures.",
            )

    def batch_sizes(self, epoch: int) -> list[int]:
        return _sizes(self._section.samples_per_epoch, self._section.batch_size)

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
        """Rows of clean pictures: each as often as any other, give or take one."""
        generator = np.random.default_rng([self._section.seed, epoch, _ORDER])
        rounds = -(-self._section.samples_per_epoch // len(self._clean))
        shuffled = [generator.permutation(self._clean) for _ in range(rounds)]
        return np.concatenate(shuffled)[: self._section.samples_per_epoch]

    def _make(self, epoch: int, start: int, rows: Indices) -> Batch:
        side_px = self.side_px(epoch)
        scale = self._set.image_size_px / REFERENCE_SIDE_PX
        images = np.empty((len(rows), side_px, side_px, 3), dtype=np.uint8)
        labels = np.empty((len(rows), len(HEADS)), dtype=np.float32)
        for place, row in enumerate(rows):
            randomness = SampleRandomness(self._section.seed, f"fresh {epoch} {start + place}")
            clean = vary(self._set.images[row], side_px, randomness.stream("variation"))
            sample = self._profile.degrade(clean, randomness, scale=scale)
            images[place], labels[place] = sample.image, sample.labels
        return images, labels


def read_rows(training_set: "TrainingSet", rows: Indices) -> Batch:
    """Some samples of the set, in ascending order: sorted rows read faster."""
    rows = np.sort(rows)
    return training_set.images[rows], np.asarray(training_set.labels[rows])


def _sizes(count: int, batch_size: int) -> list[int]:
    """Sizes of batches; a lone last sample sits out this epoch, for one sample has no batch statistics."""
    whole, rest = divmod(count, batch_size)
    return [batch_size] * whole + ([rest] if rest > 1 else [])
