"""From clean images to samples: the part of the generation that runs in every worker."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2

from quality_model.core import decoding
from quality_model.core.decoding import Pixels
from quality_model.core.system import retain_heap
from quality_model.degrade import PROFILES, AppliedDegradation, DegradedSample, SampleRandomness
from quality_model.degrade.softness import source_softness
from quality_model.errors import ImageError, SourceError
from quality_model.params import LimitsParams
from quality_model.records import REFERENCE_SIDE_PX, CleanImage


@dataclass(frozen=True, slots=True)
class Recipe:
    """What makes samples out of images, and where their pixels go.

    ``pixels_path`` is a file with ``pixels_offset`` bytes of header, then
    ``image_size_px ** 2 * 3`` bytes for each sample.
    """

    profile: str
    seed: int
    samples_per_image: int
    image_size_px: int
    limits: LimitsParams
    pixels_path: Path
    pixels_offset: int


@dataclass(frozen=True, slots=True)
class Sample:
    """What the manifest says of one sample; its pixels are on disk already.

    ``delivery`` and ``softness_px`` are those of `DegradedSample` and `Profile.keep`.
    ``image_sha256`` is of the clean image's encoded bytes.
    ``mean_brightness`` and ``brightness_std`` are of the grey image (ITU-R BT.601), 0 to 1.
    """

    sample_id: str
    image_id: str
    image_sha256: str
    group: str
    applied: tuple[AppliedDegradation, ...]
    labels: tuple[float, ...]
    delivery: Mapping[str, str | int | float]
    softness_px: float
    mean_brightness: float
    brightness_std: float
    pixels_sha256: str


class SampleMaker:
    """Makes the samples of images and writes their pixels to their place in the file.

    Pixels are written with ``pwrite`` and not through a memory map: a full disk is then an
    error that can be told and not a SIGBUS, and written pages do not count as our memory.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._profile = PROFILES[recipe.profile]
        self._file = os.open(recipe.pixels_path, os.O_WRONLY)

    def close(self) -> None:
        os.close(self._file)

    def make(self, first_sample: int, images: Sequence[CleanImage]) -> list[Sample]:
        """Make the samples of some images: each image kept as it is, then degraded.

        Args:
            first_sample: Row of the first image's first sample.
            images: Readable images; their samples follow each other.

        Raises:
            SourceError: An image does not decode.
            OSError: The pixels cannot be written.
        """
        samples: list[Sample] = []
        for image in images:
            clean, softness_px = self._decode(image)
            for number in range(self._recipe.samples_per_image + 1):
                sample_id = f"{image.image_id}#{number:02d}"
                randomness = SampleRandomness(self._recipe.seed, sample_id)
                make = self._profile.degrade if number else self._profile.keep
                degraded = make(clean, randomness, softness_px=softness_px)
                self._write(first_sample + len(samples), degraded.image)
                samples.append(_describe(sample_id, image, degraded, softness_px))
        return samples

    def _decode(self, image: CleanImage) -> tuple[Pixels, float]:
        """The clean image at the size of the set, and how soft it is (see `Profile.keep`)."""
        size_px = self._recipe.image_size_px
        try:
            pixels = decoding.decode(image.data, self._recipe.limits)
        except ImageError as error:
            raise SourceError(
                f"Image {image.image_id} ({image.origin}) is in the table as readable, "
                f"but does not decode: {error}.",
                "Run the download again with these limits.",
            ) from None
        clean = decoding.resize(pixels, size_px)
        if not self._profile.measures_softness:
            return clean, 0.0
        softness_px = source_softness(clean, enlarged_by=size_px / min(pixels.shape[:2]))
        return clean, softness_px * REFERENCE_SIDE_PX / size_px

    def _write(self, row: int, image: Pixels) -> None:
        data = image.data.cast("B")
        offset = self._recipe.pixels_offset + row * len(data)
        while data:
            written = os.pwrite(self._file, data, offset)
            data, offset = data[written:], offset + written


def _describe(sample_id: str, image: CleanImage, degraded: DegradedSample, softness_px: float) -> Sample:
    mean, std = cv2.meanStdDev(cv2.cvtColor(degraded.image, cv2.COLOR_RGB2GRAY))
    return Sample(
        sample_id=sample_id,
        image_id=image.image_id,
        image_sha256=image.sha256,
        group=image.group,
        applied=degraded.applied,
        labels=degraded.labels,
        delivery=degraded.delivery,
        softness_px=softness_px,
        mean_brightness=float(mean.item()) / 255.0,
        brightness_std=float(std.item()) / 255.0,
        pixels_sha256=hashlib.sha256(degraded.image.data).hexdigest(),
    )


@contextmanager
def one_opencv_thread() -> Iterator[None]:
    """Workers are the parallelism; OpenCV's threads on small images only get in their way."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


_maker: SampleMaker | None = None


def make_in_worker(recipe: Recipe, chunk: tuple[int, Sequence[CleanImage]]) -> list[Sample]:
    """`SampleMaker.make` in a worker process, which keeps its maker."""
    global _maker
    if _maker is None:
        cv2.setNumThreads(1)
        retain_heap()
        _maker = SampleMaker(recipe)
    return _maker.make(*chunk)
