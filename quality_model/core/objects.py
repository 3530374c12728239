"""Reading what is in an object store: the names of a folder, facts about objects, and whole objects.

A folder is a prefix. Where one object is at fault this raises what a path of this machine would (OSError);
where the store is, UsageError or StorageError: that ends a job, which can be resumed, in place of a row for
each of a million inputs.
"""

import errno
import fnmatch
import glob
import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, cast

from quality_model.core import stores
from quality_model.core.stores import is_in_store, store_path
from quality_model.errors import ImageError, StorageError, UsageError

if TYPE_CHECKING:
    from quality_model.core.object_path import ObjectPath

_CHUNK_BYTES: Final = 8 << 20
_OF_ONE_OBJECT: Final = (errno.ENOENT, errno.EACCES, errno.EINVAL, errno.EISDIR, errno.ESTALE)
_OF_A_USER: Final = (errno.EPERM, errno.ENODEV)

T = TypeVar("T")


class Entry(NamedTuple):
    """An object or a folder.

    ``name`` has no slash. ``version`` changes with the object's bytes: int64, from its entity tag, or else
    the time of its last change in nanoseconds.
    """

    name: str
    is_folder: bool
    num_bytes: int = 0
    version: int = 0


def entries(folder: Path) -> list[Entry]:
    """What is in a folder, in the order of the names' bytes; empty if there is no such folder.

    Objects that stand for folders are left out.

    Raises:
        OSError: It may not be listed.
        UsageError, StorageError: See `require_own_fault`.
    """
    listed = _entries_of_hub(folder) if _is_of_hub(folder) else _entries(folder)
    listed.sort(key=lambda entry: (os.fsencode(entry.name), entry.is_folder))
    return listed


def facts(path: Path) -> Entry | None:
    """The object or the folder of this name; None if there is neither.

    Raises:
        OSError: One may not look.
        UsageError, StorageError: See `require_own_fault`.
    """
    if _is_of_hub(path):
        files, name = cast(Any, path).fs, cast(Any, path).path
        try:
            return _hub_entry(_asked(path, lambda: files.info(name)))
        except FileNotFoundError:
            return None
    place = _object(path)
    with suppress(PermissionError):  # a bucket may hold objects that can be read
        _asked(path, place.require_answer)
    try:
        found = _asked(path, place.head)
    except FileNotFoundError:
        return Entry(path.name, is_folder=True) if _is_folder(path) else None
    return Entry(path.name, is_folder=True) if found is None else _entry(found)


def read(path: Path, max_bytes: int) -> bytes:
    """The bytes of an object, unless they are too many: then they are not fetched.

    Raises:
        ImageError: ``too_many_bytes``.
        OSError: There is no such object, or it may not be read.
        UsageError, StorageError: See `require_own_fault`.
    """
    if _is_of_hub(path):
        with open_file(path) as handle:
            num_bytes = handle.seek(0, io.SEEK_END)
            if num_bytes <= max_bytes:
                handle.seek(0)
                return handle.read()
    else:
        import obstore

        from quality_model.core.store_requests import ask_again

        store, key = _asked(path, lambda: _object(path).address)

        def get() -> int | bytes:
            answer = obstore.get(store, key)
            num_bytes = answer.meta["size"]
            return num_bytes if num_bytes > max_bytes else bytes(answer.bytes())

        found = _asked(path, lambda: ask_again(_object(path), get, quick=True))
        if isinstance(found, bytes):
            return found
        num_bytes = found
    raise ImageError("too_many_bytes", f"{num_bytes} bytes, at most {max_bytes}")


def read_image(path: Path, max_bytes: int) -> bytes:
    """The bytes of an object that is an image.

    Raises:
        ImageError: ``missing``, ``no_permission``, ``too_many_bytes``, ``unreadable`` (no object can have its
            name) or ``download_failed`` (the store did not answer).
        UsageError: The store cannot be used.
    """
    try:
        return read(path, max_bytes)
    except FileNotFoundError:
        raise ImageError("missing", "there is no such object") from None
    except PermissionError as error:
        raise ImageError("no_permission", str(error.strerror)) from None
    except OSError as error:
        raise ImageError("unreadable", str(error.strerror)) from None
    except StorageError as error:
        raise ImageError("download_failed", error.problem) from None


def open_file(path: Path) -> IO[bytes]:
    """Open a file of this machine, or an object: what is read of it are ranges.

    Raises:
        OSError: It is not there, or may not be read.
        UsageError, StorageError: See `require_own_fault`.
    """
    if not is_in_store(path):
        return path.open("rb")
    raw = _asked(path, lambda: path.open("rb"))
    return cast(IO[bytes], io.BufferedReader(_Guarded(path, raw), 1 << 16))


@contextmanager
def copied(path: Path) -> Iterator[Path]:
    """A file of this machine with the bytes of an object, for what maps files into memory.

    Raises:
        OSError, UsageError, StorageError: See `open_file`.
    """
    with tempfile.NamedTemporaryFile() as copy, open_file(path) as handle:
        shutil.copyfileobj(handle, copy, _CHUNK_BYTES)
        copy.flush()
        yield Path(copy.name)


def matching(pattern: str) -> Iterator[str]:
    """The addresses of objects and folders that a glob in an address matches, by the rules of `glob`.

    Raises:
        OSError, UsageError, StorageError: See `entries`.
    """
    scheme, _, rest = pattern.partition("://")
    bucket, *parts = rest.strip("/").split("/")
    yield from _matching(f"{scheme}://{bucket}", parts)


def require_own_fault(error: Exception, path: Path) -> None:
    """Refuse what went wrong with an object if it would with every other one, too.

    Raises:
        UsageError: There is no such bucket, or none of the credentials is taken.
        StorageError: The store does not answer.
    """
    bucket = "/".join(str(path).split("/")[:3])
    number = getattr(error, "errno", None)
    if number in _OF_A_USER and isinstance(error, OSError):
        raise UsageError(f"{bucket}: {error.strerror}.", stores.remedy(error)) from None
    if number not in _OF_ONE_OBJECT:
        said = getattr(error, "strerror", None) or type(error).__name__
        remedy = "Run the same command again: what is done stays done."
        raise StorageError(f"{bucket} does not answer: {said}.", remedy) from None


class _Guarded(io.RawIOBase):
    """An open object; what is wrong with the store is no error of the object."""

    def __init__(self, path: Path, handle: IO[bytes]) -> None:
        self._path, self._handle = path, handle

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._handle.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._handle.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        data = _asked(self._path, lambda: self._handle.read(len(buffer)))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._handle.close()
        super().close()


def _entries(folder: Path) -> list[Entry]:
    import obstore

    from quality_model.core.store_requests import ask_again

    place = _object(folder)
    store, key = _asked(folder, lambda: place.address)
    listed = _asked(folder, lambda: ask_again(place, lambda: obstore.list_with_delimiter(store, key or None)))
    found = [_entry(each) for each in listed["objects"] if each["path"] != key]
    return found + [Entry(_name(each.rstrip("/")), is_folder=True) for each in listed["common_prefixes"]]


def _entries_of_hub(folder: Path) -> list[Entry]:
    files, name = cast(Any, folder).fs, cast(Any, folder).path
    try:
        return [_hub_entry(each) for each in _asked(folder, lambda: files.ls(name, detail=True))]
    except FileNotFoundError:
        return []


def _matching(folder: str, parts: Sequence[str]) -> Iterator[str]:
    part, *rest = parts
    if not glob.has_magic(part):
        if rest:
            yield from _matching(f"{folder}/{part}", rest)
        elif facts(store_path(f"{folder}/{part}")):
            yield f"{folder}/{part}"
        return
    if part == "**":
        yield from _matching(folder, rest or ["*"])
    for entry in entries(store_path(folder)):
        if entry.name.startswith(".") and not part.startswith("."):
            continue
        if part == "**":
            if entry.is_folder:
                yield from _matching(f"{folder}/{entry.name}", parts)
        elif fnmatch.fnmatchcase(entry.name, part):
            if not rest:
                yield f"{folder}/{entry.name}"
            elif entry.is_folder:
                yield from _matching(f"{folder}/{entry.name}", rest)


def _asked(path: Path, request: Callable[[], T]) -> T:
    try:
        return request()
    except OSError as error:
        found = _of_hub(error) if _is_of_hub(path) else error
        require_own_fault(found, path)
        raise found from None
    except Exception as error:
        if not _is_of_hub(path):
            raise
        if isinstance(error, ValueError):
            raise OSError(errno.EINVAL, "no name of the hub") from None
        require_own_fault(error, path)  # its connections have errors of their own
        raise


def _of_hub(error: OSError) -> OSError:
    """What the hub's client says, by the numbers of errors that object stores have."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    kind = type(error).__name__
    if kind == "RepositoryNotFoundError" or kind == "RevisionNotFoundError":
        return OSError(errno.ENODEV, "the hub has no such repository or revision, or not for everybody")
    if status in (401, 403):
        return OSError(errno.EPERM, f"the hub refuses the credentials ({status})")
    if isinstance(error, FileNotFoundError) or status == 404:
        return OSError(errno.ENOENT, "there is no such file")
    return error


def _is_folder(path: Path) -> bool:
    try:
        return _asked(path, path.is_dir)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return True  # it holds a name that the client does not take


def _object(path: Path) -> "ObjectPath":
    return cast("ObjectPath", path)


def _is_of_hub(path: Path) -> bool:
    return bool(cast(Any, path).protocol == "hf")


def _entry(found: Any) -> Entry:
    version = _version(found["e_tag"]) or int(found["last_modified"].timestamp() * 1e9)
    return Entry(_name(found["path"]), False, found["size"], version)


def _hub_entry(found: Any) -> Entry:
    lfs = found.get("lfs")
    tag = found.get("blob_id") if lfs is None else lfs["sha256"]
    return Entry(_name(found["name"]), found["type"] == "directory", found["size"] or 0, _version(tag))


def _version(tag: str | None) -> int:
    return 0 if tag is None else int.from_bytes(hashlib.sha256(tag.encode()).digest()[:8], "big") >> 1


def _name(path: str) -> str:
    return path.rpartition("/")[2]
