"""What a filter drops, as a table: of each input why."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from quality_model.core import storage
from quality_model.curate.finished import FinishedResult
from quality_model.curate.originals import Rows
from quality_model.curate.rules import Verdict
from quality_model.errors import UsageError
from quality_model.records import HEADS

DROPPED_SCHEMA: Final = pa.schema(
    [
        ("key", pa.string()),
        ("rules", pa.string()),
        ("worst_head", pa.string()),
        ("worst_score", pa.float32()),
        *[(head, pa.float32()) for head in HEADS],
        ("error_code", pa.string()),
        ("duplicate_of", pa.string()),
        ("distance", pa.uint8()),
    ]
)
"""Columns of each dropped input (docs/filter.md)."""

_STORED: Final = ("key", "worst_head", "worst_score", *HEADS, "error_code")


def require_dropped_name(path: Path) -> None:
    """Refuse a name that `write_dropped` would not know how to write.

    Raises:
        UsageError: It ends in neither .csv nor .parquet.
    """
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise UsageError(f"{path} is neither .csv nor .parquet.", "Name a file that ends in one of them.")


def write_dropped(path: Path, result: FinishedResult, rows: Rows, verdict: Verdict) -> None:
    """Write a row of `DROPPED_SCHEMA` for each input that is not kept, in the order of the plan.

    Raises:
        UsageError: As of `require_dropped_name`.
        StorageError: It cannot be written, or the result was updated meanwhile.
    """
    require_dropped_name(path)
    is_csv = path.suffix.lower() == ".csv"
    with storage.staged(path) as temporary, result.unchanged():
        if is_csv:
            with pyarrow.csv.CSVWriter(temporary, DROPPED_SCHEMA) as csv_writer:
                for batch in _dropped(rows, verdict):
                    csv_writer.write_batch(batch)
        else:
            with pq.ParquetWriter(temporary, DROPPED_SCHEMA, compression="zstd") as writer:
                for batch in _dropped(rows, verdict):
                    writer.write_batch(batch)


def _dropped(rows: Rows, verdict: Verdict) -> Iterator[pa.RecordBatch]:
    best = verdict.copies.best
    of = np.unique(best[best >= 0])
    keys = pa.array(rows.keys_of(of), pa.string())
    first = 0
    for batch in rows.batches(_STORED):
        numbers = first + np.flatnonzero(~verdict.kept[first : first + len(batch)])
        stored = batch.take(pa.array(numbers - first))
        is_copy = best[numbers] >= 0
        places = pa.array(np.searchsorted(of, best[numbers]), mask=~is_copy)
        columns = {
            **{name: stored[name] for name in _STORED},
            "rules": _titles(verdict, numbers),
            "duplicate_of": keys.take(places),
            "distance": pa.array(verdict.copies.distance[numbers], mask=~is_copy),
        }
        yield pa.record_batch(
            [columns[each.name].cast(each.type) for each in DROPPED_SCHEMA], schema=DROPPED_SCHEMA
        )
        first += len(batch)


def _titles(verdict: Verdict, numbers: npt.NDArray[np.int64]) -> pa.Array:
    """The titles of the rules that drop these rows; empty of inputs with an error code."""
    if not verdict.masks:
        return pa.array([""] * len(numbers), pa.string())
    which = np.stack([mask[numbers] for mask in verdict.masks], axis=1)
    combinations, place = np.unique(which, axis=0, return_inverse=True)
    titles = [count.title for count in verdict.counts]
    texts = ["; ".join(np.array(titles, object)[one]) for one in combinations]
    return pa.array(texts, pa.string()).take(pa.array(place.ravel()))
