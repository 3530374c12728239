"""What is expected of the scores of a batch job."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quality_model.data.checks.expectations import (
    Expectation,
    Outcome,
    Table,
    among,
    between,
    exactly_rows,
    matches,
    not_null,
    null,
    unique,
    validate,
)
from quality_model.errors import CorruptError, IncompleteError
from quality_model.records import FLAG_COLUMNS, HEADS, OVERALL_WEIGHTS, Head

if TYPE_CHECKING:
    import pandas as pd

ROWS_AT_ONCE: Final = 10_000
"""Rows that are validated together, where a part has no more."""

_ROUNDING: Final = 1e-5
_MODEL_COLUMNS: Final = {
    "model_name": "name",
    "model_version": "version",
    "model_run_id": "run_id",
    "model_scale_version": "scale_version",
}
_SCORES: Final = (*HEADS, "overall", "worst_head", "worst_score")
_DESCRIPTION: Final = ("sha256", "size_bytes", "width", "height", "format")
_COLUMNS: Final = (
    "key", *_DESCRIPTION, *_SCORES, *FLAG_COLUMNS.values(), *_MODEL_COLUMNS, "schema_version", "error_code",
)  # fmt: skip


def validate_scores(scores: Path, job: dict[str, Any], report: Path) -> list[Outcome]:
    """Validate the result of a scoring job in the folder ``scores`` (see `report.validate`).

    ``job`` is the content of its completion marker, written or about to be.

    Memory holds `ROWS_AT_ONCE` rows, whatever the size of the job, or a part that has more. Two
    rows with one key are noticed where they are read together. That no key occurs twice in the
    job is what its plan made sure of, and `scoring.score` compares every key with it.

    Raises:
        ValidationError: Names each failed expectation, its column and examples.
        IncompleteError: A part is missing.
        CorruptError: A part cannot be read, or has other columns.
    """
    import pandas as pd

    frames = (
        _with_derived(rows, job["thresholds"] or {})
        for rows in _batches(scores, [part["file"] for part in job["parts"]])
    )
    table = Table("scores", pd.concat(frames, ignore_index=True), ("key",), _of_scores(job))
    return validate("table of scores", [table], report)


def _of_scores(job: dict[str, Any]) -> list[Expectation]:
    return [
        exactly_rows(job["inputs"]["num_inputs"], "There is a row for every input."),
        not_null("key", "Every row says which input it is about."),
        unique("key", "No input has two rows."),
        among("holds", ["scores", "error"], "A row holds either all scores or an error code."),
        *[between(name, 0.0, 1.0, "The score is in [0, 1].") for name in (*HEADS, "overall", "worst_score")],
        between("overall_error", 0.0, _ROUNDING, "overall = 1 - the weighted sum of the four scores."),
        among("worst_is", ["right", "none"], "The worst head is the one with the highest score."),
        among("flags_are", ["right", "none"], "What is flagged are scores above the model's threshold."),
        matches("sha256", "^[0-9a-f]{64}$", "The hash is a SHA-256."),
        between("size_bytes", 1, None, "The image has at least one byte."),
        between("width", 1, None, "The width is at least one pixel."),
        between("height", 1, None, "The height is at least one pixel."),
        *[
            expectation
            for column, fact in _MODEL_COLUMNS.items()
            for expectation in _constant(column, job["model"][fact])
        ],
        *_constant("schema_version", job["schema_version"]),
    ]


def _constant(column: str, value: Any) -> list[Expectation]:
    meaning = "All rows have the value of the job."
    if value is None:
        return [null(column, meaning)]
    return [not_null(column, meaning), among(column, [value], meaning)]


def _with_derived(rows: "pd.DataFrame", thresholds: dict[Head, float]) -> "pd.DataFrame":
    """The rows with the columns that expectations look at."""
    import numpy as np

    has_error = rows["error_code"].notna()
    complete = rows[[*_SCORES, *_DESCRIPTION]].notna().all(axis=1) & ~has_error
    only_error = rows[[*_SCORES, *FLAG_COLUMNS.values()]].isna().all(axis=1) & has_error
    severities = rows[list(HEADS)].astype(np.float64).to_numpy()
    weighted = severities @ np.array([OVERALL_WEIGHTS[head] for head in HEADS])
    worst_right = _is_worst(rows, severities)
    flags_right = np.ones(len(rows), dtype=bool)
    for number, (head, column) in enumerate(FLAG_COLUMNS.items()):
        flags = rows[column].to_numpy(dtype=object)
        flags_right &= (
            flags == (severities[:, number] > thresholds[head]) if head in thresholds else rows[column].isna()
        )
    return rows.assign(
        holds=np.select([complete, only_error], ["scores", "error"], "neither or both"),
        overall_error=(rows["overall"].astype(np.float64) - (1.0 - weighted)).abs(),
        worst_is=np.select([has_error, worst_right], ["none", "right"], "wrong"),
        flags_are=np.select([has_error, flags_right], ["none", "right"], "wrong"),
    )


def _is_worst(rows: "pd.DataFrame", severities: Any) -> Any:
    """Whether each row's worst_head and worst_score name its highest score."""
    import numpy as np

    numbers = rows["worst_head"].map({head: number for number, head in enumerate(HEADS)})
    named = severities[np.arange(len(rows)), numbers.fillna(0).astype(int)]
    highest = severities.max(axis=1)
    return numbers.notna() & (named == highest) & (rows["worst_score"].astype(np.float64) == highest)


def _batches(scores: Path, files: list[str]) -> "Iterator[pd.DataFrame]":
    """The rows of some parts at a time; one batch at least."""
    import pandas as pd

    given = False
    frames: list[pd.DataFrame] = []
    for name in files:
        frames.append(_read(scores / name))
        if sum(map(len, frames)) >= ROWS_AT_ONCE:
            rows = pd.concat(frames, ignore_index=True)
            frames.clear()
            yield rows
            given = True
    if frames or not given:
        yield pd.concat(frames or [pd.DataFrame(columns=list(_COLUMNS))], ignore_index=True)


def _read(part: Path) -> "pd.DataFrame":
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not part.exists():
        raise IncompleteError(f"{part} is missing.", "Run the same command again.")
    try:
        with pq.ParquetFile(part) as file:
            rows: pd.DataFrame = file.read(columns=list(_COLUMNS)).to_pandas()
        missing = [column for column in _COLUMNS if column not in rows.columns]
        problem = f"it has no column {', '.join(missing)}" if missing else ""
    except (pa.ArrowException, OSError) as error:
        problem = str(error).splitlines()[0]
    if problem:
        raise CorruptError(f"{part} is not a part of scores: {problem}.", "Score again.")
    return rows
