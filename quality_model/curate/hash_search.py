"""Perceptual hashes that differ in few bits: which of two, and of very many, exact, in near-linear time.

Half of the bits of an image with detail are set, because they compare with the median. A hash with fewer than
`FEWEST_BITS` is that of a plain image, a gradient or stripes, and says nothing.

The 64 bits are split into d + k blocks, so that hashes within d bits are equal in k blocks at least. For each
choice of k blocks the hashes are sorted by them, and those that are equal there are compared (Manku, Jain &
Das Sarma 2007). Where very many hashes are alike, the first half is settled first: what it keeps stands for
all that joins it.
"""

from collections.abc import Iterator
from itertools import combinations
from math import comb
from typing import Final

import numpy as np
import numpy.typing as npt

from quality_model.core.measures import NEAR_DUPLICATE_BITS

FEWEST_BITS: Final = 16

_BITS: Final = 64
_SPREAD: Final = np.uint64(0x9E3779B97F4A7C15)
"""2**64 / golden ratio, for Knuth's multiplicative hashing."""

_LOW: Final = np.uint64(0xFFFFFFFF)
_SORTING: Final = 16
"""Comparisons of two hashes that cost as much as to sort one."""

_MOST_CANDIDATES: Final = 100
_MOST_PAIRS: Final = 8
_FEW: Final = 1024
"""Hashes that have more of them, each, are settled in halves, unless they are few."""

_AT_ONCE: Final = 1 << 16
"""Pairs that are Python's numbers at once."""

Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]


def is_comparable(hashes: Hashes) -> npt.NDArray[np.bool_]:
    """bool (N,): which hashes, uint64 (N,), say something of their images."""
    return np.asarray(np.bitwise_count(hashes) >= FEWEST_BITS)


def near(hashes: Hashes, one: np.uint64) -> npt.NDArray[np.bool_]:
    """bool (N,): which of the images with these hashes, uint64 (N,), are near duplicates of ``one``'s."""
    is_near = np.bitwise_count(hashes ^ one) <= NEAR_DUPLICATE_BITS
    return np.asarray(is_near & is_comparable(hashes) & (np.bitwise_count(one) >= FEWEST_BITS))


def first_of_equal(values: npt.NDArray[np.generic]) -> Indices:
    """For each value, of any dtype (N,), the place where it is found first: int64 (N,)."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    return np.asarray(first[inverse], dtype=np.int64)


def leaders(hashes: Hashes, max_distance: int) -> Indices:
    """Keep hashes one after the other, but let each join the first kept one that is near, if there is one.

    Args:
        hashes: uint64 (N,), the preferred ones first.
        max_distance: Most bits in which a hash differs from the one that it joins; the time grows steeply
            with it.

    Returns:
        int64 (N,): the place of the hash that each joins; its own if it is kept.
    """
    first = first_of_equal(hashes)
    distinct = np.flatnonzero(first == np.arange(len(first)))
    leader = first.copy()
    leader[distinct] = distinct[_leaders(hashes[distinct], max_distance)]
    return np.asarray(leader[first])


def _leaders(hashes: Hashes, max_distance: int) -> Indices:
    """`leaders` of distinct hashes."""
    num = len(hashes)
    pairs = _pairs(hashes, max_distance, num_first=num, limited=num > _FEW)
    if pairs is not None:
        return _taken_in_order(num, pairs)
    half = num // 2
    leader = np.arange(num)
    leader[:half] = _leaders(hashes[:half], max_distance)
    kept = np.flatnonzero(leader[:half] == np.arange(half))
    both = np.concatenate([kept, np.arange(half, num)])
    pairs = _pairs(hashes[both], max_distance, num_first=len(kept), limited=False)
    assert pairs is not None
    leader[both] = both[_taken_in_order(len(both), pairs)]
    left = half + np.flatnonzero(leader[half:] == np.arange(half, num))
    leader[left] = left[_leaders(hashes[left], max_distance)]
    return leader


def _taken_in_order(num: int, pairs: Hashes) -> Indices:
    """Who joins whom, of pairs (i << 32 | j) with i < j, in ascending order."""
    leader = list(range(num))
    for begin in range(0, len(pairs), _AT_ONCE):
        some = pairs[begin : begin + _AT_ONCE]
        for i, j in zip((some >> np.uint64(32)).tolist(), (some & _LOW).tolist(), strict=True):
            if leader[i] == i and leader[j] == j:
                leader[j] = i
    return np.array(leader, dtype=np.int64)


def _pairs(hashes: Hashes, max_distance: int, *, num_first: int, limited: bool) -> Hashes | None:
    """Pairs within the distance of one of the first hashes, i, and a later one, j: i << 32 | j, ascending.

    None if they are ``limited`` and there are too many.
    """
    found: list[Hashes] = []
    num = len(hashes)
    num_found = 0
    for mask in _masks(num, num_first, max_distance):
        keyed = ((hashes & mask) * _SPREAD) & ~_LOW | np.arange(num, dtype=np.uint64)
        keyed.sort()
        number = keyed & _LOW
        ordered = hashes[number]
        begins = np.ones(num, dtype=bool)
        begins[1:] = (keyed[1:] ^ keyed[:-1]) > _LOW
        start = np.maximum.accumulate(np.where(begins, np.arange(num), 0))
        before = np.cumsum(number < num_first)
        before = np.concatenate([[0], before[:-1]])
        # Of the first hashes, which come first among those of one key.
        most: Indices = before - before[start]
        if limited and most.sum() > _MOST_CANDIDATES * num:
            return None
        later, shift = np.flatnonzero(most), 0
        while len(later):
            earlier = start[later] + shift
            near = np.bitwise_count(ordered[earlier] ^ ordered[later]) <= max_distance
            found.append(number[earlier[near]] << np.uint64(32) | number[later[near]])
            num_found += len(found[-1])
            if limited and num_found > _MOST_PAIRS * num:
                return None
            shift += 1
            later = later[most[later] > shift]
    return np.unique(np.concatenate(found)) if found else np.empty(0, np.uint64)


def _masks(num: int, num_first: int, max_distance: int) -> Iterator[np.uint64]:
    """The bits to sort by: two hashes within the distance are equal in those of one mask at least.

    As many blocks as cost the least, if hashes were random; no mask but 0 compares all.
    """

    def cost(num_equal: int) -> float:
        blocks = max_distance + num_equal
        candidates = num_first / 2.0 ** (_BITS * num_equal // blocks if blocks else 0)
        return comb(blocks, num_equal) * (_SORTING + candidates)

    num_equal = min(range(7), key=cost)
    num_blocks = max_distance + num_equal
    # Neighbouring bits go to different blocks: those of low frequencies vary less than others.
    blocks = [sum(1 << bit for bit in range(block, _BITS, num_blocks)) for block in range(num_blocks)]
    for chosen in combinations(blocks, num_equal):
        yield np.uint64(sum(chosen))
