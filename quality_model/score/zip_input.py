"""Zip archives: which members are images, by its directory, and their bytes; nothing is extracted."""

import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from quality_model.core.decoding import SUFFIXES
from quality_model.core.folders import SYSTEM_FILES, is_system, printable, suffix
from quality_model.errors import ImageError
from quality_model.params import LimitsParams
from quality_model.score.reading import PlannedInput
from quality_model.score.tar_input import unique_name

_ENCRYPTED: Final = 0x1
_BROKEN: Final = (
    zipfile.BadZipFile, OSError, EOFError, zlib.error, ValueError, LookupError, NotImplementedError,
    RuntimeError, MemoryError,
)  # fmt: skip


def list_zip_members(
    path: Path, archive: str, limits: LimitsParams, skipped: Counter[str]
) -> Iterator[PlannedInput]:
    """Read the directory of a zip archive; the key of an image is ``archive#member``.

    Names stay text, wherever they lead. A repeated name gets its number appended. ``at`` is a member's
    place in the directory, whose order is that of the rows.

    Args:
        path: The archive, whatever its name.
        archive: Its printable name.
        limits: A member that claims more than ``max_bytes`` gets an error code and is never unpacked.
        skipped: Counts members that are not images, and hidden and system files.
    """
    times_seen: Counter[str] = Counter()
    try:
        with _open(path) as opened:
            for at, info in enumerate(opened.infolist()):
                if info.is_dir():
                    continue
                if any(is_system(part) for part in info.filename.split("/")):
                    skipped[SYSTEM_FILES] += 1
                elif suffix(info.filename) not in SUFFIXES:
                    skipped["members of zip archives"] += 1
                else:
                    key = f"{archive}#{unique_name(printable(info.filename), times_seen)}"
                    yield PlannedInput(key, archive, at, info.file_size, *_problem_of(info, limits))
    except (ImageError, *_BROKEN) as error:
        problem = _problem(error)
        yield PlannedInput(archive, archive, error_code=problem.reason, error_detail=problem.detail)


class ZipReader:
    """Reads members by their place in the directory, which is read once for each archive."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._archive: zipfile.ZipFile | None = None

    def read(self, path: Path, at: int, num_bytes: int) -> bytes | ImageError:
        """Give a member's bytes, at most ``num_bytes``, or why they cannot be read."""
        try:
            if self._archive is None or path != self._path:
                self.close()
                self._archive, self._path = _open(path), path
            info = self._archive.infolist()[at]
            if info.file_size != num_bytes:
                return ImageError("broken_archive", "the archive changed since it was listed")
            with self._archive.open(info) as member:
                data = member.read(num_bytes + 1)
        except (ImageError, *_BROKEN) as error:
            return _problem(error)
        if len(data) < num_bytes:
            return ImageError("truncated", f"the member ends after {len(data)} of {num_bytes} bytes")
        return data

    def close(self) -> None:
        if self._archive is not None:
            self._archive.close()
        self._archive = None


def _open(path: Path) -> zipfile.ZipFile:
    if not stat.S_ISREG(path.stat().st_mode):
        raise ImageError("not_a_file", "it is a folder, a pipe or a device")
    return zipfile.ZipFile(path)


def _problem_of(info: zipfile.ZipInfo, limits: LimitsParams) -> tuple[str, str] | tuple[()]:
    """Why a member is not read, as error code and detail."""
    if info.flag_bits & _ENCRYPTED:
        return "encrypted", "the member is encrypted"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "link_in_archive", "links inside archives are not followed"
    if info.file_size > limits.max_bytes:
        return "too_many_bytes", f"{info.file_size} bytes, at most {limits.max_bytes}"
    return () if info.file_size else ("empty", "the member has no bytes")


def _problem(error: Exception) -> ImageError:
    """Why an archive, or a member of it, cannot be read."""
    if isinstance(error, ImageError):
        return error
    if isinstance(error, FileNotFoundError):
        return ImageError("missing", "the archive is not there")
    if isinstance(error, PermissionError):
        return ImageError("no_permission", "the archive may not be read")
    return ImageError("broken_archive", str(error) or type(error).__name__)
