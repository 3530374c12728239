"""A stand-in for the hub on loopback, and the real client in a process of its own."""

import hashlib
import io
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from quality_model.params import SourceParams

PROJECT = Path(__file__).resolve().parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def parquet(cells: list[bytes | str | None], column: str = "image") -> bytes:
    """A Parquet file as the hub has them: structs of bytes and path, beside a label.

    A cell of str is a row that names a file instead of holding bytes.
    """
    structs = [
        None
        if cell is None
        else {
            "bytes": None if isinstance(cell, str) else cell,
            "path": cell if isinstance(cell, str) else f"{n}.png",
        }
        for n, cell in enumerate(cells)
    ]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({column: pa.array(structs, kind), "label": pa.array(range(len(cells)), pa.int64())})
    features = {column: {"_type": "Image"}, "label": {"dtype": "int64", "_type": "Value"}}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    stream = io.BytesIO()
    pq.write_table(table, stream, row_group_size=8)
    return stream.getvalue()


Cut = Literal["closed", "reset", "short"]


class StandInHub:
    """Serves datasets, all at one commit.

    ``requests`` lists what was asked for. While ``cut_after`` is a number, every answer with
    bytes of a Parquet file breaks off after that many; ``cuts`` bounds how often, ``how`` is the
    connection's end: closed, reset, or sound, with the wrong length for the right one. ``status``
    makes every answer fail.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.requests: list[str] = []
        self.cut_after: int | None = None
        self.cuts = 10**9
        self.how: Cut = "closed"
        self.status: int | None = None
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def add(
        self, repository: str, cells: list[bytes | str | None], *, column: str = "image", split: str = "train"
    ) -> None:
        """Give a dataset one more split."""
        files = self.repositories.setdefault(repository, {})
        files[f"data/{split}-00000-of-00001.parquet"] = parquet(cells, column)

    def behave(self) -> None:
        self.requests.clear()
        self.cut_after, self.cuts, self.how, self.status = None, 10**9, "closed", None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: StandInHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub, url = self.hub, urlsplit(self.path)
        path = unquote(url.path)
        hub.requests.append(f"{self.command} {path}")
        if hub.status:
            self._send(hub.status, b"{}")
        elif match := re.fullmatch(
            r"/api/datasets/([^/]+/[^/]+?)(?:/(revision|tree|paths-info)/(.+))?", path
        ):
            repository, action, rest = match.groups()
            if repository in hub.repositories:
                self._api(repository, action, rest, url.query, body)
            else:
                self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif match := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            data = hub.repositories.get(match[1], {}).get(match[3])
            if data is not None and match[2] in ("main", COMMIT):
                self._file(match[3], data)
            else:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        else:
            self._send(404, b"{}")

    def _api(self, repository: str, action: str | None, rest: str, query: str, body: bytes) -> None:
        files = self.hub.repositories[repository]
        revision, _, folder = (rest or "main").partition("/")
        if revision not in ("main", COMMIT):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif action == "tree":
            recursive = "true" in parse_qs(query.lower()).get("recursive", [])
            self._json(_tree(files, folder, recursive=recursive))
        elif action == "paths-info":
            fields = parse_qs(body.decode())
            names = json.loads(body)["paths"] if body.startswith(b"{") else fields.get("paths", [])
            self._json([_entry(files, name) for name in names if name in files])
        else:
            siblings = [{"rfilename": name} for name in files]
            self._json({"id": repository, "sha": COMMIT, "siblings": siblings, "tags": []})

    def _file(self, name: str, data: bytes) -> None:
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        status, part, cut_after = 200, data, None
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(match[1]), int(match[2] or len(data) - 1)
            status, part = 206, data[first : last + 1]
            headers["Content-Range"] = f"bytes {first}-{first + len(part) - 1}/{len(data)}"
        if self.hub.cut_after is not None and self.hub.cuts > 0 and name.endswith(".parquet"):
            cut_after = self.hub.cut_after
            self.hub.cuts -= 1
            if self.hub.how == "short":
                part = part[:cut_after]
        self._send(status, part, headers, cut_after=cut_after)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(
        self, status: int, data: bytes, headers: dict[str, str] | None = None, cut_after: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut_after is not None and len(data) > cut_after:
            self.wfile.write(data[:cut_after])
            self.wfile.flush()
            self.close_connection = True
            if self.hub.how == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                os.close(self.connection.detach())
            return
        self.wfile.write(data)


def _tree(files: dict[str, bytes], folder: str, *, recursive: bool) -> list[dict[str, Any]]:
    start = f"{folder}/" if folder else ""
    inside = [name for name in files if name.startswith(start)]
    deeper = {start + name.removeprefix(start).split("/")[0] for name in inside} - set(inside)
    folders = [{"type": "directory", "path": name, "size": 0, "oid": "0" * 40} for name in sorted(deeper)]
    return folders + [_entry(files, name) for name in inside if recursive or "/" not in name[len(start) :]]


def _entry(files: dict[str, bytes], name: str) -> dict[str, Any]:
    data = files[name]
    return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}


class HubClient:
    """`download` in a process that takes the stand-in for the hub; started once, because imports are slow."""

    def __init__(self, hub: StandInHub, home: Path) -> None:
        settings = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(home),
            "PYTHONPATH": str(PROJECT),
            "USE_TORCH": "0",
        }
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("hub_client.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **settings},
            cwd=PROJECT,
        )

    def download(self, section: SourceParams, output: Path) -> dict[str, Any]:
        """The summary; or, as ``error`` and ``text``, the type and the message of what was raised."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps({"section": section.model_dump(), "output": str(output)}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(timeout=30)
