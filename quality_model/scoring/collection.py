"""What lies in a collection: a sorted walk over a folder, and which of its files are inputs."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from quality_model.errors import UsageError
from quality_model.images import SUFFIXES

Kind = Literal["pictures", "parquet", "tar"]

TAR_SUFFIXES: Final = (".tar", ".tar.gz", ".tgz")
_ESCAPED = re.compile(rb"\\(\\|x[0-9a-f]{2})")


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file of the collection; ``name`` is relative to its base, with surrogates for odd bytes.

    ``is_folder`` marks a folder that cannot be listed: what it holds is unknown.
    """

    name: str
    num_bytes: int
    mtime_ns: int
    is_folder: bool = False


@dataclass(frozen=True, slots=True)
class Survey:
    """What a look at the collection found.

    ``fingerprint`` covers name, length and time of change of every input file: it is
    the same exactly as long as they are. ``skipped`` counts the others by suffix.
    """

    kind: Kind
    base: Path
    num_files: int
    fingerprint: str
    skipped: dict[str, int]


class Fingerprint:
    """A running hash over the files of a listing."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.num_files = 0

    def add(self, file: InputFile) -> None:
        line = f"{printable(file.name)}\0{file.num_bytes}\0{file.mtime_ns}\n"
        self._hash.update(line.encode())
        self.num_files += 1

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def survey(inputs: Path, output: Path) -> Survey:
    """Look at the collection and decide what its inputs are.

    A folder with pictures is a folder of pictures; one without is a folder of Parquet
    files or of tar shards. Whatever lies in ``output`` is no input.

    Raises:
        UsageError: No such path, nothing to score in it, or both Parquet files and tar
            shards but no picture.
    """
    if not inputs.exists():
        raise UsageError(f"{inputs} is not there.", "Name a folder, a Parquet file or a tar shard.")
    found: dict[Kind, Fingerprint] = {kind: Fingerprint() for kind in ("pictures", "parquet", "tar")}
    skipped: Counter[str] = Counter()
    suffixes: dict[Kind, Counter[str]] = {kind: Counter() for kind in found}
    closed = 0
    for file in walk(inputs, leave_out=output):
        kind = kind_of(file.name)
        if file.is_folder:
            closed += 1
            for fingerprint in found.values():
                fingerprint.add(file)
        elif kind is None:
            skipped[_suffix(file.name)] += 1
        else:
            found[kind].add(file)
            suffixes[kind][_suffix(file.name)] += 1
    present = [kind for kind in found if suffixes[kind]]
    if not present:
        others = sum(skipped.values())
        raise UsageError(
            f"{inputs} holds nothing to score: no picture, no Parquet file and no tar shard"
            f" among its {others} files" + (f" ({closed} folders cannot be listed)." if closed else "."),
            f"Pictures are files that end in {', '.join(sorted(SUFFIXES))}.",
        )
    if present == ["parquet", "tar"]:
        raise UsageError(
            f"{inputs} holds both Parquet files and tar shards.", "Score them one after the other."
        )
    for kind in present[1:]:
        skipped.update(suffixes[kind])
    chosen = present[0]
    return Survey(
        kind=chosen,
        base=inputs if inputs.is_dir() else inputs.parent,
        num_files=found[chosen].num_files,
        fingerprint=found[chosen].hexdigest(),
        skipped=dict(sorted(skipped.items())),
    )


def kind_of(name: str) -> Kind | None:
    """Tell by the name what a file is; None: not an input."""
    lowered = name.lower()
    if _suffix(lowered) in SUFFIXES:
        return "pictures"
    if lowered.endswith(".parquet"):
        return "parquet"
    return "tar" if lowered.endswith(TAR_SUFFIXES) else None


def walk(inputs: Path, *, leave_out: Path) -> Iterator[InputFile]:
    """List files below ``inputs`` in the order of their names' bytes, folders in place.

    Links are followed; each real folder is entered once, so that a loop of links ends.
    A folder that cannot be listed is given itself, lest it be lost. Memory holds the names
    of one folder for each level of depth.
    """
    if not inputs.is_dir():
        yield _stat(inputs, inputs.name)
        return
    entered = {_identity(inputs), _identity(leave_out)}
    stack = [iter(_entries(inputs) or [])]
    prefixes = [""]
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
            prefixes.pop()
            continue
        name, is_folder = prefixes[-1] + entry[0], entry[1]
        path = inputs / name
        if not is_folder:
            yield _stat(path, name)
            continue
        identity = _identity(path)
        if identity is not None and identity in entered:
            continue
        entered.add(identity)
        entries = _entries(path)
        if entries is None:
            yield InputFile(name, -1, -1, is_folder=True)
        else:
            stack.append(iter(entries))
            prefixes.append(name + "/")


def printable(name: str) -> str:
    r"""Write a file name as valid Unicode: a backslash as ``\\``, a byte that is not UTF-8 as ``\xNN``."""
    if name.isascii() and "\\" not in name:
        return name
    return name.replace("\\", "\\\\").encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def file_name(printed: str) -> str:
    """Undo `printable`."""
    if "\\" not in printed:
        return printed
    restored = _ESCAPED.sub(
        lambda match: b"\\" if match[1] == b"\\" else bytes([int(match[1][1:], 16)]), printed.encode("utf-8")
    )
    return restored.decode("utf-8", "surrogateescape")


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - a Path for each of millions of names is slow


def _entries(folder: Path) -> list[tuple[str, bool]] | None:
    try:
        with os.scandir(folder) as entries:
            listed = [(entry.name, _is_folder(entry)) for entry in entries]
    except OSError:
        return None
    listed.sort(key=lambda entry: os.fsencode(entry[0]))
    return listed


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


def _stat(path: Path, name: str) -> InputFile:
    try:
        found = path.stat()
    except OSError:
        return InputFile(name, -1, -1)
    return InputFile(name, found.st_size, found.st_mtime_ns)
