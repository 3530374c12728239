"""What the measures beside the scores cost, and what they find: `python -m benchmarks.measures`.

Each image is read and scored in one process, without measures and with each set of them, in random order; the
cost is the CPU time beyond that without them, by the median of the repetitions of each image. Then: how far
the hashes of copies and of different photographs are apart, and how blocking rises as JPEG quality falls.
"""

import io
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from benchmarks.images import find_photographs
from quality_model.core.decoding import decode_image
from quality_model.core.measures import MEASURED_PX, MeasuredImage, chosen_sets
from quality_model.core.measures import measure as measures_of
from quality_model.core.predict import SAFE_LIMITS, Scorer
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


def measure(model: Scorer, images: Sequence[bytes], size_px: tuple[int, int], repetitions: int) -> Cost:
    """Time one size."""
    every = chosen_sets(["all"])
    choices: tuple[MeasureChoice, ...] = ("none", *every, "cheap", "all")
    seconds: npt.NDArray[np.float64] = np.empty((len(choices), len(images), repetitions))
    random = np.random.default_rng(1)
    for repetition in range(repetitions):
        for at, data in enumerate(images):
            # Shuffled, not rotated: what runs before leaves its memory, and one would always follow the same.
            for row in random.permutation(len(choices)):
                start = time.process_time()
                read_image(
                    data,
                    image_size_px=model.image_size_px,
                    recipe=model.views,
                    limits=SAFE_LIMITS,
                    engine=model.engine,
                    measure=chosen_sets([choices[row]]),
                )
                seconds[row, at, repetition] = time.process_time() - start
    each_ms = np.median(seconds, axis=2).mean(axis=1) * 1000
    extra: dict[str, float] = {
        name: float(ms - each_ms[0]) for name, ms in zip(map(str, choices[1:]), each_ms[1:], strict=True)
    }
    return Cost(size_px, float(each_ms[0]), extra)


def value(image: Image.Image, name: str, **options: Any) -> Any:
    """One measure of an image as a file: PNG, or JPEG of a ``quality``."""
    sink = io.BytesIO()
    image.save(sink, "JPEG" if options else "PNG", **options)
    decoded = decode_image(sink.getvalue(), SAFE_LIMITS, shortest_px=MEASURED_PX)
    return measures_of(MeasuredImage.of(decoded, len(sink.getvalue())), chosen_sets(["all"]))[name]


def found(photographs: Sequence[Path]) -> Iterator[str]:
    """What hash and blocking find in photographs, and in copies of them."""
    images = [Image.open(path).convert("RGB") for path in photographs]
    for image in images:
        image.thumbnail((1400, 1400))
    hashes = [value(image, "phash") for image in images]
    copies = {
        "JPEG of quality 20": [value(image, "phash", quality=20) for image in images],
        "half the size": [value(image.reduce(2), "phash") for image in images],
        "squeezed to 200 x 200, quality 60": [
            value(image.resize((200, 200)), "phash", quality=60) for image in images
        ],
        "a fortieth cropped from each side": [
            value(ImageOps.crop(image, min(image.size) // 40), "phash") for image in images
        ],
    }
    yield f"Bits of 64 in which the hashes of {len(images)} photographs and their copies differ:"
    for title, of_copies in copies.items():
        bits = [_distance(*pair) for pair in zip(hashes, of_copies, strict=True)]
        yield f"- {title}: {np.mean(bits):.1f}, at most {max(bits)}"
    bits = sorted(_distance(*pair) for pair in combinations(hashes, 2))
    yield f"- two photographs: {np.mean(bits):.1f}, least {bits[:5]}"
    yield "Blocking, of the photographs shrunk to 4/5: median, from, to:"
    smaller = [image.resize((image.width * 4 // 5, image.height * 4 // 5)) for image in images]
    for quality in (None, 90, 75, 50, 20):
        options = {} if quality is None else {"quality": quality}
        values = [value(image, "blocking", **options) for image in smaller]
        low, middle, high = np.quantile(values, (0, 0.5, 1))
        yield f"- {quality or 'not compressed'}: {middle:.3f}, {low:.3f}, {high:.3f}"


def _distance(one: int, other: int) -> int:
    return ((one ^ other) & (2**64 - 1)).bit_count()


@click.command()
@click.option("--photographs", type=click.Path(path_type=Path, exists=True), help="Folder of photographs.")
@click.option("--count", default=6, show_default=True, help="Images of each size.")
@click.option("--repetitions", default=15, show_default=True)
def main(photographs: Path | None, count: int, repetitions: int) -> None:
    """Print the CPU time that each set of measures adds to scoring with the bundled model."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    model = Scorer("bundled", "cpu")
    paths = find_photographs(photographs)
    costs = [measure(model, encoded(paths, count, size), size, repetitions) for size in _SIZES_PX]
    names = list(costs[0].extra_ms)
    click.echo(f"| JPEG, px | scoring alone | {' | '.join(f'`{name}`' for name in names)} |")
    click.echo("|---" * (2 + len(names)) + "|")
    for cost in costs:
        click.echo(cost.line())
    for line in found(paths):
        click.echo(line)


if __name__ == "__main__":
    main()
