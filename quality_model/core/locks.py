"""Locks between processes: those of the file system, and in object stores, which have none, leases.

A lease is an object that its holder renews. It is written only on the condition that it is still the one that
was read (by its entity tag), so that of several writers one succeeds. No clocks are compared: a process that
wants a lease takes it over when it has seen it unchanged for `TAKEN_AFTER_S` of its own time, able to read it
all the while. A holder that could not renew it for long writes nothing more before it has renewed it:
`require_held`.
"""

import json
import logging
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from filelock import FileLock, Timeout

from quality_model.core.stores import explain, is_in_store, writable
from quality_model.errors import QualityModelError, StorageError

if TYPE_CHECKING:
    from quality_model.core.object_path import ObjectPath

logger = logging.getLogger(__name__)

_BUSY_AFTER_S: Final = 1.0
RENEWED_EACH_S: Final = 4.0
TAKEN_AFTER_S: Final = 24.0
_SURE_FOR_S: Final = TAKEN_AFTER_S / 2
_LOOKS_EACH_S: Final = 1.0

_held: "list[Lease]" = []
"""Of this process."""


class Lease:
    """A lease that is held; a thread renews it until it is released."""

    def __init__(self, path: "ObjectPath", tag: str, holder: str) -> None:
        self.path = path
        self._tag, self._holder = tag, holder
        self._count, self._renewed_at = 0, time.monotonic()
        self._lock, self._ends, self._is_lost = threading.Lock(), threading.Event(), False
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def require(self) -> None:
        """Be sure that no other process holds it now.

        Raises:
            StorageError: Another process may.
        """
        if self._is_lost or time.monotonic() - self._renewed_at > _SURE_FOR_S:
            self._renew()

    def release(self) -> None:
        """Let others have it at once."""
        self._ends.set()
        self._thread.join(RENEWED_EACH_S)
        if self._thread.is_alive() or self._is_lost:  # the store does not answer
            return
        try:
            self.path.put_if(_content(None, 0), self._tag)
        except (OSError, QualityModelError) as error:
            logger.warning("%s is not released, and is free in %.0f s: %s", self.path, TAKEN_AFTER_S, error)

    def _keep(self) -> None:
        while not self._ends.wait(RENEWED_EACH_S):
            try:
                self._renew()
            except (OSError, QualityModelError) as error:
                if self._is_lost:
                    return
                logger.info("The lease %s is not renewed: %s", self.path, error)

    def _renew(self) -> None:
        with self._lock:
            if not self._is_lost:
                began = time.monotonic()
                data = _content(self._holder, self._count + 1)
                tag = _written(self.path, data, self._tag)
                if tag is not None:
                    self._tag, self._count, self._renewed_at = tag, self._count + 1, began
                    return
                self._is_lost = True
        raise StorageError(
            f"Another process has taken over {self.path}: this one could not renew it for too long.",
            "Run the same command again when the other has ended: what is done stays done.",
        )


@contextmanager
def locked(path: Path, *, timeout_s: float) -> Iterator[None]:
    """Hold a lock between processes; it is free when its holder has died.

    Args:
        path: The lock file; it stays.
        timeout_s: How long to wait for another holder; -1 for as long as it takes.

    Raises:
        StorageError: Another process held it for longer than ``timeout_s``.
    """
    if is_in_store(path):
        try:
            with _leased(path, timeout_s=timeout_s):
                yield
        except OSError as error:
            raise explain(error, path) from error
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, timeout=timeout_s)
        lock.acquire(poll_interval=0.05 if timeout_s >= 0 else 0.5)  # of a file server, by many nodes
    except Timeout:
        held = f"has held {path} for more than {timeout_s:g} s" if timeout_s else f"holds {path}"
        raise StorageError(
            f"Another process {held}.",
            "Wait for it to end, or end it; then try again.",
        ) from None
    except OSError as error:
        raise explain(error, path) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def only_maker(folder: Path) -> Iterator[None]:
    """Be the one process that makes ``folder``; a second one is refused at once.

    The lock file is beside the folder, so that the folder has nothing but its content. It stays: a
    lock file that is removed may be held.

    Raises:
        StorageError: Another process makes it.
    """
    with locked(folder.parent / f".{folder.name}.lock", timeout_s=_BUSY_AFTER_S):
        yield


@contextmanager
def _leased(path: Path, *, timeout_s: float) -> Iterator[None]:
    """Hold a lock between processes in a store; see `locked`.

    A holder that was killed is noticed after `TAKEN_AFTER_S`, however short ``timeout_s`` is.
    """
    place = writable(path)
    with suppress(PermissionError):  # it may be allowed to write
        place.require_answer()
    lease = _acquire(place, timeout_s)
    _held.append(lease)
    try:
        yield
    finally:
        _held.remove(lease)
        lease.release()


def require_held(path: Path) -> None:
    """Before something is written in a store: be sure of the leases of this process whose folder it is in.

    Raises:
        StorageError: One is lost.
    """
    for lease in tuple(_held):
        if str(path).startswith(f"{lease.path.parent}/"):
            lease.require()


def _acquire(path: "ObjectPath", timeout_s: float) -> Lease:
    holder = uuid.uuid4().hex
    mine = _content(holder, 0)
    if (tag := _written(path, mine, None)) is not None:
        return Lease(path, tag, holder)
    began = time.monotonic()
    seen_tag, seen_since, seen_at = "", began, began
    is_alive = is_said = False
    while True:
        found = path.read_tagged()
        now = time.monotonic()
        if found is None:  # it was removed with a finished job
            tag = None
        else:
            content, tag = found
            if tag != seen_tag or now - seen_at > 3 * _LOOKS_EACH_S:  # it has changed, or could not be read
                is_alive = is_alive or (bool(seen_tag) and tag != seen_tag)
                seen_tag, seen_since = tag, now
            seen_at = now
            is_free = _holder_of(content) is None
            if not is_free and now - seen_since < TAKEN_AFTER_S:
                if is_alive and 0 <= timeout_s < now - began:
                    held = f"has held {path} for more than {timeout_s:g} s" if timeout_s else f"holds {path}"
                    raise StorageError(
                        f"Another process {held}.", "Wait for it to end, or end it; then try again."
                    )
                if not (is_alive or is_said):
                    logger.info("%s is held: is its holder alive? %.0f s at most.", path, TAKEN_AFTER_S)
                    is_said = True
                time.sleep(_LOOKS_EACH_S)
                continue
        if (taken := _written(path, mine, tag)) is not None:
            return Lease(path, taken, holder)


def _written(path: "ObjectPath", data: bytes, tag: str | None) -> str | None:
    """The tag of the lease if it was written, also where the answer was lost; None if another has it."""
    if (written := path.put_if(data, tag)) is not None:
        return written
    found = path.read_tagged()
    return found[1] if found is not None and found[0] == data else None


def _content(holder: str | None, count: int) -> bytes:
    return json.dumps({"holder": holder, "renewed": count}).encode()


def _holder_of(content: bytes) -> Any:
    try:
        return json.loads(content)["holder"]
    except (ValueError, KeyError, TypeError):
        return "unknown"
