"""What scoring a collection costs, computed from measured core time and from prices that are yours to give.

    python -m benchmarks.cost [--images 1e6 1e9] [--cores 64] [--core-hour 0.04] [--get 0.4] [--put 5] ...

Nothing is measured here. Core time and bytes are those of docs/performance.md, for its processor; prices are
examples, in any currency. A GPU has a row once its images/s and its price are given: none was measured.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from quality_model.core.figures import markdown_table

TITLES: Final = (
    *("images", "of", "stored as", "core-hours", "time", "read", "MB/s", "written", "GET, PUT"),
    *("computing", "store", "a million images"),
)


@dataclass(frozen=True, slots=True)
class Images:
    """A kind of images, with the views that score them.

    Attributes:
        title: For people.
        core_ms: Core time for one, milliseconds (docs/performance.md).
        size_bytes: Of one file; of 4000 x 3000 px assumed.
    """

    title: str
    core_ms: float
    size_bytes: float


KINDS: Final = (
    Images("500 x 375", 17.5, 50e3),
    Images("500 x 375, `--views whole`", 9.7, 50e3),
    Images("4000 x 3000", 71.0, 4e6),
)

ROW_BYTES: Final = 112.0
"""Of a row of the result, measured in parts of 100."""

PART_IMAGES: Final = 1000
"""`score.shard_size`: a part and its marker are two PUTs."""

PUTS_A_PART: Final = 2


@dataclass(frozen=True, slots=True)
class Prices:
    """What is paid for, in any currency.

    Attributes:
        core_hour: An hour of a core.
        gpu_hour: An hour of a GPU with its machine.
        get: A million reads of a store.
        put: A million writes.
        gigabyte: Traffic out of the store, 10^9 bytes.
    """

    core_hour: float = 0.04
    gpu_hour: float = 2.5
    get: float = 0.4
    put: float = 5.0
    gigabyte: float = 0.0


@dataclass(frozen=True, slots=True)
class Cost:
    """One collection, scored once."""

    images: float
    kind: Images
    images_a_get: float
    prices: Prices
    images_per_s: float
    """Of all machines together."""
    core_hours: float
    """0 where a GPU does it."""
    computing: float

    @property
    def reads(self) -> float:
        """Requests that read."""
        return self.images / self.images_a_get

    @property
    def writes(self) -> float:
        """Requests that write."""
        return self.images / PART_IMAGES * PUTS_A_PART

    @property
    def store(self) -> float:
        """Price of requests and traffic."""
        traffic = self.images * self.kind.size_bytes / 1e9 * self.prices.gigabyte
        return (self.reads * self.prices.get + self.writes * self.prices.put) / 1e6 + traffic

    def row(self) -> tuple[str, ...]:
        """As `TITLES`."""
        return (
            f"{self.images:,.0f}",
            self.kind.title,
            "objects" if self.images_a_get == 1 else "shards",
            f"{self.core_hours:,.{0 if self.core_hours >= 100 else 1}f}" if self.core_hours else "GPU",
            duration(self.images / self.images_per_s),
            size(self.images * self.kind.size_bytes),
            f"{self.images_per_s * self.kind.size_bytes / 1e6:,.0f}",
            size(self.images * ROW_BYTES),
            f"{count(self.reads)}, {count(self.writes)}",
            f"{self.computing:,.2f}",
            f"{self.store:,.2f}",
            f"{(self.computing + self.store) / self.images * 1e6:,.2f}",
        )


def on_cores(images: float, kind: Images, images_a_get: float, prices: Prices, cores: int) -> Cost:
    """A collection on so many cores, all of which work all the time."""
    hours = images * kind.core_ms / 3.6e6
    rate = cores * 1000 / kind.core_ms
    return Cost(images, kind, images_a_get, prices, rate, hours, hours * prices.core_hour)


def on_gpus(images: float, kind: Images, images_a_get: float, prices: Prices, rate: float, gpus: int) -> Cost:
    """A collection on GPUs, each of which scores ``rate`` images/s, decoding included."""
    hours = images / rate / 3600
    return Cost(images, kind, images_a_get, prices, rate * gpus, 0.0, hours * prices.gpu_hour)


def duration(seconds: float) -> str:
    """A time for people: the unit that leaves at most three digits before the point."""
    for unit, length in (("days", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.0f} s"


def size(num_bytes: float) -> str:
    """Bytes for people, by powers of ten."""
    for unit, length in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9)):
        if num_bytes >= length:
            return f"{num_bytes / length:,.3g} {unit}"
    return f"{num_bytes / 1e6:,.3g} MB"


def count(number: float) -> str:
    """A number of requests for people."""
    for unit, length in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= length:
            return f"{number / length:,.3g} {unit}"
    return f"{number:,.3g}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    words = (__doc__ or "").splitlines()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cost", description=words[0])
    prices = Prices()
    parser.add_argument("--images", type=float, nargs="+", default=[1e6, 1e9], metavar="N")
    parser.add_argument("--cores", type=int, default=64, help="all machines together (default: %(default)s)")
    parser.add_argument("--core-hour", type=float, default=prices.core_hour, help="default: %(default)s")
    parser.add_argument("--get", type=float, default=prices.get, help="a million reads (%(default)s)")
    parser.add_argument("--put", type=float, default=prices.put, help="a million writes (%(default)s)")
    parser.add_argument("--gigabyte", type=float, default=0.0, help="traffic out of the store (%(default)s)")
    parser.add_argument("--read-bytes", type=float, default=8e6, help="a read of a shard (%(default)s)")
    parser.add_argument("--gpu-images-per-s", type=float, help="of one GPU; unmeasured: no row without it")
    parser.add_argument("--gpu-hour", type=float, default=prices.gpu_hour, help="default: %(default)s")
    parser.add_argument("--gpus", type=int, default=1, help="default: %(default)s")
    given = parser.parse_args(arguments)
    numbers = (given.cores, given.gpus, given.read_bytes, *given.images, given.gpu_images_per_s or 1)
    if min(numbers) <= 0:
        parser.error("images, cores, GPUs, bytes and images/s are above 0")
    paid = Prices(given.core_hour, given.gpu_hour, given.get, given.put, given.gigabyte)

    def rows() -> Iterator[tuple[str, ...]]:
        for images in given.images:
            for kind in KINDS:
                for images_a_get in (1.0, max(given.read_bytes / kind.size_bytes, 1.0)):
                    yield on_cores(images, kind, images_a_get, paid, given.cores).row()
                if rate := given.gpu_images_per_s:
                    yield on_gpus(images, kind, 1.0, paid, rate, given.gpus).row()

    sys.stdout.write(markdown_table(TITLES, rows(), right=(*TITLES[:1], *TITLES[3:])) + "\n")


if __name__ == "__main__":
    main()
