"""Folders of object stores that are used through memory maps, or many times: fetched once into a cache.

The cache is below the user's cache folder (``XDG_CACHE_HOME``, else ``~/.cache``), in
``quality-model/stores``. What was fetched is known by its address and by the hash in its completion marker,
so that a folder that is replaced in the store is fetched again; it is verified by the hash of each file. The
cache may be deleted at any time.
"""

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final

from quality_model.core import storage
from quality_model.core.stores import explain, is_in_store
from quality_model.errors import UsageError

_THREADS: Final = 8
_CHUNK_BYTES: Final = 8 << 20


def fetched(path: Path) -> Path:
    """The folder or file itself if it is of this machine; else its copy in the cache, which is made first.

    Args:
        path: A file, or a folder with a completion marker; of a folder its files are those that the marker
            names.

    Raises:
        UsageError: There is neither.
        IncompleteError, CorruptError: A file is missing, or is not what the completion marker describes.
        StorageError: The store or the cache cannot be used.
    """
    if not is_in_store(path):
        return path
    try:
        if path.is_file():
            return _fetched_file(path)
        if not (path / storage.MARKER_NAME).is_file():
            problem = f"has no {storage.MARKER_NAME}" if path.is_dir() else "is not there"
            raise UsageError(f"{path} {problem}.", "Name a folder that a command has completed, or a file.")
        return _fetched_folder(path)
    except OSError as error:
        raise explain(error, path) from error


def _fetched_folder(path: Path) -> Path:
    marker = storage.require_sealed(path)
    names = [*(entry["name"] for entry in marker["files"]), storage.MARKER_NAME]

    def fetch(folder: Path) -> None:
        with ThreadPoolExecutor(_THREADS) as threads:
            for _ in threads.map(lambda name: _copy(path / name, folder / name), names):
                pass
        storage.require_sealed(folder, verify=True)

    return _made(_cache(path, marker["sha256"]), fetch)


def _fetched_file(path: Path) -> Path:
    found = path.stat()
    folder = _made(
        _cache(path, f"{found.st_size} {found.st_mtime}"), lambda folder: _copy(path, folder / path.name)
    )
    return folder / path.name


def _made(place: Path, fetch: Callable[[Path], None]) -> Path:
    """A folder of the cache, filled by ``fetch`` unless it is there; of several processes one's stays."""
    if place.is_dir():
        return place
    partial = place.with_name(f".partial-{uuid.uuid4().hex}")
    partial.mkdir(parents=True)
    try:
        fetch(partial)
        with suppress(OSError):
            partial.rename(place)
        if not place.is_dir():
            raise OSError(f"{place} cannot be made")
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return place


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer, _CHUNK_BYTES)


def _cache(path: Path, version: str) -> Path:
    """The place of one version of a folder: the end of its path is that of the address."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    key = hashlib.sha256(f"{path}\0{version}".encode()).hexdigest()[:32]
    return Path(home).expanduser() / "quality-model" / "stores" / key / path.name
