"""What a server answers: the scores of `predict`, in batches too, and 4xx to what is no image."""

import base64
import json
import random
import socket
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from quality_model.cli import run

from .conftest import Serving


def predicted(folder: Path, images: list[bytes], capfd: pytest.CaptureFixture[str]) -> dict:
    """What `predict --json` prints of the images, which are called 0, 1 and so on."""
    for number, data in enumerate(images):
        (folder / str(number)).write_bytes(data)
    paths = [str(folder / str(number)) for number in range(len(images))]
    limits = ["--set", "limits.max_bytes=300000", "--set", "limits.max_pixels=1000000"]
    run(["predict", "--json", "--no-project", "--model", "bundled", *limits, *paths])
    document = json.loads(capfd.readouterr().out)
    for number, row in enumerate(document["images"]):
        row["path"] = str(number)
    return document


def batch(server: Serving, images: list[bytes]) -> httpx.Response:
    named = [
        {"path": str(number), "data": base64.b64encode(data).decode()} for number, data in enumerate(images)
    ]
    return httpx.post(f"{server.url}/batch", json={"images": named}, timeout=60)


def test_an_image_gets_the_document_of_predict_to_the_bit(server, images, tmp_path, capfd):
    expected = predicted(tmp_path, images, capfd)
    for number, data in enumerate(images):
        answer = server.score(data, params={"path": str(number)})
        assert answer.status_code == 200
        assert answer.json() == {**expected, "images": [expected["images"][number]]}
    assert "noise" in answer.json()["images"][0]["flags"]
    assert server.score(images[0]).json()["images"][0]["path"] is None


def test_a_batch_gets_a_row_for_every_image_and_an_error_code_where_one_has_no_scores(
    server, images, tmp_path, capfd
):
    mixed = [images[0], b"", images[1], images[2][:90], b"<html>", images[3]]
    answer = batch(server, mixed)
    assert answer.status_code == 200
    assert answer.json() == predicted(tmp_path, mixed, capfd)
    codes = [row["error_code"] for row in answer.json()["images"]]
    assert [code is None for code in codes] == [True, False, True, False, False, True]


def test_simultaneous_requests_get_each_its_own_scores(server, images):
    expected = [server.score(data).json() for data in images]
    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(lambda number: server.score(images[number % 5]).json(), range(30)))
    assert found == [expected[number % 5] for number in range(30)]


def bomb(side_px: int) -> bytes:
    """A PNG file of a few bytes that announces a huge image."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side_px, side_px, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def stream(num_bytes: int):
    """A body without a length, which is sent in chunks."""
    for _ in range(num_bytes // 1000):
        yield bytes(1000)


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"", {}, 400, "empty"),
        (b"<html>", {}, 415, "not_an_image"),
        (b"%PDF-1.7", {"content-type": "image/jpeg"}, 415, "not_an_image"),
        (bomb(60_000), {}, 413, "too_many_pixels"),
        (bytes(300_001), {}, 413, "too_many_bytes"),
        (stream(10**6), {}, 413, "too_many_bytes"),
        (b"x", {"content-type": "multipart/form-data; boundary=x"}, 415, "multipart"),
        (b"x", {"content-encoding": "gzip"}, 415, "content_encoding"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_body_that_is_no_image_within_the_limits_gets_an_error_code(server, body, headers, status, code):
    answer = server.score(body, headers=headers)
    assert (answer.status_code, answer.json()["error_code"]) == (status, code)
    assert set(answer.json()) == {"error_code", "error_detail"}


def test_a_length_above_the_limit_is_refused_before_a_byte_of_the_body_is_read(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        length = b"Content-Length: 99999999999999999999"
        connection.sendall(
            b"POST /score HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n" + length + b"\r\n\r\n"
        )
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_a_truncated_image_is_a_bad_request(server, images):
    for data in (images[0][:-60], images[1][: len(images[1]) // 2]):
        answer = server.score(data)
        assert (answer.status_code, answer.json()["error_code"]) == (400, "truncated")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("", "bad_batch"),
        ("[]", "bad_batch"),
        ('{"images": []}', "bad_batch"),
        ('{"images": [{"data": "AAAA", "url": "http://x"}]}', "bad_batch"),
        ('{"images": [{"data": 7}]}', "bad_batch"),
        ('{"images": [{"data": "not base64"}]}', "bad_batch"),
        ('{"images": [{"data": "\\u00e9"}]}', "bad_batch"),
        ('{"images": ' + "[" * 100_000, "bad_batch"),
        ('{"images": [{"data": "", "path": "' + "x" * 1001 + '"}]}', "bad_path"),
        (b"\xff\xfe", "bad_batch"),
        ('{"images": [' + ",".join(['{"data": ""}'] * 9) + "]}", "too_many_images"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_batch_that_is_none_gets_an_error_code(server, body, code):
    answer = httpx.post(f"{server.url}/batch", content=body, timeout=60)
    assert answer.status_code == (413 if code == "too_many_images" else 400)
    assert answer.json()["error_code"] == code


def test_addresses_and_methods_that_there_are_not_are_errors_as_json(server):
    for method, path, status in (("GET", "/", 404), ("GET", "/score", 405), ("DELETE", "/model", 405)):
        answer = httpx.request(method, f"{server.url}{path}")
        assert answer.status_code == status
        assert set(answer.json()) == {"error_code", "error_detail"}


def test_damaged_images_get_scores_or_4xx_and_the_server_stays_healthy(server, images):
    chosen = random.Random(7)
    statuses = []
    for number in range(60):
        data = bytearray(images[number % len(images)])
        for _ in range(chosen.choice((1, 4, 40))):
            data[chosen.randrange(len(data))] = chosen.randrange(256)
        if number % 3 == 0:
            del data[chosen.randrange(len(data)) :]
        answer = server.score(bytes(data))
        statuses.append(answer.status_code)
        assert answer.json().get("error_code") is not None or answer.status_code == 200
    assert set(statuses) <= {200, 400, 413, 415, 422}
    assert {200, 400} <= set(statuses)
    assert server.get("/healthz").json() == {"status": "ok"}


def test_the_server_says_which_model_scores_and_counts_what_it_did(server, images):
    facts = server.get("/model").json()
    assert facts["model"]["name"] == "bundled"
    assert facts == {key: value for key, value in server.score(images[0]).json().items() if key != "images"}
    scored = 'quality_model_images_total{error_code="none"}'
    answered = 'quality_model_requests_total{endpoint="/score",status="200"}'
    before = [server.metric(scored), server.metric(answered)]
    noise = server.metric('quality_model_flagged_total{head="noise"}')
    assert batch(server, [images[4], images[4], b"x"]).status_code == 200
    server.score(images[0])
    assert [server.metric(scored), server.metric(answered)] == [before[0] + 3, before[1] + 1]
    assert server.metric('quality_model_flagged_total{head="noise"}') == noise + 2
    page = server.get("/metrics").text
    assert f'sha256="{facts["model"]["sha256"]}"' in page
    assert 'quality_model_score_bucket{head="blurriness",le="0.5"}' in page
    assert server.metric("quality_model_queue_images") == server.metric("quality_model_held_bytes") == 0


def test_no_process_of_a_server_loads_pytorch_or_mlflow(server):
    process = psutil.Process(server.process.pid)
    family = [process, *process.children(recursive=True)]
    assert len(family) >= 3
    for one in family:
        loaded = {file.path for file in one.memory_maps()}
        assert not [path for path in loaded if "torch" in path or "pandas" in path]


def test_a_killed_worker_costs_no_request(server, images):
    expected = server.score(images[0]).json()
    children = psutil.Process(server.process.pid).children(recursive=True)
    for child in children:
        if "spawn_main" in " ".join(child.cmdline()):
            child.kill()
    assert [server.score(images[0]).json() for _ in range(3)] == [expected] * 3
    assert server.get("/healthz").status_code == 200
