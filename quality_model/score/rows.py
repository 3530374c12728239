"""The rows of a scoring result: which columns there are, and how a part of them is made and read back."""

import io
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from quality_model.core.jobs import DATA_FOLDER
from quality_model.core.processes import FailureKind
from quality_model.errors import CorruptError, StorageError
from quality_model.params import EngineName
from quality_model.records import (
    FLAG_COLUMNS,
    HEADS,
    OVERALL_WEIGHTS,
    SCALE_VERSION,
    SCHEMA_VERSION,
    Head,
    ModelRef,
)
from quality_model.score.reading import Reading

if TYPE_CHECKING:
    from quality_model.core.inference import MultiHeadQualityInference

SCORE_COLUMNS: Final = (*HEADS, "overall", "worst_score")
METADATA_PREFIX: Final = "quality_model."
NOT_FINAL: Final[frozenset[str]] = frozenset(get_args(FailureKind))
"""Error codes that depend on the machine at that time: such inputs are read again."""

SCHEMA: Final = pa.schema(
    [
        ("key", pa.string()),
        ("sha256", pa.string()),
        ("size_bytes", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("format", pa.string()),
        *[(name, pa.float32()) for name in (*HEADS, "overall")],
        ("worst_head", pa.string()),
        ("worst_score", pa.float32()),
        *[(name, pa.bool_()) for name in FLAG_COLUMNS.values()],
        ("error_code", pa.string()),
        ("error_detail", pa.string()),
        ("model_name", pa.string()),
        ("model_version", pa.string()),
        ("model_run_id", pa.string()),
        ("model_scale_version", pa.string()),
        ("schema_version", pa.int32()),
    ]
)
"""The columns of a part (docs/results-format.md). Scores are null exactly where ``error_code`` is not."""


@dataclass(frozen=True, slots=True)
class ScoringModel:
    """The model of a job, and what decides about the scores and flags of its rows.

    Attributes:
        ref: Which model; each row names it.
        image_size_px: The side it scores at.
        thresholds: A score above its head's threshold is flagged; None: nothing is.
        engine: What runs it: engines agree, but not to the last bit.
        data_sha256: Of the training dataset, if the model's files say so.
        git_commit: Of the code that trained it, if the model's files say so.
    """

    ref: ModelRef
    image_size_px: int
    thresholds: Mapping[Head, float] | None
    engine: EngineName | None = None
    data_sha256: str | None = None
    git_commit: str | None = None

    @classmethod
    def of(cls, loaded: "MultiHeadQualityInference") -> Self:
        """What scoring needs to know of a model that is loaded."""
        source = loaded.source
        return cls(
            ref=ModelRef(source.name, source.version, source.run_id, source.sha256),
            image_size_px=loaded.image_size_px,
            thresholds=loaded.thresholds,
            engine=loaded.engine_name,
            data_sha256=loaded.facts.get("data_sha256"),
            git_commit=loaded.facts.get("git_commit"),
        )

    @property
    def title(self) -> str:
        return f"{self.ref.name} version {self.ref.version}" if self.ref.version else self.ref.name

    def to_json(self) -> dict[str, Any]:
        """JSON values, without the thresholds."""
        return {
            "name": self.ref.name,
            "version": self.ref.version,
            "run_id": self.ref.run_id,
            "sha256": self.ref.sha256,
            "image_size_px": self.image_size_px,
            "engine": self.engine,
            "data_sha256": self.data_sha256,
            "git_commit": self.git_commit,
        }

    @classmethod
    def from_json(cls, facts: Mapping[str, Any], thresholds: Mapping[Head, float] | None) -> Self:
        """Undo `to_json`.

        Raises:
            KeyError: A value is missing.
        """
        return cls(
            ref=ModelRef(facts["name"], facts["version"], facts["run_id"], facts["sha256"]),
            image_size_px=facts["image_size_px"],
            thresholds=thresholds,
            engine=facts["engine"],
            data_sha256=facts["data_sha256"],
            git_commit=facts["git_commit"],
        )


def overall(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """float32 (N, 4) scores in the order of HEADS -> float32 (N,), 1 best (see `records.overall_score`)."""
    weights = np.array([OVERALL_WEIGHTS[head] for head in HEADS])
    combined: npt.NDArray[np.float32] = np.clip(1.0 - scores @ weights, 0.0, 1.0).astype(np.float32)
    return combined


def make_table(
    keys: Sequence[str],
    readings: Sequence[Reading],
    scores: npt.NDArray[np.float32],
    model: ScoringModel,
    plan_sha256: str,
) -> pa.Table:
    """Make rows.

    Args:
        keys: One per input.
        readings: One per input; their pixels are not looked at.
        scores: float32 (M, 4), one row for each reading without an error code, in order.
        model: Named in each row; its thresholds decide what is flagged.
        plan_sha256: Of the job's plan.

    Returns:
        A table of `SCHEMA`. Its metadata is what a reader needs to know of the job, each value as JSON.
    """
    good = np.array([reading.error_code is None for reading in readings], dtype=bool)
    full = np.zeros((len(keys), len(HEADS)), dtype=np.float32)
    full[good] = scores
    by_name = dict(zip(HEADS, full.T, strict=True)) | {
        "overall": overall(full),
        "worst_score": full.max(axis=1),
    }
    thresholds = model.thresholds or {}
    columns: dict[str, Any] = {
        "key": keys,
        "sha256": [reading.sha256 for reading in readings],
        "size_bytes": [reading.size_bytes for reading in readings],
        "width": [reading.width for reading in readings],
        "height": [reading.height for reading in readings],
        "format": [reading.image_format for reading in readings],
        **{name: pa.array(values, mask=~good) for name, values in by_name.items()},
        "worst_head": pa.array([HEADS[number] for number in full.argmax(axis=1)], pa.string(), mask=~good),
        **{
            column: pa.array(by_name[head].astype(np.float64) > thresholds[head], mask=~good)
            if head in thresholds
            else [None] * len(keys)
            for head, column in FLAG_COLUMNS.items()
        },
        "error_code": [reading.error_code for reading in readings],
        "error_detail": [_valid(reading.error_detail) for reading in readings],
        "model_name": [model.ref.name] * len(keys),
        "model_version": [model.ref.version] * len(keys),
        "model_run_id": [model.ref.run_id] * len(keys),
        "model_scale_version": [SCALE_VERSION] * len(keys),
        "schema_version": [SCHEMA_VERSION] * len(keys),
    }
    metadata = {
        "schema_version": SCHEMA_VERSION,
        "thresholds": None if model.thresholds is None else dict(model.thresholds),
        "model": {**model.to_json(), "scale_version": SCALE_VERSION},
        "plan_sha256": plan_sha256,
    }
    fields = SCHEMA.with_metadata(
        {METADATA_PREFIX + name: json.dumps(value) for name, value in metadata.items()}
    )
    return pa.table({name: columns[name] for name in fields.names}, schema=fields)


def to_parquet(table: pa.Table) -> bytes:
    """The bytes of a part; the same rows give the same bytes."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def from_parquet(data: bytes, path: Path, *, keys: Sequence[str]) -> pa.Table:
    """Read a part and compare it with the plan.

    Raises:
        CorruptError: It is no Parquet file.
        StorageError: An input has no row, two, or both scores and an error code.
    """
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            table = file.read()
    except (pa.ArrowException, OSError) as error:
        raise CorruptError(f"{path} cannot be read: {error}", "Run the same command again.") from None
    if table.schema != SCHEMA or table["key"].to_pylist() != list(keys):
        raise StorageError(f"{path} does not hold the inputs of its plan.", "Score into another folder.")
    has_error = pc.is_valid(table["error_code"])
    for name in (*SCORE_COLUMNS, "worst_head"):
        if pc.any(pc.equal(pc.is_valid(table[name]), has_error)).as_py():
            raise StorageError(
                f"{path} has a row with both or neither of {name} and an error code.",
                "Score into another folder.",
            )
    return table


def rows_to_retry(table: pa.Table) -> list[int]:
    """The rows whose error code is not final."""
    return [row for row, code in enumerate(table["error_code"].to_pylist()) if code in NOT_FINAL]


def replace_rows(table: pa.Table, rows: Sequence[int], new: pa.Table) -> pa.Table:
    """The table with its rows of these numbers replaced by those of ``new``, in order."""
    order = np.arange(table.num_rows)
    order[list(rows)] = table.num_rows + np.arange(new.num_rows)
    joined = pa.concat_tables([table, new]).take(pa.array(order)).combine_chunks()
    return joined.replace_schema_metadata(new.schema.metadata)


def read_rows(output: Path, columns: Collection[str]) -> pa.Table:
    """Some columns of a complete result, in the order of its plan."""
    return pq.read_table(output / DATA_FOLDER, columns=list(columns))


def _valid(text: str | None) -> str | None:
    return None if text is None else text.encode("utf-8", "replace").decode("utf-8")
