"""What a server does with images: it admits, scores and counts them, and exchanges the model meanwhile.

Everything here runs in the thread of one event loop.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from quality_model.core.models import FoundModel, find_model
from quality_model.core.processes import Failure, Workers
from quality_model.errors import RegistryError
from quality_model.params import RegistryParams
from quality_model.score.document import ScoreDocument
from quality_model.serve.loaded_model import Identity, LoadedModel, identity_of
from quality_model.serve.serving_metrics import ServingMetrics

BODIES: Final = 4
"""As many times `limits.max_bytes` may be in memory at once, in bodies."""

_REGISTRY_WITHIN_S: Final = 120.0
_HEALTHY_WITHIN_S: Final = 10.0

log = logging.getLogger(__name__)


class Refusal(Exception):
    """A request that is not answered with scores.

    Args:
        status: Of HTTP.
        code: A short stable code, as of an image.
        detail: What was wrong, for people.
    """

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"{status} {code}: {detail}")
        self.status, self.code, self.detail = status, code, detail


@dataclass(frozen=True, slots=True)
class NamedImage:
    """An image of a request: what the client calls it, and its encoded bytes."""

    path: str | None
    data: bytes


class Service:
    """A model that can be exchanged, and a queue with an end before its workers.

    Args:
        model: It scores first.
        queue_length: Most images that wait or are scored at a time.
        within_s: Seconds in which images of a request must have scores.
        metrics: What is counted.

    Attributes:
        is_draining: No more requests are wanted: the server is about to end.
    """

    def __init__(
        self, model: LoadedModel, *, queue_length: int, within_s: float, metrics: ServingMetrics
    ) -> None:
        self.model = model
        self.queue_length = queue_length
        self.within_s = within_s
        self.metrics = metrics
        self.is_draining = False
        self._num_queued = 0
        self._num_held_bytes = 0
        self._most_bytes = BODIES * model.scorer.limits.max_bytes
        self._retired: list[LoadedModel] = []
        metrics.name_model(model.scorer)

    async def score(self, images: Sequence[NamedImage]) -> ScoreDocument:
        """Score images with one model: the document of `predict --json`.

        Raises:
            Refusal: The queue is full, or the time is over.
            QualityModelError: The model cannot score.
        """
        self.require_room(len(images))
        model = self.model
        self._count_queued(len(images))
        work = [model.score(one.path, one.data, lambda: self._count_queued(-1)) for one in images]
        try:
            async with asyncio.timeout(self.within_s):
                rows = await asyncio.gather(*work)
        except TimeoutError:
            raise Refusal(504, "timeout", f"no scores within {self.within_s:g} s") from None
        for row in rows:
            self.metrics.count_image(row)
        return ScoreDocument(model.scorer, rows)

    def facts(self) -> dict[str, Any]:
        """Which model scores now, as JSON values."""
        return ScoreDocument(self.model.scorer, ()).facts()

    def require_room(self, num_images: int) -> None:
        """Refuse images that the queue has no room for."""
        if num_images > self.queue_length:
            raise Refusal(413, "too_many_images", f"{num_images} images, at most {self.queue_length}")
        if self._num_queued + num_images > self.queue_length:
            raise Refusal(503, "busy", f"{self._num_queued} images wait already")

    def hold(self, num_bytes: int) -> None:
        """Count bytes of a body that was read; a negative number gives them back.

        Raises:
            Refusal: Bodies take too much memory together; the bytes are not counted.
        """
        if num_bytes > 0 and self._num_held_bytes + num_bytes > self._most_bytes:
            raise Refusal(503, "busy", "too many bytes of images are being received")
        self._num_held_bytes += num_bytes
        self.metrics.held.set(self._num_held_bytes)

    async def is_healthy(self) -> bool:
        """Whether requests are wanted and workers answer; those that score something now do."""
        if self.is_draining:
            return False
        if self.model.num_running:
            return True
        try:
            return await asyncio.wait_for(self.model.answers(), _HEALTHY_WITHIN_S)
        except TimeoutError:
            return False

    async def exchange(self, model: LoadedModel) -> None:
        """Score with another model from the next request on; requests that have begun keep theirs."""
        before, self.model = self.model, model
        self._retired.append(before)
        self.metrics.name_model(model.scorer)
        self.metrics.switches.inc()
        log.info("%s scores; before: %s.", model.scorer.source.title, before.scorer.source.title)
        while before.num_running:
            await asyncio.sleep(0.05)
        await asyncio.to_thread(before.close)
        self._retired.remove(before)

    def close(self) -> None:
        """End all processes."""
        for model in (self.model, *self._retired):
            model.close()

    def _count_queued(self, difference: int) -> None:
        self._num_queued += difference
        self.metrics.queue.set(self._num_queued)


class ChampionWatch:
    """Asks a registry what a name means, in a process of its own: whatever it waits for or imports there
    delays no request.

    Args:
        reference: A name that may come to mean another version (`models.can_move`).
        registry: As of `find_model`.
        load: Makes a found model ready; takes seconds, in a thread.
    """

    def __init__(
        self, reference: str, registry: RegistryParams | None, load: Callable[[FoundModel], LoadedModel]
    ) -> None:
        self._question = reference, registry
        self._load = load
        self._process = Workers(_look_up, 1, _REGISTRY_WITHIN_S)

    async def follow(self, service: Service, every_s: float) -> None:
        """Exchange the model of a service whenever the name means another one; ends when it is cancelled.

        A registry that does not answer, or a model that does not load, changes nothing but a metric.
        """
        service.metrics.follows.set(1)
        while True:
            await asyncio.sleep(every_s)
            try:
                await self._follow_once(service)
            except Exception as error:  # noqa: BLE001 - the server scores whatever happens here
                log.warning("The model stays: %s: %s", type(error).__name__, error)
                service.metrics.follows.set(0)
                service.metrics.follow_errors.inc()
            else:
                service.metrics.follows.set(1)

    async def _follow_once(self, service: Service) -> None:
        answer = await asyncio.wrap_future(self._process.submit(self._question))
        if isinstance(answer, Failure):
            raise RegistryError(f"The registry did not answer within {_REGISTRY_WITHIN_S:.0f} s.")
        found, identity = answer
        if identity != service.model.identity:
            await service.exchange(await asyncio.to_thread(self._load, found))

    def close(self) -> None:
        """End the process."""
        self._process.close()


def _look_up(question: tuple[str, RegistryParams | None]) -> tuple[FoundModel, Identity]:
    found = find_model(question[0], Path(), question[1])
    return found, identity_of(found)
