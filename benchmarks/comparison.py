"""Both sides of the jobs in turn, several times, as one table; how the cost of ours grows with the images."""

import hashlib
import shutil
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from benchmarks.images import LARGE_PX, find_photographs, link_images, write_images
from benchmarks.jobs import JOBS, SIDES, Repetition, Side, Task, repeat
from quality_model import pretrained
from quality_model.core import storage
from quality_model.data.download import download
from quality_model.data.generate import generate
from quality_model.data.images_table import TABLE_NAME, ImagesWriter
from quality_model.params_file import load_params
from quality_model.records import CleanImage

NUM_IMAGES: Final = {
    **{"generate-seed": 1000, "generate-calibrated": 400, "train": 100},
    **{"score": 600, "score-12mp": 480, "score-whole": 1000},
}
"""Clean images by default: enough that starting processes takes a small share, few enough to repeat."""

_LARGE_FILES: Final = 16
"""Different images among those of 12 megapixels: one takes a second to make."""

_TRAINING: Final = {
    "train.architecture": "small",
    "train.samples": "fresh",
    "train.loss_weights.watermark": 1.0,
    "train.samples_per_epoch": 1600,
    "train.crops_px": [128],
    "train.epochs": 1,
    "train.batch_size": 16,
    "train.weight_average": 0.0,
    "train.warmup_epochs": 0.0,
    "train.max_validation_samples": 1,
    "train.start_from": "scratch",
}
"""One plain epoch, as the obvious side has it."""


_SMALL: Final = {
    "generate.profile": "seed",
    "generate.image_size": 32,
    "generate.samples_per_image": 1,
}
"""Samples so small that 200,000 fit on a disk; what is asked is whether the cost of one stays the same."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The repetitions of one job, by side."""

    job: str
    repetitions: dict[Side, list[Repetition]]

    def speed(self, side: Side) -> float:
        """Median of the images per second."""
        return statistics.median(one.images_per_s for one in self.repetitions[side])

    def spread(self, side: Side) -> float:
        """Largest less smallest, as a share of the median."""
        speeds = [one.images_per_s for one in self.repetitions[side]]
        return (max(speeds) - min(speeds)) / self.speed(side)

    def cpu_ms(self, side: Side) -> float:
        """Median of the milliseconds of all cores that an image takes."""
        return 1000.0 * statistics.median(one.cpu_s / one.num_images for one in self.repetitions[side])

    @property
    def ratio(self) -> float:
        return self.speed("ours") / self.speed("obvious")

    def to_dict(self) -> dict[str, Any]:
        """JSON values, each repetition included."""
        return {
            "job": self.job,
            "ratio": self.ratio,
            **{
                side: {
                    "images_per_s": self.speed(side),
                    "spread": self.spread(side),
                    "cpu_ms": self.cpu_ms(side),
                    "peak_memory_mb": max(one.peak_memory_mb for one in found),
                    "num_images": found[0].num_images,
                    "elapsed_s": [one.elapsed_s for one in found],
                    "facts": {name: [one.facts[name] for one in found] for name in found[0].facts},
                }
                for side, found in self.repetitions.items()
            },
        }


def compare(job: str, task: Task, repetitions: int) -> Comparison:
    """Run both sides in turn, each repetition in a process of its own."""
    found: dict[Side, list[Repetition]] = {side: [] for side in SIDES}
    for _ in range(repetitions):
        for side in SIDES:
            found[side].append(repeat(job, side, task))
            shutil.rmtree(task.output, ignore_errors=True)
    return Comparison(job, found)


def prepare(
    job: str,
    folder: Path,
    *,
    count: int,
    photographs: Path | None,
    model: Path | None,
    cleanvision: Path | None = None,
) -> Task:
    """Make what a job needs in ``folder``: images, and from them a table, a training dataset or a model."""
    task = Task(
        params_file=Path("params.yaml").resolve(),
        images=folder / "images",
        table=folder / "table",
        training_set=folder / "training",
        model=model or pretrained.FOLDERS[next(iter(pretrained.FOLDERS))],
        output=folder / "output",
        overrides={"generate.image_size": 224, **_TRAINING},
        cleanvision=cleanvision,
    )
    assert job in JOBS
    task.overrides["generate.profile"] = "seed" if job == "generate-seed" else "calibrated"
    task.overrides["score.views"] = "whole" if job == "score-whole" else "auto"
    if job == "score-12mp":
        write_images(folder / "large", _LARGE_FILES, find_photographs(photographs), size_px=LARGE_PX)
        link_images(task.images, count, sorted((folder / "large").glob("*.jpg")))
    else:
        write_images(task.images, count, find_photographs(photographs))
    if job.startswith("score"):
        return task
    overrides = {"source.dataset": str(task.images), "source.num_images": count}
    params = load_params(task.params_file, {**task.overrides, **overrides})
    download(params.source, params.limits, task.table)
    if job == "train":
        params = load_params(task.params_file, {**task.overrides, "generate.samples_per_image": 1})
        generate(params.generate, params.limits, task.table, task.training_set, train_samples="fresh")
    return task


def with_workers(task: Task, workers: int) -> Task:
    """The task with a number of processes for generation and scoring."""
    return replace(task, overrides={**task.overrides, "generate.workers": workers, "score.workers": workers})


def table(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield (
        "| job | obvious images/s | ours | ratio | spread | core-ms an image, obvious | ours | ratio "
        "| peak memory, obvious | ours |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for one in comparisons:
        spread = " / ".join(f"{one.spread(side):.0%}" for side in SIDES)
        memory = [max(r.peak_memory_mb for r in one.repetitions[side]) for side in SIDES]
        cpu_ms = [one.cpu_ms(side) for side in SIDES]
        yield (
            f"| {one.job} | {one.speed('obvious'):.3g} | {one.speed('ours'):.3g} | {one.ratio:.2f} "
            f"| {spread} | {cpu_ms[0]:.3g} | {cpu_ms[1]:.3g} | {cpu_ms[0] / cpu_ms[1]:.2f} "
            f"| {memory[0]:.0f} MB | {memory[1]:.0f} MB |"
        )


def facts(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Other figures of both sides, such as the loss of the epoch: median and range."""
    for one in comparisons:
        for name in one.repetitions["ours"][0].facts:
            cells = []
            for side in SIDES:
                values = [found.facts[name] for found in one.repetitions[side]]
                low, middle, high = min(values), statistics.median(values), max(values)
                cells.append(f"{side} {middle:.4f} ({low:.4f} to {high:.4f})")
            yield f"{one.job}, {name}: {', '.join(cells)}"


# -- growth


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


def grow(task: Task, jobs: Sequence[str], counts: Sequence[int]) -> Iterator[Growth]:
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


def grow_generation(task: Task, counts: Sequence[int]) -> Iterator[Growth]:
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
