"""The generation of a training dataset: clean images in, labelled samples on disk."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from quality_model.core import storage
from quality_model.core.code_hash import code_sha256
from quality_model.core.processes import Failure, WorkerProcesses, end_if_imported_again
from quality_model.core.system import num_cores
from quality_model.data.sources.table import ImagesTable
from quality_model.data.training_set.following import Follower
from quality_model.data.training_set.manifest import SCHEMA, manifest_row
from quality_model.data.training_set.samples import (
    Recipe,
    Sample,
    SampleMaker,
    make_in_worker,
    one_opencv_thread,
)
from quality_model.data.training_set.split import split_by_group
from quality_model.data.training_set.store import IMAGES_NAME, LABELS_NAME, MANIFEST_NAME
from quality_model.data.training_set.unfinished import Unfinished, npy_header
from quality_model.degrade import PROFILES
from quality_model.errors import QualityModelError, SourceError
from quality_model.params import GenerateParams, LimitsParams
from quality_model.records import HEADS, SPLITS, CleanImage, Split

_log = logging.getLogger(__name__)

_PART_SAMPLES: Final = 2048
"""About as many are made again after a kill; the manifest has a row group for each part."""

_CHUNK_IMAGES: Final = 8
_CHUNK_BYTES: Final = 8 * 2**20
_CHUNKS_IN_FLIGHT_PER_WORKER: Final = 3
_SAMPLE_WITHIN_S: Final = 1.0
_CODE: Final = ("core", "degrade", "data")
_PACKAGES: Final = ("numpy", "opencv-python-headless", "pillow")
"""What turns images into samples besides parameters."""

_WORTH_A_POOL_SAMPLES: Final = 2000
"""Below this, one process is done before others have started."""


def generate(section: GenerateParams, limits: LimitsParams, images: Path, output: Path) -> dict[str, Any]:
    """Make ``samples_per_image`` degraded samples of every readable image, and keep it as it is.

    The files (see `TrainingSet`) depend on the images and the parameters alone, not on
    the number of workers; memory does not grow with the number of samples. The marker is
    written last: what a stopped run leaves is never taken for a training dataset, and an earlier
    one in the folder is replaced only when all of the new one is made. The same call goes on
    where a stopped one left off (see `Unfinished`).

    Args:
        section: What to make.
        limits: What an image may be.
        images: Folder of the images table.
        output: Folder of the training dataset.

    Returns:
        What was made: ``samples``, ``images``, ``skipped_images``, ``soft_images``, ``groups`` and
        ``samples_per_split`` (by split), ``clean_share``, ``label_means`` and
        ``label_variances`` (by head, all samples counted) and ``kinds`` (by head and kind).

    Raises:
        IncompleteError, CorruptError: The images table is not usable.
        SourceError: No readable image, too few groups, or an image that does not decode.
        StorageError: The disk is full, the folder cannot be written, or another process makes this set.
        QualityModelError: A worker process died, or hangs.
    """
    end_if_imported_again()
    with ImagesTable.open(images) as table:
        rows = table.frame(["group", "reason"])
    readable = rows[rows["reason"].isna()]
    if readable.empty:
        raise SourceError(f"{images} holds no readable image.", "Look at its reasons; take another source.")
    splits = split_by_group(
        readable["group"],
        validation_share=section.validation_share,
        test_share=section.test_share,
        seed=section.seed,
    )
    profile = PROFILES[section.profile]
    per_image = section.samples_per_image + 1
    num_samples = len(readable) * per_image
    side = section.image_size
    params = section.model_dump(mode="json", exclude={"workers"})
    plan = {
        "params": params,
        "limits": limits.model_dump(mode="json"),
        "images_sha256": table.marker["sha256"],
        "code_sha256": code_sha256(_CODE, _PACKAGES),
    }
    part_samples = max(1, _PART_SAMPLES // per_image) * per_image
    with table, Unfinished(output, plan, (num_samples, side, side, 3), part_samples) as work:
        storage.sweep(output)
        if work.num_done:
            _log.info("Going on after %d of %d samples", work.num_done, num_samples)
        recipe = Recipe(
            profile.name, section.seed, section.samples_per_image, side, limits, work.images, work.offset
        )
        left = islice(table.iter_images(readable_only=True), work.num_done // per_image, None)
        workers = _num_workers(section.workers, num_samples - work.num_done)
        made = _with_progress(_make(left, work.num_done, recipe, workers), work.num_done, num_samples)
        images_sha256 = _keep(made, work, splits, profile.name)
        tally = _publish(work, output)
        storage.seal(
            output,
            [IMAGES_NAME, LABELS_NAME, MANIFEST_NAME],
            rows=num_samples,
            hashed={IMAGES_NAME: images_sha256},
            params=params,
            source=table.marker.get("source", ""),
            images_sha256=table.marker["sha256"],
            profile=profile.name,
            image_size_px=side,
            expected_clean_share=(1 - tally.soft_images / len(readable))
            * (1 + section.samples_per_image * profile.untouched_share)
            / (1 + section.samples_per_image),
        )
    summary = {
        "samples": num_samples,
        "images": len(readable),
        "skipped_images": len(rows) - len(readable),
        "soft_images": tally.soft_images,
        "groups": {split: sum(found == split for found in splits.values()) for split in SPLITS},
        **tally.summary(),
    }
    if tally.soft_images:
        _log.warning(
            "%d of %d images are soft already, mostly for being enlarged to %d px: they are labelled so, "
            "and not clean.",
            tally.soft_images,
            len(readable),
            side,
        )
    _log.info("%d samples of %d images are in %s", num_samples, len(readable), output)
    return summary


def _keep(samples: Iterable[Sample], work: Unfinished, splits: Mapping[str, Split], profile: str) -> str:
    """Keep what is made, part by part; returns the SHA-256 of images.npy."""
    rows: list[dict[str, Any]] = []
    first = done = work.num_done
    with Follower(work.images) as follower:
        for sample in samples:
            rows.append(manifest_row(sample, splits[sample.group], profile))
            done += 1
            if work.ends_a_part(done):
                follower.advance(work.end_of(done), partial(work.write_part, first, rows))
                first, rows = done, []
            else:
                follower.advance(work.end_of(done))
        return follower.finish(work.end_of(done))


def _publish(work: Unfinished, output: Path) -> "_Tally":
    """Put the files of a set that is made in their place; the marker is still to come."""
    tally = _Tally()
    with (
        storage.staged(output / MANIFEST_NAME) as manifest_path,
        storage.staged(output / LABELS_NAME) as labels_path,
    ):
        with (
            pq.ParquetWriter(manifest_path, SCHEMA, compression="zstd") as manifest,
            labels_path.open("wb") as file,
        ):
            file.write(npy_header(np.dtype("<f4"), (work.num_samples, len(HEADS))))
            for part in work.parts():
                labels = np.stack([part.column(f"{head}_label").to_numpy() for head in HEADS], axis=1)
                file.write(labels.astype("<f4").tobytes())
                manifest.write_table(part)
                tally.add(part, labels)
        storage.unseal(output)
    work.publish_images()
    return tally


def _make(images: Iterable[CleanImage], first_sample: int, recipe: Recipe, workers: int) -> Iterator[Sample]:
    """The samples in order, from a row on, made here (1 worker) or by processes."""
    if workers > 1:
        yield from _make_in_processes(images, first_sample, recipe, workers)
        return
    maker = SampleMaker(recipe)
    try:
        for row, chunk in _chunks(images, first_sample, recipe.samples_per_image + 1):
            with one_opencv_thread():
                samples = maker.make(row, chunk)
            yield from samples
    finally:
        maker.close()


def _make_in_processes(
    images: Iterable[CleanImage], first_sample: int, recipe: Recipe, workers: int
) -> Iterator[Sample]:
    image_within_s = recipe.limits.max_seconds + (recipe.samples_per_image + 1) * _SAMPLE_WITHIN_S
    pool = WorkerProcesses(
        workers, window=workers * _CHUNKS_IN_FLIGHT_PER_WORKER, timeout_s=_CHUNK_IMAGES * image_within_s
    )
    chunks = _chunks(images, first_sample, recipe.samples_per_image + 1)
    with closing(pool.run(partial(make_in_worker, recipe), chunks)) as made:
        for samples in made:
            if isinstance(samples, Failure):
                raise QualityModelError(
                    f"Two worker processes could not make the samples of the same images: {samples.kind}.",
                    "Run the same command again with fewer workers (generate.workers), or with a larger"
                    " limits.max_seconds.",
                )
            yield from samples


def _chunks(
    images: Iterable[CleanImage], first_sample: int, samples_per_image: int
) -> Iterator[tuple[int, list[CleanImage]]]:
    """A few images at a time, fewer where they are large, with the row of their first sample."""
    size = 0
    chunk: list[CleanImage] = []
    for image in images:
        chunk.append(image)
        size += len(image.data)
        if len(chunk) == _CHUNK_IMAGES or size >= _CHUNK_BYTES:
            yield first_sample, chunk
            first_sample += len(chunk) * samples_per_image
            chunk, size = [], 0
    if chunk:
        yield first_sample, chunk


def _num_workers(asked: int, num_samples: int) -> int:
    if asked:
        return asked
    return num_cores() if num_samples >= _WORTH_A_POOL_SAMPLES else 1


def _with_progress(samples: Iterator[Sample], done: int, total: int) -> Iterator[Sample]:
    from tqdm import tqdm

    return iter(tqdm(samples, initial=done, total=total, desc="generate", unit=" samples", disable=None))


class _Tally:
    """Counts what was made, part by part; the samples of an image are in one part."""

    def __init__(self) -> None:
        self._per_split: Counter[str] = Counter()
        self._kinds: dict[str, Counter[str]] = {head: Counter() for head in HEADS}
        self._clean = 0
        self.soft_images = 0
        self._sums = np.zeros((2, len(HEADS)))

    def add(self, part: pa.Table, labels: npt.NDArray[np.float32]) -> None:
        kinds = [f"{head}_kind" for head in HEADS]
        rows = part.select(["image_id", "split", "is_clean", "softness_px", *kinds]).to_pandas()
        self._per_split.update(rows["split"])
        self._clean += int(rows["is_clean"].sum())
        self.soft_images += rows.loc[rows["softness_px"] > 0, "image_id"].nunique()
        self._sums += (labels.sum(axis=0, dtype=np.float64), np.square(labels, dtype=np.float64).sum(axis=0))
        for head, found in self._kinds.items():
            found.update(rows[f"{head}_kind"].dropna())

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
