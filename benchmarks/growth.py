"""How cost grows: time per image and memory while the number of images rises."""

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from benchmarks.images import link_images
from benchmarks.jobs import Task
from benchmarks.repetition import Repetition, repeat
from quality_model.core import storage
from quality_model.data.images_table import TABLE_NAME, ImagesWriter
from quality_model.records import CleanImage

_SMALL: Final = {
    "generate.profile": "seed",
    "generate.image_size": 32,
    "generate.samples_per_image": 1,
}
"""Samples so small that 200,000 fit on a disk; what is asked is whether the cost of one stays the same."""


@dataclass(frozen=True, slots=True)
class Growth:
    """One job at one size."""

    job: str
    num_images: int
    repetition: Repetition

    def line(self) -> str:
        """A line of a Markdown table."""
        each_ms = 1000.0 * self.repetition.elapsed_s / self.num_images
        memory = f"{self.repetition.peak_memory_mb:.0f} MB"
        return f"| {self.job} | {self.num_images:,} | {each_ms:.2f} ms | {memory} |"


def measure(task: Task, jobs: Sequence[str], counts: Sequence[int]) -> Iterator[Growth]:
    """Run our side of generation and scoring on folders and tables of ever more links to the same files."""
    files = sorted(task.images.glob("*.jpg"))
    for job in jobs:
        for count in counts:
            folder = task.output.parent / f"growth-{job}-{count}"
            grown = replace(task, images=folder / "images", table=folder / "table", output=folder / "output")
            if job == "generate-seed":
                grown = replace(grown, overrides={**task.overrides, **_SMALL})
                _write_table(grown.table, count, files)
            else:
                link_images(grown.images, count, files)
            titled = "generate, 2 samples each, 32 px" if job == "generate-seed" else job
            yield Growth(titled, count, repeat(job, "ours", grown))
            shutil.rmtree(folder)


def memory_of_generation(task: Task, counts: Sequence[int]) -> Iterator[Growth]:
    """Generation of so many samples at full size, nine degraded ones and the clean one of each image."""
    files = sorted(task.images.glob("*.jpg"))
    for count in counts:
        folder = task.output.parent / f"memory-{count}"
        grown = replace(
            task,
            table=folder / "table",
            output=folder / "output",
            overrides={**task.overrides, "generate.profile": "seed", "generate.samples_per_image": 9},
        )
        _write_table(grown.table, count // 10, files)
        yield Growth("generate, 10 samples each", count // 10, repeat("generate-seed", "ours", grown))
        shutil.rmtree(folder)


def _write_table(folder: Path, count: int, files: Sequence[Path]) -> None:
    """An images table of the same few images under ``count`` names."""
    folder.mkdir(parents=True)
    with ImagesWriter(folder / TABLE_NAME) as writer:
        for number in range(count):
            data = files[number % len(files)].read_bytes()
            name = f"{number:06d}"
            sha256 = hashlib.sha256(data).hexdigest()
            writer.write(CleanImage(name, name, "a benchmark", sha256, data, 500, 375, None))
    storage.seal(folder, [TABLE_NAME], rows=count)
