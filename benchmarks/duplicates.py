"""`python -m benchmarks.duplicates`: time and memory of finding the near duplicates among a million images.

Hashes are random, with 32 of 64 bits set as those of photographs. Among them are what collections have: 5 %
copies that differ in up to 6 bits, 5 % one and the same image, 5 % plain images, and 2 % that differ from one
image in up to 6 bits, as scanned pages do.
"""

import resource
import time

import click
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from quality_model.core.measures import NEAR_DUPLICATE_BITS
from quality_model.curate.duplicates import MAX_DISTANCE, find_groups

Hashes = npt.NDArray[np.uint64]
_AT_ONCE = 50_000


def make_hashes(count: int, random: np.random.Generator) -> Hashes:
    """Random hashes, uint64 (count,), of 32 bits each."""
    parts = []
    for first in range(0, count, _AT_ONCE):
        values = random.random((min(_AT_ONCE, count - first), 64), dtype=np.float32)
        bits = values > np.median(values, axis=1, keepdims=True)
        parts.append(np.packbits(bits, axis=1).view(np.uint64)[:, 0])
    return np.concatenate(parts)


def copies_of(hashes: Hashes, random: np.random.Generator) -> Hashes:
    """Each with up to 6 bits changed, half of them from 1 to 0: 32 bits stay set."""
    changed = hashes.copy()
    steps = random.integers(1, 4, len(hashes))
    for step in range(3):
        for is_set in (True, False):
            bits = np.unpackbits(hashes.view(np.uint8).reshape(-1, 8), axis=1) == is_set
            chosen = np.where(bits, random.random(bits.shape, dtype=np.float32), -1).argmax(axis=1)
            flips = np.packbits(np.arange(64) == chosen[:, None], axis=1).view(np.uint64)[:, 0]
            changed ^= np.where(step < steps, flips, np.uint64(0))
    return changed


def make_table(rows: int, random: np.random.Generator) -> pa.Table:
    """The columns of a result of that many images, in random order."""
    originals = make_hashes(rows * 83 // 100, random)
    alike = originals[:2].repeat([rows // 50, rows // 20])
    alike[: rows // 50] = copies_of(alike[: rows // 50], random)
    near = copies_of(random.choice(originals, rows // 20), random)
    num_plain = rows - len(originals) - len(alike) - len(near)
    hashes = np.concatenate([originals, alike, near, np.full(num_plain, 1 << 63, np.uint64)])
    random.shuffle(hashes)
    sides = random.integers(200, 4000, (2, rows), dtype=np.int32)
    return pa.table(
        {
            "key": [f"folder/{number:09d}.jpg" for number in range(rows)],
            "sha256": [f"{number:064x}" for number in range(rows)],
            "phash": hashes.view(np.int64),
            "worst_score": random.random(rows, dtype=np.float32),
            "width": sides[0],
            "height": sides[1],
            "size_bytes": random.integers(10_000, 1_000_000, rows),
            "jpeg_quality": random.integers(50, 100, rows, dtype=np.int32),
            "error_code": pa.nulls(rows, pa.string()),
        }
    )


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@click.command()
@click.option("--rows", default=1_000_000, show_default=True, type=click.IntRange(min=1000))
@click.option(
    "--max-distance", default=[MAX_DISTANCE], multiple=True, type=click.IntRange(0, NEAR_DUPLICATE_BITS)
)
def main(rows: int, max_distance: tuple[int, ...]) -> None:
    """Print time, rows a second and peak memory for each distance, in the order given."""
    table = make_table(rows, np.random.default_rng(1))
    click.echo(f"{rows} rows, {table.nbytes / 2**20:.0f} MB; memory before: {peak_mb():.0f} MB at its peak")
    click.echo("| distance | seconds | of CPU | rows a second | groups | images in them | peak memory |")
    click.echo("|---|---|---|---|---|---|---|")
    for distance in max_distance:
        start, start_cpu = time.perf_counter(), time.process_time()
        group = find_groups(table, distance).group
        sizes = np.bincount(group[group >= 0])
        took_s, cpu_s = time.perf_counter() - start, time.process_time() - start_cpu
        cells = (
            distance,
            f"{took_s:.1f}",
            f"{cpu_s:.1f}",
            f"{rows / took_s:,.0f}",
            len(sizes),
            sizes.sum(),
            f"{peak_mb():.0f} MB",
        )
        click.echo(f"| {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    main()
