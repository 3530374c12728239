"""A finished training, a real tracking server, and servers that misbehave."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import psutil
import pytest
import torch

from quality_model.core import storage
from quality_model.core.provenance import ModelFacts
from quality_model.networks.model import MultiHeadQualityAssessmentModel, save_model
from quality_model.params import Params, RegistryParams, flatten
from quality_model.paths import ProjectPaths
from quality_model.records import HEADS
from quality_model.train import EpochReport
from tests.release.gate.evidence import changed, tree

START_S = 180.0

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass(frozen=True)
class Server:
    uri: str


@pytest.fixture
def section(params: Params) -> RegistryParams:
    return params.registry


@pytest.fixture
def origin(params: Params) -> ModelFacts:
    """Of a training with the committed parameters."""
    return ModelFacts(
        training_fingerprint="f" * 64,
        settings={f"train.{key}": value for key, value in flatten(params.train).items()}
        | {"source.dataset": "sample-photos"},
        data_sha256="5" * 64,
        data_rows=720,
        data_images=120,
        data_groups=90,
        dvc_data_hash="abc.dir",
        package_version="0.1.0",
        code_sha256="c" * 64,
        git_commit="9" * 40,
        git_dirty="false",
        project_commit="8" * 40,
        project_dirty="true",
    )


def epoch(number: int) -> EpochReport:
    """The report of an epoch, whose loss is 1 / number."""
    per_head = dict.fromkeys(HEADS, 0.1)
    undefined = {**per_head, "noise": None}
    loss, rate, images_per_s, elapsed_s = 1.0 / number, 0.001, 21.5, 9.0
    return EpochReport(
        number, 8, loss, loss, per_head, per_head, per_head, undefined, rate, images_per_s, elapsed_s
    )


def finish_training(root: Path, origin: ModelFacts, *, epochs: int = 3, seed: int = 0) -> Path:
    """Leave in a project what `train` and `evaluate` leave there; returns the model's folder."""
    paths = ProjectPaths(root)
    history = [epoch(number) for number in range(1, epochs + 1)]
    summary = {"best_epoch": epochs, "epochs_run": epochs, "validation_loss": history[-1].validation_loss}
    torch.manual_seed(seed)
    network = MultiHeadQualityAssessmentModel(architecture="small")
    marker = save_model(paths.model, network, image_size_px=32, facts={**summary, **origin.to_json()})
    storage.write_json(paths.training_report / "metrics.json", summary)
    rows = [report.to_dict(timings=False) for report in history]
    storage.write_json(paths.training_report / "history.json", rows)
    about = {"candidate.model_sha256": marker["sha256"], "candidate.data_sha256": "5" * 64}
    # Each baseline is a run of its own: those of one head are enough.
    about |= {f"candidate.heads.{head}.baselines": {} for head in HEADS if head != "noise"}
    evidence = changed(tree(), about)["candidate"]
    storage.write_json(paths.evaluation_report / "evaluation.json", evidence)
    storage.write_bytes(paths.evaluation_report / "figures" / "severity_sweeps.png", b"a figure")
    return paths.model


@pytest.fixture
def finished(project: Path, origin: ModelFacts) -> Path:
    """The model's folder of a project in which a training of three epochs and its evaluation ended."""
    return finish_training(project, origin)


@pytest.fixture
def unused_port() -> int:
    return free_port()


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
    """Stands before a server as nginx does: passes ``allowed`` requests on, then answers 503."""

    def __init__(self, upstream: str, allowed: float = float("inf")) -> None:
        self.upstream = upstream.removeprefix("http://")
        self.allowed = allowed

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        self.allowed -= 1
        if self.allowed < 0:
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


_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_OF_A_HOP = frozenset({"host", "connection", "content-length", "accept-encoding"})


@contextmanager
def misbehaving_server(answer: Answer, port: int = 0) -> Iterator[str]:
    methods = {f"do_{name}": lambda request: answer(request) for name in _METHODS}
    silent = {"log_message": lambda *_: None}
    handler = type("Handler", (BaseHTTPRequestHandler,), {**methods, **silent})
    httpd = ThreadingHTTPServer(("127.0.0.1", port), handler)
    thread = Thread(target=httpd.serve_forever, args=(0.05,), daemon=True)
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
