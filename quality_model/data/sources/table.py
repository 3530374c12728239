"""The images table: Parquet with the encoded bytes and where each image came from."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from quality_model.core import storage
from quality_model.core.row_groups import RowGroupWriter
from quality_model.errors import CorruptError
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
        pa.field("reason", pa.string()),
    ]
)

_ROW_GROUP_ROWS: Final = 64
_ROW_GROUP_BYTES: Final = 32 * 2**20
_CACHED_ROW_GROUPS: Final = 2


class ImagesWriter(RowGroupWriter):
    """Writes images in small row groups."""

    def __init__(self, path: Path) -> None:
        # The bytes are compressed images: neither a codec nor a dictionary makes them smaller.
        super().__init__(
            path,
            SCHEMA,
            max_rows=_ROW_GROUP_ROWS,
            max_bytes=_ROW_GROUP_BYTES,
            compression={name: "none" if name == "data" else "zstd" for name in SCHEMA.names},
            use_dictionary=["group", "reason"],
            write_statistics=["width", "height"],
        )

    def write(self, image: CleanImage) -> None:
        row = {name: getattr(image, name) for name in SCHEMA.names}
        self.add(row, num_bytes=len(image.data))


class ImagesTable:
    """A complete images table, read in order, one row group in memory at a time.

    A context: its file is closed at the end.
    """

    def __init__(self, folder: Path, marker: dict[str, Any]) -> None:
        self.folder = folder
        self.marker = marker
        self._file: pq.ParquetFile | None = None

    @classmethod
    def open(cls, folder: Path, *, verify: bool = False) -> Self:
        """Open the table in ``folder``.

        Args:
            folder: Output of `download`.
            verify: Hash the file first; without it only its length is compared.

        Raises:
            IncompleteError: No marker vouches for the table.
            CorruptError: It is not what the marker vouches for, or not an images table.
        """
        table = cls(folder, storage.require_sealed(folder, verify=verify))
        table._open()
        return table

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; it is opened again when it is read."""
        if self._file is not None:
            self._file.close()
        self._file = None

    @property
    def rows(self) -> int:
        return int(self.marker["rows"])

    def __len__(self) -> int:
        return self.rows

    def frame(self, columns: Sequence[str] | None = None) -> "pd.DataFrame":
        """Columns as a pandas frame; by default all but the bytes."""
        names = [name for name in SCHEMA.names if name != "data"] if columns is None else list(columns)
        frame: pd.DataFrame = self._read(lambda file: file.read(columns=names)).to_pandas()
        return frame

    def iter_images(self, *, readable_only: bool = False) -> Iterator[CleanImage]:
        """Rows in order; memory holds one row group at a time."""
        for number in range(self._open().num_row_groups):
            group = self._row_group(number)
            for row in range(group.num_rows):
                image = _image(group, row)
                if image.reason is None or not readable_only:
                    yield image

    def _open(self) -> pq.ParquetFile:
        if self._file is None:
            try:
                file = pq.ParquetFile(self.folder / TABLE_NAME)
            except (OSError, pa.ArrowException) as error:
                raise self._corrupt(str(error)) from None
            problem = None
            if not file.schema_arrow.equals(SCHEMA):
                problem = f"its columns are {', '.join(file.schema_arrow.names)}"
            elif file.metadata.num_rows != self.rows:
                problem = f"it has {file.metadata.num_rows} rows, the marker says {self.rows}"
            if problem is not None:
                file.close()
                raise self._corrupt(problem)
            self._file = file
        return self._file

    def _row_group(self, number: int) -> pa.Table:
        return self._read(lambda file: file.read_row_group(number))

    def _read(self, read: Callable[[pq.ParquetFile], pa.Table]) -> pa.Table:
        try:
            return read(self._open())
        except (OSError, pa.ArrowException) as error:
            raise self._corrupt(str(error)) from None

    def _corrupt(self, problem: str) -> CorruptError:
        return CorruptError(
            f"{self.folder / TABLE_NAME} is not an images table: {problem}.", "Run the download again."
        )


def _image(group: pa.Table, row: int) -> CleanImage:
    return CleanImage(**group.slice(row, 1).to_pylist()[0])
