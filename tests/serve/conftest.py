"""Servers in processes of their own, and images to post."""

import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

import httpx
import numpy as np
import pytest
from PIL import Image

from quality_model.core.decoding import Pixels
from tests.servers import started, wait_for

PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Serving:
    """A server that runs."""

    url: str
    process: "Popen[bytes]"
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def score(self, data: bytes, **options: object) -> httpx.Response:
        return httpx.post(f"{self.url}/score", content=data, timeout=60, **options)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=60)

    def metric(self, line: str) -> float:
        """The value of a metric, by its name with its labels."""
        found = re.search(rf"^{re.escape(line)} (\S+)$", self.get("/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0.0


Serve = Callable[..., AbstractContextManager[Serving]]


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Serving]:
    """A server on a free port whose current folder is ``folder``; ready, and ended with the test."""
    log = folder / "server.log"
    paths = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(PROJECT)]))
    command = [sys.executable, "-m", "quality_model", "serve", "--port", "0", *arguments]
    with started(*command, cwd=folder, env=os.environ | {"PYTHONPATH": paths}, log=log) as process:

        def address() -> str | None:
            found = re.search(r"scores at (http://\S+)", log.read_text())
            return found and found[1]

        url = wait_for("serve", address, process=process, log=log)
        yield Serving(url, process, log)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """The bundled model, with small limits."""
    limits = ["--set", "limits.max_bytes=300000", "--set", "limits.max_pixels=1000000", "--queue", "8"]
    with serving(tmp_path_factory.mktemp("server"), "--model", "bundled", "--workers", "2", *limits) as found:
        yield found


def encoded(pixels: Pixels, format: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


@pytest.fixture(scope="session")
def images(photo: Pixels) -> list[bytes]:
    """Five images of several formats, the last one noise."""
    crops = [photo[60 * number : 60 * number + 200, 40:300] for number in range(4)]
    noise = np.random.default_rng(0).integers(0, 256, (120, 90, 3), dtype=np.uint8)
    formats = ("PNG", "JPEG", "WEBP", "GIF", "PNG")
    return [encoded(pixels, format) for pixels, format in zip([*crops, noise], formats, strict=True)]
