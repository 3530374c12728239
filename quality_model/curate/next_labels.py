"""Which images to label next: near the threshold, and unlike each other."""

from collections.abc import Collection
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from quality_model.core.measures import NEAR_DUPLICATE_BITS
from quality_model.records import Head

_NEAR: Final = 5
"""So many times the images that are asked for are near the threshold."""


def choose_next(
    rows: pa.Table, head: Head, threshold: float, labelled: Collection[str], count: int
) -> list[str]:
    """Keys of the images whose labels would say most about a threshold, the nearest first.

    Labels near the threshold say most (uncertainty sampling: Lewis and Gale, SIGIR 1994), and alike images
    say the same. So: the 5 ``count`` images nearest to it, in order of score, are parted into ``count``
    strata; from each the nearest is taken that is no near duplicate of a labelled or chosen image; what is
    missing then are the nearest of the others.

    Args:
        rows: With the columns ``key``, the head and ``phash`` (null: like no other image).
        threshold: In [0, 1].
        labelled: Keys that have a label of this head.
        count: At most so many are chosen.
    """
    table = rows.filter(pc.is_valid(rows[head]))
    has_label = pc.is_in(table["key"], value_set=pa.array(list(labelled), pa.string()))
    taken = [one.as_py() for one in table["phash"].filter(has_label) if one.is_valid]
    open_ones = table.filter(pc.invert(has_label))
    distance = np.abs(open_ones[head].to_numpy().astype(np.float64) - threshold)
    nearest = pa.array(np.argsort(distance, kind="stable")[: _NEAR * count])
    near = open_ones.take(nearest).sort_by([(head, "ascending"), ("key", "ascending")])
    keys, hashes = near["key"].to_pylist(), near["phash"].to_pylist()
    distance = np.abs(near[head].to_numpy().astype(np.float64) - threshold)
    chosen: list[int] = []

    def take(places: npt.NDArray[np.intp], most: int) -> None:
        for place in places[np.argsort(distance[places], kind="stable")].tolist():
            own = hashes[place]
            if most and place not in chosen and (own is None or not _is_near(own, taken)):
                chosen.append(place)
                taken.extend([] if own is None else [own])
                most -= 1

    everything = np.arange(len(keys))
    strata = np.array_split(everything, max(1, min(count, len(keys)))) if keys else []
    for stratum in sorted(strata, key=lambda places: float(distance[places].min())):
        take(stratum, 1)
    take(everything, count - len(chosen))
    return [keys[place] for place in sorted(chosen, key=lambda place: (distance[place], place))]


def _is_near(own: int, others: list[int]) -> bool:
    """Whether a 64-bit hash is that of a near duplicate of one of the others."""
    mask = 2**64 - 1
    return any(((own ^ other) & mask).bit_count() <= NEAR_DUPLICATE_BITS for other in others)
