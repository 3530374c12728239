"""What the measures beside the scores cost: `python -m benchmarks.measures`.

Each image is read and scored in one process, without measures and with each set of them, in turn; the cost is
the CPU time beyond that without them, the smallest of the repetitions for each image: other work on the
machine adds to CPU time, and never takes from it.
"""

import io
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.images import find_photographs
from quality_model.core.measures import chosen_sets
from quality_model.core.predict import SAFE_LIMITS, MultiHeadQualityInference
from quality_model.params import MeasureChoice
from quality_model.score.reading import read_image

_SIZES_PX = ((500, 375), (1024, 768), (4000, 3000))


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU milliseconds an image, of JPEG files of one size; ``extra_ms`` by what was measured."""

    size_px: tuple[int, int]
    without_ms: float
    extra_ms: dict[str, float]

    def line(self) -> str:
        """A row of the table."""
        cells = [f"{extra:.1f} ms, {extra / self.without_ms:.1%}" for extra in self.extra_ms.values()]
        return f"| {self.size_px[0]} x {self.size_px[1]} | {self.without_ms:.1f} ms | {' | '.join(cells)} |"


def encoded(photographs: Sequence[Path], count: int, size_px: tuple[int, int]) -> list[bytes]:
    """JPEG files of quality 90, of the first photographs, squeezed to one size."""
    files = []
    for path in photographs[:count]:
        sink = io.BytesIO()
        Image.open(path).convert("RGB").resize(size_px).save(sink, "JPEG", quality=90)
        files.append(sink.getvalue())
    return files


def measure(
    model: MultiHeadQualityInference, images: Sequence[bytes], size_px: tuple[int, int], repetitions: int
) -> Cost:
    """Time one size."""
    every = chosen_sets(["all"])
    choices: tuple[MeasureChoice, ...] = ("none", *every, "cheap", "all")
    seconds: npt.NDArray[np.float64] = np.full((len(choices), len(images)), np.inf)
    for repetition in range(repetitions):
        for at, data in enumerate(images):
            for place in range(len(choices)):
                row = (place + repetition) % len(choices)  # what runs first pays for fresh memory
                start = time.process_time()
                read_image(
                    data,
                    image_size_px=model.image_size_px,
                    recipe=model.views,
                    limits=SAFE_LIMITS,
                    engine=model.engine,
                    measure=chosen_sets([choices[row]]),
                )
                seconds[row, at] = min(seconds[row, at], time.process_time() - start)
    each_ms = seconds.mean(axis=1) * 1000
    extra: dict[str, float] = {
        name: float(ms - each_ms[0]) for name, ms in zip(map(str, choices[1:]), each_ms[1:], strict=True)
    }
    return Cost(size_px, float(each_ms[0]), extra)


@click.command()
@click.option("--photographs", type=click.Path(path_type=Path, exists=True), help="Folder of photographs.")
@click.option("--count", default=6, show_default=True, help="Images of each size.")
@click.option("--repetitions", default=15, show_default=True)
def main(photographs: Path | None, count: int, repetitions: int) -> None:
    """Print the CPU time that each set of measures adds to scoring with the bundled model."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    model = MultiHeadQualityInference("bundled", "cpu")
    found = find_photographs(photographs)
    costs = [measure(model, encoded(found, count, size), size, repetitions) for size in _SIZES_PX]
    names = list(costs[0].extra_ms)
    click.echo(f"| JPEG, px | scoring alone | {' | '.join(f'`{name}`' for name in names)} |")
    click.echo("|---" * (2 + len(names)) + "|")
    for cost in costs:
        click.echo(cost.line())


if __name__ == "__main__":
    main()
