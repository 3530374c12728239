"""Keys of millions of inputs: which occur twice, in eight bytes of memory for each."""

from array import array
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt


def hashes_of(keys: Iterable[str]) -> "array[int]":
    """The hash of each key, int64; those of one process can be compared."""
    return array("q", map(hash, keys))


def repeated_hashes(hashes: "array[int]") -> tuple[set[int], npt.NDArray[np.int64]]:
    """Those hashes of keys that occur more than once, and all of them once, sorted."""
    values, counts = np.unique(np.frombuffer(hashes, dtype=np.int64), return_counts=True)
    return set(values[counts > 1].tolist()), values


def is_in(hashes: npt.NDArray[np.int64], key: str) -> bool:
    """Whether the hash of a key is among sorted ones."""
    place = int(np.searchsorted(hashes, hash(key)))
    return place < len(hashes) and int(hashes[place]) == hash(key)
