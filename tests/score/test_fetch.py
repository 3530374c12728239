"""URLs against a server of this machine: each is an image or an error code; some are asked again."""

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quality_model.cli import run
from quality_model.errors import ImageError
from quality_model.score import downloads
from quality_model.score.reading import DownloadRules, Url, fetched

from .conftest import rows_of

ALLOWED = DownloadRules(allow_private=True, pause_s=0.0)


class Handler(BaseHTTPRequestHandler):
    """Behaves as the path says."""

    seen: ClassVar[Counter[str]] = Counter()
    busy = most_busy = 0
    image = b""
    is_slow = True
    lock = threading.Lock()

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        with self.lock:
            self.seen[self.path] += 1
            Handler.busy += 1
            Handler.most_busy = max(self.most_busy, self.busy)
        try:
            self.serve(self.path.split("/")[1])
        finally:
            with self.lock:
                Handler.busy -= 1

    def serve(self, what: str) -> None:
        first = self.seen[self.path] == 1
        if what == "ok":
            time.sleep(0.02)
            self.answer(200, self.path.encode())
        elif what == "moved":
            self.answer(302, Location="/ok/moved")
        elif what == "loop":
            self.answer(302, Location="/loop")
        elif what == "inside":
            self.answer(302, Location="http://127.0.0.1:9/secret")
        elif what == "gone":
            self.answer(404)
        elif what == "busy" and first:
            self.answer(429, Retry_After="1")
        elif what == "down" and first:
            self.answer(503)
        elif what == "closed":
            self.answer(503, Retry_After="3600")
        elif what == "large":
            self.answer(200, bytes(2000))
        elif what == "endless":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(bytes(5000))
        elif what == "cut" and first:
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"half")
            self.close_connection = True
        elif what == "image" or (what == "slow" and not self.is_slow):
            self.answer(200, self.image)
        elif what in ("drip", "slow"):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            for _ in range(100):
                try:
                    self.wfile.write(b"x")
                except ConnectionError:
                    return
                time.sleep(0.1)
        else:
            self.answer(200, b"again")


@pytest.fixture
def server() -> Iterator[str]:
    Handler.seen = Counter()
    Handler.busy = Handler.most_busy = 0
    Handler.is_slow = True
    serving = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{serving.server_address[1]}"
    serving.shutdown()
    serving.server_close()


@pytest.fixture
def get(server, params, monkeypatch):
    """Fetch paths of the server: bytes or error codes."""
    monkeypatch.setattr(downloads, "_FIRST_WAIT_S", 0.01)

    def get(*paths: str, rules: DownloadRules = ALLOWED, **limits: float) -> list[bytes | str]:
        found = fetched(
            [Url(f"{server}/{path}") for path in paths], rules, params.limits.model_copy(update=limits)
        )
        return [one.reason if isinstance(one, ImageError) else one for one in found]

    return get


def test_what_is_fetched_comes_in_order_between_other_sources(server, params):
    sources = [Url(f"{server}/ok/1"), b"bytes", Url(f"{server}/moved"), ImageError("missing", "")]
    found = list(fetched(sources, ALLOWED, params.limits))
    assert found[:3] == [b"/ok/1", b"bytes", b"/ok/moved"]
    assert isinstance(found[3], ImageError)


def test_without_permission_nothing_is_fetched(server, params):
    (found,) = fetched([Url(f"{server}/ok/1")], None, params.limits)
    assert (found.reason, Handler.seen.total()) == ("url", 0)


def test_private_addresses_are_refused_before_anything_is_asked(get, server, params):
    assert get("ok/1", rules=DownloadRules()) == ["download_refused"]
    local = [f"{server}/ok/1".replace("127.0.0.1", name) for name in ("localhost", "[::ffff:127.0.0.1]")]
    others = ["http://169.254.169.254/latest", "http://10.0.0.1/", "http://[fd00::1]/", "http://0.0.0.0/"]
    found = fetched(map(Url, [*local, *others]), DownloadRules(), params.limits)
    assert [one.reason for one in found] == ["download_refused"] * 6
    assert Handler.seen.total() == 0


def test_a_redirect_to_a_private_address_is_refused(server, params, monkeypatch):
    """The server itself counts as public here, its redirect leads to another port of this machine."""
    check = downloads._require_public
    port = server.rpartition(":")[2]
    monkeypatch.setattr(downloads, "_require_public", lambda address: check(address) if asked[0] else None)
    asked = [False]
    send = downloads._Adapter.send

    def watched(self, request, *arguments, **options):
        asked[0] = f":{port}/" not in request.url
        return send(self, request, *arguments, **options)

    monkeypatch.setattr(downloads._Adapter, "send", watched)
    (found,) = fetched([Url(f"{server}/inside")], DownloadRules(), params.limits)
    assert (found.reason, "private" in found.detail) == ("download_refused", True)


def test_a_name_that_changes_its_address_after_the_check_is_refused(get, monkeypatch):
    public = [(2, 1, 6, "", ("93.184.215.14", 0))]
    real = downloads.socket.getaddrinfo
    monkeypatch.setattr(
        downloads.socket,
        "getaddrinfo",
        lambda host, port, *a, **k: public if port is None else real(host, port, *a, **k),
    )
    assert get("ok/1", rules=DownloadRules()) == ["download_refused"]
    assert Handler.seen.total() == 0


def test_what_will_never_work_is_refused_at_once(get):
    assert get("gone", "loop") == ["download_refused"] * 2
    assert Handler.seen["/gone"] == 1
    assert Handler.seen["/loop"] == 6


def test_what_is_too_large_is_not_read_to_its_end(get):
    assert get("large", "endless", max_bytes=1000) == ["too_many_bytes"] * 2


def test_a_busy_server_is_asked_again_when_it_says_and_a_broken_connection_at_once(get):
    started = time.monotonic()
    assert get("busy") == [b"again"]
    assert time.monotonic() - started > 0.9
    assert get("down", "cut") == [b"again", b"again"]


def test_a_server_that_asks_to_wait_for_long_is_left_for_another_time(get):
    assert get("closed") == ["download_failed"]
    assert Handler.seen["/closed"] == 1


def test_a_slow_answer_ends_at_the_limit(get):
    assert get("drip", max_seconds=0.5) == ["download_failed"]


def test_a_dead_server_costs_its_rows_alone(get, server, params):
    sources = [Url("http://127.0.0.1:9/x"), Url(f"{server}/ok/1"), Url("http://[bad/x")]
    found = list(fetched(sources, ALLOWED, params.limits))
    assert [found[0].reason, found[1], found[2].reason] == ["download_failed", b"/ok/1", "download_refused"]


def test_a_host_gets_at_most_so_many_requests_at_once_and_a_pause_between_them(get):
    rules = DownloadRules(allow_private=True, per_host=2, pause_s=0.0)
    assert len(get(*(f"ok/{number}" for number in range(20)), rules=rules)) == 20
    assert 1 <= Handler.most_busy <= 2
    started = time.monotonic()
    get(*(f"ok/{number}" for number in range(6)), rules=DownloadRules(allow_private=True, pause_s=0.1))
    assert time.monotonic() - started > 0.5


def test_a_parquet_column_of_urls_is_scored_and_a_slow_host_costs_its_rows_until_it_answers(
    server, crops, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(downloads, "_FIRST_WAIT_S", 0.01)
    monkeypatch.chdir(tmp_path)
    Handler.image = crops[0]
    slow = server.replace("127.0.0.1", "localhost")  # another host, by its name
    urls = [f"{server}/image/0", f"{server}/gone", f"{slow}/slow", f"{server}/image/1?token=s3cret", None]
    pq.write_table(pa.table({"id": list("abcde"), "image_url": urls}), "urls.parquet")
    command = ["score", "urls.parquet", "--output", "out", "--model", "bundled", "--workers", "1"]
    command += ["--max-error-share", "1", "--set", "limits.max_seconds=2"]

    def codes(*flags: str) -> dict[str, str]:
        assert run([*command, *flags]) == (0 if "--allow-private" in flags else 4)
        rows = rows_of(tmp_path / "out")
        assert all((rows["overall"] >= 0) == rows["error_code"].isna())
        return dict(zip(rows["key"], rows["error_code"].fillna("scored"), strict=True))

    assert codes() == dict.fromkeys("abcd", "url") | {"e": "missing"}
    assert Handler.seen.total() == 0
    first = {"a": "scored", "b": "download_refused", "c": "download_failed", "d": "scored", "e": "missing"}
    assert codes("--allow-download", "--allow-private") == first
    assert (Handler.seen["/gone"], Handler.seen["/slow"]) == (1, 3)
    details = rows_of(tmp_path / "out").set_index("key")["error_detail"]
    assert ("404" in details["b"], "longer than 2 s" in details["c"]) == (True, True)
    shas = rows_of(tmp_path / "out").set_index("key")["sha256"]
    assert shas["a"] == shas["d"] == hashlib.sha256(crops[0]).hexdigest()

    Handler.is_slow = False
    assert codes("--allow-download", "--allow-private") == first | {"c": "scored"}
    assert (Handler.seen["/slow"], Handler.seen["/image/0"], Handler.seen["/gone"]) == (4, 1, 1)
    assert "s3cret" not in "".join(capsys.readouterr())


def test_a_column_of_urls_on_private_addresses_is_refused_by_default(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"url": [f"{server}/image/0"]}), "urls.parquet")
    command = ["score", "urls.parquet", "--output", "out", "--model", "bundled", "--workers", "1"]
    assert run([*command, "--allow-download"]) == 4
    assert list(rows_of(tmp_path / "out")["error_code"]) == ["download_refused"]
    assert Handler.seen.total() == 0
