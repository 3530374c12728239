"""What is expected of the scores of a batch job."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quality_model import storage
from quality_model.errors import CorruptError
from quality_model.records import HEADS, OVERALL_WEIGHTS, Head
from quality_model.validation.expectations import (
    Expectation,
    Table,
    among,
    between,
    exactly_rows,
    matches,
    not_null,
    null,
    unique,
)
from quality_model.validation.report import validate

if TYPE_CHECKING:
    import pandas as pd

ROWS_AT_ONCE: Final = 10_000
"""Rows that are validated together, where a shard has no more."""

_ROUNDING: Final = 1e-5
_MODEL_COLUMNS: Final = {"model_name": "name", "model_version": "version", "run_id": "run_id"}
_COLUMNS: Final = (
    "input", "key", "sha256", "width", "height", *HEADS, "overall", "flags", *_MODEL_COLUMNS, "reason",
)  # fmt: skip


def validate_scores(scores: Path, report: Path) -> dict[str, Any]:
    """Validate the result of a scoring job in the folder ``scores`` (see `report.validate`).

    Memory holds `ROWS_AT_ONCE` rows, whatever the size of the job, or a shard that has more. So
    it is for the numbers of the inputs, which count on through all shards, that no input has two
    rows; two rows with one key are noticed where they are read together. That no key occurs
    twice in the job is what its plan made sure of, and `scoring.score` holds every key against it.

    Raises:
        ValidationError: Names each failed expectation, its column and examples.
        IncompleteError: The job is not complete.
        CorruptError: A shard cannot be read, or has other columns.
    """
    marker = storage.require_sealed(scores)
    shards = [entry["name"] for entry in marker["files"] if entry["name"].endswith(".parquet")]
    thresholds = marker["model"]["thresholds"]
    frames = (_with_derived(rows, first, thresholds) for first, rows in _batches(scores, shards))
    table = Table("scores", frames, ("key",), _of_scores(marker))
    return validate("table of scores", [table], report)


def _of_scores(marker: dict[str, Any]) -> list[Expectation]:
    return [
        exactly_rows(marker["inputs"], "There is a row for every input."),
        not_null("key", "Every row says which input it is about."),
        unique("key", "No input has two rows."),
        not_null("input", "Every row has its input's number."),
        between("input_offset", 0, 0, "Rows are numbered by their inputs: no input has two rows or none."),
        among("holds", ["scores", "reason"], "A row holds either all scores or the reason for having none."),
        *[between(name, 0.0, 1.0, "The score lies in [0, 1].") for name in (*HEADS, "overall")],
        between("overall_error", 0.0, _ROUNDING, "overall = 1 - the weighted sum of the four scores."),
        among(
            "flags_are",
            ["right", "none"],
            "The flags are the heads whose score is above the model's threshold.",
        ),
        matches("sha256", "^[0-9a-f]{64}$", "The hash is a SHA-256."),
        between("width", 1, None, "The width is at least one pixel."),
        between("height", 1, None, "The height is at least one pixel."),
        *[
            expectation
            for column, fact in _MODEL_COLUMNS.items()
            for expectation in _constant(column, marker["model"][fact])
        ],
    ]


def _constant(column: str, value: str | None) -> list[Expectation]:
    meaning = "All rows name the one model that scored them."
    if value is None:
        return [null(column, meaning)]
    return [not_null(column, meaning), among(column, [value], meaning)]


def _with_derived(rows: "pd.DataFrame", first: int, thresholds: dict[Head, float] | None) -> "pd.DataFrame":
    """The rows from number ``first`` of the job with the columns that expectations look at."""
    import numpy as np

    values = rows[[*HEADS, "overall", "flags"]].notna()
    described = rows[["sha256", "width", "height"]].notna().all(axis=1)
    has_reason = rows["reason"].notna()
    complete = values.all(axis=1) & described & ~has_reason
    only_reason = ~values.any(axis=1) & has_reason
    flags = rows["flags"].map(", ".join, na_action="ignore")
    weighted = sum(OVERALL_WEIGHTS[head] * rows[head].astype(np.float64) for head in HEADS)
    return rows.assign(
        input_offset=rows["input"] - np.arange(first, first + len(rows)),
        holds=np.select([complete, only_reason], ["scores", "reason"], "neither or both"),
        overall_error=(rows["overall"].astype(np.float64) - (1.0 - weighted)).abs(),
        flags=flags,
        flags_are=np.select([flags.isna(), flags == _due(rows, thresholds)], ["none", "right"], "wrong"),
    )


def _due(rows: "pd.DataFrame", thresholds: dict[Head, float] | None) -> Any:
    """The flags that each row's scores and the thresholds ask for, as text."""
    import numpy as np

    due = np.full(len(rows), "", dtype=object)
    for head in HEADS:
        if thresholds and head in thresholds:
            above = (rows[head].astype(np.float64) > thresholds[head]).to_numpy()
            due[above] += np.where(due[above] == "", head, f", {head}")
    return due


def _batches(scores: Path, shards: list[str]) -> "Iterator[tuple[int, pd.DataFrame]]":
    """The rows of some shards at a time, after the number of rows before them; one batch at least."""
    import pandas as pd

    first = 0
    frames: list[pd.DataFrame] = []
    for name in shards:
        frames.append(_read(scores / name))
        if sum(map(len, frames)) >= ROWS_AT_ONCE:
            rows = pd.concat(frames, ignore_index=True)
            frames.clear()
            yield first, rows
            first += len(rows)
    if frames or not first:
        yield first, pd.concat(frames or [pd.DataFrame(columns=list(_COLUMNS))], ignore_index=True)


def _read(shard: Path) -> "pd.DataFrame":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(shard) as file:
            rows: pd.DataFrame = file.read(columns=list(_COLUMNS)).to_pandas()
        missing = [column for column in _COLUMNS if column not in rows.columns]
        problem = f"it has no column {', '.join(missing)}" if missing else ""
    except (pa.ArrowException, OSError) as error:
        problem = str(error).splitlines()[0]
    if problem:
        raise CorruptError(f"{shard} is not a shard of scores: {problem}.", "Score again.")
    return rows
