"""The first stage of the pipeline: from a source to the images table; and whether the source has changed.

A folder of the user's own is a source too: it is listed for both.
"""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from tqdm import tqdm

from quality_model.core import decoding, folders, storage
from quality_model.core.folders import printable
from quality_model.core.processes import THREADS, end_if_imported_again, in_order
from quality_model.core.stores import is_in_store
from quality_model.data.images_table import TABLE_NAME, ImagesWriter, decoded, fetch_image
from quality_model.data.sources import Combined, Source, open_source
from quality_model.errors import ImageError, SourceError
from quality_model.params import LimitsParams, SourceParams, flatten, values_sha256
from quality_model.records import CleanImage

_logger = logging.getLogger(__name__)

_NOTE_NAME: Final = "source.json"

SUFFIXES_NOT_READ: Final = frozenset(
    {".jxl", ".jpx", ".jxr", ".svg", ".psd", ".raw", ".cr2", ".nef", ".arw", ".dng"}
)
"""Names of images in formats that `images` does not decode: they are reported."""


@dataclass(frozen=True, slots=True)
class DownloadSummary:
    """What `download` has written; the completion marker holds the same.

    ``rows`` of ``requested``: ``readable`` images, and those ``unreadable`` by error code.
    ``duplicates`` of readable images were dropped, and ``not_read`` files have unsupported formats.
    """

    rows: int
    requested: int
    readable: int
    unreadable: dict[str, int]
    duplicates: int
    not_read: int
    groups: int
    source: str
    revision: str | None


def download(source: SourceParams, limits: LimitsParams, output: Path) -> DownloadSummary:
    """Take ``num_images`` different images from a source into ``output``.

    Exact duplicates (equal bytes) of a readable image are dropped and do not count towards
    ``num_images``; unreadable images become rows with an error code, and do count.
    An earlier table stays until the new one is complete.

    Args:
        source: What to take.
        limits: What an image may be.
        output: Folder for images.parquet and its completion marker.

    Raises:
        UsageError: There is no such dataset.
        SourceError: The images cannot be fetched.
        NetworkUnavailableError: The network does not answer.
        StorageError: The output cannot be written, or another process writes it.
    """
    end_if_imported_again()
    opened = open_source(source, limits)
    with storage.only_maker(output):
        storage.sweep(output)
        summary = _take(opened, source.num_images, output)
        if summary.rows < summary.requested:
            _logger.warning(
                "%s has only %d different images; %d were requested",
                opened.name,
                summary.rows,
                summary.requested,
            )
        # A path names a user and a machine; the folder's own name identifies it well enough.
        request = {**source.model_dump(mode="json"), "dataset": opened.name}
        storage.seal(output, [TABLE_NAME], **asdict(summary), request=request)
    return summary


def _take(source: Source, wanted: int, output: Path) -> DownloadSummary:
    """Write the images table, without its completion marker."""
    readable: set[bytes] = set()
    unreadable: Counter[str] = Counter()
    groups: set[str] = set()
    duplicates = 0
    with storage.staged(output / TABLE_NAME) as temporary:
        with (
            ImagesWriter(temporary) as writer,
            tqdm(total=wanted, desc="download", unit="image", disable=None) as bar,
        ):
            for image in source.images():
                sha256 = bytes.fromhex(image.sha256)
                if image.error_code is not None:
                    unreadable[image.error_code] += 1
                elif sha256 in readable:
                    duplicates += 1
                    continue
                else:
                    readable.add(sha256)
                writer.write(image)
                groups.add(image.group)
                bar.update()
                if len(readable) + unreadable.total() >= wanted:
                    break
        storage.unseal(output)
    return DownloadSummary(
        rows=len(readable) + unreadable.total(),
        requested=wanted,
        readable=len(readable),
        unreadable=dict(sorted(unreadable.items())),
        duplicates=duplicates,
        not_read=sum(source.not_read.values()),
        groups=len(groups),
        source=source.name,
        revision=source.revision,
    )


def source_sha256(section: SourceParams, limits: LimitsParams, *, root: Path = Path()) -> str:
    """One hash for the current content of a source, without reading its images.

    A dataset of the hub is identified by its commit, the sample photos by their packages'
    versions, a folder by the names, lengths and modification times of its images; a relative one
    is below ``root``.

    Raises:
        UsageError, SourceError, NetworkUnavailableError: The source cannot be opened.
    """
    source = open_source(section, limits, root=root)
    return values_sha256([flatten(section), flatten(limits), source.name, source.revision, _listing(source)])


def is_known_source(state: Path, sha256: str) -> bool:
    """Whether `remember_source` was called last with this hash."""
    note = state / _NOTE_NAME
    return note.exists() and storage.read_json(note) == {"sha256": sha256}


def remember_source(state: Path, sha256: str) -> None:
    """Record which content the images were taken from; call it after the download."""
    storage.write_json(state / _NOTE_NAME, {"sha256": sha256})


def _listing(source: Source) -> str | None:
    if isinstance(source, Combined):
        return values_sha256([_listing(part) for part, _ in source.sources])
    if not isinstance(source, LocalFolder):
        return None
    digest = hashlib.sha256()
    for name in sorted(list_images(source.root).images):
        try:
            facts = (source.root / name).stat()
        except OSError:
            continue
        digest.update(os.fsencode(name) + f"\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()


class Listing(NamedTuple):
    """The content of a folder and its sub-folders, in paths relative to it, with slashes.

    ``images`` are files with the suffix of an image (`decoding.SUFFIXES`), ``problems``
    the sub-folders that cannot be listed, and ``not_read`` counts the files with one of
    `SUFFIXES_NOT_READ`, by suffix. ``skipped`` counts what a walk skips (see `folders.walk`).
    """

    images: set[str]
    problems: dict[str, ImageError]
    not_read: Counter[str]
    skipped: Counter[str]


class LocalFolder:
    """The images in a folder and its sub-folders; it may be in an object store.

    Hidden and system files and earlier results are skipped, links are followed, and a folder that
    is reached twice is read once (see `folders.walk`). Images of one sub-folder form a group. An
    image at the top is a group of its own; so is every image if all are in the same folder.
    With more images than ``num_images``, the seed and the names decide which come first.
    """

    revision: str | None = None

    def __init__(self, section: SourceParams, limits: LimitsParams, root: Path) -> None:
        self._section = section
        self._limits = limits
        self.root = root
        self.not_read: dict[str, int] = {}
        self.name = f"folder {printable(root.resolve().name) or 'root'}"

    def images(self) -> Iterator[CleanImage]:
        """Read the images.

        Raises:
            SourceError: The folder cannot be listed or holds no image.
        """
        return decoded(self._fetched(), self._limits)

    def _fetched(self) -> Iterator[CleanImage]:
        paths, problems, not_read, skipped = list_images(self.root)
        self.not_read = dict(sorted(not_read.items()))
        others = ", ".join(f"{count} x {suffix}" for suffix, count in self.not_read.items())
        if not paths and not problems:
            raise SourceError(
                f"{self.root} holds no images" + (f" that can be read ({others})." if others else "."),
                f"Put images there ({', '.join(sorted(decoding.SUFFIXES))}), or name another folder.",
            )
        if others:
            _logger.warning("%s: unsupported formats: %s", self.name, others)
        if skipped:
            counts = ", ".join(f"{count} x {name}" for name, count in sorted(skipped.items()))
            _logger.info("%s: skipped: %s", self.name, counts)
        candidates = sorted(paths | problems.keys())
        if len(candidates) > self._section.num_images:
            candidates.sort(key=self._rank)
        parents = {PurePosixPath(name).parent for name in candidates}
        _logger.info("%s: %d images in %d folders", self.name, len(candidates), len(parents))

        def fetch(name: str) -> CleanImage:
            parent = PurePosixPath(name).parent.as_posix()
            return fetch_image(
                printable(name),
                printable(parent if len(parents) > 1 and parent != "." else name),
                printable(name),
                partial(self._read, name, problems.get(name)),
                self._limits,
            )

        if not is_in_store(self.root):
            yield from map(fetch, candidates)
            return
        with ThreadPoolExecutor(THREADS) as threads:
            fetched: Iterator[CleanImage] = in_order(
                (threads.submit(fetch, name) for name in candidates), 2 * THREADS
            )
            yield from fetched

    def _read(self, name: str, problem: ImageError | None) -> bytes:
        if problem:
            raise problem
        return decoding.read_bytes(self.root / name, self._limits)

    def _rank(self, name: str) -> bytes:
        return hashlib.sha256(f"{self._section.seed}\0".encode() + os.fsencode(name)).digest()


def list_images(root: Path) -> Listing:
    """Find the images below a folder, by the walk that scoring uses too.

    Raises:
        SourceError: ``root`` itself cannot be listed, or is an earlier result.
    """
    if (result := folders.result_of(root)) is not None:
        raise SourceError(
            f"{root} is an earlier result of this tool, or a part of one ({result}).",
            "Name the folder of the images that were scored.",
        )
    found: set[str] = set()
    problems: dict[str, ImageError] = {}
    not_read: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    try:
        for file in folders.walk(root, skipped=skipped):
            if file.problem is not None:
                problems[file.name] = file.problem
            elif (suffix := folders.suffix(file.name)) in decoding.SUFFIXES:
                found.add(file.name)
            elif suffix in SUFFIXES_NOT_READ:
                not_read[suffix] += 1
    except OSError as error:
        raise SourceError(
            f"{root} cannot be listed: {error.strerror}.", "Check the path and its permissions."
        ) from None
    return Listing(found, problems, not_read, skipped)
