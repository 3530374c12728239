"""The images table: Parquet with the encoded bytes, and where each image came from."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from quality_model.core import decoding, storage
from quality_model.core.processes import Failure, WorkerProcesses
from quality_model.errors import CorruptError, ImageError
from quality_model.params import LimitsParams
from quality_model.records import CleanImage

if TYPE_CHECKING:
    import pandas as pd

TABLE_NAME: Final = "images.parquet"

SCHEMA: Final = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("origin", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("data", pa.binary(), nullable=False),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("error_code", pa.string()),
    ]
)

_ROW_GROUP_ROWS: Final = 64
_ROW_GROUP_BYTES: Final = 32 * 2**20


def fetch_image(
    image_id: str, group: str, origin: str, read: Callable[[], bytes], limits: LimitsParams
) -> CleanImage:
    """Fetch an image's bytes, without decoding them.

    Args:
        image_id: Unique in its source.
        group: What the image was cut from.
        origin: Where the bytes come from.
        read: Returns the encoded bytes; may raise ImageError.
        limits: What an image may be.

    Returns:
        The row, without width and height. An image that cannot be read has an error code, and
        its bytes unless they are too many. Without bytes, ``sha256`` is empty.
    """
    data, error_code = b"", None
    try:
        data = read()
        decoding.check_bytes(data, limits)
    except ImageError as error:
        error_code = error.reason
        if error.reason == "too_many_bytes":
            data = b""
    sha256 = hashlib.sha256(data).hexdigest() if data else ""
    return CleanImage(image_id, group, origin, sha256, data, None, None, error_code)


def decoded(images: Iterator[CleanImage], limits: LimitsParams) -> Iterator[CleanImage]:
    """Decode fetched images once each, to learn their size and whether they decode.

    A foreign image may crash or hang a decoder: it runs in a worker process, with a time limit.
    """
    waiting: deque[CleanImage] = deque()

    def readable() -> Iterator[bytes]:
        for image in images:
            waiting.append(image)
            if image.error_code is None:
                yield image.data

    decode = partial(_size_or_code, limits=limits)
    worker = WorkerProcesses(count=1, window=1, timeout_s=limits.max_seconds)
    with closing(worker.run(decode, readable())) as outcomes:
        for outcome in outcomes:
            while waiting[0].error_code is not None:
                yield waiting.popleft()
            image = waiting.popleft()
            if isinstance(outcome, tuple):
                yield replace(image, width=outcome[0], height=outcome[1])
            else:
                yield replace(image, error_code=outcome.kind if isinstance(outcome, Failure) else outcome)
    yield from waiting


def _size_or_code(data: bytes, *, limits: LimitsParams) -> tuple[int, int] | str:
    """Width and height, or the error code of an image that does not decode."""
    try:
        height, width = decoding.decode(data, limits).shape[:2]
    except ImageError as error:
        return error.reason
    return width, height


class ImagesWriter:
    """Writes images in small row groups, which do not depend on how the images arrive.

    A context: what is left is written at its end, unless an error ends it.
    """

    def __init__(self, path: Path) -> None:
        # The bytes are compressed images: neither a codec nor a dictionary makes them smaller.
        self._writer = pq.ParquetWriter(
            path,
            SCHEMA,
            compression={name: "none" if name == "data" else "zstd" for name in SCHEMA.names},
            use_dictionary=["group", "error_code"],
            write_statistics=["width", "height"],
        )
        self._rows: list[dict[str, Any]] = []
        self._num_bytes = 0

    def write(self, image: CleanImage) -> None:
        self._rows.append({name: getattr(image, name) for name in SCHEMA.names})
        self._num_bytes += len(image.data)
        if len(self._rows) >= _ROW_GROUP_ROWS or self._num_bytes >= _ROW_GROUP_BYTES:
            self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=SCHEMA))
        self._rows, self._num_bytes = [], 0


class ImagesTable:
    """A complete images table, read in order, one row group in memory at a time.

    A context: its file is open from the start to the end.

    Attributes:
        num_rows: Rows, unreadable images included.
        sha256: Hash of the table.
        source: Name of the source of the images.
    """

    def __init__(self, folder: Path) -> None:
        """Open the table in ``folder``, the output of `download`.

        Raises:
            IncompleteError: The folder has no completion marker.
            CorruptError: The file does not match the completion marker, or is not an images table.
        """
        marker = storage.require_sealed(folder)
        self._path = folder / TABLE_NAME
        self.num_rows = int(marker["rows"])
        self.sha256 = str(marker["sha256"])
        self.source = str(marker.get("source", ""))
        try:
            self._file = pq.ParquetFile(self._path)
        except (OSError, pa.ArrowException) as error:
            raise self._corrupt(str(error)) from None
        problem = None
        if not self._file.schema_arrow.equals(SCHEMA):
            problem = f"its columns are {', '.join(self._file.schema_arrow.names)}"
        elif self._file.metadata.num_rows != self.num_rows:
            problem = (
                f"it has {self._file.metadata.num_rows} rows, the completion marker says {self.num_rows}"
            )
        if problem is not None:
            self._file.close()
            raise self._corrupt(problem)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def frame(self, columns: Sequence[str] | None = None) -> "pd.DataFrame":
        """Columns as a pandas frame; by default all but the bytes."""
        names = [name for name in SCHEMA.names if name != "data"] if columns is None else list(columns)
        frame: pd.DataFrame = self._read(lambda: self._file.read(columns=names)).to_pandas()
        return frame

    @property
    def row_group_sizes(self) -> list[int]:
        """Rows of each row group."""
        metadata = self._file.metadata
        return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]

    def row_group(self, number: int) -> list[CleanImage]:
        """The rows of one row group."""
        return [
            CleanImage(**row) for row in self._read(lambda: self._file.read_row_group(number)).to_pylist()
        ]

    def images(self) -> Iterator[CleanImage]:
        """Rows in order; memory contains one row group at a time."""
        for number in range(self._file.num_row_groups):
            yield from self.row_group(number)

    def _read(self, read: Callable[[], Any]) -> pa.Table:
        try:
            return read()
        except (OSError, pa.ArrowException) as error:
            raise self._corrupt(str(error)) from None

    def _corrupt(self, problem: str) -> CorruptError:
        return CorruptError(f"{self._path} is not an images table: {problem}.", "Run the download again.")
