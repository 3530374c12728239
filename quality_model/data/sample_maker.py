"""From clean images to samples: one part of the generation, made in any process."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from quality_model.core import decoding, views
from quality_model.core.decoding import Pixels
from quality_model.data.dataset import SCHEMA, ViewKind
from quality_model.data.images_table import ImagesTable
from quality_model.degrade import PROFILES, DegradedSample, SampleRandomness
from quality_model.degrade.calibrated.point_spread import source_softness
from quality_model.errors import ImageError, SourceError
from quality_model.params import GenerateParams, LimitsParams
from quality_model.records import HEADS, REFERENCE_SIDE_PX, CleanImage, Split


@dataclass(frozen=True, slots=True)
class Recipe:
    """How samples are made from images, and the file for their pixels.

    ``images`` is the folder of the images table. ``pixels_path`` is a file with ``pixels_offset`` bytes
    of header, then ``section.image_size ** 2 * 3`` bytes for each sample.
    """

    images: Path
    section: GenerateParams
    limits: LimitsParams
    pixels_path: Path
    pixels_offset: int


@dataclass(frozen=True, slots=True)
class PartTask:
    """The samples of the images in one row group of the images table.

    ``first_sample`` is the row of the first sample in images.npy. By readable image: ``splits``, and
    ``counts``, the samples to make: 1 is the image as it is, without degraded samples.
    """

    row_group: int
    first_sample: int
    splits: tuple[Split, ...]
    counts: tuple[int, ...]

    @property
    def num_samples(self) -> int:
        return sum(self.counts)


def make_part(part: PartTask, recipe: Recipe) -> pa.Table:
    """Make the samples of a part, with their pixels on disk in their place when this returns.

    Pixels are written with ``pwrite`` and not through a memory map: a full disk then raises an
    error instead of SIGBUS, and written pages do not count as memory of the process.

    Returns:
        Rows of the manifest (columns: `dataset.SCHEMA`).

    Raises:
        SourceError: An image does not decode.
        OSError: The pixels cannot be written.
    """
    profile = PROFILES[recipe.section.profile]
    rows: list[dict[str, Any]] = []
    with ImagesTable(recipe.images) as table:
        images = [image for image in table.row_group(part.row_group) if image.error_code is None]
    pixels = os.open(recipe.pixels_path, os.O_WRONLY)
    try:
        with _one_opencv_thread():
            for image, split, count in zip(images, part.splits, part.counts, strict=True):
                seen = _ViewsOf(_decode(image, recipe), recipe.section)
                for number in range(count):
                    sample_id = f"{image.image_id}#{number:02d}"
                    randomness = SampleRandomness(recipe.section.seed, sample_id)
                    view, clean, softness_px = seen.draw(number, randomness)
                    if number == 0:
                        sample = profile.keep(clean, softness_px=softness_px)
                    else:
                        sample = profile.degrade(clean, randomness, softness_px=softness_px)
                    _write(pixels, recipe, part.first_sample + len(rows), sample.image)
                    rows.append(
                        {
                            "sample_id": sample_id,
                            "split": split,
                            "is_clean": number == 0 and not sample.applied,
                            "profile": recipe.section.profile,
                            "view": view,
                            "softness_px": softness_px,
                            "image_id": image.image_id,
                            "image_sha256": image.sha256,
                            "group": image.group,
                            **_columns(sample),
                        }
                    )
        os.fsync(pixels)
    finally:
        os.close(pixels)
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _decode(image: CleanImage, recipe: Recipe) -> Pixels:
    try:
        return decoding.decode(image.data, recipe.limits)
    except ImageError as error:
        raise SourceError(
            f"Image {image.image_id} ({image.origin}) is listed as readable in the images table, "
            f"but does not decode: {error}.",
            "Run the download again with these limits.",
        ) from None


class _ViewsOf:
    """The views of a clean image that samples are made of: the whole image, squeezed, and tiles."""

    def __init__(self, pixels: Pixels, section: GenerateParams) -> None:
        self._size_px = section.image_size
        self._profile = PROFILES[section.profile]
        self._whole = views.squeezed(pixels, self._size_px)
        self._whole_softness_px = self._softness_px(self._whole, self._size_px / min(pixels.shape[:2]))
        self._tiled = None
        if self._profile.has_tiles:
            seen = views.at_size_of_use(pixels, views.ViewRecipe().max_short_side_px)
            self._tiled = seen if min(seen.shape[:2]) > self._size_px else None

    def draw(self, number: int, randomness: SampleRandomness) -> tuple[ViewKind, Pixels, float]:
        """The view of a sample of this number, and how soft it is (see `Profile.keep`).

        The clean image is the whole one; of the others half are tiles, where the image has any.
        """
        stream = randomness.stream("view")
        is_tile = stream.chance(0.5) and number > 0
        if not is_tile or self._tiled is None:
            return "whole", self._whole, self._whole_softness_px
        top, left = (stream.integer(0, side - self._size_px) for side in self._tiled.shape[:2])
        tile = np.ascontiguousarray(self._tiled[top : top + self._size_px, left : left + self._size_px])
        return "tile", tile, self._softness_px(tile, 1.0)

    def _softness_px(self, view: Pixels, enlarged_by: float) -> float:
        """See `source_softness`, in pixels of a 224 px image; 0 where the profile does not ask."""
        if not self._profile.measures_softness:
            return 0.0
        return source_softness(view, enlarged_by=enlarged_by) * REFERENCE_SIDE_PX / self._size_px


def _write(file: int, recipe: Recipe, row: int, image: Pixels) -> None:
    data = image.data.cast("B")
    offset = recipe.pixels_offset + row * len(data)
    while data:
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written


def _columns(sample: DegradedSample) -> dict[str, Any]:
    """Columns of a sample; those of degradations that it does not have are left out.

    The brightness is of the grey image (ITU-R BT.601), 0 to 1.
    """
    mean, std = cv2.meanStdDev(cv2.cvtColor(sample.image, cv2.COLOR_RGB2GRAY))
    row: dict[str, Any] = {
        "delivery": _to_json(sample.delivery),
        "mean_brightness": float(mean.item()) / 255.0,
        "brightness_std": float(std.item()) / 255.0,
        "pixels_sha256": hashlib.sha256(sample.image.data).hexdigest(),
    }
    row |= {f"{head}_label": label for head, label in zip(HEADS, sample.labels, strict=True)}
    for degradation in sample.applied:
        row[f"{degradation.head}_kind"] = degradation.kind
        row[f"{degradation.head}_parameters"] = _to_json(degradation.parameters)
        row[f"{degradation.head}_position"] = degradation.position
    return row


def _to_json(facts: Mapping[str, Any]) -> str:
    return json.dumps(dict(facts), sort_keys=True, ensure_ascii=False, allow_nan=False)


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """Parts are made in parallel; OpenCV's threads on small images only slow them down."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
