"""`make prefect-ui` at a port of one's own, and `make service` only with the project's own server."""

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest

from tasks.local_server import is_ours
from tests.flows.conftest import PROJECT, environment
from tests.flows.test_service import free_port

WITHIN_S = 240.0


def make(folder: Path, target: str, port: int) -> list[str]:
    venv = Path(sys.prefix)
    words = [f"PREFECT_PORT={port}", f"VENV={venv}", "-o", f"{venv}/.installed"]
    return ["make", "-f", str(PROJECT / "Makefile"), "-C", str(folder), target, *words]


def project(folder: Path) -> Path:
    (folder / "state" / "prefect").mkdir(parents=True)
    return folder


def env_of(project: Path) -> dict[str, str]:
    return environment(project) | {"PYTHONPATH": str(PROJECT)}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """A project and the port at which `make prefect-ui` runs in it."""
    folder, port = project(tmp_path_factory.mktemp("served") / "project"), free_port()
    log = folder / "log"
    with log.open("wb") as handle:
        server = subprocess.Popen(
            make(folder, "prefect-ui", port),
            env=env_of(folder),
            stdout=handle,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + WITHIN_S
        while True:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            try:
                httpx.get(f"http://127.0.0.1:{port}/api/health", timeout=5).raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.5)
        yield folder, port
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=60)


def test_the_pages_of_prefect_ask_the_port_that_was_chosen(served: tuple[Path, int]) -> None:
    _, port = served
    settings = httpx.get(f"http://127.0.0.1:{port}/ui-settings", timeout=30, follow_redirects=True).json()
    assert settings["api_url"] == f"http://127.0.0.1:{port}/api"


def service(folder: Path, port: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        make(folder, "service", port), env=env_of(folder), capture_output=True, text=True, check=False
    )


def test_the_schedules_are_not_given_to_the_server_of_another_project(
    served: tuple[Path, int], tmp_path: Path
) -> None:
    folder, port = served
    done = service(project(tmp_path / "another"), port)
    assert done.returncode == 2
    line, _ = done.stderr.splitlines()
    assert f"belongs to another project: its state is in {folder}/state/prefect." in line
    assert "make prefect-ui PREFECT_PORT=N" in line


def test_without_a_server_the_service_says_in_one_line_how_to_start_it(tmp_path: Path) -> None:
    port = free_port()
    done = service(project(tmp_path / "project"), port)
    assert done.returncode == 2
    line, _ = done.stderr.splitlines()
    assert line.startswith(f"Error: No Prefect server answers at http://127.0.0.1:{port}/api.")
    assert "make prefect-ui PREFECT_PORT=N" in line


def test_the_service_takes_the_server_of_its_own_project(served: tuple[Path, int]) -> None:
    folder, port = served
    assert is_ours(str(port), folder / "state" / "prefect") is None


@contextmanager
def guarded(home: Path, password: str) -> Iterator[str]:
    """The port of a server that answers 401 to whoever does not send this user and password."""

    class Guard(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent = self.headers.get("Authorization", "").removeprefix("Basic ")
            self.send_response(200 if base64.b64decode(sent).decode() == password else 401)
            self.end_headers()
            self.wfile.write(json.dumps({"home": str(home)}).encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Guard) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield str(server.server_port)
        finally:
            server.shutdown()
            thread.join()


def test_the_service_sends_the_password_of_prefects_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with guarded(tmp_path, "trainer:pässword") as port:
        monkeypatch.setenv("PREFECT_API_AUTH_STRING", "trainer:pässword")
        assert is_ours(port, tmp_path) is None
        for other in ("", "trainer:wrong"):
            monkeypatch.setenv("PREFECT_API_AUTH_STRING", other)
            assert "refuses access (HTTP 401)" in str(is_ours(port, tmp_path))
            assert "set PREFECT_API_AUTH_STRING" in str(is_ours(port, tmp_path))


def test_a_proxy_of_the_environment_is_not_asked_for_a_server_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with guarded(tmp_path, "") as port:
        assert is_ours(port, tmp_path) is None
