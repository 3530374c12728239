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

import cv2
import numpy as np
import numpy.typing as npt

from quality_model.core import decoding
from quality_model.core.decoding import Pixels
from quality_model.errors import ImageError
from quality_model.params import WITHOUT_PROJECT

MOST_BITS: Final = 6
"""Of 64. Unrelated photographs differ in 32 on average, with a standard deviation of 4."""

SIDE_PX: Final = 32
KEPT: Final = 8
"""Lowest frequencies in each direction that the hash keeps."""

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
Hashes = npt.NDArray[np.uint64]


class Pair(NamedTuple):
    """Two images that look the same, and the bits in which their hashes differ."""

    seen: Path
    judged: Path
    bits: int


def perceptual_hash(pixels: Pixels) -> int:
    """64 bits: whether each low frequency of a small grey image is above the median of them.

    The hash of Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010),
    section 3.2.1: the discrete cosine transform of 32 x 32 px, its lowest 8 x 8 coefficients without the
    mean's row and column.

    Args:
        pixels: uint8 (height, width, 3) RGB.
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small.astype(np.float32))[1 : KEPT + 1, 1 : KEPT + 1].ravel()
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes())


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
            pixels = decoding.decode(path.read_bytes(), WITHOUT_PROJECT.limits, shortest_px=2 * SIDE_PX)
        except ImageError as error:
            print(f"{path} is left out: {error}", file=sys.stderr)
            continue
        paths.append(path)
        hashes.append(perceptual_hash(pixels))
    return paths, np.array(hashes, dtype=np.uint64)


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
