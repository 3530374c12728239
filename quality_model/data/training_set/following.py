"""A large file is hashed and flushed while it is still being written, not in a pass of its own afterwards."""

import hashlib
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_STRIDE_BYTES: Final = 32 * 2**20
_READ_BYTES: Final = 2**20


class Follower:
    """Follows the writers of a file, in a thread, from its start to its end.

    Args:
        path: The file; what `advance` has named does not change any more.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="follower")
        self._steps: deque[Future[None]] = deque()
        self._asked = 0
        self._done = 0
        self._sha256 = hashlib.sha256()

    def advance(self, num_bytes: int, then: Callable[[], None] | None = None) -> None:
        """Say that the first ``num_bytes`` are written, and what to do then, when they are on the disk.

        Raises:
            OSError: What was named before could not be read or flushed; or an error of such a deed.
        """
        while self._steps and self._steps[0].done():
            self._steps.popleft().result()
        if then is not None or num_bytes - self._asked >= _STRIDE_BYTES:
            self._ask(num_bytes, then)

    def finish(self, num_bytes: int) -> str:
        """Hash the rest, up to ``num_bytes``; returns the SHA-256 of it all, in hex.

        Raises:
            OSError: The file could not be read or flushed.
        """
        self._ask(num_bytes, None)
        for step in self._steps:
            step.result()
        return self._sha256.hexdigest()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        os.close(self._file)

    def _ask(self, num_bytes: int, then: Callable[[], None] | None) -> None:
        self._steps.append(self._thread.submit(self._follow, num_bytes, then))
        self._asked = num_bytes

    def _follow(self, end: int, then: Callable[[], None] | None) -> None:
        while self._done < end:
            data = os.pread(self._file, min(_READ_BYTES, end - self._done), self._done)
            if not data:
                raise OSError(f"the file ends at byte {self._done}, before {end}")
            self._sha256.update(data)
            self._done += len(data)
        os.fsync(self._file)
        if then is not None:
            then()
