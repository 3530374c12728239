"""What was named to be scored: one folder or file, or a selection: several, globs, lists, a CSV file, URLs.

A selection is walked as a folder is, and as often as is asked; lists are read again each time, never whole.
"""

import csv
import glob
import io
import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import IO, ClassVar, Final, Literal

from quality_model.core import folders, objects
from quality_model.core.decoding import SUFFIXES
from quality_model.core.folders import ListedFile, is_url, printable
from quality_model.core.processes import THREADS, in_order
from quality_model.core.stores import has_odd_parts, is_in_store, is_store_address
from quality_model.errors import ImageError, UsageError
from quality_model.score.columns import PATH_COLUMNS, named_columns
from quality_model.score.repeats import Hashes, repeated_hashes, with_suspicion

Kind = Literal["images", "tar", "zip", "parquet", "arrow"]

TAR_SUFFIXES: Final = (
    ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz", ".tar.zst", ".tzst",
)  # fmt: skip

STDIN: Final = "-"
LISTED_TWICE: Final = "listed more than once"
_BY_SUFFIX: Final[dict[str, Kind]] = {".zip": "zip", ".parquet": "parquet", ".arrow": "arrow"}
_TABLES: Final = (".csv", ".tsv")
_MAX_NAME_BYTES: Final = 1 << 20
_Place = tuple[Path, str, ListedFile | None]
"""A path, the name by which it was named, and what is known of the file; None is a folder."""

_OTHER_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def kind_of(name: str) -> Kind | None:
    """The kind of a file, by its name; None: not an input."""
    suffix = folders.suffix(name)
    if suffix in SUFFIXES:
        return "images"
    if suffix in _BY_SUFFIX:
        return _BY_SUFFIX[suffix]
    return "tar" if name.lower().endswith(TAR_SUFFIXES) else None


@dataclass(frozen=True)
class OnePath:
    """A folder, or one file; of an object store too."""

    path: Path

    @property
    def base(self) -> Path:
        return self.path if self.is_folder else self.path.parent

    @property
    def title(self) -> str:
        return str(self.path)

    @cached_property
    def is_folder(self) -> bool:
        """Whether the suffix of a file says what it is, and whether it is an input."""
        return folders.is_folder(self.path)

    def kind_in(self, name: str, chosen: Kind | None) -> Kind | None:
        """The kind of a file: that of its name, or what was chosen for one that was named itself."""
        return kind_of(name) if self.is_folder else chosen or kind_of(name)

    def walk(
        self, leave_out: Path | None = None, skipped: Counter[str] | None = None
    ) -> Iterator[ListedFile]:
        """See `folders.walk`."""
        return folders.walk(self.path, leave_out=leave_out, skipped=skipped)


@dataclass(slots=True)
class Selection:
    """Several paths, globs, lists and URLs. The name of a file is what was written, and so its key.

    Each may be in an object store.

    In a list, a path is relative to the folder of the list (for standard input: to the current one); if
    anything else is named too, the names are relative to the current folder. A file that is named twice is
    one input.

    Attributes:
        arguments: Each a path, a glob, a URL, ``@list`` (a path or URL a line; or NUL bytes between them), a
            CSV or TSV file, or ``-`` for a list from standard input.
        column: Of CSV files, the one that names the images; by default it is found.
    """

    arguments: Sequence[str]
    column: str | None = None
    is_folder: ClassVar = True
    _stdin: IO[bytes] | None = field(default=None, repr=False)
    _repeated: Hashes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for argument in self.arguments:
            if _is_list(argument) and argument != STDIN:
                path = _list_path(argument)
                if not folders.is_there(path) or folders.is_folder(path):
                    raise UsageError(f"{path} is not there, or no file.", "Name a list of paths.")

    @property
    def base(self) -> Path:
        """What names are relative to."""
        only = self.arguments[0] if len(self.arguments) == 1 else STDIN
        return _list_path(only).parent if _is_list(only) and only != STDIN else Path()

    @property
    def title(self) -> str:
        shown = ", ".join(self.arguments[:3]) + (", ..." if len(self.arguments) > 3 else "")
        return "standard input" if shown == STDIN else shown

    def require_there(self) -> None:
        """Refuse paths and globs on the command line that lead nowhere.

        Raises:
            UsageError: One does.
        """
        for argument in self.arguments:
            if not (_is_list(argument) or _is_other_url(argument)):
                _matches(argument)

    def kind_in(self, name: str, chosen: Kind | None) -> Kind | None:
        """The kind of a file: that of its name, or an image."""
        return "images" if is_url(name) else kind_of(name) or "images"

    def walk(
        self, leave_out: Path | None = None, skipped: Counter[str] | None = None
    ) -> Iterator[ListedFile]:
        """See `folders.walk`; a file that is named has a problem, or is an image, whatever its suffix.

        Memory holds the names that are listed more than once.

        Raises:
            UsageError: A path or glob on the command line leads nowhere, a list has NUL bytes and lines, or a
                CSV file has no column of images.
        """
        skipped = Counter() if skipped is None else skipped
        if self._repeated is None:
            files = self._files(leave_out, Counter(), needs_facts=False)
            self._repeated = repeated_hashes(file.name for file in files)
        seen: set[str] = set()
        files = self._files(leave_out, skipped)
        for file, is_suspect in with_suspicion(files, lambda file: file.name, self._repeated):
            if is_suspect and file.name in seen:
                skipped[LISTED_TWICE] += 1
                continue
            if is_suspect:
                seen.add(file.name)
            yield file

    def _files(
        self, leave_out: Path | None, skipped: Counter[str], *, needs_facts: bool = True
    ) -> Iterator[ListedFile]:
        is_result = lru_cache(1024)(lambda folder: folders.result_of(folder) is not None)
        with closing(self._found(needs_facts)) as found:
            for place in found:
                if isinstance(place, ListedFile):
                    yield place
                    continue
                path, name, file = place
                if is_result(path if file is None else path.parent):
                    skipped[folders.EARLIER_RESULTS] += 1
                elif file is not None:
                    yield file
                else:
                    yield from self._folder(path, name, leave_out, skipped)

    def _found(self, needs_facts: bool) -> Generator[ListedFile | _Place, None, None]:
        """What each name means; threads look at objects of stores, some ahead."""
        base = self.base

        def started(
            threads: ThreadPoolExecutor,
        ) -> Iterator[ListedFile | _Place | Future[ListedFile | _Place]]:
            for name, problem in self._names():
                if problem is not None or is_url(name):
                    yield ListedFile(name, 0, 0, problem)
                elif _is_other_url(name):
                    problem = ImageError("url", "only http, https and object stores are read")
                    yield ListedFile(name, 0, 0, problem)
                elif (path := _place_of(base, name)) is None:
                    yield ListedFile(name, 0, 0, ImageError("unreadable", "no object can have this name"))
                elif is_in_store(path):
                    if needs_facts or not folders.suffix(name):
                        yield threads.submit(_object, path, name)
                    else:
                        yield path, name, ListedFile(name, 0, 0)
                else:
                    is_folder = os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises on long names
                    yield path, name, None if is_folder else folders.file_facts(path, name)

        threads = ThreadPoolExecutor(THREADS, thread_name_prefix="names")
        try:
            ready: Iterator[ListedFile | _Place] = in_order(started(threads), 2 * THREADS)
            yield from ready
        finally:
            threads.shutdown(cancel_futures=True)

    @staticmethod
    def _folder(path: Path, name: str, leave_out: Path | None, skipped: Counter[str]) -> Iterator[ListedFile]:
        prefix = "" if name == "." else f"{name.rstrip('/')}/"
        try:
            for file in folders.walk(path, leave_out=leave_out, skipped=skipped):
                if file.is_folder or kind_of(file.name):
                    yield ListedFile(prefix + file.name, file.num_bytes, file.mtime_ns, file.problem)
                else:
                    skipped[shown_suffix(file.name)] += 1
        except OSError as error:
            code = "no_permission" if isinstance(error, PermissionError) else "unreadable"
            yield ListedFile(name, 0, 0, ImageError(code, f"the folder cannot be listed: {error.strerror}"))

    def _names(self) -> Iterator[tuple[str, ImageError | None]]:
        """Each path or URL that is named, lexically normal, and what is wrong with it."""
        for argument in self.arguments:
            if _is_list(argument):
                folder = _list_path(argument).parent if argument != STDIN else Path()
                prefix = "" if folder == self.base else f"{str(folder).rstrip('/')}/"
                for name, problem in self._listed(argument):
                    is_plain = problem is not None or _OTHER_URL.match(name)
                    yield (name if is_plain else _normal(os.path.join(prefix, name))), problem  # noqa: PTH118
            elif _is_other_url(argument):
                yield argument, None
            else:
                yield from ((_normal(name), None) for name in _matches(argument))

    def _listed(self, argument: str) -> Iterator[tuple[str, ImageError | None]]:
        if argument == STDIN:
            if self._stdin is None:  # it can be read once, and is walked several times
                self._stdin = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the selection
                shutil.copyfileobj(sys.stdin.buffer, self._stdin)
            self._stdin.seek(0)
            yield from _lines(self._stdin)
            return
        path = _list_path(argument)
        if path.suffix.lower() in _TABLES:
            yield from _cells(path, self.column)
            return
        with objects.open_file(path) as handle:
            yield from _lines(handle)


Collection = OnePath | Selection
"""Files with names, which are relative to ``base``; ``title`` is what to call it in a message."""


def is_selection(arguments: Sequence[str]) -> bool:
    """Whether arguments are more than one folder or one file that is a collection itself."""
    (only,) = arguments if len(arguments) == 1 else [None]
    if only is None or _is_list(only) or is_url(only):
        return True
    if is_store_address(only):
        return glob.has_magic(only) and not folders.is_there(folders.input_path(only))
    return not os.path.lexists(only) and glob.has_magic(only)


def has_tables(arguments: Sequence[str]) -> bool:
    """Whether one of the arguments is a CSV or TSV file."""
    return any(argument.lower().endswith(_TABLES) for argument in arguments)


def shown_suffix(name: str) -> str:
    """The suffix as text that can be written anywhere, on one line."""
    suffix = printable(folders.suffix(name))
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in suffix)


def _normal(name: str) -> str:
    if is_store_address(name):
        return name
    return os.path.normpath(name) if name else name


def _is_other_url(name: str) -> bool:
    return _OTHER_URL.match(name) is not None and not is_store_address(name)


def _place_of(base: Path, name: str) -> Path | None:
    """The path that a name means; None for one of an object store that no object can have."""
    try:
        return folders.place_of(base, name)
    except UsageError:
        if is_store_address(name) and not has_odd_parts(
            name
        ):  # one with credentials is not put into a result
            raise
        return None


def _object(path: Path, name: str) -> _Place:
    """An object of a store, or a folder there; None is one that is not there as well."""
    found = objects.facts(path)
    if found is None:
        return path, name, ListedFile(name, -1, -1)
    return path, name, None if found.is_folder else ListedFile(name, found.num_bytes, found.version)


def _is_list(argument: str) -> bool:
    if argument == STDIN or (argument.startswith("@") and not os.path.lexists(argument)):
        return True
    return argument.lower().endswith(_TABLES) and not _is_other_url(argument)


def _matches(argument: str) -> list[str]:
    """The path that an argument is, or those that it matches; at least one."""
    in_store = is_store_address(argument)
    if folders.is_there(folders.input_path(argument)) if in_store else os.path.lexists(argument):
        return [argument]
    if not glob.has_magic(argument):
        raise UsageError(f"{argument} is not there.", "Name files, folders, globs, @list or -.")
    found = objects.matching(argument) if in_store else glob.iglob(argument, recursive=True)  # noqa: PTH207
    if names := sorted(found, key=os.fsencode):
        return names
    raise UsageError(f"Nothing matches {argument}.", "Check the pattern; ** enters folders.")


def _list_path(argument: str) -> Path:
    name = argument[argument.startswith("@") and not os.path.lexists(argument) :]
    return folders.input_path(name) if is_store_address(name) else Path(name).expanduser()


def _lines(handle: IO[bytes]) -> Iterator[tuple[str, ImageError | None]]:
    """The entries of a list: lines, but blank ones and those with # first; or all between NULs."""
    start = handle.read(1 << 16)
    handle.seek(0)
    if b"\0" in start:
        yield from ((os.fsdecode(name), None) for name in _between_nuls(handle) if name)
        return
    is_first = True
    while line := handle.readline(_MAX_NAME_BYTES):
        line = line.removeprefix(b"\xef\xbb\xbf") if is_first else line
        is_first = False
        line = line.rstrip(b"\r\n")
        if line.strip() and not line.startswith(b"#"):
            yield os.fsdecode(line), ImageError("unreadable", "a path with a NUL") if b"\0" in line else None


def _between_nuls(handle: IO[bytes]) -> Iterator[bytes]:
    rest = b""
    while chunk := handle.read(1 << 16):
        *names, rest = (rest + chunk).split(b"\0")
        yield from names
    yield rest


def _cells(path: Path, column: str | None) -> Iterator[tuple[str, ImageError | None]]:
    """The values of the column of a CSV or TSV file that names the images."""
    opened = objects.open_file(path)
    with io.TextIOWrapper(opened, encoding="utf-8-sig", errors="surrogateescape", newline="") as handle:
        head = handle.readline(_MAX_NAME_BYTES)
        handle.seek(0)
        by_tab = path.suffix.lower() == ".tsv" or (head.count("\t") > head.count(","))
        delimiter = "\t" if by_tab else ";" if head.count(";") > head.count(",") else ","
        rows = csv.reader(handle, delimiter=delimiter)
        try:
            header = next(rows, [])
            found = [column] if column in header else [] if column else named_columns(PATH_COLUMNS, header)
            if not found:
                missing = f"no column {column!r}" if column else "no column that names images"
                raise UsageError(
                    f"{path} has {missing}; its columns are {', '.join(header) or '(none)'}.",
                    "The first line names the columns; choose one with --image-column.",
                )
            at = header.index(found[0])
            for number, row in enumerate(rows):
                if not row:
                    continue
                name = row[at] if at < len(row) else ""
                if name:
                    yield name, None
                else:
                    yield f"{path.name}#{number}", ImageError("missing", "the row names no image")
        except csv.Error as error:
            raise UsageError(f"{path}, line {rows.line_num}, is no CSV: {error}.", "Fix that line.") from None
