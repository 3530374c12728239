"""Where bytes become durable: a result is complete or absent.

A file is written under a temporary name in its own folder, flushed to the disk, renamed,
and the folder flushed. A folder of files is complete when it has its completion marker, which is
written last and has the hash of each file. Readers accept only what a completion marker verifies.

In an object store a file is written on this machine first, then put there as one object, which is there as a
whole or not at all; there is nothing to flush. Locks are in `locks`.

Each step is an audit event (PEP 578), ``quality_model.core.storage.<step>`` with the path: a
monitor can follow what is written, and fault tests end the process at any of them.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any, Final, Literal

from quality_model.core.locks import locked as locked
from quality_model.core.locks import only_maker as only_maker
from quality_model.core.locks import require_held
from quality_model.core.stores import explain as explain
from quality_model.core.stores import is_in_store, writable
from quality_model.errors import CorruptError, IncompleteError

MARKER_NAME: Final = "_complete.json"
_TEMPORARY_PREFIX: Final = ".partial-"
_THREADS: Final = 16
"""As many objects of a store are looked at at once."""

Step = Literal["written", "flushed", "renamed", "sealing"]
"""The temporary file is written; it is on the disk; it has its name; the completion marker comes next."""


@contextmanager
def staged(path: Path, *, beside: Path | None = None) -> Iterator[Path]:
    """Give a temporary path beside ``path``; what is written there appears at ``path`` on success.

    On an error the temporary file is removed and an earlier ``path`` stays as it was. With ``beside``,
    another path of the same file system, the temporary one is beside that: the folder of ``path``
    never holds anything unfinished.

    Raises:
        StorageError: The disk is full or the folder cannot be written.
        UsageError: The store cannot be used.
    """
    if is_in_store(path):
        with scratch(path) as temporary:
            yield temporary
            _upload(temporary, path)
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain(error, path) from error
    folder = (beside or path).parent.absolute()  # PyArrow takes a:b/c for an address
    temporary = folder / f"{_TEMPORARY_PREFIX}{uuid.uuid4().hex[:12]}-{path.name}"
    try:
        yield temporary
        _put_in_place(temporary, path)
    except OSError as error:
        raise explain(error, path) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """Give a path of this machine for a file that is needed for a while: beside ``path`` if that is here.

    Raises:
        StorageError: The disk is full or the folder cannot be written.
    """
    if not is_in_store(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent.absolute() / f"{_TEMPORARY_PREFIX}{path.name.removeprefix(_TEMPORARY_PREFIX)}"
        try:
            yield temporary
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        return
    try:
        with tempfile.TemporaryDirectory(prefix="quality-model-") as folder:
            yield Path(folder) / path.name
    except OSError as error:
        raise explain(error, path) from error


def move(path: Path, target: Path) -> None:
    """Move a written file of the same file system to its place, durably; an earlier one is replaced.

    In a store it is copied as a whole, then removed.

    Raises:
        StorageError: It cannot be moved there.
    """
    try:
        if is_in_store(target):
            path.replace(target)
            _reached("renamed", target)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        _put_in_place(path, target)
        flush_folder(path.parent)
    except OSError as error:
        raise explain(error, target) from error


def place(path: Path, target: Path) -> None:
    """Move one of many written files of one file system to its place; durable after `flush_system` alone.

    Raises:
        StorageError: It cannot be moved there.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
    except OSError as error:
        raise explain(error, target) from error
    _reached("renamed", target)


def flush_system() -> None:
    """Make all files that were written survive a power cut; Windows does so by itself, some time."""
    if sys.platform != "win32":
        os.sync()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file durably (see `staged`)."""
    if is_in_store(path):
        try:
            _upload(data, path)
        except OSError as error:
            raise explain(error, path) from error
        return
    with staged(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 file durably (see `staged`)."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON durably; NaN and infinity are refused, because JSON has no word for them."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        IncompleteError: There is no such file.
        CorruptError: It is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise IncompleteError(f"{path} is not there.", "Run the step that makes it.") from None
    except (ValueError, RecursionError) as error:
        raise CorruptError(
            f"{path} is not JSON: {error}.", "Delete it and run the step that makes it."
        ) from None
    except OSError as error:
        raise explain(error, path) from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of one JSON record a line, oldest first; none if there is no file.

    A last line that a crash cut short is left out.

    Raises:
        CorruptError: A line is not a JSON record.
        StorageError: The file cannot be read.
    """
    records: list[dict[str, Any]] = []
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise explain(error, path) from error
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        record = None
        with suppress(ValueError, RecursionError):
            record = json.loads(line)
        if isinstance(record, dict):
            records.append(record)
        elif number < len(lines):
            raise CorruptError(f"{path}, line {number}, is not a JSON record.", "Fix or remove that line.")
    return records


def seal(
    folder: Path,
    names: Sequence[str],
    *,
    rows: int,
    hashed: Mapping[str, str] | None = None,
    marker_name: str = MARKER_NAME,
    **facts: Any,
) -> dict[str, Any]:
    """Write the completion marker of the files ``names`` of ``folder``; call it last.

    Leftovers of a killed writer are removed: only one process writes a folder at a time.

    Args:
        folder: Holds the files.
        names: Files relative to it.
        rows: Rows or samples that they hold together.
        hashed: SHA-256 of the files that were hashed while they were written.
        marker_name: Its file name.
        facts: JSON values to keep in it.

    Returns:
        The completion marker: ``rows``, ``files`` (name, bytes, sha256 of each), ``sha256`` over all
        of them, and the facts.
    """
    known = hashed or {}
    sweep(folder)
    files = [
        {"name": name, "bytes": found.st_size, "sha256": known.get(name) or file_sha256(folder / name)}
        for name, found in zip(names, _looked_at([folder / name for name in names]), strict=True)
        if found is not None
    ]
    assert len(files) == len(names)
    digest = hashlib.sha256("".join(f"{f['name']}\0{f['sha256']}\n" for f in files).encode()).hexdigest()
    marker = {**facts, "rows": rows, "files": files, "sha256": digest}
    _reached("sealing", folder)
    write_json(folder / marker_name, marker)
    return marker


def unseal(folder: Path, marker_name: str = MARKER_NAME) -> None:
    """Remove the completion marker before the files of ``folder`` change."""
    remove(folder / marker_name)


def remove(path: Path) -> None:
    """Remove a file durably; one that is not there is none to remove.

    Raises:
        StorageError: The system refuses.
    """
    try:
        path.unlink()
        flush_folder(path.parent)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise explain(error, path) from error


def require_sealed(folder: Path, *, verify: bool = False, marker_name: str = MARKER_NAME) -> dict[str, Any]:
    """Return the completion marker of a folder.

    Args:
        folder: Holds the files.
        verify: Hash every file; without it only presence and length are checked.
        marker_name: Its file name.

    Raises:
        IncompleteError: The completion marker or a file is missing.
        CorruptError: A file has another length or, with ``verify``, another hash.
    """
    path = folder / marker_name
    try:
        if not path.is_file():
            raise IncompleteError(
                f"{folder} is not complete: it has no {marker_name}.", "Run the step that makes it."
            )
        marker = read_json(path)
        if not is_marker(marker):
            raise CorruptError(f"{path} is not a completion marker.", "Run the step that makes it again.")
        paths = [folder / entry["name"] for entry in marker["files"]]
        for path, entry, found in zip(paths, marker["files"], _looked_at(paths), strict=True):
            if found is None:
                raise IncompleteError(f"{path} is missing.", "Run the step that makes it again.")
            if found.st_size != entry["bytes"] or (verify and file_sha256(path) != entry["sha256"]):
                raise CorruptError(
                    f"{path} is not the file that {marker_name} describes.",
                    "Delete the folder and run the step that makes it again.",
                )
    except OSError as error:
        raise explain(error, path) from error
    return dict(marker)


def sealed_sha256(folder: Path) -> str:
    """Return the hash that a complete folder is known by, 64 hex digits; errors as `require_sealed`."""
    return str(require_sealed(folder)["sha256"])


def sweep(folder: Path) -> None:
    """Remove temporary files and folders that a killed writer left in ``folder``; none in a store."""
    if is_in_store(folder):
        return
    for path in folder.glob(f"{_TEMPORARY_PREFIX}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):
            path.unlink()


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def flush_folder(folder: Path) -> None:
    """Make renames and removals in ``folder`` survive a power cut; Windows opens no folder."""
    if sys.platform == "win32" or is_in_store(folder):
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _looked_at(paths: Sequence[Path]) -> list[os.stat_result | None]:
    """Length and times of files, None of those that are not there; of objects many at once."""

    def look(path: Path) -> os.stat_result | None:
        try:
            return path.stat()
        except FileNotFoundError:
            return None

    if not paths or not is_in_store(paths[0]):
        return [look(path) for path in paths]
    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(look, paths))


def _upload(content: Path | bytes, path: Path) -> None:
    """Put an object in its place, whole."""
    _reached("written", path)
    require_held(path)
    writable(path).put(content)
    _reached("renamed", path)


def _put_in_place(written: Path, path: Path) -> None:
    _reached("written", path)
    with written.open("rb") as handle:
        os.fsync(handle.fileno())
    _reached("flushed", path)
    written.replace(path)
    _reached("renamed", path)
    flush_folder(path.parent)


def _reached(step: Step, path: Path) -> None:
    sys.audit(f"quality_model.core.storage.{step}", str(path))


def is_marker(marker: Any) -> bool:
    """Whether a JSON value is a completion marker."""
    match marker:
        case {"rows": int(), "sha256": str(), "files": list(entries)}:
            return all(map(_is_entry, entries))
    return False


def _is_entry(entry: Any) -> bool:
    match entry:
        case {"name": str(name), "bytes": int(), "sha256": str()}:
            return not PurePath(name).is_absolute() and ".." not in PurePath(name).parts
    return False
