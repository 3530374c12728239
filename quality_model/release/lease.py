"""A lock between machines, kept as tags of a registered model: MLflow has none, nor compare-and-set.

A process that wants it writes a tag of its own, then reads all of them, and holds it once there is no other.
Of two that write at the same time at least one sees the other's, so never do two hold it. While there are
others, the one whose tag sorts first keeps it and looks again; the rest remove theirs and come back later.
Tags are renewed; one that is not is of a process that ended, and is removed by the next.
"""

import random
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from quality_model.errors import RegistryError, StorageError

if TYPE_CHECKING:
    from quality_model.release.registry import Registry

_PREFIX: Final = "changing."
_RENEWED_EVERY_S: Final = 5.0
_DEAD_AFTER_S: Final = 30.0
"""Longer than the renewal of a living process takes to arrive, shorter than ``registry.lock_timeout_s``."""

_RETRY_S: Final = (0.2, 1.0)


class Lease:
    """The hold of this process, renewed in a thread."""

    def __init__(self, catalogue: "Registry") -> None:
        self._catalogue = catalogue
        self._tag = _new_tag()
        self._number = 0
        self._renewed_s = 0.0
        self._ended = threading.Event()

    def require(self) -> None:
        """Raise if another process may have taken it: the server did not answer for too long.

        Raises:
            RegistryError: It may have. Nothing was changed; the same command may be run again.
        """
        if time.monotonic() - self._renewed_s > _DEAD_AFTER_S - 2 * _RENEWED_EVERY_S:
            raise RegistryError(
                f"The server was too slow to keep the lock on {self._catalogue.name}.",
                "Nothing was changed; run the same command again.",
            )

    @contextmanager
    def held(self, timeout_s: float) -> Iterator["Lease"]:
        """Hold it.

        Raises:
            StorageError: Others have held it for longer than ``timeout_s``.
        """
        deadline = time.monotonic() + timeout_s
        seen: dict[tuple[str, str], float] = {}
        try:
            while not self._take(seen):
                if time.monotonic() > deadline:
                    raise StorageError(
                        f"Others have been changing {self._catalogue.name} for more than {timeout_s:g} s.",
                        "Wait for them to end; then try again.",
                    )
                time.sleep(random.uniform(*_RETRY_S))
            renewal = threading.Thread(target=self._renew, daemon=True)
            renewal.start()
            try:
                yield self
            finally:
                self._ended.set()
                renewal.join()
        finally:
            self._delete(self._tag)

    def _take(self, seen: dict[tuple[str, str], float]) -> bool:
        """Try once; ``seen`` has the tags of others with when each was first seen."""
        self._write()
        now_s = time.monotonic()
        tags = {key: value for key, value in self._catalogue.tags().items() if key.startswith(_PREFIX)}
        tags.pop(self._tag, None)
        for other in tags.items():
            if now_s - seen.setdefault(other, now_s) > _DEAD_AFTER_S:
                self._delete(other[0])
        if any(key < self._tag for key in tags):
            self._delete(self._tag)
            self._tag = _new_tag()
        return not tags

    def _renew(self) -> None:
        while not self._ended.wait(_RENEWED_EVERY_S):
            with suppress(RegistryError):
                self._write()

    def _write(self) -> None:
        asked_s = time.monotonic()
        self._number += 1
        with self._catalogue.errors("Locking the registered model"):
            self._catalogue.client.set_registered_model_tag(
                self._catalogue.name, self._tag, str(self._number)
            )
        self._renewed_s = asked_s

    def _delete(self, tag: str) -> None:
        # Where that fails it is not renewed, which says the same later.
        with suppress(RegistryError), self._catalogue.errors("Unlocking the registered model"):
            self._catalogue.client.delete_registered_model_tag(self._catalogue.name, tag)


def _new_tag() -> str:
    return f"{_PREFIX}{uuid.uuid4().hex[:16]}"
