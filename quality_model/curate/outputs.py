"""What is kept of a result: a list of keys, a table of rows, or a folder of copies or links.

A folder is complete when it has its completion marker. Each file is whole or absent, so that the same command
resumes: what is there already is compared, never written again.
"""

import errno
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath
from typing import Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from quality_model.core import storage
from quality_model.core.decoding import SUFFIXES
from quality_model.core.folders import file_name, is_url, suffix
from quality_model.core.jobs import LOCK_NAME
from quality_model.core.stores import is_store_address, require_local
from quality_model.curate.finished import FinishedResult
from quality_model.curate.originals import Losses, Mask, Original, originals_of, tables, with_sources
from quality_model.errors import ImageError, StorageError, UsageError
from quality_model.score.plan import require_own
from quality_model.score.reading import DownloadRules, Source

How = Literal["copy", "link", "symlink"]

RECORD_NAME: Final = "filter.json"
ROWS_NAME: Final = "filter.parquet"
"""In a folder of copies or links: the rows of what is in it."""

_NO_LINK: Final = frozenset(
    {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
)
_NO_NAME: Final = frozenset({errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EILSEQ})
_TEMPORARY_NAME: Final = ".partial-file"
_SUFFIX_OF: Final = {"JPEG": ".jpg", "TIFF": ".tif"}
_BUSY_AFTER_S: Final = 1.0

_log = logging.getLogger(__name__)


def write_keys(path: Path, result: FinishedResult, chosen: Mask, *, null: bool) -> None:
    """Write the keys of the chosen rows, a line each, or with NUL bytes between them.

    Raises:
        UsageError: A key has a line break, and ``null`` was not asked for.
        StorageError: The result was updated meanwhile.
    """
    end = "\0" if null else "\n"
    with (
        storage.staged(path) as temporary,
        result.unchanged(),
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        for table in tables(result, chosen, ["key"]):
            for key in table["key"].to_pylist():
                if not null and ("\n" in key or "\r" in key):
                    raise UsageError(
                        f"The key {key!r} has a line break.", "Separate keys by NUL bytes: --null."
                    )
                file.write(key + end)


def write_rows(path: Path, result: FinishedResult, chosen: Mask) -> None:
    """Write the chosen rows as Parquet, with the columns and the metadata of the result."""
    with result.unchanged():
        schema = result.schema
    with (
        storage.staged(path) as temporary,
        result.unchanged(),
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        for table in tables(result, chosen):
            writer.write_table(table)


def require_free(folder: Path, record: dict[str, object]) -> None:
    """Refuse a folder that is neither empty nor of the same record.

    Raises:
        UsageError: It holds other files, or what another filter kept, or is in a store.
    """
    require_local(folder, "Copies, links and shards of images")
    if not (folder / RECORD_NAME).exists():
        require_own(folder, (), "output of filter")
    elif (was := storage.read_json(folder / RECORD_NAME)) != record:
        changed = [name for name in record if not isinstance(was, dict) or was.get(name) != record[name]]
        raise UsageError(
            f"{folder} holds what another filter kept: {', '.join(changed) or 'record'} differ.",
            "Choose another folder.",
        )


@contextmanager
def own_folder(folder: Path, record: dict[str, object]) -> Iterator[None]:
    """Be the only process that fills a folder that `require_free` accepts.

    Raises:
        UsageError: As of `require_free`.
        StorageError: Another process fills it.
    """
    require_free(folder, record)
    with storage.locked(folder / LOCK_NAME, timeout_s=_BUSY_AFTER_S):
        storage.sweep(folder)
        storage.unseal(folder)
        storage.write_json(folder / RECORD_NAME, record)
        yield


def place_files(
    folder: Path, result: FinishedResult, chosen: Mask, how: How, download: DownloadRules | None = None
) -> Losses:
    """Copy or link the originals of the chosen rows into a folder, each at its key, and complete the folder.

    A file that is there already is left. An original that is gone, is not what was scored, or whose place
    another file has, is one of the losses.

    Raises:
        UsageError: Links were asked for, and the originals are members of archives or rows of tables.
        StorageError: The disk is full, or cannot be written.
    """
    losses, num_placed = Losses(), 0
    with result.unchanged():
        schema = result.schema
    placer = _Placer(folder, result, how)

    def is_placed(original: Original, source: Source) -> bool:
        try:
            placer.place(original, source)
        except ImageError as error:
            losses.add(original.planned.key, error.reason)
            return False
        return True

    with (
        closing(with_sources(result, originals_of(result, chosen), download)) as sources,
        storage.staged(folder / ROWS_NAME) as temporary,
        result.unchanged(),
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        for table in tables(result, chosen):
            placed = [is_placed(*each) for each in islice(sources, table.num_rows)]
            num_placed += sum(placed)
            writer.write_table(table.filter(pa.array(placed, pa.bool_())))
    storage.flush_system()
    storage.seal(
        folder, [RECORD_NAME, ROWS_NAME], rows=num_placed, kind="filter", not_written=losses.to_json()
    )
    return losses


def require_linkable(result: FinishedResult) -> None:
    """Refuse links to what is no file.

    Raises:
        UsageError: The originals are members of archives or rows of tables.
    """
    if result.kind != "images":
        raise UsageError(
            f"The originals are in files of kind {result.kind}: there is nothing to link to.",
            "Copy them with --copy, or write new shards with --shards.",
        )


def name_below(key: str, format_name: str | None, *, is_path: bool) -> PurePath:
    """The place of an original below a folder: its key, from which nothing leads out.

    The root of an absolute path and the scheme of a URL are left out, ``..`` becomes ``__``, and a hash of
    the URL is for its query. A URL and a key of a table get the suffix of the format if they have none of an
    image.
    """
    text = file_name(key) if is_path and not is_url(key) else key
    if is_store_address(key):
        text = text.split("://", 1)[-1]
    if is_url(key):
        text, *query = re.split("[?#]", key.split("://", 1)[1], maxsplit=1)
        if query:
            ending = PurePath(text).suffix
            text = f"{text.removesuffix(ending)}-{hashlib.sha256(key.encode()).hexdigest()[:12]}{ending}"
    if (is_url(key) or not is_path) and suffix(text) not in SUFFIXES and format_name:
        text = f"{text}{_SUFFIX_OF.get(format_name, '.' + format_name.lower())}"
    path = PurePath(text.replace("\0", "_"))
    parts = ["__" if part == ".." else part for part in path.parts if part != path.anchor] or ["_"]
    if parts[0] in (RECORD_NAME, ROWS_NAME, LOCK_NAME, storage.MARKER_NAME) or re.match(
        r"\.partial-", parts[0]
    ):
        parts[0] = f"_{parts[0]}"
    return PurePath(*parts)


@dataclass(slots=True)
class _Placer:
    """Puts originals in their places in a folder; what is not linked is copied from then on."""

    folder: Path
    result: FinishedResult
    how: How

    def place(self, original: Original, source: Source) -> None:
        """Put an original in its place, if it is not there.

        Raises:
            ImageError: It cannot be read, is ``changed``, or has ``no_place``: another file is there, or its
                key is no name for a file.
        """
        is_path = original.planned.file is None
        target = self.folder / name_below(original.planned.key, original.format, is_path=is_path)
        try:
            if os.path.lexists(target) and (
                target.is_symlink() or target.stat().st_size
            ):  # a power cut empties
                self._require_same(target, original, source)
            elif self.how == "copy" or not isinstance(source, Path):
                self._write(target, original.bytes_of(source, self.result.limits), source)
            else:
                self._require_unchanged(original, source)
                self._link(target, source)
        except (OSError, StorageError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            if isinstance(cause, OSError) and cause.errno in _NO_NAME:
                raise ImageError("no_place", f"{target} is no name for a file: {cause.strerror}") from None
            raise

    def _require_same(self, target: Path, original: Original, source: Source) -> None:
        if target.is_symlink():
            if self.how == "symlink" and isinstance(source, Path) and target.readlink() == source.absolute():
                return
        elif target.is_file() and original.is_same(target.read_bytes()):
            return
        raise ImageError("no_place", f"another file is at {target}")

    def _require_unchanged(self, original: Original, source: Path) -> None:
        """Refuse an original of which length or time of change, and bytes, are not those of the scoring."""
        with suppress(OSError):
            found = source.stat()
            if (found.st_size, found.st_mtime_ns) == (original.planned.num_bytes, original.planned.mtime_ns):
                return
        original.bytes_of(source, self.result.limits)

    def _write(self, target: Path, data: bytes, source: Source) -> None:
        with self._moved_to(target) as temporary:
            temporary.write_bytes(data)
            if isinstance(source, Path):
                shutil.copystat(source, temporary)

    def _link(self, target: Path, source: Path) -> None:
        with self._moved_to(target) as temporary:
            if self.how == "symlink":
                temporary.symlink_to(source.absolute())
                return
            try:
                os.link(source.resolve(), temporary)
            except OSError as error:
                if error.errno not in _NO_LINK:
                    raise
                _log.warning(
                    "%s cannot be linked into %s (%s): files are copied.", source, self.folder, error.strerror
                )
                self.how = "copy"
                shutil.copy2(source, temporary)

    @contextmanager
    def _moved_to(self, target: Path) -> Iterator[Path]:
        """A temporary path; what is written there moves to ``target``. `storage.sweep` removes leftovers."""
        temporary = self.folder / _TEMPORARY_NAME
        try:
            yield temporary
            storage.place(temporary, target)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
