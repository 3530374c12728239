"""How fast a server answers, and how many images it scores: `python -m benchmarks.serving`.

A client of its own (asyncio, one connection for each concurrent request, no pauses) posts 500 x 375 JPEG
files to `quality-model serve`; the obvious loop, `Scorer.predict` on one image after the other in one
process, scores the same files. Both take turns, round after round. Core time is that of the server with its
workers, the client left out: on a busy machine read it rather than the rates.
"""

import asyncio
import base64
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from urllib.parse import urlsplit

import click
import numpy as np
import psutil

from benchmarks.images import find_photographs, write_images
from quality_model.core.predict import Scorer

_IMAGES = 64
_WITHIN_S = 120.0


@dataclass(frozen=True, slots=True)
class Load:
    """What a number of concurrent requests met.

    Attributes:
        concurrency: Requests at a time.
        batch: Images in each.
        seconds: Of each request.
        elapsed_s: Of all.
        cpu_s: Of the server and its workers.
    """

    concurrency: int
    batch: int
    seconds: tuple[float, ...]
    elapsed_s: float
    cpu_s: float

    @property
    def num_images(self) -> int:
        return len(self.seconds) * self.batch

    def with_more(self, other: "Load") -> "Load":
        """This one and another round of the same."""
        return Load(
            self.concurrency,
            self.batch,
            self.seconds + other.seconds,
            self.elapsed_s + other.elapsed_s,
            self.cpu_s + other.cpu_s,
        )

    def line(self, obvious: "Load") -> str:
        """A row of the table, beside the obvious loop."""
        middle, late = np.percentile(np.array(self.seconds) * 1000, (50, 99))
        rate, of_loop = (one.num_images / one.elapsed_s for one in (self, obvious))
        core_ms = 1000 * self.cpu_s / self.num_images
        return (
            f"| {self.concurrency} | {self.batch} | {middle:.1f} ms | {late:.1f} ms | {rate:.1f} "
            f"| {rate / of_loop:.2f} | {core_ms:.1f} | {len(self.seconds)} |"
        )


def loop(scorer: Scorer, images: Sequence[bytes], for_s: float) -> Load:
    """Score images one after the other in this process."""
    seconds = []
    begun, cpu = time.monotonic(), time.process_time()
    for data in cycle(images):
        start = time.monotonic()
        scorer.predict(data)
        seconds.append(time.monotonic() - start)
        if time.monotonic() - begun > for_s:
            break
    return Load(1, 1, tuple(seconds), time.monotonic() - begun, time.process_time() - cpu)


def post(url: str, images: Sequence[bytes], concurrency: int, batch: int, for_s: float, pid: int) -> Load:
    """Post images to a server for some seconds.

    Args:
        url: The server.
        images: Encoded images, posted in turn.
        concurrency: Requests at a time.
        batch: Images in each; 1 posts to /score, more to /batch.
        for_s: Seconds in which requests begin.
        pid: The process of the server, whose CPU time and whose children's is counted.

    Raises:
        RuntimeError: An answer is not 200.
    """
    bodies = [_body(images, at, batch) for at in range(0, len(images), batch)]
    before, begun = _cpu_s(pid), time.monotonic()
    seconds = asyncio.run(_post(url, bodies, concurrency, "/score" if batch == 1 else "/batch", for_s))
    return Load(concurrency, batch, tuple(seconds), time.monotonic() - begun, _cpu_s(pid) - before)


def _body(images: Sequence[bytes], at: int, batch: int) -> bytes:
    if batch == 1:
        return images[at]
    chosen = islice(cycle(images), at, at + batch)
    return json.dumps({"images": [{"data": base64.b64encode(data).decode()} for data in chosen]}).encode()


async def _post(url: str, bodies: Sequence[bytes], concurrency: int, path: str, for_s: float) -> list[float]:
    turns, end, seconds = cycle(bodies), time.monotonic() + for_s, []

    async def ask() -> None:
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        while time.monotonic() < end:
            body, start = next(turns), time.monotonic()
            writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode())
            writer.write(body)
            await writer.drain()
            header = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", header)
            answer = await reader.readexactly(int(length[1]) if length else 0)
            if not header.startswith(b"HTTP/1.1 200 "):
                raise RuntimeError(f"{header.decode()}{answer[:500].decode()}")
            seconds.append(time.monotonic() - start)
        writer.close()

    await asyncio.gather(*(ask() for _ in range(concurrency)))
    return seconds


def _cpu_s(pid: int) -> float:
    process = psutil.Process(pid)
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return float(sum(one.user + one.system for one in times))


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[tuple[str, int]]:
    """A server: its address, and the id of its process."""
    log = folder / "server.log"
    command = [sys.executable, "-m", "quality_model", "serve", "--port", "0", "--no-project", *arguments]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stderr=output)
    try:
        end = time.monotonic() + _WITHIN_S
        while not (found := re.search(r"scores at (http://\S+)", log.read_text())):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(log.read_text())
            time.sleep(0.1)
        yield found[1], process.pid
    finally:
        process.terminate()
        process.wait()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--concurrency", default="1,2,8,32", show_default=True, help="Requests at a time.")
@click.option("--batch", default=16, show_default=True, help="Images in a request to /batch.")
@click.option("--seconds", default=5.0, show_default=True, help="Of each measurement, in each round.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(min=1), help="In turn.")
@click.option("--workers", default=0, show_default=True, help="Processes of the server; 0: one per core.")
def main(concurrency: str, batch: int, seconds: float, rounds: int, workers: int) -> None:
    """Post images to a server, and score the same in a loop."""
    scorer = Scorer("bundled", "cpu")
    with tempfile.TemporaryDirectory() as scratch:
        write_images(Path(scratch) / "images", _IMAGES, find_photographs(None))
        images = [path.read_bytes() for path in sorted((Path(scratch) / "images").iterdir())]
        asked = [*((int(number), 1) for number in concurrency.split(",")), (2, batch)]
        arguments = ["--model", "bundled", "--measures", "none", "--workers", str(workers)]
        obvious: Load | None = None
        found: dict[tuple[int, int], Load] = {}
        with running(Path(scratch), *arguments, "--queue", "1000") as (url, pid):
            for _ in range(rounds):
                once = loop(scorer, images, seconds)
                obvious = obvious.with_more(once) if obvious else once
                for each in asked:
                    load = post(url, images, *each, seconds, pid)
                    found[each] = found[each].with_more(load) if each in found else load
    assert obvious is not None
    click.echo("| requests at a time | images in each | p50 | p99 | images/s | ratio | core-ms | requests |")
    click.echo("|---|---|---|---|---|---|---|---|")
    click.echo(obvious.line(obvious).replace("| 1 | 1 |", "| the loop | 1 |", 1))
    for load in found.values():
        click.echo(load.line(obvious))


if __name__ == "__main__":
    main()
