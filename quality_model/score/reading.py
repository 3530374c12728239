"""From a planned input to what decoding needs: a path, encoded bytes, or a reason."""

import hashlib
from collections.abc import Collection, Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from quality_model.core import decoding
from quality_model.core.decoding import Pixels
from quality_model.core.engines import Engine
from quality_model.core.folders import file_name
from quality_model.core.processes import Failure, WorkerProcesses, num_workers
from quality_model.errors import ImageError, QualityModelError
from quality_model.params import LimitsParams
from quality_model.score import plan
from quality_model.score.parquet_tables import RowReader
from quality_model.score.tar_shards import MemberReader

Source = Path | bytes | ImageError
"""An image file to read, encoded bytes that were read, or why there are none."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What reading one input gave.

    One of ``pixels``, uint8 (S, S, 3), ``scores``, float32 (4,), or ``reason`` with ``detail``.
    ``sha256`` and ``size_bytes`` are those of the encoded bytes, None where they could not be read;
    ``width`` and ``height`` those of the image, upright, in pixels; ``image_format`` is Pillow's
    name of the format that was decoded.
    """

    sha256: str | None = None
    width: int | None = None
    height: int | None = None
    pixels: Pixels | None = None
    scores: npt.NDArray[np.float32] | None = None
    reason: str | None = None
    detail: str | None = None
    size_bytes: int | None = None
    image_format: str | None = None


@dataclass(frozen=True, slots=True)
class ResizedImage:
    """What reading one input for several models gave.

    ``sizes`` holds pixels by their side, uint8 (S, S, 3); ``thumbnail`` is uint8 (height, width, 3);
    or there are ``reason`` and ``detail``.
    """

    sizes: Mapping[int, Pixels] = field(default_factory=dict)
    thumbnail: Pixels | None = None
    reason: str | None = None
    detail: str | None = None


def sources_of(inputs: Iterable[plan.PlannedInput], base: Path, kind: str) -> Generator[Source, None, None]:
    """Give the source of each input, in order."""
    rows, members = RowReader(), MemberReader()
    try:
        for planned in inputs:
            yield _source(planned, base, kind, rows, members)
    finally:
        members.close()


def encoded_bytes(source: Source, limits: LimitsParams) -> bytes:
    """The bytes of a source.

    Raises:
        ImageError: There are none, or they cannot be read.
    """
    if isinstance(source, ImageError):
        raise source
    if isinstance(source, Path):
        return decoding.read_bytes(source, limits)
    decoding.check_bytes(source, limits)
    return source


def image_error(error: Exception) -> ImageError:
    """What reading an image raised, as its error code; what is not about the image is raised again."""
    if isinstance(error, ImageError):
        return error
    if isinstance(error, QualityModelError | MemoryError):
        raise error
    return ImageError("broken", f"{type(error).__name__}: {error}")


def read_image(source: Source, *, image_size_px: int, limits: LimitsParams, engine: Engine | None) -> Reading:
    """Read, decode and resize one input, and score it, given an engine; what goes wrong becomes a reason.

    Raises:
        MemoryError: A fresh process may have the room.
        ParameterError, CheckpointError: No input is at fault.
    """
    sha256, size_bytes = None, None
    try:
        data = encoded_bytes(source, limits)
        sha256, size_bytes = hashlib.sha256(data).hexdigest(), len(data)
        decoded = decoding.decode_image(data, limits)
        height, width = decoded.pixels.shape[:2]
        pixels = decoding.resize(decoded.pixels, image_size_px)
    except Exception as error:  # noqa: BLE001 - a reader of hostile bytes raises nearly anything
        bad = image_error(error)
        return Reading(sha256, reason=bad.reason, detail=bad.detail, size_bytes=size_bytes)
    read = Reading(sha256, width, height, pixels, size_bytes=size_bytes, image_format=decoded.format)
    return read if engine is None else replace(read, pixels=None, scores=engine.scores(pixels[None])[0])


def read_images(
    sources: Iterable[Source],
    *,
    num_sources: int,
    workers: int,
    window: int,
    image_size_px: int,
    limits: LimitsParams,
    engine: Engine | None,
) -> Generator[Reading, None, None]:
    """Give the readings of `read_image` in order, made in worker processes."""
    count = num_workers(workers, num_sources)
    pool = WorkerProcesses(count, window=window + 2 * count, timeout_s=limits.max_seconds)
    read = partial(read_image, image_size_px=image_size_px, limits=limits, engine=engine)
    with closing(pool.run(read, sources)) as outcomes:
        for outcome in outcomes:
            if isinstance(outcome, Failure):
                yield Reading(reason=outcome.kind, detail=outcome.detail)
            else:
                yield outcome


def read_sizes(
    source: Source, *, sizes_px: Collection[int], thumbnail_px: int, limits: LimitsParams
) -> ResizedImage:
    """Read and decode one input, and resize it to each of some sides; errors as in `read_image`."""
    try:
        pixels = decoding.decode(encoded_bytes(source, limits), limits)
        sizes = {size_px: decoding.resize(pixels, size_px) for size_px in sizes_px}
        thumbnail = Image.fromarray(pixels)
        thumbnail.thumbnail((thumbnail_px, thumbnail_px))
        return ResizedImage(sizes, np.array(thumbnail))
    except Exception as error:  # noqa: BLE001 - a reader of hostile bytes raises nearly anything
        bad = image_error(error)
        return ResizedImage(reason=bad.reason, detail=bad.detail)


def _source(
    planned: plan.PlannedInput, base: Path, kind: str, rows: RowReader, members: MemberReader
) -> Source:
    if planned.reason is not None:
        return ImageError(planned.reason, planned.detail or "")
    if planned.file is None:
        return base / file_name(planned.key)
    file = base / file_name(planned.file)
    if kind == "parquet":
        return rows.read(file, planned.file, planned.at, planned.columns)
    try:
        return members.read(file, planned.at, planned.num_bytes)
    except ImageError as error:
        return error
