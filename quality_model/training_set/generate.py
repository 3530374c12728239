"""The generation of a training set: clean pictures in, labelled samples on disk."""

import logging
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from quality_model import storage
from quality_model.degradations import PROFILES
from quality_model.errors import QualityModelError, SourceError
from quality_model.params import GenerateParams, LimitsParams
from quality_model.records import HEADS, SPLITS, CleanPicture, Split
from quality_model.sources.table import PicturesTable
from quality_model.training_set.following import Follower
from quality_model.training_set.samples import (
    Recipe,
    Sample,
    SampleMaker,
    make_in_worker,
    one_opencv_thread,
    start_worker,
)
from quality_model.training_set.split import split_by_group
from quality_model.training_set.store import IMAGES_NAME, LABELS_NAME, MANIFEST_NAME

_log = logging.getLogger(__name__)

_CHUNK_PICTURES: Final = 8
_CHUNK_BYTES: Final = 8 * 2**20
_CHUNKS_IN_FLIGHT_PER_WORKER: Final = 3
_START_WITHIN_S: Final = 120.0
_SAMPLE_WITHIN_S: Final = 1.0
_END_WITHIN_S: Final = 10.0
_WORTH_A_POOL_SAMPLES: Final = 2000
"""Below this, one process is done before others have started."""


def generate(section: GenerateParams, limits: LimitsParams, pictures: Path, output: Path) -> dict[str, Any]:
    """Make ``samples_per_image`` degraded samples of every readable picture, and keep it as it is.

    The files (see `TrainingSet`) depend on the pictures and the parameters alone, not on
    the number of workers; memory does not grow with the number of samples. The marker is
    written last: what a stopped run leaves is never taken for a training set, and an earlier
    one in the folder is replaced only when all of the new one is made.

    Args:
        section: What to make.
        limits: What a picture may be.
        pictures: Folder of the pictures table.
        output: Folder of the training set.

    Returns:
        What was made: ``samples``, ``pictures``, ``skipped_pictures``, ``soft_pictures``, ``groups`` and
        ``samples_per_split`` (by split), ``clean_share``, ``label_means`` and
        ``label_variances`` (by head, all samples counted) and ``kinds`` (by head and kind).

    Raises:
        IncompleteError, CorruptError: The pictures table is not usable.
        SourceError: No readable picture, too few groups, or a picture that does not decode.
        StorageError: The disk is full, or the folder cannot be written.
        QualityModelError: A worker process died, or hangs.
    """
    from quality_model.training_set.manifest import ManifestWriter

    table = PicturesTable.open(pictures)
    rows = table.frame(["group", "reason"])
    readable = rows[rows["reason"].isna()]
    if readable.empty:
        raise SourceError(
            f"{pictures} holds no readable picture.", "Look at its reasons; take another source."
        )
    splits = split_by_group(
        readable["group"],
        validation_share=section.validation_share,
        test_share=section.test_share,
        seed=section.seed,
    )
    profile = PROFILES[section.profile]
    num_samples = len(readable) * (section.samples_per_image + 1)
    side = section.image_size
    tally = _Tally()
    with (
        storage.staged(output / MANIFEST_NAME) as manifest_path,
        storage.staged(output / LABELS_NAME) as labels_path,
        storage.staged(output / IMAGES_NAME) as images_path,
    ):
        storage.sweep(output)
        offset = _allocate(images_path, (num_samples, side, side, 3))
        recipe = Recipe(
            profile.name, section.seed, section.samples_per_image, side, limits, images_path, offset
        )
        with (
            ManifestWriter(manifest_path, profile.name) as manifest,
            labels_path.open("wb") as labels,
            Follower(images_path) as follower,
        ):
            _write_header(labels, np.dtype("<f4"), (num_samples, len(HEADS)))
            workers = _num_workers(section.workers, num_samples)
            made = _make(table.iter_pictures(readable_only=True), recipe, workers)
            for number, sample in enumerate(_with_progress(made, num_samples), start=1):
                follower.advance(offset + number * side * side * 3)
                split = splits[sample.group]
                labels.write(np.array(sample.labels, dtype="<f4").tobytes())
                manifest.write(sample, split)
                tally.add(sample, split)
            images_sha256 = follower.finish(offset + num_samples * side * side * 3)
        storage.unseal(output)
    storage.seal(
        output,
        [IMAGES_NAME, LABELS_NAME, MANIFEST_NAME],
        rows=num_samples,
        hashed={IMAGES_NAME: images_sha256},
        params=section.model_dump(mode="json", exclude={"workers"}),
        pictures_sha256=table.marker["sha256"],
        profile=profile.name,
        image_size_px=side,
        expected_clean_share=(1 - tally.soft_pictures / len(readable))
        * (1 + section.samples_per_image * profile.untouched_share)
        / (1 + section.samples_per_image),
    )
    summary = {
        "samples": num_samples,
        "pictures": len(readable),
        "skipped_pictures": len(rows) - len(readable),
        "soft_pictures": tally.soft_pictures,
        "groups": {split: sum(found == split for found in splits.values()) for split in SPLITS},
        **tally.summary(),
    }
    if tally.soft_pictures:
        _log.warning(
            "%d of %d pictures are soft already, mostly for being enlarged to %d px: they are labelled so, "
            "and not clean.",
            tally.soft_pictures,
            len(readable),
            side,
        )
    _log.info("%d samples of %d pictures are in %s", num_samples, len(readable), output)
    return summary


def _make(pictures: Iterable[CleanPicture], recipe: Recipe, workers: int) -> Iterator[Sample]:
    """The samples in order, made here (1 worker) or by processes."""
    if workers > 1:
        yield from _make_in_processes(pictures, recipe, workers)
        return
    maker = SampleMaker(recipe)
    try:
        for first_sample, chunk in _chunks(pictures, recipe.samples_per_image + 1):
            with one_opencv_thread():
                samples = maker.make(first_sample, chunk)
            yield from samples
    finally:
        maker.close()


def _make_in_processes(pictures: Iterable[CleanPicture], recipe: Recipe, workers: int) -> Iterator[Sample]:
    # Spawned and not forked: the caller may have threads and open connections.
    pool = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=start_worker, initargs=(recipe,)
    )
    others = set(active_children())
    picture_within_s = recipe.limits.max_seconds + (recipe.samples_per_image + 1) * _SAMPLE_WITHIN_S
    within_s = _START_WITHIN_S + _CHUNK_PICTURES * picture_within_s
    end_within_s = 0.0
    waiting: deque[Future[list[Sample]]] = deque()
    try:
        for first_sample, chunk in _chunks(pictures, recipe.samples_per_image + 1):
            waiting.append(pool.submit(make_in_worker, first_sample, chunk))
            if len(waiting) >= workers * _CHUNKS_IN_FLIGHT_PER_WORKER:
                yield from waiting.popleft().result(within_s)
        while waiting:
            yield from waiting.popleft().result(within_s)
        end_within_s = _END_WITHIN_S
    except BrokenProcessPool:
        raise QualityModelError(
            f"One of {workers} worker processes died; often the system ended it for want of memory.",
            "Run the same command again with fewer workers (generate.workers), 1 at the least.",
        ) from None
    except TimeoutError:
        raise QualityModelError(
            f"The worker processes have been silent for {within_s:g} s.",
            "Run the same command again; if it happens again, with 1 worker (generate.workers) or a larger "
            "limits.max_seconds.",
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(active_children()) - others:
            process.join(end_within_s)
            process.kill()


def _chunks(
    pictures: Iterable[CleanPicture], samples_per_picture: int
) -> Iterator[tuple[int, list[CleanPicture]]]:
    """A few pictures at a time, fewer where they are large, with the row of their first sample."""
    first_sample, size = 0, 0
    chunk: list[CleanPicture] = []
    for picture in pictures:
        chunk.append(picture)
        size += len(picture.data)
        if len(chunk) == _CHUNK_PICTURES or size >= _CHUNK_BYTES:
            yield first_sample, chunk
            first_sample += len(chunk) * samples_per_picture
            chunk, size = [], 0
    if chunk:
        yield first_sample, chunk


def _num_workers(asked: int, num_samples: int) -> int:
    if asked:
        return asked
    if num_samples < _WORTH_A_POOL_SAMPLES:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _with_progress(samples: Iterator[Sample], total: int) -> Iterator[Sample]:
    from tqdm import tqdm

    return iter(tqdm(samples, total=total, desc="generate", unit=" samples", disable=None))


def _allocate(path: Path, shape: tuple[int, ...]) -> int:
    """Make an .npy file of uint8 with room for every pixel; return where the pixels begin.

    Where the system can promise the room, a full disk is found before any work is done.
    """
    with path.open("wb") as handle:
        _write_header(handle, np.dtype(np.uint8), shape)
        offset = handle.tell()
        length = offset + int(np.prod(shape, dtype=np.int64))
        handle.truncate(length)
        handle.flush()
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle.fileno(), 0, length)
    return offset


def _write_header(handle: BinaryIO, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    descr = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_1_0(handle, {"descr": descr, "fortran_order": False, "shape": shape})


class _Tally:
    """Counts what was made."""

    def __init__(self) -> None:
        self._per_split: Counter[str] = Counter()
        self._kinds: dict[str, Counter[str]] = {head: Counter() for head in HEADS}
        self._clean = 0
        self.soft_pictures = 0
        self._last_soft: str | None = None
        self._sums = np.zeros((2, len(HEADS)))

    def add(self, sample: Sample, split: Split) -> None:
        self._per_split[split] += 1
        self._clean += not sample.applied
        # A picture's samples follow one another, so remembering the last one counts pictures.
        if sample.softness_px > 0 and sample.picture_id != self._last_soft:
            self.soft_pictures += 1
            self._last_soft = sample.picture_id
        labels = np.array(sample.labels)
        self._sums += (labels, labels**2)
        for degradation in sample.applied:
            self._kinds[degradation.head][degradation.kind] += 1

    def summary(self) -> dict[str, Any]:
        total = self._per_split.total()
        means, squares = self._sums / total
        variances = squares - means**2
        return {
            "samples_per_split": {split: self._per_split[split] for split in SPLITS},
            "clean_share": self._clean / total,
            "label_means": dict(zip(HEADS, means.tolist(), strict=True)),
            "label_variances": dict(zip(HEADS, variances.tolist(), strict=True)),
            "kinds": {head: dict(sorted(kinds.items())) for head, kinds in self._kinds.items()},
        }
