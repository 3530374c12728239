"""A model that is ready to serve: its worker processes have read and scored an image."""

import asyncio
import io
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from functools import partial
from typing import Final

import numpy as np
from PIL import Image

from quality_model.core.measures import chosen_sets
from quality_model.core.models import FoundModel
from quality_model.core.predict import Scorer
from quality_model.core.processes import Failure, Workers
from quality_model.core.storage import sealed_sha256
from quality_model.core.system import num_cores
from quality_model.errors import CheckpointError, ImageError, QualityModelError
from quality_model.params import LimitsParams, RegistryParams, ScoreParams
from quality_model.score.document import DocumentRow
from quality_model.score.reading import Reading, read_image, reading_of, with_scores

Identity = tuple[str, str | None, str]
"""Name, version, and hash of the files: a registry that was made anew counts versions anew."""


def identity_of(found: FoundModel) -> Identity:
    """What tells a model from the one before it; the hash is empty for a single file."""
    return found.ref.name, found.ref.version, sealed_sha256(found.path) if found.path.is_dir() else ""


class LoadedModel:
    """A model with processes of its own, which read and score one image each.

    Scores are those of `predict` to the bit: both read by `read_image`, and score each image by itself.

    Args:
        found: The model.
        section: How it scores; ``workers`` 0 means one for each core.
        limits: Of one image.
        registry: As of `Scorer`.

    Raises:
        CheckpointError, CorruptError, IncompleteError: The model cannot score.
        QualityModelError: No worker process can be started.
    """

    def __init__(
        self,
        found: FoundModel,
        section: ScoreParams,
        limits: LimitsParams,
        registry: RegistryParams | None = None,
    ) -> None:
        self.identity = identity_of(found)
        self.scorer = Scorer.from_params(section, limits, registry=registry, found=found)
        self.num_running = 0
        self._measures = chosen_sets(section.measures)
        self._accelerator = asyncio.Lock()
        self.num_workers = section.workers or num_cores()
        read = partial(
            read_image,
            image_size_px=self.scorer.image_size_px,
            recipe=self.scorer.views,
            limits=limits,
            engine=self.scorer.engine,
            measure=self._measures,
        )
        self._workers = Workers(read, self.num_workers, limits.max_seconds)
        try:
            self._require_working()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Kill the processes; what they were doing is lost."""
        self._workers.close()

    def score(self, path: str | None, data: bytes, ended: Callable[[], None]) -> Awaitable[DocumentRow]:
        """Begin to read and score an image; await the row. Call it in the event loop's thread.

        Args:
            path: What it is called.
            data: Its encoded bytes.
            ended: Called in this thread when no process works on it any more; after a cancellation that
                may be later than the row is awaited.

        Raises:
            CheckpointError: The model gives what is no score.
        """
        loop = asyncio.get_running_loop()

        def end(_: Future[Reading | Failure]) -> None:
            loop.call_soon_threadsafe(self._end, ended)

        self.num_running += 1
        future = self._workers.submit(data)
        future.add_done_callback(end)
        return self._row(path, future)

    async def answers(self) -> bool:
        """Whether a process reads a small image."""
        try:
            row = await self.score(None, _PROBE, lambda: None)
        except (QualityModelError, OSError):
            return False
        return row.error is None or row.error.reason not in ("worker_died", "too_slow")

    async def _row(self, path: str | None, future: Future[Reading | Failure]) -> DocumentRow:
        reading = reading_of(await asyncio.wrap_future(future))
        if reading.views is None:
            reading = self._scored(reading)
        else:
            async with self._accelerator:
                reading = await asyncio.to_thread(self._scored, reading)
        if reading.scores is None:
            error = ImageError(reading.error_code or "unreadable", reading.error_detail or "")
            return DocumentRow(path, reading, error, self._measures)
        return DocumentRow(path, reading, self.scorer.as_scores(reading.scores[None])[0], self._measures)

    def _scored(self, reading: Reading) -> Reading:
        (scored,) = with_scores([reading], self.scorer, self.scorer.views, batch_size=1)
        return scored

    def _end(self, ended: Callable[[], None]) -> None:
        self.num_running -= 1
        ended()

    def _require_working(self) -> None:
        """Start every process, and have each read an image."""
        for probe in [self._workers.submit(_PROBE) for _ in range(self.num_workers)]:
            if isinstance(outcome := probe.result(), Failure):
                raise CheckpointError(
                    f"Worker processes do not score with {self.scorer.path}: {outcome.kind}.",
                    "Use fewer workers, or another model.",
                )
            self._scored(outcome)


def _probe() -> bytes:
    """A small image, as PNG."""
    encoded = io.BytesIO()
    Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)).save(encoded, "PNG")
    return encoded.getvalue()


_PROBE: Final = _probe()
