"""Pillow's LANCZOS resampling by matrix products: the same pixels in half the time.

Pillow weighs the pixels of each row, then those of each column. A weight is an integer with 22
binary places; a weighted sum is rounded to a whole level and cut to 0 to 255, after each of the
two. Here products of float32 matrices give the sums. The weights are exact in float32, so a sum
is off by the rounding of its additions at most; where that could turn a level into its
neighbour, the sum is made anew in integers.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

Levels = npt.NDArray[np.uint8]

_LOBES: Final = 3
_PLACES: Final = 22
_BLOCK: Final = 8
"""Rows of the result to one matrix product: fewer waste less on zeros, more call BLAS less often."""

_MOST_PRODUCTS: Final = 2**17
"""Multiplications of one matrix product: BLAS starts no threads for so few, and they would cost more
than they gain, most of all where every core has a process already."""

_LARGEST_SUM: Final = 2.0 * 255.0
"""Bound of the sum of absolute weights times levels: the filter's lobes add up to 1.4."""


@dataclass(frozen=True, slots=True)
class _Filter:
    """Weights of every output along one axis.

    Output ``o`` is the sum of ``weights[o] * inputs[starts[o] :][:taps]``, weights having 22
    binary places, int64 (outputs, taps). ``blocks`` are the same in float32: first output, first
    input, matrix. ``margin`` is how far a float32 sum may be from the true one, in levels.
    """

    starts: npt.NDArray[np.int64]
    weights: npt.NDArray[np.int64]
    blocks: tuple[tuple[int, int, npt.NDArray[np.float32]], ...]
    margin: float


def resize(pixels: Levels, size_px: int) -> Levels:
    """Resize to a square as ``Image.resize`` of Pillow does.

    Args:
        pixels: uint8 (height, width, 3).
        size_px: Side of the result.

    Returns:
        uint8 (size_px, size_px, 3).
    """
    height, width = pixels.shape[:2]
    columns = np.asarray(cv2.transpose(pixels), dtype=np.uint8).reshape(width, height * 3)
    narrow = _resample(columns, size_px).reshape(size_px, height, 3)
    rows = np.asarray(cv2.transpose(narrow), dtype=np.uint8).reshape(height, size_px * 3)
    return _resample(rows, size_px).reshape(size_px, size_px, 3)


def _resample(lines: Levels, outputs: int) -> Levels:
    """Weigh whole lines: uint8 (inputs, n) to uint8 (outputs, n)."""
    filters = _filter(len(lines), outputs)
    sums = np.empty((outputs, lines.shape[1]), dtype=np.float32)
    for first, start, matrix in filters.blocks:
        part = lines[start : start + matrix.shape[1]].astype(np.float32)
        into = sums[first : first + len(matrix)]
        step = max(1, _MOST_PRODUCTS // matrix.size)
        for left in range(0, part.shape[1], step):
            np.matmul(matrix, part[:, left : left + step], out=into[:, left : left + step])
    whole = np.rint(sums)
    levels = np.clip(whole, 0.0, 255.0).astype(np.uint8)
    sums -= whole
    doubtful = np.flatnonzero(np.abs(sums, out=sums).ravel() > 0.5 - filters.margin)
    if len(doubtful):
        _make_anew(levels, lines, filters, doubtful)
    return levels


def _make_anew(levels: Levels, lines: Levels, filters: _Filter, places: npt.NDArray[np.int64]) -> None:
    """Replace some of the levels, given by their places in the flat array, by what integers give."""
    output, column = np.divmod(places, levels.shape[1])
    weights = filters.weights[output]
    # Taps beyond the last input have a weight of 0, so any input will do.
    taken = np.minimum(filters.starts[output, None] + np.arange(weights.shape[1]), len(lines) - 1)
    sums = (weights * lines[taken, column[:, None]]).sum(axis=1)
    levels[output, column] = np.clip((sums + (1 << (_PLACES - 1))) >> _PLACES, 0, 255)


@lru_cache(maxsize=64)
def _filter(inputs: int, outputs: int) -> _Filter:
    scale = inputs / outputs
    stretch = max(scale, 1.0)
    reach = _LOBES * stretch
    centres = (np.arange(outputs) + 0.5) * scale
    starts = np.maximum(0, (centres - reach + 0.5).astype(np.int64))
    ends = np.minimum(inputs, (centres + reach + 0.5).astype(np.int64))
    taps = int((ends - starts).max())
    places = starts[:, None] + np.arange(taps)
    x = (places - centres[:, None] + 0.5) * (1.0 / stretch)
    kernel = np.where(np.abs(x) < _LOBES, np.sinc(x) * np.sinc(x / _LOBES), 0.0)
    kernel[places >= ends[:, None]] = 0.0
    kernel /= kernel.sum(axis=1, keepdims=True)
    weights = np.trunc(kernel * (1 << _PLACES) + np.copysign(0.5, kernel)).astype(np.int64)
    blocks = []
    for first in range(0, outputs, _BLOCK):
        rows = slice(first, first + _BLOCK)
        start, end = int(starts[rows].min()), int(ends[rows].max())
        matrix = np.zeros((len(starts[rows]), end - start + taps), dtype=np.float32)
        np.put_along_axis(
            matrix, places[rows] - start, (weights[rows] / (1 << _PLACES)).astype(np.float32), 1
        )
        blocks.append((first, start, np.ascontiguousarray(matrix[:, : end - start])))
    return _Filter(starts, weights, tuple(blocks), margin=(taps + 2) * 2.0**-24 * _LARGEST_SUM)
