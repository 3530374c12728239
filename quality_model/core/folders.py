"""Folders of images: the one walk for scoring and training, file names as text, and paths that stay inside.

A walk never enters hidden and system files and folders, nor the outputs of this project: it
counts them. What a data file names is opened only inside the folder of that file. A folder may be one of
an object store: there it is a prefix, without links.
"""

import json
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from quality_model.core import objects, storage
from quality_model.core.stores import is_in_store, is_store_address, remedy, store_path, typed_path
from quality_model.errors import ImageError, UsageError

SYSTEM_FILES: Final = "hidden and system files"
"""How a walk counts what `is_system` says."""

EARLIER_RESULTS: Final = "earlier results"
"""How a walk counts what `is_output` says."""

PLAN_NAME: Final = "plan.json"
JOB_NAME: Final = "job.json"
"""The plan and the completion marker of a scoring result. In the earlier layout job.json was the plan."""

_MAX_JSON_BYTES: Final = 64 << 20
_SYSTEM_NAMES: Final = frozenset(
    {
        "@eadir", "@recycle", "@tmp", "#recycle", "#snapshot", "__macosx", "$recycle.bin", "recycler",
        "lost+found", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini",
    }
)  # fmt: skip
_ESCAPED = re.compile(rb"\\(\\|x[0-9a-f]{2})")
_URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
_WEB = re.compile(r"https?://", re.IGNORECASE)
_BASE64 = re.compile(r"data:image/[\w.+-]+[;,]|/9j/[\w+/]{12}|iVBORw0KGgo|R0lGOD[dl]h|UklGR[\w+/]{3}")


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file below a folder; ``name`` is relative to it, with slashes, and with surrogates for odd bytes.

    ``mtime_ns`` is the time of the last change; of an object what tells its versions apart.
    ``problem`` marks a folder that cannot be listed: what it holds is unknown.
    """

    name: str
    num_bytes: int
    mtime_ns: int
    problem: ImageError | None = None

    @property
    def is_folder(self) -> bool:
        return self.problem is not None


def walk(
    folder: Path, *, leave_out: Path | None = None, skipped: Counter[str] | None = None
) -> Iterator[ListedFile]:
    """List files below ``folder`` in the order of their names' bytes, sub-folders in place.

    Links are followed; each real folder is entered once, so that a loop of links ends.
    A sub-folder that cannot be listed is given itself, lest it be lost. Memory holds the names
    of one folder for each level of depth, some 250 bytes each.

    Args:
        folder: The folder, or one file, which is then the only one.
        leave_out: A folder that is not entered.
        skipped: Counts what is skipped, under `SYSTEM_FILES` and `EARLIER_RESULTS`.

    Raises:
        OSError: ``folder`` itself cannot be listed; of an object store any folder.
        UsageError, StorageError: The object store cannot be used, or does not answer.
    """
    skipped = Counter() if skipped is None else skipped
    if not is_folder(folder):
        yield file_facts(folder, folder.name)
        return
    if is_in_store(folder):
        yield from _walk_store(folder, leave_out, skipped)
        return
    entries, num_system = _entries(folder)
    skipped += Counter({SYSTEM_FILES: num_system})
    entered = {_identity(folder), None if leave_out is None else _identity(leave_out)}
    is_in_result = cache(lambda target: result_of(target) is not None)  # many links lead into few folders
    stack = [iter(entries)]
    prefixes = [""]
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
            prefixes.pop()
            continue
        name = prefixes[-1] + entry.name
        path = folder / name
        if entry.is_link and is_in_result(_real(path) if entry.is_folder else _real(path).parent):
            skipped[EARLIER_RESULTS] += 1
            continue
        if not entry.is_folder:
            yield file_facts(path, name)
            continue
        identity = _identity(path)
        if identity is not None and identity in entered:
            continue
        entered.add(identity)
        try:
            entries, num_system = _entries(path)
        except OSError as error:
            reason = "no_permission" if isinstance(error, PermissionError) else "unreadable"
            yield ListedFile(
                name, -1, -1, ImageError(reason, f"the folder cannot be listed: {error.strerror}")
            )
            continue
        if is_output(path, {entry.name for entry in entries}):
            skipped[EARLIER_RESULTS] += 1
            continue
        skipped += Counter({SYSTEM_FILES: num_system})
        stack.append(iter(entries))
        prefixes.append(name + "/")


def _walk_store(folder: Path, leave_out: Path | None, skipped: Counter[str]) -> Iterator[ListedFile]:
    stack, prefixes = [iter(objects.entries(folder))], [""]
    while stack:
        if (entry := next(stack[-1], None)) is None:
            stack.pop()
            prefixes.pop()
            continue
        name = prefixes[-1] + entry.name
        if is_system(entry.name):
            skipped[SYSTEM_FILES] += 1
        elif not entry.is_folder:
            yield ListedFile(name, entry.num_bytes, entry.version)
        elif str(path := folder / name) != str(leave_out):
            entries = objects.entries(path)
            if is_output(path, {entry.name for entry in entries}):
                skipped[EARLIER_RESULTS] += 1
                continue
            stack.append(iter(entries))
            prefixes.append(name + "/")


def is_system(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or belongs to a system or a file server."""
    return (name.startswith(".") and name not in (".", "..")) or name.lower() in _SYSTEM_NAMES


def is_output(folder: Path, names: set[str]) -> bool:
    """Whether a folder with these names in it is an output of ours.

    That is a scoring result, finished or interrupted, or a folder that holds what a completion marker
    verifies and nothing else: files that were added are somebody's own.
    """
    if not names.isdisjoint((PLAN_NAME, JOB_NAME)) and is_result(folder):
        return True
    return storage.MARKER_NAME in names and _is_all(_json(folder / storage.MARKER_NAME), names)


def is_result(folder: Path) -> bool:
    """Whether a folder is a scoring result, finished or interrupted, of any layout."""
    return any(result_facts(folder / name) for name in (PLAN_NAME, JOB_NAME))


def result_facts(path: Path) -> dict[str, Any]:
    """The content of the plan or the completion marker of a scoring result; nothing if it is neither."""
    facts = _json(path)
    return facts if isinstance(facts, dict) and "plan_sha256" in facts else {}


def result_of(path: Path) -> Path | None:
    """The earlier result that a file or folder is, or is inside of; None for an ordinary one.

    A comparison that was written among other files makes no result of them.
    """
    place = _real(path)
    marker = _json(place / storage.MARKER_NAME)
    is_comparison = isinstance(marker, dict) and marker.get("kind") == "comparison"
    if is_comparison and _is_all(marker, {path.name for path in place.iterdir() if not is_system(path.name)}):
        return place
    return next((folder for folder in (place, *place.parents) if is_result(folder)), None)


def inside(folder: Path, name: str) -> Path:
    """The path that a data file names, which must be inside the folder of that file.

    ``name`` is relative to ``folder``. Symbolic links count as where they lead: a path that is
    outside ``folder`` once they are resolved is refused, as is an absolute one, or one with
    ``..``, that leads outside.

    Raises:
        ImageError: ``url``, ``base64_text``, ``outside_folder``, or ``unreadable`` for what is no path.
    """
    if is_base64_image(name):
        raise ImageError("base64_text", "the image is base64 text; store the bytes themselves")
    if _URL.match(name):
        raise ImageError("url", "the image is named by a URL, which only --allow-download fetches")
    if is_in_store(folder):
        relative = posixpath.normpath(name)
        if relative.startswith(("/", "..")):
            raise ImageError("outside_folder", "the path leaves the folder of the file that names it")
        return folder / relative
    try:
        root, path = _real(folder), _real(folder / name)
    except ValueError as error:  # a null character
        raise ImageError("unreadable", str(error)) from None
    if not path.is_relative_to(root):
        raise ImageError("outside_folder", "the path leaves the folder of the file that names it")
    return path


def is_url(name: str) -> bool:
    """Whether a name is an address of the web that can be fetched."""
    return _WEB.match(name) is not None


def is_folder(path: Path) -> bool:
    """Whether a path is a folder, here or in an object store.

    Raises:
        UsageError, StorageError: One may not look there, or the store does not answer.
    """
    if not is_in_store(path):
        return path.is_dir()
    found = _facts(path)
    return found is not None and found.is_folder


def is_there(path: Path) -> bool:
    """Whether a path is a file or a folder, here or in an object store; errors as of `is_folder`."""
    return _facts(path) is not None if is_in_store(path) else path.exists()


def _facts(path: Path) -> objects.Entry | None:
    try:
        return objects.facts(path)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}.", remedy(error)) from None


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a path is a folder, or leads to what is in it."""
    if is_in_store(path) or is_in_store(folder):
        return f"{path}/".startswith(f"{str(folder).rstrip('/')}/")
    return path.resolve().is_relative_to(folder.resolve())


def place_of(base: Path, name: str) -> Path:
    """The path that a name means, an address in an object store or relative to ``base``.

    Raises:
        UsageError: No object can have its name, or it leaves the bucket of ``base``; see `store_path`.
    """
    if is_store_address(name):
        return store_path(name)
    if not is_in_store(base):
        return base / name
    place = cast(Any, base)
    return store_path(f"{place.protocol}://{posixpath.normpath(f'{place.path}/{name}')}")


def is_base64_image(text: str) -> bool:
    """Whether a text is an encoded image (JPEG, PNG, GIF, WebP) as base64, or a data URL of one."""
    return _BASE64.match(text) is not None


def input_path(text: str | Path) -> Path:
    """The path that an argument for a file or folder means.

    Raises:
        UsageError: It is a URL, or empty, or an address in an object store with credentials.
    """
    if not str(text):
        raise UsageError("The path is empty.", "Name a file or a folder; the current one is a dot.")
    path = typed_path(text)
    if is_in_store(path):
        return path
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):(/+)(.*)", str(text), re.DOTALL)
    if found is None or path.exists():
        return path
    scheme, slashes, rest = found.groups()
    if isinstance(text, Path):  # it has lost slashes
        slashes = "///" if scheme.lower() == "file" else "//"
    shown = f"{scheme}:{slashes}{re.sub(r'^[^/@]*@', '***@', rest)}"
    remedy = "Copy the files to a disk, or mount them, and name the folder."
    if scheme.lower() == "file":
        remedy = f"Name the path itself: /{rest}"
    raise UsageError(f"{shown} is a URL; only files and folders, and object stores, can be named.", remedy)


def printable(name: str) -> str:
    r"""Write a file name as valid Unicode: a backslash as ``\\``, a byte that is not UTF-8 as ``\xNN``."""
    if name.isascii() and "\\" not in name:
        return name
    name = name.replace("\\", "\\\\")
    try:
        data = os.fsencode(name)  # the bytes on the disk, whatever the locale is
    except UnicodeEncodeError:  # the name is of an archive
        data = name.encode("utf-8", "surrogateescape")
    return data.decode("utf-8", "backslashreplace")


def suffix(name: str) -> str:
    """The suffix of a file name, with its dot, in lower case."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - a Path for each of millions of names is slow


def file_name(printed: str) -> str:
    """Undo `printable`."""
    if printed.isascii() and "\\" not in printed:
        return printed
    restored = _ESCAPED.sub(
        lambda match: b"\\" if match[1] == b"\\" else bytes([int(match[1][1:], 16)]), printed.encode("utf-8")
    )
    return os.fsdecode(restored)


def _is_all(marker: Any, names: set[str]) -> bool:
    """Whether a completion marker verifies all files of a folder with these names."""
    if not storage.is_marker(marker):
        return False
    own = {Path(entry["name"]).parts[0] for entry in marker["files"]}
    return names <= own | {storage.MARKER_NAME}


def _real(path: Path) -> Path:
    if is_in_store(path):
        return path
    return Path(os.path.realpath(path))  # Path.resolve raises on a loop of links


def _json(path: Path) -> Any:
    """What a file of JSON holds; None for whatever is not one, however large or strange it is."""
    try:
        if is_in_store(path):
            return json.loads(objects.read(path, _MAX_JSON_BYTES))
        if not path.is_file() or path.stat().st_size > _MAX_JSON_BYTES:
            return None
        return json.loads(path.read_bytes())
    except (OSError, ImageError, ValueError, RecursionError):
        return None


class _Entry(NamedTuple):
    name: str
    is_folder: bool
    is_link: bool


def _entries(folder: Path) -> tuple[list[_Entry], int]:
    """What is in a folder, in the order of the names' bytes, and how many others are system files."""
    listed = []
    num_system = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_system(entry.name):
                num_system += 1
            else:
                listed.append(_Entry(entry.name, _is_folder(entry), entry.is_symlink()))
    listed.sort(key=lambda entry: os.fsencode(entry.name))
    return listed, num_system


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def file_facts(path: Path, name: str) -> ListedFile:
    """A file under this name; one that cannot be looked at has length and time -1."""
    try:
        if is_in_store(path):
            entry = objects.facts(path)
            return ListedFile(name, *((-1, -1) if entry is None else (entry.num_bytes, entry.version)))
        found = path.stat()
    except (OSError, ValueError):
        return ListedFile(name, -1, -1)
    return ListedFile(name, found.st_size, found.st_mtime_ns)
