"""What ends: requests that do not arrive, images that take too long, queues, and the server itself."""

import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from quality_model.cli import run
from tests.hostile import decoders_obey_images, hostile
from tests.servers import page, wait_for

from .conftest import encoded, serving


@pytest.fixture
def harmed(tmp_path, monkeypatch):
    """Decoders of servers that start from now on do what images say."""
    decoders_obey_images(tmp_path / "site", monkeypatch)


def connected(server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=30)


def read_all(connection: socket.socket) -> bytes:
    received = b""
    while part := connection.recv(65536):
        received += part
    return received


def test_a_client_that_sends_slowly_or_nothing_is_cut_off_and_others_are_served(tmp_path, images):
    with serving(tmp_path, "--model", "bundled", "--workers", "1", "--timeout", "4") as server:
        silent, in_header, in_body = (connected(server) for _ in range(3))
        in_header.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\n")
        in_body.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" + images[0][:10])
        assert server.score(images[0]).status_code == 200
        answer = read_all(in_body)
        assert answer.startswith(b"HTTP/1.1 408 ") and b"body_too_slow" in answer
        assert read_all(silent) == read_all(in_header) == b""
        with connected(server) as kept:  # a connection is timed anew for every request
            kept.sendall(b"GET /model HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while not answer.endswith(b"}}"):  # header and body may come apart
                more = kept.recv(65536)
                assert more, answer
                answer += more
            assert answer.startswith(b"HTTP/1.1 200")
            kept.sendall(b"GET /mod")
            assert read_all(kept) == b""
        with connected(server) as garbled:
            garbled.sendall(b"\x16\x03\x01 no http\r\n\r\n")
            assert b" 400 " in read_all(garbled)
        with connected(server) as gone:
            gone.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
        assert server.get("/healthz").status_code == 200
        wait_for("release", lambda: server.metric("quality_model_held_bytes") == 0, within_s=10)


def test_an_image_that_crashes_or_hangs_its_reader_is_refused_and_the_next_one_is_scored(
    harmed, tmp_path, images
):
    limits = ["--set", "limits.max_seconds=3", "--workers", "1"]
    with serving(tmp_path, "--model", "bundled", *limits) as server:
        for behaviour, code in (
            ("crash", "worker_died"),
            ("hang", "too_slow"),
            ("no memory", "too_many_pixels"),
        ):
            answer = server.score(hostile(images[0], behaviour))
            assert 400 <= answer.status_code < 500
            assert answer.json()["error_code"] == code
            assert server.score(images[0]).status_code == 200


def test_a_full_queue_is_503_with_the_time_to_come_again_and_scores_that_take_too_long_are_504(
    harmed, tmp_path, images
):
    arguments = ["--workers", "1", "--queue", "2", "--timeout", "6", "--set", "limits.max_seconds=4"]
    with serving(tmp_path, "--model", "bundled", *arguments) as server, ThreadPoolExecutor(2) as threads:
        slow = [threads.submit(server.score, hostile(images[0], "hang")) for _ in range(2)]
        wait_for("queue", lambda: server.metric("quality_model_queue_images") == 2)
        refused = server.score(images[0])
        assert (refused.status_code, refused.json()["error_code"]) == (503, "busy")
        assert int(refused.headers["retry-after"]) >= 1
        assert {answer.result().status_code for answer in slow} == {504}
        # The one that did not begin has left the queue; the other one when its process was killed twice.
        wait_for("end", lambda: server.metric("quality_model_queue_images") == 0, within_s=60)
        assert server.score(images[0]).status_code == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_with_success_after_what_has_begun(tmp_path, photo, number):
    large = encoded(np.tile(photo, (6, 6, 1)), "JPEG")
    with (
        serving(tmp_path, "--model", "bundled", "--workers", "1") as server,
        ThreadPoolExecutor(10) as threads,
    ):
        answers = [threads.submit(server.score, large) for _ in range(10)]
        wait_for("queue", lambda: server.metric("quality_model_queue_images") > 3, within_s=20)
        wait_for("arrival", lambda: server.metric("quality_model_held_bytes") > 3 * len(large), within_s=20)
        server.process.send_signal(number)
        assert {answer.result().status_code for answer in answers} == {200}
        assert server.process.wait(30) == 0
        with pytest.raises(httpx.ConnectError):
            server.get("/healthz")


def test_a_draining_server_says_so_and_still_scores(tmp_path, images):
    with serving(tmp_path, "--model", "bundled", "--workers", "1", "--drain", "6") as server:
        assert server.get("/healthz").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        wait_for("draining", lambda: server.get("/healthz").status_code == 503, within_s=6)
        answer = server.score(images[0])
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        begun = time.monotonic()
        assert server.process.wait(30) == 0
        assert time.monotonic() - begun < 20


def test_what_cannot_be_served_is_one_line(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for arguments, code, said in (
            (["--port", port], 2, f"cannot listen at 127.0.0.1:{port}"),
            (["--port", "0", "--host", "no.such.host.invalid"], 2, "cannot listen at no.such.host.invalid"),
            (["--port", "0", "--model", "gone.pt"], 8, "gone.pt"),
            (["--port", "0", "--model", "bundled", "--follow", "1"], 2, "always means the same model"),
            (["--port", "0", "--timeout", "0"], 2, "timeout"),
            (["--port", "0", "--queue", "0"], 2, "queue"),
        ):
            assert run(["serve", *arguments]) == code
            shown = capfd.readouterr().err
            assert said in shown and "Traceback" not in shown
    assert page(f"http://127.0.0.1:{port}/") is None
