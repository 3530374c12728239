"""Find images that two folders share: what a model has seen must not be what it is judged on.

    python recipes/near_duplicates.py SEEN JUDGED [JUDGED ...]

prints every pair of an image of SEEN and one of JUDGED, folders being searched with all below them, whose
perceptual hashes differ in at most `MOST_BITS` bits, and ends with status 1 if there is any. A copy that
was resized, recompressed or slightly recoloured is found; another crop of the scene is not.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from quality_model.core.decoding import SUFFIXES, decode_image
from quality_model.core.measures import MEASURED_PX, MeasuredImage, of_hash
from quality_model.errors import ImageError
from quality_model.params import WITHOUT_PROJECT

MOST_BITS: Final = 6
"""Of 64. Unrelated photographs differ in 32 on average, with a standard deviation of 4."""

Hashes = npt.NDArray[np.uint64]


class Pair(NamedTuple):
    """Two images that look the same, and the bits in which their hashes differ."""

    seen: Path
    judged: Path
    bits: int


def find_pairs(seen: Path, judged: list[Path]) -> Iterator[Pair]:
    """The near duplicates between one folder and others, in the order of their paths."""
    known, hashes = _hashed(seen)
    for folder in judged:
        others, theirs = _hashed(folder)
        for path, one in zip(others, theirs, strict=True):
            bits = np.bitwise_count(hashes ^ one)
            for at in np.flatnonzero(bits <= MOST_BITS):
                yield Pair(known[at], path, int(bits[at]))


def _hashed(folder: Path) -> tuple[list[Path], Hashes]:
    """The images of a folder that can be read, and their hashes, uint64 (n,)."""
    paths, hashes = [], []
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES):
        try:
            decoded = decode_image(path.read_bytes(), WITHOUT_PROJECT.limits, shortest_px=MEASURED_PX)
        except ImageError as error:
            print(f"{path} is left out: {error}", file=sys.stderr)
            continue
        paths.append(path)
        hashes.append(of_hash(MeasuredImage.of(decoded, 0))["phash"])
    return paths, np.array(hashes, dtype=np.int64).view(np.uint64)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("seen", type=Path)
    parser.add_argument("judged", type=Path, nargs="+")
    arguments = parser.parse_args()
    pairs = [*find_pairs(arguments.seen, arguments.judged)]
    for pair in pairs:
        print(f"{pair.seen}  {pair.judged}  {pair.bits}")
    print(f"{len(pairs)} near duplicates", file=sys.stderr)
    return 1 if pairs else 0


if __name__ == "__main__":
    sys.exit(main())
