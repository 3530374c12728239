"""Tar shards: which members are pictures, and their bytes, without extracting anything."""

import gzip
import io
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, cast

from quality_model.errors import PictureError
from quality_model.params import LimitsParams
from quality_model.scoring.collection import kind_of, printable

MAX_HEADER_BYTES: Final = 1 << 20
"""More than any honest member header holds; a hostile one could ask for gigabytes."""

_BROKEN: Final = (
    tarfile.TarError, OSError, EOFError, zlib.error, ValueError, LookupError, ArithmeticError,
    RecursionError, MemoryError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Member:
    """A picture in a tar shard: its printable name, where its bytes lie in the unpacked stream,
    and the reason why it cannot be read, if that is known already."""

    name: str
    offset: int
    num_bytes: int
    reason: str | None = None
    detail: str | None = None


def list_members(path: Path, limits: LimitsParams, skipped: Counter[str]) -> Iterator[Member]:
    """Read the headers of a tar shard.

    Names stay text: nothing is extracted. A repeated name gets its number appended. What is
    wrong with the archive itself comes last, as a member without a name.

    Args:
        path: A ``.tar``, ``.tar.gz`` or ``.tgz`` file.
        limits: A member with more than ``max_bytes`` gets a reason.
        skipped: Counts members that are not pictures.
    """
    times_seen: Counter[str] = Counter()
    try:
        with _open(path) as stream, tarfile.open(mode="r:", fileobj=_Headers(stream)) as tar:
            while (info := tar.next()) is not None:
                cast(Any, tar).members.clear()  # it keeps all of them otherwise
                if info.size < 0:  # leads backwards, to headers that were read before
                    raise tarfile.ReadError(f"a header claims {info.size} bytes")
                if info.isdir():
                    continue
                if kind_of(info.name) != "pictures":
                    skipped["members of tar shards"] += 1
                    continue
                name = printable(info.name)
                times_seen[name] += 1
                if times_seen[name] > 1:
                    name = f"{name}#{times_seen[name]}"
                yield _member(info, name, limits)
            stream.seek(tar.offset)
            end = stream.read(tarfile.BLOCKSIZE)
    except _BROKEN as error:
        yield Member("", 0, 0, *_archive_reason(path, error))
    else:
        if end != bytes(tarfile.BLOCKSIZE):
            detail = (
                "it ends without its end mark" if not end else "a header is damaged; what follows is lost"
            )
            yield Member("", 0, 0, "broken_archive", detail)


class MemberReader:
    """Reads members by offset; reading forwards, a compressed shard is unpacked once."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._stream: IO[bytes] | None = None

    def read(self, path: Path, offset: int, num_bytes: int) -> bytes:
        """Read one member's bytes.

        Raises:
            PictureError: ``truncated``, or ``unreadable``: the shard changed or is damaged.
        """
        try:
            if self._stream is None or path != self._path:
                self.close()
                self._stream, self._path = _open(path), path
            self._stream.seek(offset)
            data = self._stream.read(num_bytes)
        except _BROKEN as error:
            self.close()
            raise PictureError(*_archive_reason(path, error)) from None
        if len(data) < num_bytes:
            raise PictureError("truncated", f"the shard ends after {len(data)} of {num_bytes} bytes")
        return data

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream = None


class _Headers(io.RawIOBase):
    """A stream for `tarfile`, which reads headers only, that refuses to read a huge one."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, num_bytes: int = -1) -> bytes:
        if num_bytes < 0 or num_bytes > MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header claims {num_bytes} bytes")
        return self._stream.read(num_bytes)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


def _member(info: tarfile.TarInfo, name: str, limits: LimitsParams) -> Member:
    reason: tuple[str, str] | None = None
    if info.issym() or info.islnk():
        reason = "link_in_archive", "links inside archives are not followed"
    elif not info.isreg() or info.issparse():
        reason = "not_a_file", "the member is not an ordinary file"
    elif info.size > limits.max_bytes:
        reason = "too_many_bytes", f"{info.size} bytes, at most {limits.max_bytes}"
    elif info.size == 0:
        reason = "empty", "the member has no bytes"
    return Member(name, info.offset_data, info.size, *(reason or ()))


def _open(path: Path) -> IO[bytes]:
    if path.name.lower().endswith(".tar"):
        return path.open("rb")
    return cast(IO[bytes], gzip.open(path, "rb"))


def _archive_reason(path: Path, error: BaseException) -> tuple[str, str]:
    if isinstance(error, FileNotFoundError):
        return "missing", "the archive is not there"
    if isinstance(error, PermissionError):
        return "no_permission", "the archive may not be read"
    ended = isinstance(error, EOFError) or "unexpected end" in str(error) or "truncated" in str(error)
    told = str(error).replace(str(path), path.name)
    return ("truncated_archive" if ended else "broken_archive"), told or type(error).__name__
