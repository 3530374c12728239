"""Tar and zip archives: which members are images, and their bytes, without extracting anything."""

import bz2
import gzip
import io
import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import IO, Any, Final, Literal, cast

import pyarrow as pa

from quality_model.core import objects
from quality_model.core.decoding import SUFFIXES
from quality_model.core.folders import SYSTEM_FILES, is_system, printable, suffix
from quality_model.core.stores import is_in_store
from quality_model.errors import ImageError
from quality_model.params import LimitsParams
from quality_model.score.reading import PlannedInput

ArchiveKind = Literal["tar", "zip"]

MAX_HEADER_BYTES: Final = 1 << 20
"""More than any honest member header holds; a hostile one could ask for gigabytes."""

MAX_ZERO_BYTES: Final = 1 << 30
"""Zeros between archives that are read through; a hostile shard could unpack to any number of them."""

_MAX_XZ_BYTES: Final = 256 << 20
"""Memory for unpacking; `xz -9` needs a quarter of it, a hostile shard could ask for gigabytes."""

_CHUNK_BYTES: Final = 1 << 20
_ENCRYPTED: Final = 0x1
_SKIPPED: Final = {"tar": "members of tar shards", "zip": "members of zip archives"}
_LINK: Final = ("link_in_archive", "links inside archives are not followed")
_BROKEN: Final = (
    tarfile.TarError, zipfile.BadZipFile, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError,
    LookupError, ArithmeticError, RuntimeError, MemoryError,
)  # fmt: skip

_Member = tuple[str, int, int, tuple[str, str] | None]
"""A member's name, its place, its length, and what is wrong with it as error code and detail."""


def list_members(
    path: Path, archive: str, kind: ArchiveKind, limits: LimitsParams, skipped: Counter[str]
) -> Iterator[PlannedInput]:
    """List the images in an archive, in the order of its headers or directory; keys are ``archive#member``.

    Names stay text, wherever they lead. A repeated name gets its number appended. Tar archives that follow
    one another, and zero blocks anywhere, are read as one. What is wrong with the archive itself comes last,
    under its name.

    Args:
        path: A tar archive, compressed or not, or a zip archive, whatever its name.
        archive: Its printable name.
        kind: Which of them.
        limits: A member with more than ``max_bytes`` gets an error code and is never unpacked.
        skipped: Counts members that are not images, and hidden and system files.
    """
    times_seen: Counter[str] = Counter()
    try:
        with closing(_ARCHIVES[kind](path)) as opened:
            for name, at, num_bytes, problem in opened.members():
                if any(is_system(part) for part in name.split("/")):
                    skipped[SYSTEM_FILES] += 1
                elif suffix(name) not in SUFFIXES:
                    skipped[_SKIPPED[kind]] += 1
                else:
                    if num_bytes > limits.max_bytes and problem is None:
                        problem = "too_many_bytes", f"{num_bytes} bytes, at most {limits.max_bytes}"
                    elif not num_bytes and problem is None:
                        problem = "empty", "the member has no bytes"
                    key = f"{archive}#{_unique_name(printable(name), times_seen)}"
                    yield PlannedInput(key, archive, at, num_bytes, *(problem or ()))
    except (ImageError, *_BROKEN) as error:
        found = _problem(path, error)
        yield PlannedInput(archive, archive, error_code=found.reason, error_detail=found.detail)


def list_others(path: Path, kind: ArchiveKind) -> Iterator[tuple[str, int, int]]:
    """List the ordinary members that are no images: name, place and length, such as captions.

    Raises:
        ImageError: The archive cannot be read.
    """
    try:
        with closing(_ARCHIVES[kind](path)) as opened:
            for name, at, num_bytes, problem in opened.members():
                if problem is None and suffix(name) not in SUFFIXES:
                    yield name, at, num_bytes
    except (ImageError, *_BROKEN) as error:
        raise _problem(path, error) from None


class ArchiveReader:
    """Reads members by their places, forwards: an archive is opened, and a compressed one unpacked, once."""

    def __init__(self, kind: ArchiveKind) -> None:
        self._kind = kind
        self._path: Path | None = None
        self._opened: _Tar | _Zip | None = None

    def read(self, path: Path, at: int, num_bytes: int) -> bytes | ImageError:
        """Give one member's bytes, or why they cannot be read: the archive changed or is damaged."""
        try:
            if self._opened is None or path != self._path:
                self.close()
                self._opened, self._path = _ARCHIVES[self._kind](path), path
            data = self._opened.read(at, num_bytes)
        except (ImageError, *_BROKEN) as error:
            if self._kind == "tar":  # its stream is somewhere; a zip's directory need not be read again
                self.close()
            return _problem(path, error)
        if len(data) < num_bytes:
            return ImageError("truncated", f"the archive ends after {len(data)} of {num_bytes} bytes")
        return data

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
        self._opened = None


class _Zip:
    """``at`` is a member's place in the directory, which is read once."""

    def __init__(self, path: Path) -> None:
        _require_file(path)
        self._file = objects.open_file(path)
        self._archive = zipfile.ZipFile(self._file)

    def close(self) -> None:
        self._archive.close()
        self._file.close()

    def members(self) -> Iterator[_Member]:
        for at, info in enumerate(self._archive.infolist()):
            problem = None
            if info.flag_bits & _ENCRYPTED:
                problem = "encrypted", "the member is encrypted"
            elif stat.S_ISLNK(info.external_attr >> 16):
                problem = _LINK
            if not info.is_dir():
                yield info.filename, at, info.file_size, problem

    def read(self, at: int, num_bytes: int) -> bytes:
        info = self._archive.infolist()[at]
        if info.file_size != num_bytes:
            raise ImageError("broken_archive", "the archive changed since it was listed")
        with self._archive.open(info) as member:
            return member.read(num_bytes + 1)


class _Tar:
    """``at`` is the offset of a member's bytes in the unpacked archive."""

    def __init__(self, path: Path) -> None:
        self._stream = _open_tar(path)
        self.close = self._stream.close

    def members(self) -> Iterator[_Member]:
        for info in _headers(self._stream):
            problem = None
            if info.issym() or info.islnk():
                problem = _LINK
            elif not info.isreg() or info.issparse():
                problem = "not_a_file", "the member is not an ordinary file"
            if not info.isdir():
                yield info.name, info.offset_data, info.size, problem

    def read(self, at: int, num_bytes: int) -> bytes:
        self._stream.seek(at)
        return self._stream.read(num_bytes)


_ARCHIVES: Final[dict[ArchiveKind, type[_Tar] | type[_Zip]]] = {"tar": _Tar, "zip": _Zip}


def _headers(stream: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """The headers of all archives in a stream, which has to end with an end mark and zeros."""
    place = 0
    ended = False
    while True:
        with tarfile.open(mode="r:", fileobj=_Headers(stream)) as tar:
            while (info := tar.next()) is not None:
                cast(Any, tar).members.clear()  # it keeps all of them otherwise
                if info.size < 0:  # leads backwards, to headers that were read before
                    raise tarfile.ReadError(f"a header claims {info.size} bytes")
                ended = False
                yield info
            place = tar.offset
        stream.seek(place)
        zeros, block = _skip_zeros(stream)
        if not block and (zeros or ended):
            return
        if not block:
            raise ImageError("broken_archive", "it ends without its end mark")
        if not zeros:
            damaged = "what follows the end mark is no archive" if ended else "a header is damaged"
            raise ImageError("broken_archive", f"{damaged}; what follows from byte {place} on is not read")
        if zeros >= MAX_ZERO_BYTES:
            raise ImageError("broken_archive", f"{zeros} zeros from byte {place}; the rest is not read")
        ended = True
        stream.seek(place + zeros)


def _skip_zeros(stream: IO[bytes]) -> tuple[int, bytes]:
    """The number of zeros in whole blocks (at the end of the stream all), and the block behind them."""
    zeros = 0
    while zeros < MAX_ZERO_BYTES:
        chunk = stream.read(_CHUNK_BYTES if zeros else tarfile.BLOCKSIZE)
        rest = chunk.lstrip(b"\0")
        if rest:
            zeros += (len(chunk) - len(rest)) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
            return zeros, rest[: tarfile.BLOCKSIZE]
        zeros += len(chunk)
        if not chunk:
            return zeros, b""
    return zeros, b"more"


def _unique_name(name: str, times_seen: Counter[str]) -> str:
    """The name, with a number that no other member's name ends in if it was seen before."""
    times_seen[name] += 1
    if times_seen[name] == 1:
        return name
    while times_seen[numbered := f"{name}#{times_seen[name]}"]:
        times_seen[name] += 1
    times_seen[numbered] += 1
    return numbered


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


class _Unpacked(io.RawIOBase):
    """A compressed stream in which one can seek: backwards by reading it again from its start."""

    def __init__(self, start: Callable[[], Any]) -> None:
        self._start = start
        self._stream = start()
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        target = offset + (self._at if whence == io.SEEK_CUR else 0)
        if target < self._at:
            self._stream.close()
            self._stream, self._at = self._start(), 0
        while self._at < target:
            data = self._stream.read(min(_CHUNK_BYTES, target - self._at))
            if not data:
                break
            self._at += len(data)
        return self._at

    def close(self) -> None:
        self._stream.close()
        super().close()


class _Streams:
    """Compressed streams one after another, read as one.

    Unlike `bz2.BZ2File` and `lzma.LZMAFile` it does not skip what follows and is no such stream.
    """

    def __init__(self, path: Path, new: Callable[[], Any]) -> None:
        self._file = objects.open_file(path)
        self._new = new
        self._stream = new()

    def read(self, num_bytes: int) -> bytes:
        while True:
            if self._stream.eof:
                data = self._stream.unused_data.lstrip(b"\0")  # zeros pad streams
                while not data and (chunk := self._file.read(_CHUNK_BYTES)):
                    data = chunk.lstrip(b"\0")
                if not data:
                    return b""
                self._stream = self._new()
            else:
                data = self._file.read(_CHUNK_BYTES) if self._stream.needs_input else b""
                if self._stream.needs_input and not data:
                    raise EOFError("the compressed stream ends before its end")
            if unpacked := self._stream.decompress(data, num_bytes):
                return bytes(unpacked)

    def close(self) -> None:
        self._file.close()


def _open_tar(path: Path) -> IO[bytes]:
    """Open the archive inside a shard: its first bytes, not its name, say how it is compressed."""
    _require_file(path)
    stream = objects.open_file(path)
    first = stream.read(10)
    start: Callable[[], Any]
    if first.startswith(b"\x1f\x8b"):
        stream.seek(0)
        return cast(IO[bytes], gzip.GzipFile(fileobj=stream))
    if re.match(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", first):
        start = partial(_Streams, path, bz2.BZ2Decompressor)
    elif first.startswith(b"\xfd7zXZ\0"):
        start = partial(_Streams, path, partial(lzma.LZMADecompressor, memlimit=_MAX_XZ_BYTES))
    elif re.match(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", first):
        start = lambda: pa.CompressedInputStream(objects.open_file(path), "zstd")  # noqa: E731
    else:
        stream.seek(0)
        return stream
    stream.close()
    return cast(IO[bytes], io.BufferedReader(_Unpacked(start)))


def _require_file(path: Path) -> None:
    if not is_in_store(path) and not stat.S_ISREG(
        path.stat().st_mode
    ):  # opening a pipe would wait for its writer
        raise ImageError("not_a_file", "it is a folder, a pipe or a device")


def _problem(path: Path, error: Exception) -> ImageError:
    """Why an archive, or a part of it, cannot be read."""
    if isinstance(error, ImageError):
        return error
    if isinstance(error, FileNotFoundError):
        return ImageError("missing", "the archive is not there")
    if isinstance(error, PermissionError):
        return ImageError("no_permission", "the archive may not be read")
    ended = isinstance(error, EOFError) or "unexpected end" in str(error) or "truncated" in str(error).lower()
    detail = str(error).replace(str(path), path.name) or type(error).__name__
    return ImageError("truncated_archive" if ended else "broken_archive", detail)
