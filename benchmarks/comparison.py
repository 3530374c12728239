"""Both sides of the jobs in turn, several times, and their results as one table."""

import shutil
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from benchmarks.images import LARGE_PX, find_photographs, link_images, write_images
from benchmarks.jobs import JOBS, SIDES, Side, Task
from benchmarks.repetition import Repetition, repeat
from quality_model import pretrained
from quality_model.data.download import download
from quality_model.data.generate import generate
from quality_model.params_file import load_params

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
