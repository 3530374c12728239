"""Objects of stores, fetched by threads: one that fails is an error code, many in a row end the job.

What ends it leaves a folder that the same command resumes: a million rows without scores are worth nothing.
"""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

from quality_model.core.objects import read_image
from quality_model.core.processes import THREADS
from quality_model.errors import ImageError, StorageError
from quality_model.params import LimitsParams
from quality_model.score.reading import Source

STOPS_AFTER: Final = 50
"""Objects in a row that were refused, or that the store did not give."""

_OF_THE_STORE: Final = ("no_permission", "download_failed")


class StoreReads:
    """Threads that fetch objects."""

    def __init__(self, limits: LimitsParams) -> None:
        self._max_bytes = limits.max_bytes
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="store")
        self._lock = threading.Lock()
        self._num_failed = 0

    def start(self, path: Path) -> "Future[Source]":
        """Fetch an object: its bytes, or its error code.

        The future raises UsageError where the store refuses the credentials, and StorageError where it gave
        none of the last `STOPS_AFTER` objects.
        """
        return self._threads.submit(self._fetch, path)

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)

    def _fetch(self, path: Path) -> Source:
        try:
            data = read_image(path, self._max_bytes)
        except ImageError as error:
            self._count(error)
            return error
        self._count(None)
        return data

    def _count(self, error: ImageError | None) -> None:
        with self._lock:
            failed = error is not None and error.reason in _OF_THE_STORE
            self._num_failed = self._num_failed + 1 if failed else 0
            if error is not None and self._num_failed >= STOPS_AFTER:
                raise StorageError(
                    f"The store gave none of the last {STOPS_AFTER} images ({error.detail.rstrip('.')}).",
                    "When it does, run the same command again: what is done stays done.",
                )
