"""What is kept of a result as new shards: tar archives (WebDataset), or Parquet files of tables.

Which row is in which shard is clear before anything is read, so that an interrupted job resumes at its first
unfinished shard: ``shards/00000.json`` says what is in the first one.
"""

import io
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from quality_model.core import storage
from quality_model.core.decoding import SUFFIXES
from quality_model.core.folders import file_name, suffix
from quality_model.curate.finished import FinishedResult
from quality_model.curate.originals import Losses, Mask, Original, originals_of, with_sources
from quality_model.curate.outputs import RECORD_NAME, name_below
from quality_model.errors import CorruptError, ImageError, IncompleteError, UsageError
from quality_model.score.archives import ArchiveKind, ArchiveReader, list_others
from quality_model.score.reading import DownloadRules
from quality_model.score.repeats import is_among, repeated_hashes
from quality_model.score.tables import content_of, open_table, place_of

MARKERS_FOLDER: Final = "shards"
_CAPTIONS: Final = (".json", ".txt")
"""Of an image file, the files of the same stem that go with it."""
_ROWS_AT_ONCE: Final = 100


@dataclass(frozen=True, slots=True)
class Shard:
    """A finished shard, as its completion marker describes it; ``lost``: error codes by key."""

    file: str
    first_key: str
    rows: int
    bytes: int
    sha256: str
    lost: dict[str, str] = field(default_factory=dict)


def write_shards(
    folder: Path, result: FinishedResult, chosen: Mask, shard_size: int, download: DownloadRules | None = None
) -> Losses:
    """Write the originals of the chosen rows as shards, and complete the folder.

    A tar member has the name of the original, and beside it what has the same stem (captions). Image files of
    the result that differ in their suffixes alone have it in their stems, too: a_jpg.jpg and a_png.png. A
    shard is shorter where a stem would occur in it twice, or where the columns of tables differ.

    Raises:
        UsageError: A table names its images and does not hold them.
        StorageError: The disk is full, or cannot be written.
    """
    is_table = result.kind in ("parquet", "arrow")
    losses, made = Losses(), []
    storage.sweep(folder / MARKERS_FOLDER)
    with result.unchanged():
        writer = _TableShards(result) if is_table else _TarShards(result, download)
        for number, originals in enumerate(_cut(originals_of(result, chosen), writer, shard_size)):
            name = f"shard-{number:05d}{'.parquet' if is_table else '.tar'}"
            marker = folder / MARKERS_FOLDER / f"{number:05d}.json"
            shard = _finished_shard(folder, marker, name, originals)
            if shard is None:
                lost: dict[str, str] = {}
                with storage.staged(folder / name) as temporary:
                    writer.write(temporary, originals, lost)
                path = folder / name
                rows = len(originals) - len(lost)
                sha256 = storage.file_sha256(path)
                shard = Shard(name, originals[0].planned.key, rows, path.stat().st_size, sha256, lost)
                storage.write_json(marker, asdict(shard))
            made.append(shard)
            for key, code in shard.lost.items():
                losses.add(key, code)
    storage.seal(
        folder,
        [RECORD_NAME, *(shard.file for shard in made)],
        rows=sum(shard.rows for shard in made),
        hashed={shard.file: shard.sha256 for shard in made},
        kind="filter",
        not_written=losses.to_json(),
    )
    return losses


def _finished_shard(folder: Path, marker: Path, name: str, originals: Sequence[Original]) -> Shard | None:
    """A shard that is whole and lost nothing; None if it is to be written."""
    with suppress(IncompleteError, CorruptError, TypeError, OSError):
        shard = Shard(**storage.read_json(marker))
        is_same = (shard.file, shard.first_key, shard.rows) == (
            name,
            originals[0].planned.key,
            len(originals),
        )
        if is_same and storage.file_sha256(folder / name) == shard.sha256:
            return shard
    return None


def _cut(
    originals: Iterator[Original], writer: "_TarShards | _TableShards", shard_size: int
) -> Iterator[list[Original]]:
    """The originals of each shard."""
    shard: list[Original] = []
    for original in originals:
        if shard and (len(shard) == shard_size or not writer.fits(original)):
            yield shard
            shard = []
        writer.add(original, is_first=not shard)
        shard.append(original)
    if shard:
        yield shard


class _TarShards:
    def __init__(self, result: FinishedResult, download: DownloadRules | None) -> None:
        self._result = result
        self._download = download
        self._kind: ArchiveKind = "zip" if result.kind == "zip" else "tar"
        self._shared_stems = repeated_hashes(_stems_of(result) if result.kind == "images" else ())
        self._names: set[str] = set()
        self._stems: set[str] = set()
        self._last: tuple[str | None, str] | None = None
        self._others: tuple[Path | None, dict[str, list[tuple[str, int, int]]]] = (None, {})

    def fits(self, original: Original) -> bool:
        """Whether its name is new in the shard, and its stem, by which WebDataset knows a sample."""
        name = self._name(original)
        file = original.planned.file
        is_of_last = file is not None and (file, _stem(name)) == self._last
        return _stem(name) not in self._stems or (is_of_last and name not in self._names)

    def _name(self, original: Original) -> str:
        """The name of an original: its own one in the archive that it is from, or that of a file."""
        planned = original.planned
        if planned.file is None:
            path = _file_member(planned.key, original.format)
            if is_among(_stem(path.as_posix()), self._shared_stems):
                path = path.with_name(f"{path.stem}_{path.suffix[1:]}{path.suffix}")
            return path.as_posix()
        name = planned.key.removeprefix(f"{planned.file}#")
        if suffix(name) not in SUFFIXES:
            name = re.sub(r"#\d+$", "", name)  # of a name that the archive has twice
        return name_below(name, None, is_path=True).as_posix()

    def add(self, original: Original, *, is_first: bool) -> None:
        """Count an original to the shard."""
        if is_first:
            self._names, self._stems = set(), set()
        name = self._name(original)
        self._names.add(name)
        self._stems.add(_stem(name))
        self._last = original.planned.file, _stem(name)

    def write(self, path: Path, originals: Sequence[Original], lost: dict[str, str]) -> None:
        sources = with_sources(self._result, originals, self._download)
        written: set[str] = set()
        with (
            closing(sources),
            closing(ArchiveReader(self._kind)) as members,
            tarfile.open(path, "w", format=tarfile.PAX_FORMAT, encoding="utf-8") as tar,
        ):
            for original, source in sources:
                try:
                    data = original.bytes_of(source, self._result.limits)
                    captions = list(
                        self._captions(original, source if isinstance(source, Path) else None, members)
                    )
                except ImageError as error:
                    lost[original.planned.key] = error.reason
                    continue
                for name, content in ((self._name(original), data), *captions):
                    if name not in written:
                        info = tarfile.TarInfo(name)
                        info.size, info.mode = len(content), 0o644
                        tar.addfile(info, io.BytesIO(content))
                        written.add(name)

    def _captions(
        self, original: Original, source: Path | None, members: ArchiveReader
    ) -> Iterator[tuple[str, bytes]]:
        """Names and bytes of what goes with an image."""
        name = self._name(original)
        if source is not None:
            for ending in _CAPTIONS:
                if (path := source.with_suffix(ending)).is_file():
                    yield str(Path(name).with_suffix(ending).as_posix()), path.read_bytes()
        if original.planned.file is None:
            return
        archive = self._result.base / file_name(original.planned.file)
        if self._others[0] != archive:
            by_stem = defaultdict(list)
            for other, at, num_bytes in list_others(archive, self._kind):
                by_stem[_stem(other)].append((other, at, num_bytes))
            self._others = archive, dict(by_stem)
        for other, at, num_bytes in self._others[1].get(_stem(name), ()):
            if num_bytes > self._result.limits.max_bytes:
                raise ImageError("too_many_bytes", f"{other} has {num_bytes} bytes")
            content = members.read(archive, at, num_bytes)
            if isinstance(content, ImageError):
                raise content
            yield other, content


class _TableShards:
    def __init__(self, result: FinishedResult) -> None:
        self._result = result
        self._schema: pa.Schema | None = None
        self._schemas: dict[str, pa.Schema | None] = {}

    def fits(self, original: Original) -> bool:
        """Whether its file has the columns of the shard; one that cannot be read fits any."""
        schema = self._schema_of(original)
        return schema is None or self._schema is None or schema == self._schema

    def add(self, original: Original, *, is_first: bool) -> None:
        """Count an original to the shard."""
        schema = self._schema_of(original)
        self._schema = schema if is_first or self._schema is None else self._schema

    def _schema_of(self, original: Original) -> pa.Schema | None:
        name = original.planned.file or ""
        if name not in self._schemas:
            self._schemas[name] = None
            with suppress(CorruptError), open_table(self._path(name), name) as file:
                self._schemas[name] = file.schema
        return self._schemas[name]

    def write(self, path: Path, originals: Sequence[Original], lost: dict[str, str]) -> None:
        schema = next(
            (schema for schema in map(self._schema_of, originals) if schema is not None), pa.schema([])
        )
        by_file: dict[str, dict[int, Original]] = defaultdict(dict)
        for original in originals:
            by_file[original.planned.file or ""][original.planned.at] = original
            lost[original.planned.key] = "missing"  # until its row is found
        with pq.ParquetWriter(path, schema) as writer:
            for name, by_row in by_file.items():
                with suppress(CorruptError):
                    for rows in self._rows(name, by_row, lost):
                        writer.write_table(rows)

    def _rows(self, name: str, by_row: dict[int, Original], lost: dict[str, str]) -> Iterator[pa.Table]:
        """The rows of a file that are what was scored."""
        first, last = min(by_row), max(by_row)
        with open_table(self._path(name), name) as file:
            at = 0
            for group, num_rows in enumerate(file.rows_of_groups):
                start, at = at, at + num_rows
                if at <= first or start > last:
                    continue
                for batch in file.batches(group, file.schema.names, _ROWS_AT_ONCE):
                    kept = [
                        row
                        for row in range(len(batch))
                        if self._is_kept(batch, row, by_row.get(start + row), lost)
                    ]
                    start += len(batch)
                    if kept:
                        yield pa.Table.from_batches([batch]).take(kept).cast(file.schema)

    def _is_kept(
        self, batch: pa.RecordBatch, row: int, original: Original | None, lost: dict[str, str]
    ) -> bool:
        if original is None:
            return False
        content = None
        for column in original.planned.columns:
            if content is None and (place := place_of(batch.schema.names, column)) is not None:
                content = content_of(batch.column(place[0])[row], place[1])
        if isinstance(content, str):
            raise UsageError(
                f"The rows of {original.planned.file} name images and do not hold them.",
                "Copy the images with --copy, or write the rows that are kept with --to kept.parquet.",
            )
        if content is not None and original.is_same(content):
            del lost[original.planned.key]
            return True
        lost[original.planned.key] = "changed"
        return False

    def _path(self, name: str) -> Path:
        return self._result.base / file_name(name)


def _file_member(key: str, image_format: str | None) -> PurePath:
    """The name of an image file in a tar archive: its key, where all dots but that of the suffix are ``_``.

    To WebDataset a.1.png and a.2.png are one sample.
    """
    path = name_below(key, image_format, is_path=True)
    return path.with_name(path.stem.replace(".", "_") + path.suffix)


def _stems_of(result: FinishedResult) -> Iterator[str]:
    """The stems of all image files of a result."""
    for batch in result.batches(["key", "format"]):
        for row in batch.to_pylist():
            yield _stem(_file_member(row["key"], row["format"]).as_posix())


def _stem(name: str) -> str:
    """What WebDataset calls the key of a member: its name up to the first dot of the last part."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.split(".", 1)[0]
