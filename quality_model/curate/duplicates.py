"""Near duplicates in a scoring result: groups of images whose perceptual hashes differ in few bits.

Each group is around its best image: images are taken from the best to the worst, and one that is within
``max_distance`` bits of an image that was kept joins it (the best of several such), or else is kept. So
every image that is left out has a better one beside it that is kept, no two kept images are within the
distance, and a chain of small changes does not join what is far apart.

**The best** of a group has the lowest ``worst_score``, where size and compression count too, because they
hide noise: an image of half the sides is `HALF_SIZE` worse, and one of JPEG quality q `JPEG_LOSS`
(1 - q / 100). Of equal ones it has the most bytes, then the first key.

**What is a duplicate.** Files of equal SHA-256 always are. Others are by their hashes, if both say something
(`measures.is_comparable`).

**The search** is exact, in near-linear time. The 64 bits of a hash are split into d + k blocks, so that
hashes within d bits are equal in k blocks at least. For each choice of k blocks the hashes are sorted by
them, and those that are equal there are compared (Manku, Jain & Das Sarma 2007). Where very many hashes are
alike, the first half is settled first: what it keeps stands for all that joins it.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from quality_model.core import storage
from quality_model.core.figures import text_table
from quality_model.core.measures import NEAR_DUPLICATE_BITS, Hashes, is_comparable
from quality_model.curate.finished import open_finished
from quality_model.errors import UsageError

Indices = npt.NDArray[np.int64]

MAX_DISTANCE: Final = 6
"""Bits of 64, the default (docs/filter.md has what it finds)."""

HALF_SIZE: Final = 0.2
JPEG_LOSS: Final = 0.4
"""Worth of size and quality in scores. With both, of 112 scenes with a copy of half the size and JPEG quality
70, each was better than its copy; without them, 53 were."""

_MOST_SHOWN: Final = 5

COLUMNS: Final = (
    *("key", "sha256", "phash", "worst_score"),
    *("width", "height", "size_bytes", "jpeg_quality", "error_code"),
)
"""The columns of a result that decide (docs/results-format.md)."""


@dataclass(frozen=True, slots=True)
class DuplicateGroups:
    """The groups of N rows.

    Attributes:
        group: int64 (N,): 0 and up, numbered by their first rows; -1: the row is in none.
        is_best: bool (N,): the one of each group to keep, and all rows in none.
        distance: uint8 (N,): bits in which the hash differs from that of the group's best, at most
            ``max_distance``; 0 for equal files and for rows in no group.
        best: int64 (N,): the number of the row that is the group's best; of rows in none, their own.
    """

    group: Indices
    is_best: npt.NDArray[np.bool_]
    distance: npt.NDArray[np.uint8]
    best: Indices


def find_groups(table: pa.Table, max_distance: int = MAX_DISTANCE) -> DuplicateGroups:
    """Find the near duplicates among the rows of a scoring result.

    Args:
        table: Has `COLUMNS`, of a result's types; rows in any order, which changes no group. Rows with an
            error code are in no group.
        max_distance: Most bits of 64 in which a hash may differ from that of its group's best; 0 to
            `NEAR_DUPLICATE_BITS`. Hashes of photographs differ in an even number.

    Raises:
        UsageError: Images were scored, and none has a hash; or the distance is not allowed.
    """
    if not 0 <= max_distance <= NEAR_DUPLICATE_BITS:
        raise UsageError(
            f"The distance {max_distance} is not 0 to {NEAR_DUPLICATE_BITS}.", "Choose one, in bits of 64."
        )
    is_scored = pc.is_null(table["error_code"])
    scored, rows = table.filter(is_scored), np.flatnonzero(is_scored.to_numpy())
    hashed = pc.is_valid(scored["phash"]).to_numpy()
    if len(rows) and not hashed.any():
        raise UsageError(
            "The result has no perceptual hashes: they were not measured.",
            "Score again with --overwrite and the default --measures cheap, or with --measures hash.",
        )
    files = scored["sha256"].cast(pa.large_string()).combine_chunks().dictionary_encode().indices.to_numpy()
    order = _order_of_preference(scored)
    hashes = scored["phash"].fill_null(0).to_numpy().view(np.uint64)[order]
    rows, files, hashed = rows[order], files[order], hashed[order]
    best = first_of_equal(files)
    is_compared = (best == np.arange(len(best))) & hashed & is_comparable(hashes)
    compared = np.flatnonzero(is_compared)
    best[compared] = compared[leaders(hashes[compared], max_distance)]
    best = best[best]  # of equal files, that of the one that was compared
    return _in_rows(table.num_rows, rows, rows[best], np.bitwise_count(hashes ^ hashes[best]))


def _order_of_preference(scored: pa.Table) -> Indices:
    """The numbers of the rows, the best first."""
    sides = [scored[name].to_numpy().astype(np.float64) for name in ("width", "height")]
    lost = (
        1.0 - scored["jpeg_quality"].fill_null(100).to_numpy() / 100.0
    )  # null: no JPEG file, or not measured
    halvings = -np.log2(sides[0] * sides[1]) / 2.0
    cost = scored["worst_score"].to_numpy() + HALF_SIZE * halvings + JPEG_LOSS * lost
    columns = {"cost": cost, "bytes": scored["size_bytes"], "key": scored["key"]}
    keys = [("cost", "ascending"), ("bytes", "descending"), ("key", "ascending")]
    return np.asarray(pc.sort_indices(pa.table(columns), sort_keys=keys).to_numpy().astype(np.int64))


def _in_rows(num_rows: int, rows: Indices, best: Indices, distance: npt.NDArray[np.uint8]) -> DuplicateGroups:
    """The groups by number of row, of the rows that have a best one each."""
    best_of_row = np.arange(num_rows)
    best_of_row[rows] = best
    found = DuplicateGroups(
        group=np.full(num_rows, -1),
        is_best=best_of_row == np.arange(num_rows),
        distance=np.zeros(num_rows, dtype=np.uint8),
        best=best_of_row,
    )
    members = np.flatnonzero(np.bincount(best_of_row, minlength=num_rows)[best_of_row] > 1)
    _, number = np.unique(first_of_equal(best_of_row[members]), return_inverse=True)
    found.group[members] = number
    found.distance[rows] = distance
    return found


@dataclass(frozen=True, slots=True)
class DuplicatesReport:
    """What the duplicates of a result are.

    Attributes:
        num_inputs: Rows of the result.
        table: `REPORT_SCHEMA`: the rows that are in a group, by group, its best first, then by distance.
        size_bytes: int64, of the rows of ``table``.
    """

    num_inputs: int
    table: pa.Table
    size_bytes: Indices

    def lines(self) -> Iterator[str]:
        """What a terminal shows: the counts, and the largest groups."""
        is_best, group = self.table["is_best"].to_numpy(), self.table["group"].to_numpy()
        sizes = np.bincount(group)
        surplus = np.where(is_best, 0, self.size_bytes)
        yield (
            f"{len(sizes)} groups of near duplicates, with {len(group)} of {self.num_inputs} inputs."
            f" All but the best of each: {len(group) - len(sizes)} images, {surplus.sum() / 1e6:.1f} MB."
        )
        if not len(sizes):
            return
        wasted = np.bincount(group, surplus)
        cells = []
        for number in np.argsort(-sizes, kind="stable")[:_MOST_SHOWN]:
            first = int(np.searchsorted(group, number))
            best, other = self.table["key"].slice(first, 2).to_pylist()
            more = f" and {sizes[number] - 2} more" if sizes[number] > 2 else ""
            cells.append([str(sizes[number]), f"{wasted[number] / 1e6:.1f}", best, other + more])
        yield text_table(("images", "MB to spare", "best", "others"), cells, right=("images", "MB to spare"))

    def write(self, path: Path) -> None:
        """Write the table as Parquet or CSV, by the name.

        Raises:
            UsageError: As of `require_table_name`.
            StorageError: It cannot be written.
        """
        require_table_name(path)
        with storage.staged(path) as temporary:
            if path.suffix.lower() == ".csv":
                pyarrow.csv.write_csv(self.table, temporary)
            else:
                pq.write_table(self.table, temporary, compression="zstd")


REPORT_SCHEMA: Final = pa.schema(
    [("key", pa.string()), ("group", pa.int64()), ("is_best", pa.bool_()), ("distance", pa.uint8())]
)
"""What is written of each image in a group; the columns as in `DuplicateGroups`."""


def require_table_name(path: Path) -> None:
    """Refuse a name that `DuplicatesReport.write` would not know how to write, or of a file that it did not.

    Raises:
        UsageError: It ends in neither .parquet nor .csv, or is there with other columns.
    """
    if path.suffix.lower() not in (".parquet", ".csv"):
        raise UsageError(f"{path} is neither .parquet nor .csv.", "Name a file that ends in one of them.")
    if not path.exists():
        return
    names: list[str] = []
    with suppress(OSError, pa.ArrowException):
        is_csv = path.suffix.lower() == ".csv"
        schema = pyarrow.csv.open_csv(path).schema if is_csv else pq.read_schema(path)
        names = schema.names
    if names != REPORT_SCHEMA.names:
        raise UsageError(f"{path} is there and holds no groups of duplicates.", "Choose another name.")


def report_duplicates(output: Path, max_distance: int = MAX_DISTANCE) -> DuplicatesReport:
    """Find the near duplicates of a finished result.

    Args:
        output: The folder that `score` wrote.
        max_distance: As of `find_groups`.

    Raises:
        UsageError: It has no hashes, or the distance is not allowed.
        UsageError, IncompleteError, CorruptError: As of `open_finished`.
    """
    table = open_finished(output).rows(COLUMNS)
    found = find_groups(table, max_distance)
    members = np.flatnonzero(found.group >= 0)
    members = members[np.lexsort((found.distance[members], ~found.is_best[members], found.group[members]))]
    rows = [table["key"].take(members), found.group[members], found.is_best[members], found.distance[members]]
    sizes = table["size_bytes"].take(members).to_numpy()
    return DuplicatesReport(table.num_rows, pa.table(rows, schema=REPORT_SCHEMA), sizes)


# -- the search

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
