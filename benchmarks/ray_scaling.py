"""What Ray costs, how it scales, and whether its memory stays flat.

    python -m benchmarks.ray_scaling overhead IMAGES [--part-size 2500] [--parts 4]
    python -m benchmarks.ray_scaling nodes [--most 8] [--each 20]
    python -m benchmarks.ray_scaling memory [--inputs 200000]

``overhead`` scores the images of a folder, repeated in a table, by worker processes and by actors of a
cluster of this machine, in turn, from the start of the first part to the end of the last one. ``nodes`` runs
tasks that sleep a second on clusters of 1, 2, 4, ... nodes, each a raylet of this machine with one logical
CPU: efficiency is the share of the time, from when an actor has its first task, in which it has one.
``memory`` scores a table of tiny images with a model that costs nothing, and samples the memory of driver and
actors.
"""

import argparse
import hashlib
import io
import logging
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from quality_model.core import system
from quality_model.core.engines import Engine
from quality_model.core.figures import markdown_table
from quality_model.core.ray_cluster import RAY
from quality_model.core.ray_nodes import RayNodes
from quality_model.errors import QualityModelError
from quality_model.params import WITHOUT_PROJECT
from quality_model.score.job import score
from quality_model.score.result import ScoringModel

_ROW_GROUP: Final = 1000
_SAMPLE_EVERY_S: Final = 2.0
_STORE: Final = {"include_dashboard": False, "object_store_memory": 80 << 20}

Busy = tuple[int, float, float]
"""The process that did a task, when it began, and when it ended."""


class GreyScorer:
    """Scores by the mean of the channels: as good as nothing, for what is not about the model."""

    engine: Engine | None = None

    def score_pixels(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """As of `reading.Scorer`."""
        channels = pixels.mean(axis=(1, 2)) / 255.0
        return np.column_stack([channels, channels.mean(axis=1)]).astype(np.float32)


def sleep(seconds: float) -> Busy:
    """A task that needs no processor."""
    began = time.time()
    time.sleep(seconds)
    return os.getpid(), began, time.time()


def efficiency(tasks: Sequence[Busy], num_nodes: int) -> float:
    """The share of the nodes' time, from the first task of each to the end of all, in which they had one."""
    end = max(ended for _, _, ended in tasks)
    firsts: dict[int, float] = {}
    for process, began, _ in tasks:
        firsts[process] = min(began, firsts.get(process, began))
    if len(firsts) != num_nodes:
        raise SystemExit(f"{len(firsts)} actors did the tasks of {num_nodes} nodes.")
    busy = sum(ended - began for _, began, ended in tasks)
    return busy / sum(end - first for first in firsts.values())


def measure_nodes(most: int, each: int) -> Iterator[list[str]]:
    """Nodes, tasks and efficiency, doubling the nodes."""
    import ray
    from ray.cluster_utils import Cluster

    from benchmarks import ray_scaling  # tasks of `__main__` would not unpickle elsewhere

    num_nodes = 1
    while num_nodes <= most:
        cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **_STORE})
        try:
            for _ in range(num_nodes):
                cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
            cluster.wait_for_nodes()
            ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
            tasks = [
                found
                for found in RayNodes().run(ray_scaling.sleep, [1.0] * (each * num_nodes))
                if isinstance(found, tuple)
            ]
        finally:
            ray.shutdown()
            cluster.shutdown()
        yield [str(num_nodes), str(len(tasks)), f"{efficiency(tasks, num_nodes):.1%}"]
        num_nodes *= 2


def write_table(path: Path, images: Sequence[bytes], num_rows: int) -> None:
    """A table of images, repeated, each row with a key of its own."""
    schema = pa.schema({"key": pa.string(), "image": pa.binary()})
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, num_rows, _ROW_GROUP):
            rows = range(start, min(num_rows, start + _ROW_GROUP))
            columns = {
                "key": [f"{row:09d}" for row in rows],
                "image": [images[row % len(images)] for row in rows],
            }
            writer.write_table(pa.table(columns, schema=schema))


class _Parts(logging.Handler):
    """When the first part began and the last one ended, of what a job logs of its parts."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.began, self.ended, self.longest_s = float("inf"), 0.0, 0.0

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg.startswith("Part %d of %d") and isinstance(record.args, tuple):
            _, _, rows, _, speed = record.args
            assert isinstance(rows, int) and isinstance(speed, float)
            elapsed_s = rows / speed
            self.began, self.ended = min(self.began, record.created - elapsed_s), record.created
            self.longest_s = max(self.longest_s, elapsed_s)


@contextmanager
def _parts() -> Iterator[_Parts]:
    parts, logger = _Parts(), logging.getLogger("quality_model.score.parts")
    logger.addHandler(parts)
    logger.setLevel(logging.INFO)
    try:
        yield parts
    finally:
        logger.removeHandler(parts)


def measure_overhead(images: Path, part_size: int, num_parts: int, repeats: int) -> Iterator[list[str]]:
    """Seconds of both ways in turn, and their ratio."""
    found = [path.read_bytes() for path in sorted(images.iterdir()) if path.is_file()]
    section = WITHOUT_PROJECT.score.model_copy(
        update={"model": "bundled", "shard_size": part_size, "workers": 0, "max_error_share": 1.0}
    )
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "images.parquet"
        write_table(table, found, part_size * num_parts)
        for number in range(repeats):
            took: dict[str, _Parts] = {}
            core_s = []
            for on in ("local", RAY):
                times = _CoreTime()
                times.start()
                with _parts() as took[on]:
                    here = section.model_copy(update={"workers": 0 if on == RAY else system.num_cores()})
                    output = Path(folder) / f"{on}{number}"
                    score(here, WITHOUT_PROJECT.limits, inputs=table, output=output, on=on)
                core_s.append(times.stop(took[on].began, took[on].ended))
            parts = [(Path(folder) / f"{on}{number}" / "data") for on in ("local", RAY)]
            hashes = [_hash_of(part) for part in parts]
            seconds = [took[on].ended - took[on].began for on in ("local", RAY)]
            yield [
                *(f"{one:.1f}" for one in seconds),
                f"{took[RAY].longest_s:.1f}",
                f"{seconds[1] / seconds[0]:.3f}",
                *(f"{one:.1f}" for one in core_s),
                f"{core_s[1] / core_s[0]:.3f}",
                "yes" if hashes[0] == hashes[1] else "NO",
            ]


def _hash_of(folder: Path) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.iterdir()))).hexdigest()


class _CoreTime(threading.Thread):
    """Samples the core time of this process and of all that it has started, a cluster included."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._end = threading.Event()
        self._known: dict[int, float] = {}
        self._samples: list[tuple[float, float]] = []

    def run(self) -> None:
        """Sample until the end."""
        own = psutil.Process()
        while not self._end.wait(_SAMPLE_EVERY_S / 4):
            for process in (own, *own.children(recursive=True)):
                with suppress(psutil.Error):
                    times = process.cpu_times()
                    self._known[process.pid] = times.user + times.system
            self._samples.append((time.time(), sum(self._known.values())))

    def stop(self, began: float, ended: float) -> float:
        """Seconds between two times."""
        self._end.set()
        self.join()
        within = [core_s for at, core_s in self._samples if began <= at <= ended]
        return within[-1] - within[0]


class _Memory(threading.Thread):
    """Samples the resident memory of this process and of its cluster's actors, and what was spilled."""

    def __init__(self, output: Path) -> None:
        super().__init__(daemon=True)
        self._output, self._end = output, threading.Event()
        self.samples: list[tuple[int, int, int]] = []
        self.most_spilled = 0

    def run(self) -> None:
        """Sample until the end: parts that are done, bytes of the driver, most bytes of an actor."""
        driver = psutil.Process()
        while not self._end.wait(_SAMPLE_EVERY_S):
            actors = [one for one in driver.children(recursive=True) if _is_actor(one)]
            sizes = [one.memory_info().rss for one in actors if one.is_running()]
            done = len([*(self._output / "parts").glob("*.json")])
            self.samples.append((done, driver.memory_info().rss, max(sizes, default=0)))
            self.most_spilled = max(self.most_spilled, _num_spilled())

    def stop(self) -> None:
        self._end.set()
        self.join()


def _is_actor(process: psutil.Process) -> bool:
    try:
        return "ray::Worker" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def _num_spilled() -> int:
    import ray

    if not ray.is_initialized():
        return 0
    node: Any = ray._private.worker._global_node
    session = Path(node.get_session_dir_path())
    return sum(len([*folder.iterdir()]) for folder in session.glob("ray_spilled_objects*"))


def measure_memory(num_inputs: int) -> Iterator[list[str]]:
    """Parts that are done, MB of the driver and of the largest actor, at tenths of the job."""
    tiny = [_encoded(np.full((16, 16, 3), level, np.uint8)) for level in range(0, 250, 10)]
    section = WITHOUT_PROJECT.score.model_copy(update={"workers": 0})
    model = ScoringModel("grey", "1", None, "0" * 64, image_size_px=32)
    from benchmarks.ray_scaling import GreyScorer as Importable

    with tempfile.TemporaryDirectory() as folder:
        table, output = Path(folder) / "images.parquet", Path(folder) / "scores"
        write_table(table, tiny, num_inputs)
        memory = _Memory(output)
        memory.start()
        began = time.monotonic()
        summary = score(
            section,
            WITHOUT_PROJECT.limits,
            inputs=table,
            output=output,
            scorer=Importable(),
            model=model,
            on=RAY,
        )
        elapsed_s = time.monotonic() - began
        memory.stop()
        codes = Counter(summary.errors)
        sys.stderr.write(
            f"{summary.inputs} inputs, {summary.scored} scored, {dict(codes)}, {elapsed_s:.0f} s;"
            f" most files spilled at a time: {memory.most_spilled}\n"
        )
        num_parts = summary.parts
        for tenth in range(1, 11):
            some = [one for one in memory.samples if one[2] and one[0] <= tenth * num_parts / 10]
            if some:
                yield [str(some[-1][0]), *(f"{size / 1e6:.0f}" for size in some[-1][1:])]


def _encoded(pixels: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


_TITLES: Final = {
    "overhead": (
        "local, s",
        "Ray, s",
        "longest part, s",
        "ratio",
        "local, core-s",
        "Ray, core-s",
        "ratio",
        "same bytes",
    ),
    "nodes": ("nodes", "tasks of 1 s", "efficiency"),
    "memory": ("parts done", "driver, MB", "largest actor, MB"),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ray_scaling", description=__doc__)
    parser.add_argument("what", choices=_TITLES)
    parser.add_argument("images", type=Path, nargs="?")
    parser.add_argument("--part-size", type=int, default=2500)
    parser.add_argument("--parts", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--most", type=int, default=8)
    parser.add_argument("--each", type=int, default=20)
    parser.add_argument("--inputs", type=int, default=200_000)
    asked = parser.parse_args()
    system.prepare()
    system.limit_threads()
    if asked.what == "overhead":
        if asked.images is None:
            parser.error("overhead needs a folder of images")
        rows = measure_overhead(asked.images, asked.part_size, asked.parts, asked.repeats)
    elif asked.what == "nodes":
        rows = measure_nodes(asked.most, asked.each)
    else:
        rows = measure_memory(asked.inputs)
    try:
        print(markdown_table(_TITLES[asked.what], [*rows]))  # noqa: T201
    except QualityModelError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
