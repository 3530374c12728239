"""Whether a source holds other images than those that were taken from it."""

import hashlib
import os
from pathlib import Path
from typing import Final

from quality_model.core import storage
from quality_model.data.sources import Source, open_source
from quality_model.data.sources.combined import Combined
from quality_model.data.sources.local_folder import LocalFolder, list_images
from quality_model.params import LimitsParams, SourceParams, flatten, values_sha256

NOTE_NAME: Final = "source.json"


def source_sha256(section: SourceParams, limits: LimitsParams, *, root: Path = Path()) -> str:
    """One hash for what a source holds now, without reading its images.

    A dataset of the hub is known by its commit, the embedded photographs by their packages'
    versions, a folder by the names, lengths and modification times of its images; a relative one
    is below ``root``.

    Raises:
        UsageError, SourceError, NetworkUnavailableError: The source cannot be opened.
    """
    source = open_source(section, limits, root=root)
    return values_sha256([flatten(section), flatten(limits), source.name, source.revision, _listing(source)])


def is_known(state: Path, sha256: str) -> bool:
    """Whether `remember` was called last with this hash."""
    note = state / NOTE_NAME
    return note.exists() and storage.read_json(note) == {"sha256": sha256}


def remember(state: Path, sha256: str) -> None:
    """Note what the images were taken from, once they are taken."""
    storage.write_json(state / NOTE_NAME, {"sha256": sha256})


def _listing(source: Source) -> str | None:
    if isinstance(source, Combined):
        return values_sha256([_listing(part) for part, _ in source.sources])
    return _listing_sha256(source.root) if isinstance(source, LocalFolder) else None


def _listing_sha256(root: Path) -> str:
    digest = hashlib.sha256()
    for name in sorted(list_images(root).images):
        try:
            facts = (root / name).stat()
        except OSError:
            continue
        digest.update(os.fsencode(name) + f"\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()
