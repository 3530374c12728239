"""Which images to label next: near the threshold, and unlike each other."""

from collections.abc import Collection
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from quality_model.curate.hash_search import Hashes, near
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
        rows: With the columns ``key``, ``sha256``, the head, and ``phash``; an image without that, or a plain
            one, is like the same file alone.
        threshold: In [0, 1].
        labelled: Keys that have a label of this head.
        count: At most so many are chosen.
    """
    table = rows.filter(pc.is_valid(rows[head]))
    has_label = pc.is_in(table["key"], value_set=pa.array(list(labelled), pa.string()))
    taken = _hashes_of(table.filter(has_label))
    taken_files = {*table.filter(has_label)["sha256"].to_pylist()}
    open_ones = table.filter(pc.invert(has_label))
    distance = np.abs(open_ones[head].to_numpy().astype(np.float64) - threshold)
    nearest = pa.array(np.argsort(distance, kind="stable")[: _NEAR * count])
    close = open_ones.take(nearest).sort_by([(head, "ascending"), ("key", "ascending")])
    keys, files, hashes = close["key"].to_pylist(), close["sha256"].to_pylist(), _hashes_of(close)
    distance = np.abs(close[head].to_numpy().astype(np.float64) - threshold)
    chosen: list[int] = []

    def take(places: npt.NDArray[np.intp], most: int) -> None:
        nonlocal taken
        for place in places[np.argsort(distance[places], kind="stable")].tolist():
            is_new = files[place] not in taken_files and not near(taken, hashes[place]).any()
            if most and place not in chosen and is_new:
                chosen.append(place)
                taken_files.add(files[place])
                taken = np.append(taken, hashes[place])
                most -= 1

    everything = np.arange(len(keys))
    strata = np.array_split(everything, max(1, min(count, len(keys)))) if keys else []
    for stratum in sorted(strata, key=lambda places: float(distance[places].min())):
        take(stratum, 1)
    take(everything, count - len(chosen))
    return [keys[place] for place in sorted(chosen, key=lambda place: (distance[place], place))]


def _hashes_of(rows: pa.Table) -> Hashes:
    """uint64 (N,): the hash of each row; 0, which is like no other, of one without."""
    hashes = rows["phash"] if "phash" in rows.column_names else pa.nulls(len(rows), pa.int64())
    return np.asarray(hashes.fill_null(0).to_numpy(zero_copy_only=False)).view(np.uint64)
