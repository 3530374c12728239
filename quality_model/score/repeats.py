"""Which of many keys occur more than once, in memory that does not depend on how many there are.

Eight bytes of each key go to a temporary file, in sorted runs; the runs are compared one range of hashes at a
time. The file is where ``TMPDIR`` says and has no name: a killed process leaves nothing. Few need no file.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Final, TypeVar

import numpy as np
import numpy.typing as npt

from quality_model.core import storage

Hashes = npt.NDArray[np.uint64]

_RUN_BYTES: Final = 8 << 20
"""Of hashes in memory: 2^20 keys."""

_NUM_RANGES: Final = 256
"""By the first byte of a hash: at 10^9 keys, 32 MB each."""

_EDGES: Final = np.arange(_NUM_RANGES, dtype=np.uint64) << np.uint64(56)
_AT_ONCE: Final = 4096

_Row = TypeVar("_Row")


def hashes_of(keys: Iterable[str]) -> Hashes:
    """uint64 (N,): a hash of each key that is the same in every process (BLAKE2b)."""
    return np.frombuffer(_digests(keys), np.dtype("<u8"))


def _digests(keys: Iterable[str]) -> bytes:
    blake2b = hashlib.blake2b
    return b"".join([blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest() for key in keys])


def repeated_hashes(keys: Iterable[str]) -> Hashes:
    """The hashes that several of the keys have, sorted; that keys with such a hash are equal is only likely.

    Raises:
        StorageError: The temporary file cannot be written.
    """
    waiting = iter(keys)
    with KeyHashes() as hashes:
        while some := list(islice(waiting, _AT_ONCE)):
            hashes.add(some)
        return hashes.repeated()


def is_among(key: str, repeated: Hashes) -> bool:
    """Whether the hash of a key is among these, which are sorted."""
    return any(is_suspect for _, is_suspect in with_suspicion([key], str, repeated))


def with_suspicion(
    rows: Iterable[_Row], key: Callable[[_Row], str], repeated: Hashes
) -> Iterator[tuple[_Row, bool]]:
    """Give each row and whether the hash of its key is among ``repeated``, which are sorted."""
    if not len(repeated):
        yield from ((row, False) for row in rows)
        return
    waiting = iter(rows)
    while some := list(islice(waiting, _AT_ONCE)):
        hashes = hashes_of(map(key, some))
        places = np.searchsorted(repeated, hashes).clip(max=len(repeated) - 1)
        yield from zip(some, (repeated[places] == hashes).tolist(), strict=True)


class KeyHashes:
    """Collects the hashes of keys; a context manager, which ends with its temporary file."""

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._file: IO[bytes] | None = None
        self._edges: list[list[int]] = []  # of each run, the place in the file where each range begins
        self._end = 0

    def __enter__(self) -> "KeyHashes":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, keys: Iterable[str]) -> None:
        """Add keys, some thousands at once.

        Raises:
            StorageError: The temporary file cannot be written.
        """
        self._waiting += _digests(keys)
        if len(self._waiting) >= _RUN_BYTES:
            self._spill()

    def repeated(self) -> Hashes:
        """The hashes that were added more than once, sorted.

        Raises:
            StorageError: The temporary file cannot be read.
        """
        if self._file is None:
            return _repeated(np.frombuffer(self._waiting, np.dtype("<u8")))
        self._spill()
        return np.concatenate([_repeated(self._range(number)) for number in range(_NUM_RANGES)])

    def _spill(self) -> None:
        values = np.sort(np.frombuffer(self._waiting, np.dtype("<u8")))
        self._waiting = bytearray()
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it ends with this object
            self._file.seek(self._end)
            self._file.write(values.tobytes())
        except OSError as error:
            raise storage.explain(error, Path(tempfile.gettempdir())) from error
        begins = np.searchsorted(values, _EDGES.astype(values.dtype)).tolist()
        self._edges.append([self._end + 8 * place for place in (*begins, len(values))])
        self._end += values.nbytes

    def _range(self, number: int) -> Hashes:
        assert self._file is not None
        pieces = []
        try:
            for edges in self._edges:
                self._file.seek(edges[number])
                pieces.append(self._file.read(edges[number + 1] - edges[number]))
        except OSError as error:
            raise storage.explain(error, Path(tempfile.gettempdir())) from error
        return np.frombuffer(b"".join(pieces), np.dtype("<u8"))


def _repeated(values: Hashes) -> Hashes:
    values = np.sort(values)
    return np.unique(values[1:][values[1:] == values[:-1]])
