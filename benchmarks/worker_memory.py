"""The most memory that a scoring worker takes, by the size of its images.

Counted is the proportional set size: pages that the workers share, such as those of libraries, count once
among them. What a process takes beyond that, above 12 megapixels, is given per pixel.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Final

import psutil
from PIL import Image

from benchmarks import comparison
from benchmarks.images import find_photographs, write_images

SIZES_PX: Final = ((500, 375), (4000, 3000), (6000, 4000), (8000, 6000))
FORMATS: Final = ("jpg", "png")
_NUM_IMAGES: Final = 8
_WORKERS: Final = 2
_EVERY_S: Final = 0.01


def table(folder: Path, photographs: Path | None, model: Path | None) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield "| a worker scores | memory (PSS) | a pixel above 12 MP |"
    yield "|---|---|---|"
    for suffix in FORMATS:
        at_12_mb = 0.0
        for size_px in SIZES_PX:
            place = folder / f"{suffix}-{size_px[0]}"
            peak_mb, pixels = measure(place, size_px, suffix, photographs, model), size_px[0] * size_px[1]
            above = "" if pixels <= 12e6 else f"{(peak_mb - at_12_mb) * 2**20 / (pixels - 12e6):.1f} bytes"
            at_12_mb = peak_mb if pixels == 12e6 else at_12_mb
            yield f"| {suffix.upper()} of {size_px[0]} x {size_px[1]} | {peak_mb:.0f} MB | {above} |"


def measure(
    folder: Path, size_px: tuple[int, int], suffix: str, photographs: Path | None, model: Path | None
) -> float:
    """The largest proportional set size of any worker of a job, in MB of 2**20 bytes."""
    task = comparison.prepare("score", folder, count=1, photographs=photographs, model=model)
    write_images(folder / "large", 2, find_photographs(photographs), size_px=size_px)
    large = [Image.open(path) for path in sorted((folder / "large").glob("*.jpg"))]
    for number in range(_NUM_IMAGES):
        large[number % 2].save(task.images / f"large-{number}.{suffix}", quality=90, compress_level=1)
    task = comparison.with_workers(task, _WORKERS)
    command = [sys.executable, "-m", "benchmarks.jobs", "score", "ours"]
    with subprocess.Popen(
        [*command, json.dumps(asdict(task), default=str)], stdout=subprocess.DEVNULL
    ) as job:
        peak = 0
        while job.poll() is None:
            peak = max([peak, *_sizes_of_children(job.pid)])
            time.sleep(_EVERY_S)
    assert job.returncode == 0
    return peak / 2**20


def _sizes_of_children(pid: int) -> Iterator[int]:
    try:
        for child in psutil.Process(pid).children():
            yield child.memory_full_info().pss
    except psutil.Error:  # one has just ended
        return
