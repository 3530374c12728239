"""Keys of millions of inputs: which occur twice, in eight bytes of memory for each, and those of rows."""

import logging
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from quality_model.core.folders import ListedFile, printable
from quality_model.score.parquet_input import Columns, list_keys
from quality_model.score.reading import PlannedInput

_log = logging.getLogger(__name__)


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


def list_rows(files: Sequence[tuple[ListedFile, Path, Columns]]) -> Iterator[PlannedInput]:
    """List the rows of Parquet files; no two keys are the same.

    A row's key is its value in the key column, or ``file#row`` where there is none, it cannot be read, or it
    is the image itself as base64 text. Where a key occurs twice in the collection, every key gets its file in
    front, ``file#key``; one that occurs twice in one file then gets its number behind, ``file#key#2``.
    Memory holds eight bytes for each row, and the keys that occur twice in one file.

    Raises:
        CorruptError: See `table_files.open_table`.
    """
    damaged: set[str] = set()

    def rows(in_front: bool) -> Iterator[PlannedInput]:
        for file, path, columns in files:
            name = printable(file.name)
            for row, key in enumerate(list_keys(path, name, columns.key, damaged)):
                if key is None:
                    key = f"{name}#{row}"
                elif in_front:
                    key = f"{name}#{key}"
                yield PlannedInput(
                    key, name, row, file.num_bytes, columns=columns.images, mtime_ns=file.mtime_ns
                )

    has_keys = any(columns.key is not None for _, _, columns in files)
    if not has_keys or not repeated_hashes(hashes_of(row.key for row in rows(False)))[0]:
        yield from rows(False)
        return
    _log.warning("Keys occur twice: each gets the name of its file in front, as in file.parquet#key.")
    repeated, taken = repeated_hashes(hashes_of(row.key for row in rows(True)))
    times_seen: Counter[str] = Counter()
    for row in rows(True):
        unique = key = row.key
        if hash(key) in repeated:
            times_seen[key] += 1
            while times_seen[key] > 1 and is_in(taken, unique := f"{key}#{times_seen[key]}"):
                times_seen[key] += 1
        yield replace(row, key=unique)
