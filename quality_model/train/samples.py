"""The samples that a run is trained on: stored ones, varied, or fresh ones degraded anew.

Both depend on (seed, epoch) alone, so that a resumed run trains on what an undisturbed one trains on,
whatever the number of processes that make them.
"""

import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from quality_model.core.decoding import Pixels
from quality_model.core.processes import Executor, Failure, InThisProcess, WorkerProcesses
from quality_model.core.system import num_cores
from quality_model.data.dataset import TrainingSet
from quality_model.degrade import PROFILES, Profile, SampleRandomness
from quality_model.degrade.randomness import Stream
from quality_model.errors import TrainingError
from quality_model.params import TrainParams
from quality_model.records import HEADS, REFERENCE_SIDE_PX
from quality_model.train.variation import Crops, Indices, WatermarkBoxes, vary

log = logging.getLogger(__name__)

Labels = npt.NDArray[np.float32]
Batch = tuple[npt.NDArray[np.uint8] | Tensor, Labels]
"""Images, uint8 (n, S, S, 3), in memory or on the device, and labels, float32 (n, 4)."""

_ORDER, _VARIATION = 1, 3
"""Purposes of random streams, besides those of `epochs`."""

_COPIED_AT_ONCE: Final = 1024
"""Samples that are copied to the device in one go."""

_BATCHES_PER_WORKER: Final = 3
"""Batches made ahead of the trainer: some 7 MB each of 16 samples of 224 px and their copies in a pipe."""

_BATCH_WITHIN_S: Final = 300.0


def open_batches(
    section: TrainParams,
    training_set: TrainingSet,
    rows: Indices,
    stored: "StoredPixels",
    executor: Executor,
    first_epoch: int,
) -> tuple[list[int], Generator[Batch, None, None]]:
    """The batches of an epoch and of all later ones of a run.

    Args:
        section: Names the samples (``samples``), and their number.
        training_set: The samples, or the clean images that fresh ones are made of.
        rows: int64 (n,), those of the train split.
        stored: Reads stored samples.
        executor: Makes fresh ones.
        first_epoch: 1-based.

    Returns:
        The sizes of an epoch's batches, and a generator of batches; close it to stop early. It raises
        TrainingError if the dataset lacks the samples, or a batch cannot be made.
    """
    if section.samples == "stored":
        sizes = sizes_of_batches(len(rows), section.batch_size)
        return sizes, _stored_batches(section, training_set, rows, stored, sizes, first_epoch)
    sizes = sizes_of_batches(section.samples_per_epoch, section.batch_size)
    return sizes, _fresh_batches(section, training_set, rows, executor, sizes, first_epoch)


def choose_executor(device: torch.device) -> Executor:
    """Where fresh samples are made: on a CPU in this process, since training takes far longer there.

    For an accelerator, in a process per core but the one that feeds it.
    """
    workers = 0 if device.type == "cpu" else num_cores() - 1
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
            return _cut(self._kept, np.searchsorted(self._rows, rows), crops), labels
        images = np.empty((len(rows), crops.side_px, crops.side_px, 3), dtype=np.uint8)
        squares = zip(rows, crops.tops, crops.lefts, crops.mirrored, strict=True)
        for place, (row, top, left, mirrored) in enumerate(squares):
            square = self._set.images[row, top : top + crops.side_px, left : left + crops.side_px]
            images[place] = square[:, ::-1] if mirrored else square
        return images, labels


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
            images, labels = stored.read(chosen, crops)
            if boxes is not None:
                labels[:, HEADS.index("watermark")] = boxes.labels(chosen, crops)
            yield images, labels


class FreshBatch(NamedTuple):
    """A batch of fresh samples to make: the clean rows, and the number of its first sample in the epoch."""

    epoch: int
    first: int
    rows: Indices
    side_px: int


def _fresh_batches(
    section: TrainParams,
    training_set: TrainingSet,
    rows: Indices,
    executor: Executor,
    sizes: list[int],
    first_epoch: int,
) -> Generator[Batch, None, None]:
    """Clean images of the dataset, varied (`variation.vary`) and degraded anew for every sample.

    Each image comes as often as any other in an epoch, give or take one. Batches are made by the executor
    ahead of the trainer, across the end of an epoch too.
    """
    manifest = training_set.manifest.iloc[rows]
    clean = rows[manifest["is_clean"].to_numpy(dtype=bool)]
    if len(clean) == 0:
        raise TrainingError(
            "No image of the train split is clean, so none can be degraded anew.",
            "Use sharper or larger images, or train.samples stored.",
        )

    def batches() -> Iterator[FreshBatch]:
        for epoch in range(first_epoch, section.epochs + 1):
            generator = np.random.default_rng([section.seed, epoch, _ORDER])
            rounds = -(-section.samples_per_epoch // len(clean))
            order = np.concatenate([generator.permutation(clean) for _ in range(rounds)])
            side_px = side_of_crops(section, epoch, training_set.image_size_px)
            for start, end in pairwise(np.cumsum([0, *sizes])):
                yield FreshBatch(epoch, int(start), order[start:end], side_px)

    profile = PROFILES[str(manifest["profile"].iloc[0])]
    folder, data_sha256 = training_set.folder.absolute(), training_set.data_sha256
    make = partial(_make_batch, folder, data_sha256, section.seed, profile, vary)
    with closing(executor.run(make, batches())) as results:
        for made in results:
            if isinstance(made, Failure):
                raise TrainingError(
                    "Two processes ended while they made a batch of fresh samples.",
                    "Is there enough memory? Use train.samples stored, or smaller batches.",
                )
            yield made


def _make_batch(
    folder: Path,
    data_sha256: str,
    seed: int,
    profile: Profile,
    vary: Callable[[Pixels, int, Stream], Pixels],
    batch: FreshBatch,
) -> tuple[npt.NDArray[np.uint8], Labels]:
    """Make a batch of fresh samples, in this process or in another one."""
    clean = _clean_images(folder, data_sha256)
    scale = clean.shape[1] / REFERENCE_SIDE_PX
    images = np.empty((len(batch.rows), batch.side_px, batch.side_px, 3), dtype=np.uint8)
    labels = np.empty((len(batch.rows), len(HEADS)), dtype=np.float32)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the processes are the parallelism
    try:
        for place, row in enumerate(batch.rows):
            randomness = SampleRandomness(seed, f"fresh {batch.epoch} {batch.first + place}")
            varied = vary(clean[row], batch.side_px, randomness.stream("variation"))
            sample = profile.degrade(varied, randomness, scale=scale)
            images[place], labels[place] = sample.image, sample.labels
    finally:
        cv2.setNumThreads(threads)
    return images, labels


@lru_cache(maxsize=1)
def _clean_images(folder: Path, data_sha256: str) -> npt.NDArray[np.uint8]:
    """The memory map of a dataset's images, opened once in each process."""
    return TrainingSet.open(folder).images
