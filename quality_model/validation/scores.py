"""What is expected of the scores of a batch job."""

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

_ROUNDING: Final = 1e-5
_MODEL_COLUMNS: Final = {"model_name": "name", "model_version": "version", "run_id": "run_id"}
_COLUMNS: Final = (
    "input", "key", "sha256", "width", "height", *HEADS, "overall", "flags", *_MODEL_COLUMNS, "reason",
)  # fmt: skip


def validate_scores(scores: Path, report: Path) -> dict[str, Any]:
    """Validate the result of a scoring job in the folder ``scores`` (see `report.validate`).

    Raises:
        ValidationError: Names each failed expectation, its column and examples.
        IncompleteError: The job is not complete.
        CorruptError: A shard cannot be read, or has other columns.
    """
    marker = storage.require_sealed(scores)
    shards = [entry["name"] for entry in marker["files"] if entry["name"].endswith(".parquet")]
    rows = _read(scores, shards)
    table = Table("scores", _with_derived(rows, marker["model"]["thresholds"]), ("key",), _of_scores(marker))
    return validate("table of scores", [table], report)


def _of_scores(marker: dict[str, Any]) -> list[Expectation]:
    return [
        exactly_rows(marker["inputs"], "There is a row for every input."),
        not_null("key", "Every row says which input it is about."),
        unique("key", "No input has two rows."),
        unique("input", "No input has two rows."),
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


def _with_derived(rows: "pd.DataFrame", thresholds: dict[Head, float] | None) -> "pd.DataFrame":
    import numpy as np

    values = rows[[*HEADS, "overall", "flags"]].notna()
    described = rows[["sha256", "width", "height"]].notna().all(axis=1)
    has_reason = rows["reason"].notna()
    complete = values.all(axis=1) & described & ~has_reason
    only_reason = ~values.any(axis=1) & has_reason
    flags = rows["flags"].map(", ".join, na_action="ignore")
    weighted = sum(OVERALL_WEIGHTS[head] * rows[head].astype(np.float64) for head in HEADS)
    return rows.assign(
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


def _read(scores: Path, shards: list[str]) -> "pd.DataFrame":
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    frames = []
    for name in shards:
        try:
            with pq.ParquetFile(scores / name) as file:
                frames.append(file.read(columns=list(_COLUMNS)).to_pandas())
            missing = [column for column in _COLUMNS if column not in frames[-1].columns]
            problem = f"it has no column {', '.join(missing)}" if missing else ""
        except (pa.ArrowException, OSError) as error:
            problem = str(error).splitlines()[0]
        if problem:
            raise CorruptError(f"{scores / name} is not a shard of scores: {problem}.", "Score again.")
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(_COLUMNS))
