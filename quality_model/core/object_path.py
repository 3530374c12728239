"""Paths of object stores, as universal-pathlib writes them; reads and writes are requests of obstore."""

import errno
import io
import os
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import obstore
from upath.implementations.cloud import CloudPath
from upath.registry import register_implementation
from upath.types import UNSET_DEFAULT

from quality_model.core.store_requests import ask, ask_again, connected, environment_of
from quality_model.core.stores import OBJECT_STORES

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_ABSENT_KEY: Final = "quality-model-looks-whether-the-store-answers"
_BUFFER_BYTES: Final = 1 << 16
_LEAST_BYTES, _MOST_BYTES = 1 << 18, 8 << 20
"""Of a range: it grows while ranges follow one another."""
_SKIPPED_BYTES: Final = 1 << 20
"""As many are read through in the time that another request takes."""
_CHUNK_BYTES: Final = 8 << 20
"""Of uploads: a longer file is sent in parts, which the store makes one object of when the last is there."""


class ObjectPath(CloudPath):
    """An object, or the common beginning of the names of some, which is called a folder.

    Folders are neither made nor removed: one is there while an object is below it.
    """

    __slots__ = ()

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        return self.is_file() or self.is_dir()

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        try:
            return self.head() is not None
        except FileNotFoundError:
            return False

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        store, key = self.address

        return ask_again(self, lambda: any(obstore.list(store, key or None, chunk_size=1)))

    def is_symlink(self) -> bool:
        return False

    def stat(self, *, follow_symlinks: bool = True) -> Any:
        """Length and times of an object; FileNotFoundError for a folder too."""
        found = self.head()
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        seconds = found["last_modified"].timestamp()
        return os.stat_result((0o100644, 0, 0, 1, 0, 0, found["size"], seconds, seconds, seconds))

    def open(  # type: ignore[override]
        self, mode: str = "r", buffering: int = -1, encoding: str | None = None, *_: Any, **__: Any
    ) -> IO[Any]:
        """Open for reading, by ranges; what is written goes through `storage`."""
        if mode not in ("r", "rt", "rb"):
            raise io.UnsupportedOperation(f"{self} can be opened for reading alone")
        size = _BUFFER_BYTES if buffering in (-1, UNSET_DEFAULT) else max(buffering, 1)
        reader = io.BufferedReader(_Reader(self), size)
        return reader if mode == "rb" else io.TextIOWrapper(reader, encoding or "utf-8")

    def read_bytes(self) -> bytes:
        store, key = self.address
        return ask_again(self, lambda: bytes(obstore.get(store, key).bytes()))

    def read_text(self, encoding: str | None = None, *_: Any, **__: Any) -> str:
        return self.read_bytes().decode(encoding or "utf-8")

    def write_bytes(self, data: bytes) -> int:
        """Replace the object as a whole."""
        self.put(data)
        return len(data)

    def write_text(self, data: str, encoding: str | None = None, *_: Any, **__: Any) -> int:
        return self.write_bytes(data.encode(encoding or "utf-8"))

    def put(self, content: bytes | Path) -> None:
        """Replace the object by bytes or by those of a file; it is never there in part."""
        store, key = self.address
        ask(self, lambda: obstore.put(store, key, content, chunk_size=_CHUNK_BYTES))

    def put_if(self, data: bytes, tag: str | None) -> str | None:
        """Write the object if it is still the one with this tag; with None, if there is none.

        Returns:
            Its new tag; None if it is another, or there is one: perhaps of this very write, whose answer was
            lost.
        """
        store, key = self.address
        mode: Any = "create" if tag is None else {"e_tag": tag}
        try:
            return ask(self, lambda: obstore.put(store, key, data, mode=mode), quick=True)["e_tag"] or ""
        except FileExistsError:
            return None

    def read_tagged(self) -> tuple[bytes, str] | None:
        """The object and its tag, which changes with it; None if there is none."""
        store, key = self.address

        def read() -> tuple[bytes, str]:
            found = obstore.get(store, key)
            return bytes(found.bytes()), found.meta["e_tag"] or ""

        try:
            return ask(self, read, quick=True)
        except FileNotFoundError:
            return None

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object. Stores do not say whether there was one."""
        store, key = self.address
        try:
            ask(self, lambda: obstore.delete(store, key))
        except FileNotFoundError:  # of Azure
            if not missing_ok:
                raise

    def replace(self, target: Any) -> Any:
        """Copy the object within its store, whole, then remove it here."""
        store, key = self.address
        where, place = target.address
        if where != store:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(target))
        ask(self, lambda: obstore.copy(store, key, place))
        self.unlink(missing_ok=True)
        return target

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        pass

    def rmdir(self, recursive: bool = False) -> None:
        if self.is_dir():
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(self))

    def iterdir(self) -> Iterator[Any]:
        for name in sorted(self._names()):
            yield self / name

    def glob(self, pattern: str, **_: Any) -> Iterator[Any]:
        """What is directly in the folder and has such a name."""
        if "/" in pattern or "**" in pattern:
            raise NotImplementedError(pattern)
        for name in sorted(self._names()):
            if fnmatchcase(name, pattern):
                yield self / name

    def resolve(self, strict: bool = False) -> Any:
        return self

    def absolute(self) -> Any:
        return self

    @property
    def address(self) -> "tuple[ObjectStore, str]":
        """The store, which is a bucket or a container, and the key of the object in it."""
        bucket, _, key = self.path.partition("/")
        return connected(self.protocol, bucket, *environment_of(self.protocol)), key.rstrip("/")

    def head(self) -> Any:
        """What obstore says of the object; None for a bucket, FileNotFoundError without one."""
        store, key = self.address
        if not key:
            return None
        try:
            return ask_again(self, lambda: obstore.head(store, key))
        except FileNotFoundError:
            raise
        except OSError:  # an answer to HEAD has no body, which would say why
            ask(self, lambda: obstore.get_range(store, key, start=0, end=1))
            raise

    def require_answer(self) -> None:
        """Look once whether the bucket can be reached, without the patience that a job has in its middle.

        Raises:
            OSError: There is no such bucket, no answer, or none to these credentials.
        """
        bucket = self.path.partition("/")[0]
        _reached(self.protocol, bucket, *environment_of(self.protocol))

    def _names(self) -> list[str]:
        store, key = self.address
        found = ask_again(self, lambda: obstore.list_with_delimiter(store, key or None))
        keys = [each["path"] for each in found["objects"]] + list(found["common_prefixes"])
        return [name.rstrip("/").rpartition("/")[2] for name in keys if name.rstrip("/") != key]


for _protocol in OBJECT_STORES:
    register_implementation(_protocol, ObjectPath, clobber=True)


class _Reader(io.RawIOBase):
    """Ranges of an object; an object that is replaced meanwhile is an error, not a mixture."""

    def __init__(self, path: ObjectPath) -> None:
        self._path = path
        found = path.head()
        if found is None:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        self._size, self._tag, self._place = int(found["size"]), found["e_tag"], 0
        self._block, self._start, self._num_ahead = b"", 0, _LEAST_BYTES

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        if self._place >= self._size:
            return 0
        if not self._start <= self._place < self._start + len(self._block):
            self._load(len(view))
        first = self._place - self._start
        data = self._block[first : first + len(view)]
        view[: len(data)] = data
        self._place += len(data)
        return len(data)

    def _load(self, num_bytes: int) -> None:
        gap = self._place - (self._start + len(self._block))
        follows = self._block and 0 <= gap <= _SKIPPED_BYTES
        self._num_ahead = min(2 * self._num_ahead, _MOST_BYTES) if follows else _LEAST_BYTES
        start, end = self._place, min(self._place + max(num_bytes, self._num_ahead), self._size)
        self._block, self._start = b"", start
        store, key = self._path.address
        options: Any = {"range": (start, end)} | ({"if_match": self._tag} if self._tag else {})
        try:
            self._block = ask_again(
                self._path, lambda: bytes(obstore.get(store, key, options=options).bytes())
            )
        except FileExistsError:
            raise OSError(errno.ESTALE, "it was changed while it was read", str(self._path)) from None


@lru_cache(maxsize=64)
def _reached(protocol: str, bucket: str, *environment: tuple[str, str]) -> None:
    """Read an object that is not there: of all answers this one says most."""
    store = connected(protocol, bucket, *environment, is_quick=True)
    with suppress(FileNotFoundError):
        ask(ObjectPath(f"{protocol}://{bucket}"), lambda: obstore.get(store, _ABSENT_KEY))
