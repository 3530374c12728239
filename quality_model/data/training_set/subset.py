"""A part of many samples that stands for them all."""

import numpy as np
import numpy.typing as npt


def choose_evenly(indices: npt.NDArray[np.int64], count: int, seed: int) -> npt.NDArray[np.int64]:
    """At most ``count`` of ``indices`` (n,), in their order.

    One is drawn from each of ``count`` equal stretches. Every n-th would not do: the samples
    of an image follow each other, so that could be the same variant of each.
    """
    if len(indices) <= count:
        return indices
    edges = np.arange(count + 1) * len(indices) // count
    return indices[np.random.default_rng(seed).integers(edges[:-1], edges[1:])]
