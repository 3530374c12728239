"""From a planned input to a score: its encoded bytes, its pixels, and what went wrong with them.

Worker processes import this module alone, without PyArrow.
"""

import hashlib
from collections.abc import Collection, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from quality_model.core import decoding, views
from quality_model.core.decoding import DecodedImage, Pixels
from quality_model.core.engines import Engine
from quality_model.core.measures import MEASURED_PX, MeasuredImage, Values
from quality_model.core.measures import measure as measure_image
from quality_model.core.processes import Failure, WorkerProcesses, num_workers
from quality_model.core.views import ViewRecipe
from quality_model.errors import ImageError, QualityModelError
from quality_model.params import LimitsParams, MeasureSet

Source = Path | bytes | ImageError
"""An image file to read, encoded bytes that were read, or why there are none."""


@dataclass(frozen=True, slots=True)
class Url:
    """An address to fetch; worker processes get what was fetched."""

    address: str


@dataclass(frozen=True, slots=True)
class PlannedInput:
    """One input.

    ``key`` is its path, URL or key, unique in the job. ``file`` is the table or archive that holds it
    (None for an image file), ``at`` the row, the offset or the place there, ``columns`` the columns of
    images there. ``num_bytes`` is the length of the image, or of the table that holds it; ``mtime_ns`` when
    the file was changed: an input with other values than before is scored again.
    ``error_code`` and ``error_detail`` say why it cannot be read, where the listing knows.
    """

    key: str
    file: str | None = None
    at: int = 0
    num_bytes: int = 0
    error_code: str | None = None
    error_detail: str | None = None
    columns: tuple[str, ...] = ()
    mtime_ns: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """What reading one input gave.

    One of ``views``, each uint8 (height, width, 3), ``scores``, float32 (4,), or ``error_code`` with
    ``error_detail``.
    ``sha256`` and ``size_bytes`` are those of the encoded bytes, None where they could not be read;
    ``width`` and ``height`` those of the image, upright, in pixels; ``format`` is Pillow's name of
    the format that was decoded; ``measures`` are those that were asked for, None with an error.
    """

    sha256: str | None = None
    width: int | None = None
    height: int | None = None
    views: list[Pixels] | None = None
    scores: npt.NDArray[np.float32] | None = None
    error_code: str | None = None
    error_detail: str | None = None
    size_bytes: int | None = None
    format: str | None = None
    measures: Values | None = None


def read_image(
    source: Source,
    *,
    image_size_px: int,
    recipe: ViewRecipe,
    limits: LimitsParams,
    engine: Engine | None,
    measure: Collection[MeasureSet] = (),
) -> Reading:
    """Read and decode one input, measure it, cut its views, and score them, given an engine.

    What goes wrong is an error code.

    Raises:
        MemoryError: A fresh process may have the memory.
        ParameterError, CheckpointError: No input is at fault.
    """
    sha256, size_bytes = None, None
    try:
        data = _encoded_bytes(source, limits)
        sha256, size_bytes = hashlib.sha256(data).hexdigest(), len(data)
        decoded = decoding.decode_image(data, limits, shortest_px=recipe.decoded_px)
        seen = views.cut(decoded.pixels, image_size_px, recipe).all
        measured = _measured(data, decoded, recipe, limits, measure)
    except ImageError as error:
        return Reading(sha256, error_code=error.reason, error_detail=error.detail, size_bytes=size_bytes)
    except (QualityModelError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - a reader of hostile bytes raises nearly anything
        detail = f"{type(error).__name__}: {error}"
        return Reading(sha256, error_code="broken", error_detail=detail, size_bytes=size_bytes)
    read = Reading(
        *(sha256, decoded.width, decoded.height),
        size_bytes=size_bytes,
        format=decoded.format,
        measures=measured,
    )
    if engine is None:
        return replace(read, views=seen)
    return replace(read, scores=views.score_images(engine.scores, [seen], recipe)[0])


def read_images(
    sources: Iterable[Source],
    *,
    num_sources: int,
    workers: int,
    window: int,
    image_size_px: int,
    recipe: ViewRecipe,
    limits: LimitsParams,
    engine: Engine | None,
    measure: Collection[MeasureSet] = (),
) -> Generator[Reading, None, None]:
    """Give the readings of `read_image` in order, made in worker processes with a time limit.

    Args:
        sources: What to read.
        num_sources: How many there are.
        workers: Processes; 0: as many as pay off.
        window: Readings that the caller takes at once.
        image_size_px, recipe, limits, engine, measure: As of `read_image`.
    """
    count = num_workers(workers, num_sources)
    pool = WorkerProcesses(count, window=window + 2 * count, timeout_s=limits.max_seconds)
    read = partial(
        read_image,
        image_size_px=image_size_px,
        recipe=recipe,
        limits=limits,
        engine=engine,
        measure=measure,
    )
    with closing(pool.run(read, sources)) as outcomes:
        for outcome in outcomes:
            if isinstance(outcome, Failure):
                yield Reading(error_code=outcome.kind, error_detail=outcome.detail)
            else:
                yield outcome


def _measured(
    data: bytes,
    decoded: DecodedImage,
    recipe: ViewRecipe,
    limits: LimitsParams,
    sets: Collection[MeasureSet],
) -> Values:
    """Some measures of an image; it is decoded once more where its views need another size."""
    if not sets:
        return {}
    if recipe.decoded_px != MEASURED_PX and min(decoded.width, decoded.height) >= 2 * MEASURED_PX:
        decoded = decoding.decode_image(data, limits, shortest_px=MEASURED_PX)
    return measure_image(MeasuredImage.of(decoded, len(data)), sets)


def read_thumbnail(source: Source, *, side_px: int, limits: LimitsParams) -> Pixels | None:
    """Read one input as uint8 (height, width, 3), at most ``side_px`` a side; None if it cannot be read."""
    try:
        thumbnail = Image.fromarray(decoding.decode(_encoded_bytes(source, limits), limits))
    except ImageError:
        return None
    thumbnail.thumbnail((side_px, side_px))
    return np.array(thumbnail)


def _encoded_bytes(source: Source, limits: LimitsParams) -> bytes:
    if isinstance(source, ImageError):
        raise source
    if isinstance(source, Path):
        return decoding.read_bytes(source, limits)
    decoding.check_bytes(source, limits)
    return source
