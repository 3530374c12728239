"""The pictures table: Parquet with the encoded bytes and where each picture came from."""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from quality_model import storage
from quality_model.errors import CorruptError
from quality_model.records import CleanPicture
from quality_model.row_groups import RowGroupWriter

if TYPE_CHECKING:
    import pandas as pd

TABLE_NAME: Final = "pictures.parquet"

SCHEMA: Final = pa.schema(
    [
        pa.field("picture_id", pa.string(), nullable=False),
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


class PicturesWriter(RowGroupWriter):
    """Writes pictures in small row groups."""

    def __init__(self, path: Path) -> None:
        # The bytes are compressed pictures: neither a codec nor a dictionary makes them smaller.
        super().__init__(
            path,
            SCHEMA,
            max_rows=_ROW_GROUP_ROWS,
            max_bytes=_ROW_GROUP_BYTES,
            compression={name: "none" if name == "data" else "zstd" for name in SCHEMA.names},
            use_dictionary=["group", "reason"],
            write_statistics=["width", "height"],
        )

    def write(self, picture: CleanPicture) -> None:
        row = {name: getattr(picture, name) for name in SCHEMA.names}
        self.add(row, num_bytes=len(picture.data))


class PicturesTable:
    """A complete pictures table.

    Rows have random access; row groups are read as they are needed and the last few kept.
    An instance can be sent to another process, which opens the file for itself.
    """

    def __init__(self, folder: Path, marker: dict[str, Any]) -> None:
        self.folder = folder
        self.marker = marker
        self._file: pq.ParquetFile | None = None
        self._starts: list[int] = []
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()

    @classmethod
    def open(cls, folder: Path, *, verify: bool = False) -> Self:
        """Open the table in ``folder``.

        Args:
            folder: Output of `download`.
            verify: Hash the file first; without it only its length is compared.

        Raises:
            IncompleteError: No marker vouches for the table.
            CorruptError: It is not what the marker vouches for, or not a pictures table.
        """
        table = cls(folder, storage.require_sealed(folder, verify=verify))
        table._open()
        return table

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

    def readable_indices(self) -> list[int]:
        """Indices of the rows without a reason, ascending."""
        reasons = self._read(lambda file: file.read(columns=["reason"])).column("reason").to_pylist()
        return [index for index, reason in enumerate(reasons) if reason is None]

    def iter_pictures(self, *, readable_only: bool = False) -> Iterator[CleanPicture]:
        """Rows in order; memory holds one row group at a time."""
        for number in range(self._open().num_row_groups):
            group = self._row_group(number)
            for row in range(group.num_rows):
                picture = _picture(group, row)
                if picture.reason is None or not readable_only:
                    yield picture

    def read(self, index: int) -> CleanPicture:
        """The row at ``index``, 0 to ``rows`` - 1.

        Raises:
            IndexError: No such row.
            CorruptError: The row group cannot be read.
        """
        if not 0 <= index < self.rows:
            raise IndexError(f"row {index} of {self.rows}")
        self._open()
        number = bisect_right(self._starts, index) - 1
        if number not in self._cache:
            self._cache[number] = self._row_group(number)
            while len(self._cache) > _CACHED_ROW_GROUPS:
                self._cache.popitem(last=False)
        self._cache.move_to_end(number)
        return _picture(self._cache[number], index - self._starts[number])

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "marker": self.marker}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def _open(self) -> pq.ParquetFile:
        if self._file is None:
            try:
                file = pq.ParquetFile(self.folder / TABLE_NAME)
            except (OSError, pa.ArrowException) as error:
                raise self._corrupt(str(error)) from None
            if not file.schema_arrow.equals(SCHEMA):
                raise self._corrupt(f"its columns are {', '.join(file.schema_arrow.names)}")
            if file.metadata.num_rows != self.rows:
                raise self._corrupt(f"it has {file.metadata.num_rows} rows, the marker says {self.rows}")
            groups = range(file.metadata.num_row_groups)
            self._starts = [0, *accumulate(file.metadata.row_group(number).num_rows for number in groups)]
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
            f"{self.folder / TABLE_NAME} is not a pictures table: {problem}.", "Run the download again."
        )


def _picture(group: pa.Table, row: int) -> CleanPicture:
    return CleanPicture(**group.slice(row, 1).to_pylist()[0])
