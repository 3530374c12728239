"""The requests behind `reading.fetched`: threads, connections that are used again, and whom they may ask."""

import ipaddress
import logging
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError

from quality_model.core.processes import THREADS
from quality_model.errors import ImageError, redacted
from quality_model.params import LimitsParams
from quality_model.score.reading import DownloadRules, Source

_ATTEMPTS: Final = 3
_MAX_REDIRECTS: Final = 5
_MAX_WAIT_S: Final = 30.0
"""Longest wait that a server can ask for, and that is kept to, before another attempt."""
_FIRST_WAIT_S: Final = 0.5
_SILENT_S: Final = 15.0
_CHUNK_BYTES: Final = 1 << 16
_AT_ANOTHER_TIME: Final = frozenset({408, 425, 429, 500, 502, 503, 504})

logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # what fails is a row


@dataclass(slots=True)
class _Host:
    """One host: how many may ask it at once, and when the next may."""

    at_once: threading.Semaphore
    lock: threading.Lock = field(default_factory=threading.Lock)
    next_at: float = 0.0

    def wait(self, pause_s: float) -> None:
        with self.lock:
            start = max(self.next_at, time.monotonic())
            self.next_at = start + pause_s
        time.sleep(max(0.0, start - time.monotonic()))

    def not_before(self, wait_s: float) -> None:
        with self.lock:
            self.next_at = max(self.next_at, time.monotonic() + wait_s)


class _Again(Exception):
    """It may work at another time; after so many seconds, if the server says so."""

    def __init__(self, detail: str, wait_s: float | None = None) -> None:
        super().__init__(detail)
        self.wait_s = wait_s


class Downloads:
    """Threads that fetch, with connections that are used again."""

    def __init__(self, rules: DownloadRules, limits: LimitsParams) -> None:
        self._rules, self._limits = rules, limits
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="download")
        self._hosts: dict[str, _Host] = {}
        self._lock = threading.Lock()
        self._is_closed = threading.Event()
        self._session = requests.Session()
        self._session.max_redirects = _MAX_REDIRECTS
        self._session.auth = lambda request: request  # no credentials from .netrc
        self._session.headers.update({"User-Agent": "quality-model", "Accept-Encoding": "identity"})
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _Adapter(rules, limits.max_seconds))

    def start(self, address: str) -> "Future[Source]":
        return self._threads.submit(self._fetch, address)

    def close(self) -> None:
        self._is_closed.set()
        self._threads.shutdown(cancel_futures=True)
        self._session.close()

    def _fetch(self, address: str) -> Source:
        with self._lock:
            name = (urlsplit(address).hostname or "").lower() if _is_parsed(address) else ""
            host = self._hosts.setdefault(name, _Host(threading.Semaphore(self._rules.per_host)))
        detail = ""
        for attempt in range(_ATTEMPTS):
            if self._is_closed.is_set():
                break
            try:
                with host.at_once:
                    host.wait(self._rules.pause_s)
                    return self._read(address)
            except ImageError as error:
                return error
            except _Again as error:
                detail = redacted(str(error))
                wait_s = _FIRST_WAIT_S * 2**attempt if error.wait_s is None else error.wait_s
                if wait_s > _MAX_WAIT_S:
                    return ImageError("download_failed", f"{detail}, and asks to wait {wait_s:.0f} s")
                if error.wait_s is not None:
                    host.not_before(wait_s)
                elif attempt + 1 < _ATTEMPTS:
                    self._is_closed.wait(wait_s)
        return ImageError("download_failed", f"{detail}, {_ATTEMPTS} times")

    def _read(self, address: str) -> bytes:
        """One attempt.

        Raises:
            ImageError: ``download_refused`` or ``too_many_bytes``.
            _Again: It may work at another time.
        """
        deadline = time.monotonic() + self._limits.max_seconds
        try:
            with self._session.get(
                address, stream=True, timeout=min(_SILENT_S, self._limits.max_seconds)
            ) as answer:
                if answer.status_code in _AT_ANOTHER_TIME:
                    raise _Again(f"the server answers {answer.status_code}", _retry_after(answer))
                if answer.status_code != requests.codes.ok:
                    raise ImageError("download_refused", f"the server answers {answer.status_code}")
                return self._body(answer, deadline)
        except requests.TooManyRedirects:
            raise ImageError("download_refused", f"more than {_MAX_REDIRECTS} redirects") from None
        except (requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL, UnicodeError) as error:
            raise ImageError("download_refused", f"no address: {redacted(str(error))}") from None
        except (requests.RequestException, HTTPError, OSError) as error:
            if time.monotonic() >= deadline:
                raise _Again(f"it took longer than {self._limits.max_seconds:g} s") from None
            raise _Again(f"{type(error).__name__}") from None

    def _body(self, answer: requests.Response, deadline: float) -> bytes:
        limit = self._limits.max_bytes
        too_many = ImageError("too_many_bytes", f"more than {limit} bytes")
        length = answer.headers.get("Content-Length", "")
        if length.isdigit() and int(length) > limit:
            raise too_many
        data = bytearray()
        while chunk := answer.raw.read1(_CHUNK_BYTES, decode_content=True):
            data += chunk
            if len(data) > limit:
                raise too_many
            if time.monotonic() > deadline:
                raise _Again(f"it took longer than {self._limits.max_seconds:g} s")
        if length.isdigit() and "Content-Encoding" not in answer.headers and len(data) < int(length):
            raise _Again(f"the connection ended after {len(data)} of {length} bytes")
        return bytes(data)


class _Adapter(HTTPAdapter):
    """Looks at the host of each request, redirects among them, and at what its connection leads to."""

    def __init__(self, rules: DownloadRules, max_seconds: float) -> None:
        self._allow_private = rules.allow_private
        self._max_seconds = max_seconds
        super().__init__(pool_maxsize=THREADS)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = {
            "http": _pool(HTTPConnectionPool, HTTPConnection, self._allow_private, self._max_seconds),
            "https": _pool(HTTPSConnectionPool, HTTPSConnection, self._allow_private, self._max_seconds),
        }

    def send(self, request: Any, *arguments: Any, **options: Any) -> Any:
        if not self._allow_private:
            host = urlsplit(request.url).hostname or ""
            with suppress(OSError, UnicodeError):  # a name that leads nowhere is for the connection to say
                for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM):
                    _require_public(str(found[4][0]))
        return super().send(request, *arguments, **options)


def _pool(pool: Any, connection: Any, allow_private: bool, max_seconds: float) -> Any:
    """A class of pools whose connections refuse private addresses, however a name came to mean one."""

    class Connection(connection):  # type: ignore[misc]
        def _new_conn(self) -> socket.socket:
            made: socket.socket = super()._new_conn()
            try:
                if not allow_private:
                    _require_public(made.getpeername()[0])
            except ImageError:
                made.close()
                raise
            return made

        def getresponse(self) -> Any:
            """Headers that come too slowly end with the connection."""
            sock = self.sock
            timer = threading.Timer(max_seconds, _shut, [sock])
            timer.daemon = True
            timer.start()
            try:
                return super().getresponse()
            finally:
                timer.cancel()

    class Pool(pool):  # type: ignore[misc]
        ConnectionCls = Connection

    return Pool


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _require_public(address: str) -> None:
    """Refuse an address of this machine, its network, or another that is not of the public internet."""
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None) or found
    if not mapped.is_global or mapped.is_multicast:
        raise ImageError("download_refused", f"{address} is a private address (see --allow-private)")


def _is_parsed(address: str) -> bool:
    try:
        urlsplit(address)
    except ValueError:
        return False
    return True


def _retry_after(answer: requests.Response) -> float | None:
    """Seconds that a server asks to wait; a date counts as not said."""
    text = answer.headers.get("Retry-After", "")
    return float(text) if text.isdigit() else None
