"""One process that listens: connections that say nothing end, and signals end it without losing a request."""

import asyncio
import logging
import signal
import socket
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Final

import prometheus_client
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from quality_model.core.models import FoundModel, find_model
from quality_model.errors import UsageError
from quality_model.params import LimitsParams, RegistryParams, ScoreParams
from quality_model.serve.http_app import make_app
from quality_model.serve.loaded_model import LoadedModel
from quality_model.serve.service import ChampionWatch, Service
from quality_model.serve.serving_metrics import ServingMetrics

MOST_CONNECTIONS: Final = 512
"""More are answered with 503."""

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How a server behaves.

    Attributes:
        host, port: Where it listens; port 0 is a free one.
        queue_length: Most images that wait or are scored at a time, and most in a batch.
        within_s: Seconds for the header of a request to arrive, as many for its body, and for its scores.
        follow_s: Seconds between two questions to the registry; None: the model stays.
        drain_s: Seconds after a signal in which requests are still taken while /healthz says 503.
        finish_s: Most seconds for requests that have begun, after that.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    queue_length: int = 64
    within_s: float = 30.0
    follow_s: float | None = None
    drain_s: float = 0.0
    finish_s: float = 30.0


def serve(
    section: ScoreParams,
    limits: LimitsParams,
    settings: ServerSettings,
    *,
    registry: RegistryParams | None = None,
) -> None:
    """Serve a model until SIGTERM or Ctrl-C; call it in the main thread.

    Raises:
        UsageError: The address is taken, or the model that is to be followed cannot become another one.
        CheckpointError, ModelNotFoundError, RegistryError, CorruptError: The model is not available.
    """
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    listener = _bound(settings.host, settings.port)
    try:
        asyncio.run(_serve(section, limits, settings, registry, listener))
    finally:
        listener.close()


async def _serve(
    section: ScoreParams,
    limits: LimitsParams,
    settings: ServerSettings,
    registry: RegistryParams | None,
    listener: socket.socket,
) -> None:
    def load(found: FoundModel) -> LoadedModel:
        return LoadedModel(found, section, limits, registry)

    found = find_model(section.model, Path(), registry)
    if found.decided:
        log.info(found.decided)
    service = Service(
        load(found),
        queue_length=settings.queue_length,
        within_s=settings.within_s,
        metrics=ServingMetrics(),
    )
    watch = ChampionWatch(section.model, registry, load) if settings.follow_s else None
    following = None
    try:
        if watch is not None and settings.follow_s:
            following = asyncio.create_task(watch.follow(service, settings.follow_s))
        await _Server(service, settings).serve([listener])
    finally:
        if following is not None:
            following.cancel()
        if watch is not None:
            watch.close()
        service.close()


class _Server(uvicorn.Server):
    """uvicorn's server, which drains first and ends with success after a signal."""

    def __init__(self, service: Service, settings: ServerSettings) -> None:
        logging.getLogger("uvicorn").setLevel(logging.ERROR)  # hostile requests would fill the log
        super().__init__(
            uvicorn.Config(
                make_app(service, body_within_s=settings.within_s),
                http=partial(_Protocol, settings.within_s),  # type: ignore[arg-type]  # called, not compared
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=MOST_CONNECTIONS,
                timeout_graceful_shutdown=settings.finish_s,  # type: ignore[arg-type]  # it waits for floats too
            )
        )
        self._service = service
        self._drain_s = settings.drain_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host, port = (sockets or [])[0].getsockname()[:2]
        log.info("%s scores at http://%s:%d", self._service.model.scorer.source.title, host, port)

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        before = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, end at the second, and drop what runs at the third."""
        loop = asyncio.get_running_loop()
        if self._service.is_draining or not self._drain_s:
            self.force_exit = self.should_exit
            self.should_exit = True
        else:
            loop.call_soon_threadsafe(loop.call_later, self._drain_s, self._end)
        self._service.is_draining = True

    def _end(self) -> None:
        self.should_exit = True


class _Protocol(H11Protocol):
    """uvicorn's protocol, with a time limit for the header of a request."""

    def __init__(self, within_s: float, **named: Any) -> None:
        super().__init__(**named)
        self._within_s = within_s
        self._header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._time_header()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._time_header()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_timer()

    def _time_header(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_timer()
        elif self._header_timer is None:
            self._header_timer = self.loop.call_later(self._within_s, self._end_if_waiting)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _end_if_waiting(self) -> None:
        self._header_timer = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


def _bound(host: str, port: int) -> socket.socket:
    """A socket at an address, which does not listen yet."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"The server cannot listen at {host}:{port}: {error}.", "Give another --host or --port."
        ) from None
    return listener
