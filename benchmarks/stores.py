"""Reading objects with obstore, which this project uses, against s3fs: the ratio of time and of CPU.

    python -m benchmarks.stores s3://bucket/folder --objects 200 --kib 100 --threads 16

It writes the objects there, reads each by both clients, one after the other and by threads, in turns, and
removes them. The best of three turns counts.
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

from quality_model.core.figures import text_table
from quality_model.core.stores import is_store_address, store_path

_TURNS: Final = 3


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("--objects", type=int, default=200)
    parser.add_argument("--kib", type=int, default=100)
    parser.add_argument("--threads", type=int, default=16)
    chosen = parser.parse_args(arguments)
    if not is_store_address(chosen.address):
        parser.error("name a folder in an object store")
    print(compared(store_path(chosen.address), chosen.objects, chosen.kib << 10, chosen.threads))  # noqa: T201


def compared(folder: Path, num_objects: int, num_bytes: int, num_threads: int) -> str:
    """A table: seconds and CPU seconds of each client, and their ratios."""
    from s3fs import S3FileSystem

    paths = [folder / f"benchmark-{number:05d}" for number in range(num_objects)]
    files: Any = S3FileSystem(use_listings_cache=False)
    with ThreadPoolExecutor(num_threads) as threads:
        list(threads.map(lambda path: path.write_bytes(os.urandom(num_bytes)), paths))
    clients: dict[str, Callable[[Path], bytes]] = {
        "obstore": lambda path: path.read_bytes(),
        "s3fs": lambda path: bytes(files.cat_file(str(path).removeprefix("s3://"))),
    }
    try:
        rows = []
        for number in (1, num_threads):
            found = {name: (float("inf"), float("inf")) for name in clients}
            for _ in range(_TURNS):
                for name, read in clients.items():
                    found[name] = min(found[name], _timed(read, paths, num_bytes, number))
            (ours, our_cpu), (theirs, their_cpu) = found.values()
            rows.append(
                [
                    f"{number} thread{'' if number == 1 else 's'}",
                    *(f"{value:.2f}" for value in (ours, theirs, theirs / ours)),
                    *(f"{value:.2f}" for value in (our_cpu, their_cpu, their_cpu / our_cpu)),
                ]
            )
    finally:
        for path in paths:
            path.unlink(missing_ok=True)
    titles = ["", "obstore s", "s3fs s", "ratio", "obstore CPU s", "s3fs CPU s", "ratio of CPU"]
    return text_table(titles, rows, right=titles[1:])


def _timed(
    read: Callable[[Path], bytes], paths: Sequence[Path], num_bytes: int, num_threads: int
) -> tuple[float, float]:
    """Seconds and CPU seconds of this process to read all objects."""
    started, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(num_threads) as threads:
        lengths = list(threads.map(partial(_length, read), paths))
    assert set(lengths) == {num_bytes}
    return time.perf_counter() - started, time.process_time() - cpu


def _length(read: Callable[[Path], bytes], path: Path) -> int:
    return len(read(path))


if __name__ == "__main__":
    main()
