"""The addresses of a server: bodies are read within limits, answers and errors are JSON."""

import asyncio
import base64
import binascii
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quality_model.errors import ImageError
from quality_model.serve.service import NamedImage, Refusal, Service

_STATUS: Final = {
    **dict.fromkeys(("empty", "broken", "truncated"), 400),
    **dict.fromkeys(("too_many_bytes", "too_many_pixels"), 413),
    **dict.fromkeys(("not_an_image", "unsupported"), 415),
}
"""Of HTTP by error code of an image; any other is 422."""

_LINGER_S: Final = 1.0
_LONGEST_PATH: Final = 1000
_RETRY_AFTER_S: Final = 1

Endpoint = Callable[[Request], Awaitable[Response]]


class _BatchImage(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    path: str | None = None
    data: str


class _Batch(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    images: list[_BatchImage]


def make_app(service: Service, *, body_within_s: float) -> ASGIApp:
    """The application of a service; a body must arrive within ``body_within_s`` seconds."""
    bodies = _Bodies(service, body_within_s)

    async def score(request: Request) -> Response:
        async with bodies.read(request) as body:
            path = request.query_params.get("path")
            row = (found := await service.score([NamedImage(_named(path), body)])).rows[0]
        return _of_image(row.error) if row.error else _json(found.to_dict())

    async def batch(request: Request) -> Response:
        async with bodies.read(request) as body:
            images = await asyncio.to_thread(_batch_of, body, service.queue_length)
            return _json((await service.score(images)).to_dict())

    async def model(request: Request) -> Response:
        return _json(service.facts())

    async def healthz(request: Request) -> Response:
        healthy = await service.is_healthy()
        return _json({"status": "ok" if healthy else "not ready"}, 200 if healthy else 503)

    async def metrics(request: Request) -> Response:
        return Response(service.metrics.page(), media_type=CONTENT_TYPE_LATEST)

    routes = [
        Route("/score", score, methods=["POST"]),
        Route("/batch", batch, methods=["POST"]),
        Route("/model", model),
        Route("/healthz", healthz),
        Route("/metrics", metrics),
    ]
    handlers: dict[Any, Callable[[Request, Exception], Response]] = {
        Refusal: _refused,
        HTTPException: _not_found,
        ClientDisconnect: _gone,
        Exception: _failed,
    }
    app = Starlette(routes=routes, exception_handlers=handlers)
    return _Watched(app, service, {route.path for route in routes})


class _Bodies:
    """Reads bodies of requests, none longer than the limit of an image."""

    def __init__(self, service: Service, within_s: float) -> None:
        self._service = service
        self._within_s = within_s
        self._most_bytes = service.model.scorer.limits.max_bytes

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The body of a request; its bytes count as held until this ends.

        Raises:
            Refusal: It is too long, too slow, encoded, or no work is taken now.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind.startswith("multipart/"):
            raise Refusal(415, "multipart", "send the bytes of the image alone: curl --data-binary @FILE")
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise Refusal(415, "content_encoding", "send the bytes as they are")
        if int(request.headers.get("content-length", "0")) > self._most_bytes:
            raise self._too_long()
        self._service.require_room(1)
        parts: list[bytes] = []
        num_bytes = 0
        try:
            try:
                async with asyncio.timeout(self._within_s):
                    async for part in request.stream():
                        if num_bytes + len(part) > self._most_bytes:
                            raise self._too_long()
                        self._service.hold(len(part))
                        num_bytes += len(part)
                        parts.append(part)
            except TimeoutError:
                raise Refusal(408, "body_too_slow", f"no whole body within {self._within_s:g} s") from None
            body = b"".join(parts)
            parts.clear()
            yield body
        finally:
            self._service.hold(-num_bytes)

    def _too_long(self) -> Refusal:
        return Refusal(413, "too_many_bytes", f"more than {self._most_bytes} bytes")


class _Watched:
    """Counts requests, and ends a connection whose body was left unread.

    A client that is still sending would else not see the answer: for a second more its bytes are dropped.
    """

    def __init__(self, app: ASGIApp, service: Service, endpoints: set[str]) -> None:
        self._app = app
        self._service = service
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = scope["path"] if scope["path"] in self._endpoints else "other"
        begun = time.monotonic()
        status, is_read = 500, False

        async def received() -> Message:
            nonlocal is_read
            message = await receive()
            is_read = message["type"] != "http.request" or not message.get("more_body", False)
            return message

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if not is_read and _has_body(scope):
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            elif not message.get("more_body", False) and not is_read and _has_body(scope):
                await send({**message, "more_body": True})
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LINGER_S):
                        while not is_read:
                            await received()
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        try:
            await self._app(scope, received, sent)
        finally:
            metrics = self._service.metrics
            metrics.requests.labels(endpoint, str(status)).inc()
            metrics.seconds.labels(endpoint).observe(time.monotonic() - begun)


def _has_body(scope: Scope) -> bool:
    names = dict(scope["headers"])
    return b"transfer-encoding" in names or names.get(b"content-length", b"0") != b"0"


def _batch_of(body: bytes, most: int) -> list[NamedImage]:
    """The images of ``{"images": [{"path": ..., "data": base64}, ...]}``.

    Raises:
        Refusal: It is no such document.
    """
    try:
        batch = _Batch.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise Refusal(400, "bad_batch", f"{place}: {first['msg']}" if place else first["msg"]) from None
    if not batch.images:
        raise Refusal(400, "bad_batch", "there is no image")
    if len(batch.images) > most:
        raise Refusal(413, "too_many_images", f"{len(batch.images)} images, at most {most}")
    images = []
    for number, image in enumerate(batch.images):
        try:
            data = base64.b64decode(image.data, validate=True)
        except (binascii.Error, ValueError):
            raise Refusal(400, "bad_batch", f"images.{number}.data: no base64") from None
        images.append(NamedImage(_named(image.path), data))
    return images


def _named(path: str | None) -> str | None:
    if path is not None and len(path) > _LONGEST_PATH:
        raise Refusal(400, "bad_path", f"path has {len(path)} characters, at most {_LONGEST_PATH}")
    return path


def _of_image(error: ImageError) -> Response:
    return _error(_STATUS.get(error.reason, 422), error.reason, error.detail)


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _error(error.status, error.code, error.detail)


def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "no_such_address", 405: "no_such_method"}.get(error.status_code, "refused")
    return _error(error.status_code, code, f"{request.method} {request.url.path}", error.headers)


def _gone(request: Request, error: Exception) -> Response:
    return _error(400, "client_gone", "the connection was closed")


def _failed(request: Request, error: Exception) -> Response:
    return _error(500, "not_scored", "the server could not score; its log says why")


def _error(status: int, code: str, detail: str, headers: Any = None) -> Response:
    more = {"retry-after": str(_RETRY_AFTER_S)} if status == 503 else {}
    return _json({"error_code": code, "error_detail": detail}, status, {**(headers or {}), **more})


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    # ASCII: a name may hold what UTF-8 does not have
    return Response(json.dumps(value), status, headers, media_type="application/json")
