"""The generation of a training dataset: clean images in, labelled samples on disk."""

import logging
import os
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from quality_model.core import storage
from quality_model.core.jobs import MARKERS_FOLDER, JobFolder
from quality_model.core.processes import (
    Executor,
    Failure,
    InThisProcess,
    WorkerProcesses,
    end_if_imported_again,
)
from quality_model.core.provenance import code_sha256
from quality_model.core.ray_cluster import LOCAL, executor_on
from quality_model.core.ray_nodes import lost_error
from quality_model.core.system import num_cores
from quality_model.data.dataset import (
    IMAGES_NAME,
    LABELS_NAME,
    MANIFEST_NAME,
    SCHEMA,
    TrainSamples,
    rank,
    split_by_group,
)
from quality_model.data.images_table import ImagesTable
from quality_model.data.sample_maker import PartTask, Recipe, make_part
from quality_model.errors import CorruptError, QualityModelError, SourceError
from quality_model.params import GenerateParams, LimitsParams
from quality_model.records import HEADS, Split

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)

CALIBRATION_SAMPLES: Final = 600
"""Degraded samples of the train split that are made even if training uses fresh samples.

The evaluation calibrates its baselines on them (`TrainingSet.representative`).
"""

_CODE: Final = ("degrade", "core/decoding.py", "core/pixels.py", "data/sample_maker.py")
_PACKAGES: Final = ("numpy", "opencv-python-headless", "pillow")
"""What turns images into samples besides parameters."""

_SAMPLE_WITHIN_S: Final = 1.0
_PARTS_PER_ROW_GROUP: Final = 32
"""A row group of the manifest for every part would make its footer large."""
_WORTH_A_POOL_SAMPLES: Final = 2000
"""With fewer samples, one process is done before others have started."""


@dataclass(frozen=True, slots=True)
class GenerateSummary:
    """What `generate` has made.

    ``skipped_images`` are unreadable; ``soft_images`` are blurred already, and so not clean.
    """

    samples: int
    images: int
    skipped_images: int
    soft_images: int


def generate(
    section: GenerateParams,
    limits: LimitsParams,
    images: Path,
    output: Path,
    *,
    train_samples: TrainSamples = "stored",
    on: str = LOCAL,
) -> GenerateSummary:
    """Make ``samples_per_image`` degraded samples of every readable image, and keep the image itself.

    The files (see `TrainingSet`) depend on the images and the parameters alone, not on the number of
    workers; memory does not grow with the number of samples. The completion marker is written last,
    and an earlier dataset in the folder is replaced when all of the new one is made. After an interruption
    the same call resumes behind the parts that are finished.

    Args:
        section: What to make.
        limits: What an image may be.
        images: Folder of the images table.
        output: Folder of the training dataset.
        train_samples: ``fresh`` if training degrades the clean images of the train split anew. Then the
            degraded samples of that split are not made, except for whole images with together at most
            `CALIBRATION_SAMPLES`. The other samples are the same as with ``stored``.
        on: Where samples are made: see `ray_cluster.executor_on`. All nodes write their pixels into one file
            of the output, which has to be on a file system that they share.

    Raises:
        IncompleteError, CorruptError: The images table is not usable.
        SourceError: No readable image, too few groups, or an image that does not decode.
        StorageError: The disk is full, the folder cannot be written, or another process writes it.
        QualityModelError: A worker process died or was too slow, twice.
    """
    end_if_imported_again()
    with ImagesTable(images) as table:
        rows = table.frame(["image_id", "group", "error_code"])
        sizes, images_sha256, source = table.row_group_sizes, table.sha256, table.source
    is_readable = rows["error_code"].isna()
    readable = rows[is_readable]
    if readable.empty:
        raise SourceError(f"{images} has no readable image.", "Check its error codes; use another source.")
    splits = split_by_group(
        readable["group"],
        validation_share=section.validation_share,
        test_share=section.test_share,
        seed=section.seed,
    )
    parts = _plan_parts(section, rows, sizes, splits, train_samples)
    num_samples = parts[-1].first_sample + parts[-1].num_samples
    side = section.image_size
    params = section.model_dump(mode="json", exclude={"workers"})
    plan = {
        "params": params,
        "train_samples": train_samples,
        "limits": limits.model_dump(mode="json"),
        "images_sha256": images_sha256,
        "code_sha256": code_sha256(_CODE, _PACKAGES),
    }
    with storage.only_maker(output):
        work = _Work(output, plan, (num_samples, side, side, 3))
        try:
            work.open()
            pixels = work.pixels.absolute()
            recipe = Recipe(images.absolute(), section, limits, pixels, work.header_bytes)
            with executor_on(on) as nodes:
                _make_parts(parts, recipe, work, nodes)
            soft_images = _publish(parts, work, output)
        finally:
            work.remove_if_empty()
        storage.seal(
            output,
            [LABELS_NAME, MANIFEST_NAME],
            rows=num_samples,
            source=source,
            image_size_px=side,
            train_samples=train_samples,
            params=params,
            images_sha256=images_sha256,
        )
        work.remove()
    if soft_images:
        _log.warning(
            "%d of %d images are soft already, mostly because they were enlarged to %d px: "
            "they are labelled so, and are not clean.",
            soft_images,
            len(readable),
            side,
        )
    _log.info("%d samples of %d images are in %s", num_samples, len(readable), output)
    return GenerateSummary(num_samples, len(readable), len(rows) - len(readable), soft_images)


def _plan_parts(
    section: GenerateParams,
    rows: "pd.DataFrame",
    sizes: Sequence[int],
    splits: dict[str, Split],
    train_samples: TrainSamples,
) -> list[PartTask]:
    """A part for each row group of the images table that has a readable image."""
    readable = rows["error_code"].isna()
    rows = rows.assign(split=rows["group"].map(splits), num_samples=section.samples_per_image + 1)
    if train_samples == "fresh":
        train = sorted(
            rows.index[readable & (rows["split"] == "train")],
            key=lambda row: rank(section.seed, "calibration", rows["image_id"][row]),
        )
        most = max(1, CALIBRATION_SAMPLES // section.samples_per_image)
        rows.loc[train[most:], "num_samples"] = 1
    parts: list[PartTask] = []
    first_row = first_sample = 0
    for number, size in enumerate(sizes):
        group = rows.iloc[first_row : first_row + size][readable.iloc[first_row : first_row + size]]
        first_row += size
        if not group.empty:
            counts = tuple(group["num_samples"].tolist())
            parts.append(PartTask(number, first_sample, tuple(group["split"]), counts))
            first_sample += parts[-1].num_samples
    return parts


class _Work:
    """Pixels and finished parts of a dataset, in a job's folder beside its own, until it is complete.

    ``images.npy`` has room for all pixels behind its ``header_bytes``; the parts contain the rows of the
    manifest, each written when the pixels of its samples are on disk (see `jobs`).
    """

    def __init__(self, output: Path, plan: dict[str, Any], shape: tuple[int, ...]) -> None:
        self._output = output
        self._folder = output.with_name(f".unfinished-{output.name}")
        self._plan = plan
        self._shape = shape
        self._job = JobFolder(self._folder)
        self.pixels = self._folder / IMAGES_NAME
        self.header_bytes = 0

    def open(self) -> None:
        """Prepare the folder: keep the parts of the same plan, or begin anew.

        Raises:
            StorageError: It cannot be read or written; finished parts stay.
        """
        storage.sweep(self._output)
        published = self._output / IMAGES_NAME
        is_incomplete = not (self._output / storage.MARKER_NAME).exists()
        try:
            if is_incomplete and published.exists() and self._folder.exists() and not self.pixels.exists():
                storage.move(published, self.pixels)  # by a run that was interrupted then
            if not self._is_of_this_plan():
                self._begin()
            self.header_bytes = self._header_bytes()
        except OSError as error:
            raise storage.explain(error, self.pixels) from error

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def remove_if_empty(self) -> None:
        """Remove the folder if no part is finished."""
        if not (self._folder / MARKERS_FOLDER).exists():
            self.remove()

    def read(self, part: PartTask) -> pa.Table | None:
        """The rows of a finished part; None if they are missing or damaged."""
        found = self._job.read_part(part.row_group, rows=part.num_samples)
        return None if found is None else pq.read_table(pa.BufferReader(found[1]))

    def write(self, part: PartTask, rows: pa.Table) -> None:
        stream = pa.BufferOutputStream()
        pq.write_table(rows, stream, compression="zstd")
        self._job.write_part(part.row_group, stream.getvalue().to_pybytes(), rows=len(rows))

    def _is_of_this_plan(self) -> bool:
        try:
            return self._job.read_plan() == self._plan and self._header_bytes() > 0
        except (CorruptError, FileNotFoundError, ValueError, EOFError):
            return False

    def _header_bytes(self) -> int:
        """Where the pixels begin in the file; ValueError if it is damaged or cut."""
        pixels = np.load(self.pixels, mmap_mode="r")
        if pixels.shape != self._shape:
            raise ValueError(f"{self.pixels} has the shape {pixels.shape}")
        return int(pixels.offset)

    def _begin(self) -> None:
        """Empty the folder, allocate the file of the pixels and write the plan.

        If the file system can allocate, a full disk is found before any work is done.
        """
        if self._folder.exists():
            shutil.rmtree(self._folder)
        self._folder.mkdir(parents=True)
        np.lib.format.open_memmap(self.pixels, mode="w+", dtype=np.uint8, shape=self._shape)
        if hasattr(os, "posix_fallocate"):
            with self.pixels.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, self.pixels.stat().st_size)
        self._job.write_plan(self._plan)


def _make_parts(parts: Sequence[PartTask], recipe: Recipe, work: _Work, nodes: Executor | None) -> None:
    """Make the parts that are not finished, in this process (1 worker), in others, or on nodes."""
    todo = [part for part in parts if work.read(part) is None]
    total, num_todo = (sum(part.num_samples for part in some) for some in (parts, todo))
    if num_todo < total:
        _log.info("Resuming after %d of %d samples", total - num_todo, total)
    executor = nodes or _executor(todo, recipe)
    results = executor.run(partial(make_part, recipe=recipe), todo)
    try:
        with (
            closing(results),
            tqdm(
                initial=total - num_todo, total=total, desc="generate", unit=" samples", disable=None
            ) as bar,
        ):
            for part, rows in zip(todo, results, strict=True):
                if isinstance(rows, Failure):
                    raise lost_error() if rows.kind == "node_lost" else _of_workers(rows)
                work.write(part, rows)
                bar.update(len(rows))
    except OSError as error:
        raise storage.explain(error, recipe.pixels_path) from error


def _of_workers(part: Failure) -> QualityModelError:
    return QualityModelError(
        f"Two worker processes failed on the same images ({part.kind}).",
        "Run the same command again with fewer workers (generate.workers), at least 1.",
    )


def _executor(todo: Sequence[PartTask], recipe: Recipe) -> Executor:
    num_samples = [part.num_samples for part in todo]
    count = recipe.section.workers or (num_cores() if sum(num_samples) >= _WORTH_A_POOL_SAMPLES else 1)
    if count == 1:
        return InThisProcess()
    timeout_s = recipe.limits.max_seconds + max(num_samples, default=0) * _SAMPLE_WITHIN_S
    return WorkerProcesses(count, window=2 * count, timeout_s=timeout_s)


def _publish(parts: Sequence[PartTask], work: _Work, output: Path) -> int:
    """Put all files but the completion marker in place; returns the number of soft images."""
    soft_images = 0
    labels = []
    with (
        storage.staged(output / MANIFEST_NAME) as manifest_path,
        storage.staged(output / LABELS_NAME) as labels_path,
    ):
        with pq.ParquetWriter(manifest_path, SCHEMA, compression="zstd") as manifest:
            for first in range(0, len(parts), _PARTS_PER_ROW_GROUP):
                some = [work.read(part) for part in parts[first : first + _PARTS_PER_ROW_GROUP]]
                if None in some:
                    raise CorruptError(f"A part of {output} was changed meanwhile.", "Run generate again.")
                rows = pa.concat_tables(some)
                labels.append(np.stack([rows.column(f"{head}_label").to_numpy() for head in HEADS], axis=1))
                manifest.write_table(rows)
                soft = rows.filter(pc.greater(rows.column("softness_px"), 0.0))
                soft_images += len(soft.column("image_id").unique())
        with labels_path.open("wb") as file:  # np.save adds a suffix to a name
            np.save(file, np.concatenate(labels).astype("<f4"))
        storage.unseal(output)
    storage.move(work.pixels, output / IMAGES_NAME)
    return soft_images
