"""The first stage of the pipeline: from a source to the images table; and whether the source has changed."""

import hashlib
import logging
import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tqdm import tqdm

from quality_model.core import storage
from quality_model.core.processes import end_if_imported_again
from quality_model.data.images_table import TABLE_NAME, ImagesWriter
from quality_model.data.local_folder import LocalFolder, list_images
from quality_model.data.sources import Combined, Source, open_source
from quality_model.params import LimitsParams, SourceParams, flatten, values_sha256

_logger = logging.getLogger(__name__)

_NOTE_NAME: Final = "source.json"


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
