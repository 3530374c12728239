"""Paths of object stores, as universal-pathlib writes them; reads and writes are requests of obstore.

Each request is repeated by obstore, with growing pauses, for up to three minutes. It is waited for in a way
that Ctrl-C ends. What fails then is an `OSError` with one line, without an address that a credential may be
part of.
"""

import atexit
import errno
import io
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import from_url
from upath.implementations.cloud import CloudPath
from upath.registry import register_implementation
from upath.types import UNSET_DEFAULT

from quality_model.core.stores import OBJECT_STORES
from quality_model.errors import MissingExtraError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

logger = logging.getLogger(__name__)

T = TypeVar("T")

_ABSENT_KEY: Final = "quality-model-looks-whether-the-store-answers"
_SAY_AFTER_S: Final = 10.0
_RETRY_FOR: Final = timedelta(minutes=3)
_FIRST_RETRY_FOR: Final = timedelta(seconds=5)
_MAX_RETRIES: Final = 50
_BUFFER_BYTES: Final = 1 << 16
_LEAST_BYTES, _MOST_BYTES = 1 << 18, 8 << 20
"""Of a range: it grows while ranges follow one another."""
_SKIPPED_BYTES: Final = 1 << 20
"""As many are read through in the time that another request takes."""
_CHUNK_BYTES: Final = 8 << 20
"""Of uploads: a longer file is sent in parts, which the store makes one object of when the last is there."""


_REFUSED: Final = frozenset(
    {
        "AuthenticationFailed", "AuthorizationHeaderMalformed", "InvalidAccessKeyId",
        "InvalidAuthenticationInfo", "InvalidSecurity", "InvalidToken", "RequestTimeTooSkewed",
        "SignatureDoesNotMatch", "UnrecognizedClientException",
    }
)  # fmt: skip
"""Codes of answers that no other object would change."""

_NO_CREDENTIALS: Final = {
    "s3": "no credentials were found (AWS_PROFILE, or AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY; for a"
    " public bucket set AWS_SKIP_SIGNATURE to true)",
    **dict.fromkeys(("gs", "az"), "no credentials were found"),
}


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

        return ask(self, lambda: any(obstore.list(store, key or None, chunk_size=1)))

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
        return ask(self, lambda: bytes(obstore.get(store, key).bytes()))

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
        return _store(self.protocol, bucket, *_environment(self.protocol)), key.rstrip("/")

    def head(self) -> Any:
        """What obstore says of the object; None for a bucket, FileNotFoundError without one."""
        store, key = self.address
        if not key:
            return None
        try:
            return ask(self, lambda: obstore.head(store, key))
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
        _reached(self.protocol, bucket, *_environment(self.protocol))

    def _names(self) -> list[str]:
        store, key = self.address
        found = ask(self, lambda: obstore.list_with_delimiter(store, key or None))
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
            self._block = ask(self._path, lambda: bytes(obstore.get(store, key, options=options).bytes()))
        except FileExistsError:
            raise OSError(errno.ESTALE, "it was changed while it was read", str(self._path)) from None


def ask(path: ObjectPath, request: Callable[[], T], *, quick: bool = False) -> T:
    """The answer of a store to a request about a path.

    Args:
        quick: Say nothing if it takes long.

    Raises:
        OSError: There is none, or it is a refusal; FileExistsError if a condition is not met.
    """
    future: Future[T] = Future()
    threading.Thread(target=_answer, args=(future, request), daemon=True).start()
    try:
        try:
            return future.result(None if quick else _SAY_AFTER_S)
        except TimeoutError:
            if future.done():
                raise
            logger.warning("%s: no answer for %.0f s; trying for up to 3 minutes.", path, _SAY_AFTER_S)
            return future.result()
    except (AlreadyExistsError, PreconditionError):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
    except (BaseError, FileNotFoundError, ValueError, NotImplementedError) as error:
        raise _translated(error, path) from None


def _answer(future: "Future[T]", request: Callable[[], T]) -> None:
    """Ask in a thread of its own: obstore's calls do not end by Ctrl-C, waiting for them does."""
    _asking.add(future)
    try:
        future.set_result(request())
    except BaseException as error:  # noqa: BLE001 - it is raised where the answer is waited for
        future.set_exception(error)
    finally:
        _asking.discard(future)


_asking: "set[Future[Any]]" = set()


@atexit.register
def _leave() -> None:
    """End at once while a request has no answer: it would come to an interpreter that is gone, and abort."""
    if _asking:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130)


def _translated(error: Exception, path: ObjectPath) -> OSError:
    """What obstore says, as an error of the system with one line."""
    text = str(error)
    code = _found(r"<Code>(\w+)</Code>", text)
    status = int(_found(r"status code: (\d{3})", text) or 0)
    said = code or (str(status) if status else "")
    if code in ("NoSuchBucket", "ContainerNotFound") or "bucket does not exist" in text:
        return OSError(errno.ENODEV, f"there is no bucket {path.path.partition('/')[0]}", str(path))
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    if "Expired" in code or code == "TokenRefreshRequired":
        return PermissionError(errno.EPERM, f"the credentials have expired ({code})", str(path))
    if code in _REFUSED or status == 401:
        return PermissionError(errno.EPERM, f"the credentials are refused ({said})", str(path))
    if "169.254.169.254" in text or "metadata.google.internal" in text:
        return PermissionError(errno.EPERM, _NO_CREDENTIALS[path.protocol], str(path))
    if status == 301 or "redirect without LOCATION" in text:
        return OSError(errno.ENODEV, "the bucket is in another region: set AWS_REGION", str(path))
    if status == 403:
        return PermissionError(errno.EACCES, f"access is denied ({said})", str(path))
    if status in (429, 503):
        return OSError(errno.EBUSY, f"the store is overloaded ({said})", str(path))
    if status:
        return OSError(errno.EIO, f"the store answered {said}", str(path))
    if "HTTP error" in text:
        host = _found(r"://(?:[^/@\s]*@)?([^/\s,]+)", text) or "the store"
        what = "no connection to" if "kind: Connect" in text else "the connection broke or timed out:"
        return ConnectionError(errno.ECONNABORTED, f"{what} {host}", str(path))
    line = re.sub(r"\S*://\S+", "...", text.partition("\n")[0])[:200]
    return OSError(errno.EINVAL, line or type(error).__name__, str(path))


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else ""


def _environment(protocol: str) -> tuple[tuple[str, str], ...]:
    """The variables of the environment that decide how a store is reached: a change of them is seen."""
    prefixes = {"s3": "AWS_", "gs": "GOOGLE_", "az": "AZURE_"}[protocol]
    return tuple((name, value) for name, value in sorted(os.environ.items()) if name.startswith(prefixes))


@lru_cache(maxsize=64)
def _store(
    protocol: str, bucket: str, *environment: tuple[str, str], is_quick: bool = False
) -> "ObjectStore":
    known = dict(environment)
    connect: Any = from_url
    client: dict[str, Any] = {"connect_timeout": timedelta(seconds=10), "timeout": timedelta(seconds=120)}
    config: dict[str, Any] = {}
    provider = None
    if protocol == "s3":
        endpoint = known.get("AWS_ENDPOINT_URL_S3") or known.get("AWS_ENDPOINT_URL") or ""
        if endpoint:
            config["endpoint"] = endpoint
        if endpoint.startswith("http://"):
            client["allow_http"] = True
        if "AWS_ACCESS_KEY_ID" not in known and _has_profiles(known):
            provider = _profile()
    return connect(  # type: ignore[no-any-return]
        f"{protocol}://{bucket}",
        config=config or None,
        client_options=client,
        retry_config={
            "max_retries": _MAX_RETRIES,
            "retry_timeout": _FIRST_RETRY_FOR if is_quick else _RETRY_FOR,
        },
        credential_provider=provider,
    )


@lru_cache(maxsize=64)
def _reached(protocol: str, bucket: str, *environment: tuple[str, str]) -> None:
    """Read an object that is not there: of all answers this one says most."""
    store = _store(protocol, bucket, *environment, is_quick=True)
    with suppress(FileNotFoundError):
        ask(ObjectPath(f"{protocol}://{bucket}"), lambda: obstore.get(store, _ABSENT_KEY))


def _has_profiles(known: dict[str, str]) -> bool:
    """Whether this user has keys or a sign-in in the files of AWS's own tools."""
    folder = Path("~/.aws").expanduser()
    files = [
        Path(known.get("AWS_SHARED_CREDENTIALS_FILE") or folder / "credentials"),
        Path(known.get("AWS_CONFIG_FILE") or folder / "config"),
    ]
    roles = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
    return "AWS_PROFILE" in known or (not known.keys() & {*roles} and any(map(Path.exists, files)))


def _profile() -> Any:
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        raise MissingExtraError(
            "The keys of ~/.aws are read by boto3, which is not installed.",
            'Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or: pip install "quality-model[servers]"',
        ) from None
    return Boto3CredentialProvider()
