"""A real tracking server, and ones that misbehave."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import psutil
import pytest
import torch

from quality_model.networks.checkpoints import save_model
from quality_model.networks.model import MultiHeadQualityAssessmentModel
from quality_model.params import Params, RegistryParams, flatten, values_sha256
from quality_model.release.tracking import DataFacts, Run, start_run

START_S = 180.0

StartRun = Callable[..., Run]
Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass(frozen=True)
class Server:
    uri: str


@pytest.fixture
def section(params: Params) -> RegistryParams:
    return params.registry


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed model with random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, MultiHeadQualityAssessmentModel(), image_size_px=32, facts={})
    return folder


@pytest.fixture
def start(project: Path, params: Params) -> StartRun:
    """Start a run of the project with the committed parameters."""

    def run(**changes: object) -> Run:
        given: dict[str, object] = {
            "name": "train",
            "params": flatten(params.train),
            "params_sha256": values_sha256(flatten(params.train)),
            "data": DataFacts("sample-photos", "5" * 64, 720, "data/training"),
            "system_metrics": False,
            **changes,
        }
        return start_run(project, params.registry, **given)  # type: ignore[arg-type]

    return run


@pytest.fixture
def unused_port() -> int:
    return free_port()


@pytest.fixture
def misbehaving() -> Callable[[Answer], AbstractContextManager[str]]:
    """Run a server that answers every request in one way."""
    return misbehaving_server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Iterator[Server]:
    """``mlflow server`` on a free port of the loopback interface, which keeps the artifacts itself."""
    folder = tmp_path_factory.mktemp("server")
    database = folder / "server.db"
    database.write_bytes(mlflow_database.read_bytes())
    with running_server(folder, database, free_port()) as uri:
        yield Server(uri)


@contextmanager
def running_server(folder: Path, database: Path, port: int) -> Iterator[str]:
    """A server in a process of its own; its address. What it says goes to ``server.log`` of the folder."""
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", f"sqlite:///{database}", "--workers", "1"),
        *("--artifacts-destination", str(folder / "artifacts")),
    ]
    uri = f"http://127.0.0.1:{port}"
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, start_new_session=True, env=_clean_environment()
        )
    try:
        deadline = time.monotonic() + START_S
        while not _answers(f"{uri}/health"):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"mlflow server did not start: {(folder / 'server.log').read_text()[-2000:]}")
            time.sleep(0.2)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def processes_of(uri: str) -> list[psutil.Process]:
    """The server's, by its port: the one that was started, and its children."""
    port = uri.rpartition(":")[2]
    family = [
        process
        for process in psutil.process_iter(["cmdline"])
        if "mlflow" in " ".join(process.info["cmdline"] or []) and port in (process.info["cmdline"] or [])
    ]
    return family + [child for process in family for child in process.children(recursive=True)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Gateway:
    """Stands before a server as nginx does: passes requests on, or answers 503 while ``broken``."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream.removeprefix("http://")
        self.broken = False
        self.refused = 0

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        if self.broken:
            self.refused += 1
            request.send_response(503)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _OF_A_HOP}
        server = HTTPConnection(self.upstream, timeout=60)
        server.request(request.command, request.path, body, headers)
        reply = server.getresponse()
        content = reply.read()
        server.close()
        request.send_response(reply.status)
        for name in ("Content-Type", "Content-Disposition"):
            if name in reply.headers:
                request.send_header(name, reply.headers[name])
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)


_OF_A_HOP = frozenset({"host", "connection", "content-length", "accept-encoding"})


@contextmanager
def misbehaving_server(answer: Answer, port: int = 0) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def do_POST(self) -> None:
            answer(self)

        def do_PUT(self) -> None:
            answer(self)

        def do_PATCH(self) -> None:
            answer(self)

        def log_message(self, *_: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}"
    finally:
        httpd.shutdown()
        httpd.server_close()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def _clean_environment() -> dict[str, str]:
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_ENABLE_AI_GATEWAY": "false"}
    return {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"} | quiet
