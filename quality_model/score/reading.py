"""From a planned input to a score: its encoded bytes, its pixels, and what went wrong with them.

Worker processes import this module alone, without PyArrow. Threads fetch objects of stores, and URLs when a
user asked, some ahead of the inputs that are read.
"""

import hashlib
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from quality_model.core import decoding, views
from quality_model.core.decoding import DecodedImage, Pixels
from quality_model.core.engines import Engine
from quality_model.core.kept_processes import KeptProcesses
from quality_model.core.measures import MEASURED_PX, MeasuredImage, Values
from quality_model.core.measures import measure as measure_image
from quality_model.core.processes import THREADS, Failure, WorkerProcesses, in_order, num_workers
from quality_model.core.stores import is_in_store, is_store_address, store_path
from quality_model.core.views import ViewRecipe
from quality_model.errors import CheckpointError, ImageError, QualityModelError, UsageError
from quality_model.params import LimitsParams, MeasureSet
from quality_model.records import HEADS
from quality_model.score.sketches import Sketch, Thumbnail, Wanted

Source = Path | bytes | ImageError
"""An image file to read, encoded bytes that were read, or why there are none."""


@dataclass(frozen=True, slots=True)
class Url:
    """An address to fetch; worker processes get what was fetched."""

    address: str


@dataclass(frozen=True, slots=True)
class Stored:
    """An object of a store to fetch."""

    path: Path


def image_at(path: Path) -> Path | Stored:
    """An image file: of an object store, to fetch."""
    return Stored(path) if is_in_store(path) else path


@dataclass(frozen=True, slots=True)
class DownloadRules:
    """How a user allows addresses to be fetched.

    Attributes:
        allow_private: Also from this machine and its network.
        per_host: Most requests to one host at a time.
        pause_s: Least seconds between the starts of two requests to one host.
    """

    allow_private: bool = False
    per_host: int = 4
    pause_s: float = 0.05


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
    ``sketch`` is beside views, ``thumbnail`` beside scores, where a thumbnail was wanted.
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
    sketch: Sketch | None = None
    thumbnail: Thumbnail | None = None


class Scorer(Protocol):
    """What scoring needs of a model.

    Attributes:
        engine: What worker processes score with, each on its core; None if only this process
            can, as with an accelerator: `score_pixels` then gets batches.
    """

    @property
    def engine(self) -> Engine | None: ...

    def score_pixels(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 (N, H, W, 3) RGB -> float32 (N, 4) in [0, 1], in the order of `records.HEADS`."""
        ...


def fetched(
    sources: Iterable[Source | Url | Stored], rules: DownloadRules | None, limits: LimitsParams
) -> Generator[Source, None, None]:
    """Put what was fetched in the place of each URL and object, in order; of URLs without rules an error.

    What goes wrong is one, too: ``download_refused`` for what the other side or a rule denies,
    ``download_failed`` for what may work at another time, which the same command tries again.

    Raises:
        UsageError, StorageError: An object store cannot be used (see `store_reads`).
    """
    from quality_model.score.store_reads import StoreReads

    with ExitStack() as opened:
        reads = opened.enter_context(closing(StoreReads(limits)))
        downloads = None
        if rules is not None:
            from quality_model.score.downloads import (
                Downloads,  # requests takes a tenth of a second to import
            )

            downloads = opened.enter_context(closing(Downloads(rules, limits)))

        def started(source: Source | Url | Stored) -> Source | Future[Source]:
            if isinstance(source, Stored):
                return reads.start(source.path)
            if not isinstance(source, Url):
                return source
            if downloads is None:
                return ImageError("url", "URLs are fetched with --allow-download alone")
            if is_store_address(source.address):
                try:
                    return reads.start(store_path(source.address))
                except UsageError as error:
                    return ImageError("download_refused", error.problem)
            return downloads.start(source.address)

        ready: Iterator[Source] = in_order(map(started, sources), 2 * THREADS)
        yield from ready


def read_image(
    source: Source,
    *,
    image_size_px: int,
    recipe: ViewRecipe,
    limits: LimitsParams,
    engine: Engine | None,
    measure: Collection[MeasureSet] = (),
    wanted: Wanted | None = None,
) -> Reading:
    """Read and decode one input, measure it, cut its views, and score them, given an engine.

    With scores comes a thumbnail, where they make it ``wanted``. What goes wrong is an error code.

    Raises:
        MemoryError: A fresh process may have the memory.
        ParameterError, CheckpointError: No input is at fault.
    """
    sha256, size_bytes = None, None
    try:
        data = _encoded_bytes(source, limits)
        sha256, size_bytes = hashlib.sha256(data).hexdigest(), len(data)
        decoded = decoding.decode_image(data, limits, shortest_px=recipe.decoded_px)
        seen = views.cut(decoded.pixels, image_size_px, recipe)
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
        sketch = None if wanted is None else Sketch.of(decoded, seen, wanted)
        return replace(read, views=seen.all, sketch=sketch)
    of_views = views.score_views(engine.scores, [seen.all])[0]
    scores = views.aggregate(of_views, recipe)
    thumbnail = None
    if wanted is not None and wanted.admits(scores):
        thumbnail = Sketch.of(decoded, seen, wanted).thumbnail(of_views, recipe)
    return replace(read, scores=scores, thumbnail=thumbnail)


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
    wanted: Iterable[Wanted | None] = repeat(None),
    processes: KeptProcesses | None = None,
) -> Generator[Reading, None, None]:
    """Give the readings of `read_image` in order, made in worker processes with a time limit.

    ``workers`` is 0 for as many as pay off, ``window`` how many readings the caller takes at once, ``wanted``
    says it of each source and is asked after the source; ``processes`` are used again if there are any.
    """
    count = num_workers(workers, num_sources)
    pool = WorkerProcesses(count, window=window + 2 * count, timeout_s=limits.max_seconds)
    read = partial(
        _read_image,
        image_size_px=image_size_px,
        recipe=recipe,
        limits=limits,
        engine=engine,
        measure=measure,
    )
    tasks = zip(sources, wanted, strict=False)
    readings = pool.run(read, tasks) if processes is None else processes.run(pool, read, tasks)
    with closing(readings) as outcomes:
        yield from map(reading_of, outcomes)


def reading_of(outcome: Reading | Failure) -> Reading:
    """What became of an image in the worker processes: its reading, or the error code of a failure."""
    if isinstance(outcome, Failure):
        return Reading(error_code=outcome.kind, error_detail=outcome.detail)
    return outcome


def _read_image(task: tuple[Source, Wanted | None], **how: Any) -> Reading:
    source, wanted = task
    return read_image(source, wanted=wanted, **how)


def with_scores(
    readings: Iterable[Reading], scorer: Scorer, recipe: ViewRecipe, batch_size: int
) -> Iterator[Reading]:
    """Put scores in the place of views, those of ``batch_size`` images at a time; other readings stay.

    Raises:
        CheckpointError: A score is not in [0, 1].
    """
    batch: list[Reading] = []
    num_images = 0
    for reading in readings:
        batch.append(reading)
        num_images += reading.views is not None
        if num_images in (0, batch_size):
            yield from _scored(batch, scorer, recipe)
            batch, num_images = [], 0
    yield from _scored(batch, scorer, recipe)


def _scored(batch: Sequence[Reading], scorer: Scorer, recipe: ViewRecipe) -> Iterator[Reading]:
    images = [reading.views for reading in batch if reading.views is not None]
    of_images = iter(views.score_views(scorer.score_pixels, images) if images else ())
    for reading in batch:
        if reading.views is not None:
            of_views = next(of_images)
            scores, sketch, thumbnail = views.aggregate(of_views, recipe), reading.sketch, None
            _checked(scores[None])
            if sketch is not None and sketch.wanted.admits(scores):
                thumbnail = sketch.thumbnail(of_views, recipe)
            reading = replace(reading, views=None, scores=scores, sketch=None, thumbnail=thumbnail)
        elif reading.scores is not None:
            _checked(reading.scores[None])
        yield reading


def _checked(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    if scores.shape != (len(scores), len(HEADS)) or not bool(np.all((scores >= 0) & (scores <= 1))):
        raise CheckpointError(
            f"The model gave {len(scores)} images scores of shape {scores.shape} from {scores.min()} to"
            f" {scores.max()}; expected {len(HEADS)} each, in [0, 1].",
            "Its weights are damaged or not of this network; score with another model.",
        )
    return scores


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
