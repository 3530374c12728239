"""The samples that a run is trained on: stored ones, varied, or fresh ones degraded anew.

Both depend on (seed, epoch) alone, so that a resumed run trains on what an undisturbed one trains on,
whatever the number of processes that make them.
"""

import logging
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from quality_model.core import decoding, views
from quality_model.core.decoding import Pixels
from quality_model.core.processes import Executor, Failure, InThisProcess, WorkerProcesses
from quality_model.core.system import num_cores
from quality_model.core.views import MULTIPLE_PX
from quality_model.data.dataset import TrainingSet
from quality_model.data.images_table import ImagesTable
from quality_model.degrade import PROFILES, SampleRandomness
from quality_model.errors import TrainingError
from quality_model.params import LimitsParams, TrainParams
from quality_model.records import HEADS, REFERENCE_SIDE_PX
from quality_model.train.variation import Crops, Indices, WatermarkBoxes, vary

log = logging.getLogger(__name__)

Labels = npt.NDArray[np.float32]
Batch = tuple[npt.NDArray[np.uint8] | Tensor, Labels, npt.NDArray[np.float32] | None]
"""Images, uint8 (n, S, S, 3), in memory or on the device; labels, float32 (n, 4); and where it is known the
watermark's severity in each cell, float32 (n, S / 16, S / 16)."""

_ORDER, _VARIATION = 1, 3
"""Purposes of random streams, besides those of `epochs`."""

_COPIED_AT_ONCE: Final = 1024
"""Samples that are copied to the device in one go."""

_BATCHES_PER_WORKER: Final = 3
"""Batches made ahead of the trainer: some 7 MB each of 16 samples of 224 px and their copies in a pipe."""

_BATCH_WITHIN_S: Final = 300.0

_BATCHES_REUSED: Final = 16
"""Fresh batches whose samples are mixed when they are used again."""

_IMAGES_KEPT: Final = 1024
"""Decoded images that each process keeps: some 0.6 MB each of 384 x 512 px."""


def open_batches(
    section: TrainParams,
    training_set: TrainingSet,
    rows: Indices,
    stored: "StoredPixels",
    executor: Executor,
    first_epoch: int,
    *,
    images: Path | None,
    limits: LimitsParams | None,
) -> tuple[list[int], Generator[Batch, None, None]]:
    """The batches of an epoch and of all later ones of a run.

    Args:
        section: Names the samples (``samples``), and their number.
        training_set: The samples; of fresh ones only which images are clean, and in which split.
        rows: int64 (n,), those of the train split.
        stored: Reads stored samples.
        executor: Makes fresh ones.
        first_epoch: 1-based.
        images: Folder of the images table, of which fresh ones are made.
        limits: What an image may be.

    Returns:
        The sizes of an epoch's batches, and a generator of batches; close it to stop early. It raises
        TrainingError if the dataset lacks the samples, or a batch cannot be made.
    """
    if section.samples == "stored":
        sizes = sizes_of_batches(len(rows), section.batch_size)
        return sizes, _stored_batches(section, training_set, rows, stored, sizes, first_epoch)
    if images is None or limits is None:
        raise TrainingError(
            "Fresh samples are made of the images table, which is missing.",
            "Name its folder, or train with train.samples stored.",
        )
    sizes = sizes_of_batches(section.samples_per_epoch, section.batch_size)
    groups = [sizes[start : start + _BATCHES_REUSED] for start in range(0, len(sizes), _BATCHES_REUSED)]
    used = [size for group in groups for _ in range(section.uses_per_sample) for size in group]
    return used, _fresh_batches(section, training_set, rows, images, limits, executor, first_epoch)


def choose_executor(device: torch.device) -> Executor:
    """Where fresh samples are made: in a process per core but the one that trains, or feeds the accelerator.

    A CPU that trains is busy itself: there, half of the cores make samples.
    """
    workers = num_cores() // 2 if device.type == "cpu" else num_cores() - 1
    if workers == 0:
        return InThisProcess()
    return WorkerProcesses(workers, _BATCHES_PER_WORKER * workers, _BATCH_WITHIN_S)


def side_of_crops(section: TrainParams, epoch: int, whole_px: int) -> int:
    """Side of the squares of an epoch: each of ``crops_px`` for an equal part of the run."""
    sides = section.crops_px or (whole_px,)
    return min(whole_px, sides[min(len(sides) - 1, (epoch - 1) * len(sides) // section.epochs)])


def sizes_of_batches(count: int, batch_size: int) -> list[int]:
    """Sizes of batches. A single last sample is left out of the epoch: it has no batch statistics."""
    whole, rest = divmod(count, batch_size)
    return [batch_size] * whole + ([rest] if rest > 1 else [])


def shuffled(rows: Indices, seed: int, epoch: int) -> Indices:
    """Stored rows in the order of a 1-based epoch."""
    return np.random.default_rng([seed, epoch, _ORDER]).permutation(rows)


class StoredPixels:
    """Reads samples by row; keeps their pixels on the device if ``budget_bytes`` has room for all.

    Pixels stay uint8 there, a quarter of the size of float32: 150 kB for a sample of 224 px.

    Args:
        training_set: The samples.
        rows: Every row that will be read.
        device: Where to keep pixels.
        budget_bytes: Most memory that they may take there; 0 leaves them on disk.
    """

    def __init__(
        self, training_set: TrainingSet, rows: Indices, device: torch.device, budget_bytes: int
    ) -> None:
        self._set = training_set
        self._rows = np.sort(rows)
        self._kept: Tensor | None = None
        num_bytes = len(rows) * training_set.image_size_px**2 * 3
        if num_bytes <= budget_bytes:
            shape = (len(rows), *training_set.images.shape[1:])
            self._kept = torch.empty(shape, dtype=torch.uint8, device=device)
            for start in range(0, len(rows), _COPIED_AT_ONCE):
                part = training_set.images[self._rows[start : start + _COPIED_AT_ONCE]]
                self._kept[start : start + len(part)] = torch.from_numpy(part).to(device)
            log.info("Keeping %d samples (%d MB) on %s", len(rows), num_bytes // 10**6, device.type)

    def read(self, rows: Indices, crops: Crops | None = None) -> Batch:
        """Samples, or a square of each, with the labels of the whole samples."""
        labels = np.array(self._set.labels[rows])
        crops = crops or Crops.whole(len(rows), self._set.image_size_px)
        if self._kept is not None:
            return _cut(self._kept, np.searchsorted(self._rows, rows), crops), labels, None
        images = np.empty((len(rows), crops.side_px, crops.side_px, 3), dtype=np.uint8)
        squares = zip(rows, crops.tops, crops.lefts, crops.mirrored, strict=True)
        for place, (row, top, left, mirrored) in enumerate(squares):
            square = self._set.images[row, top : top + crops.side_px, left : left + crops.side_px]
            images[place] = square[:, ::-1] if mirrored else square
        return images, labels, None


def _cut(kept: Tensor, places: Indices, crops: Crops) -> Tensor:
    """The squares of some of the samples (N, S, S, 3) on the device, uint8 (n, side, side, 3)."""
    along = np.arange(crops.side_px)
    y = crops.tops[:, None] + along
    x = crops.lefts[:, None] + np.where(crops.mirrored[:, None], along[::-1], along)
    indices = (places[:, None, None], y[:, :, None], x[:, None, :])
    return kept[tuple(torch.from_numpy(index).to(kept.device) for index in indices)]


def _stored_batches(
    section: TrainParams,
    training_set: TrainingSet,
    rows: Indices,
    stored: StoredPixels,
    sizes: list[int],
    first_epoch: int,
) -> Generator[Batch, None, None]:
    """The samples of the training dataset, each once an epoch in random order, mirrored and cropped.

    See `variation` for what that does to labels. Samples without a record of where their watermarks are
    stay whole.
    """
    if training_set.train_samples == "fresh":
        raise TrainingError(
            "The training dataset was generated for train.samples fresh: it lacks most samples.",
            "Generate it again with train.samples stored, or train with fresh samples.",
        )
    side_px = whole_px = training_set.image_size_px
    boxes = WatermarkBoxes.of(training_set, rows) if section.crops_px else None
    if section.crops_px and boxes is None:
        log.info("The samples stay whole: their manifest does not say where the watermarks are")
    for epoch in range(first_epoch, section.epochs + 1):
        order = shuffled(rows, section.seed, epoch)
        generator = np.random.default_rng([section.seed, epoch, _VARIATION])
        if boxes is not None:
            side_px = side_of_crops(section, epoch, whole_px)
        for start, end in pairwise(np.cumsum([0, *sizes])):
            chosen = np.sort(order[start:end])  # sorted rows read faster
            crops = Crops.draw(len(chosen), whole_px, side_px, generator)
            images, labels, _ = stored.read(chosen, crops)
            if boxes is not None:
                labels[:, HEADS.index("watermark")] = boxes.labels(chosen, crops)
            yield images, labels, None


class FreshBatch(NamedTuple):
    """A batch of fresh samples to make: ids of clean images, and the number of the first sample."""

    epoch: int
    first: int
    image_ids: tuple[str, ...]
    side_px: int


@dataclass(frozen=True, slots=True)
class FreshRecipe:
    """What fresh samples are made of: the images table, and how large an image may be."""

    images: Path
    limits: LimitsParams
    profile: str
    seed: int
    size_px: int


def _fresh_batches(
    section: TrainParams,
    training_set: TrainingSet,
    rows: Indices,
    images: Path,
    limits: LimitsParams,
    executor: Executor,
    first_epoch: int,
) -> Generator[Batch, None, None]:
    """Views of the clean images, varied (`variation.vary`) and degraded anew for every sample.

    Each image comes as often as any other in an epoch, give or take one. Batches are made by the executor
    ahead of the trainer, across the end of an epoch too. A sample is used ``uses_per_sample`` times: making
    one takes longer than training on it.
    """
    manifest = training_set.manifest.iloc[rows]
    clean = manifest["image_id"][manifest["is_clean"]].to_numpy(dtype=object)
    if len(clean) == 0:
        raise TrainingError(
            "No image of the train split is clean, so none can be degraded anew.",
            "Use sharper or larger images, or train.samples stored.",
        )
    sizes = sizes_of_batches(section.samples_per_epoch, section.batch_size)

    def batches() -> Iterator[FreshBatch]:
        for epoch in range(first_epoch, section.epochs + 1):
            generator = np.random.default_rng([section.seed, epoch, _ORDER])
            rounds = -(-section.samples_per_epoch // len(clean))
            order = np.concatenate([generator.permutation(clean) for _ in range(rounds)])
            side_px = side_of_crops(section, epoch, training_set.image_size_px)
            for start, end in pairwise(np.cumsum([0, *sizes])):
                yield FreshBatch(epoch, int(start), tuple(order[start:end]), side_px)

    recipe = FreshRecipe(
        images.absolute(),
        limits,
        str(manifest["profile"].iloc[0]),
        section.seed,
        training_set.image_size_px,
    )
    with closing(executor.run(partial(_make_batch, recipe), batches())) as results:
        for epoch in range(first_epoch, section.epochs + 1):
            generator = np.random.default_rng([section.seed, epoch, _VARIATION])
            for start in range(0, len(sizes), _BATCHES_REUSED):
                group = []
                for made in islice(results, len(sizes[start : start + _BATCHES_REUSED])):
                    if isinstance(made, Failure):
                        raise TrainingError(
                            "Two processes ended while they made a batch of fresh samples.",
                            "Is there enough memory? Use train.samples stored, or smaller batches.",
                        )
                    group.append(made)
                    yield made
                for _ in range(section.uses_per_sample - 1):
                    yield from _again(group, generator)


def _again(group: Sequence[Batch], generator: np.random.Generator) -> Iterator[Batch]:
    """The samples of some batches once more, in other batches of the same sizes, half of them mirrored."""
    images, labels, maps = (np.concatenate(parts) for parts in zip(*group, strict=True))
    order = generator.permutation(len(labels))
    mirrored = generator.integers(0, 2, len(labels)).astype(bool)
    for start, end in pairwise(np.cumsum([0, *(len(batch[1]) for batch in group)])):
        chosen = order[start:end]
        some, cells = images[chosen], maps[chosen]
        turned = mirrored[chosen]
        some[turned], cells[turned] = some[turned, :, ::-1], cells[turned, :, ::-1]
        yield some, labels[chosen], cells


def _make_batch(recipe: FreshRecipe, batch: FreshBatch) -> Batch:
    """Make a batch of fresh samples, in this process or in another one."""
    profile = PROFILES[recipe.profile]
    scale, side, cells = recipe.size_px / REFERENCE_SIDE_PX, batch.side_px, batch.side_px // MULTIPLE_PX
    images = np.empty((len(batch.image_ids), side, side, 3), dtype=np.uint8)
    labels = np.empty((len(batch.image_ids), len(HEADS)), dtype=np.float32)
    maps = np.zeros((len(batch.image_ids), cells, cells), dtype=np.float32)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the processes are the parallelism
    try:
        for place, image_id in enumerate(batch.image_ids):
            randomness = SampleRandomness(recipe.seed, f"fresh {batch.epoch} {batch.first + place}")
            clean = _clean_image(recipe.images, image_id, recipe.limits)
            varied = vary(clean, side, recipe.size_px, randomness.stream("variation"))
            sample = profile.degrade(varied, randomness, scale=scale)
            images[place], labels[place] = sample.image, sample.labels
            if sample.watermark_map is not None:
                maps[place] = sample.watermark_map
    finally:
        cv2.setNumThreads(threads)
    return images, labels, maps


@lru_cache(maxsize=_IMAGES_KEPT)
def _clean_image(images: Path, image_id: str, limits: LimitsParams) -> Pixels:
    """A clean image at the size of use, uint8 (height, width, 3)."""
    pixels = decoding.decode(_encoded_images(images)[image_id], limits)
    return views.at_size_of_use(pixels, views.ViewRecipe().max_short_side_px)


@lru_cache(maxsize=1)
def _encoded_images(images: Path) -> dict[str, bytes]:
    """The bytes of all readable images of a table, read once in each process."""
    with ImagesTable(images) as table:
        return {image.image_id: image.data for image in table.images() if image.error_code is None}
