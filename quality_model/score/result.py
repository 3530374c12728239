"""The rows of a scoring result, and the model that they name (docs/results-format.md)."""

import io
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from quality_model.core import storage
from quality_model.core.folders import JOB_NAME
from quality_model.core.measures import MEASURES
from quality_model.core.parquet import read_columns
from quality_model.core.processes import FailureKind
from quality_model.core.provenance import Intervals
from quality_model.core.views import SQUEEZED, ViewRecipe
from quality_model.errors import StorageError, UsageError
from quality_model.params import EngineName
from quality_model.records import (
    FIRST_SCALE_VERSION,
    FLAG_COLUMNS,
    HEADS,
    OVERALL_WEIGHTS,
    SCHEMA_VERSION,
    Head,
    ModelRef,
)
from quality_model.score.reading import Reading

if TYPE_CHECKING:
    from quality_model.core.predict import Scorer


METADATA_PREFIX: Final = "quality_model."
NOT_FINAL: Final[frozenset[str]] = frozenset({*get_args(FailureKind), "download_failed"})
"""Error codes that depend on machine and network at that time: such inputs are read again."""

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
        *[(each.name, pa.type_for_alias(each.dtype)) for each in MEASURES],
        ("error_code", pa.string()),
        ("error_detail", pa.string()),
        ("model_name", pa.string()),
        ("model_version", pa.string()),
        ("model_run_id", pa.string()),
        ("model_scale_version", pa.string()),
        ("schema_version", pa.int32()),
    ]
)
"""The columns of a part (docs/results-format.md). Scores are null exactly where ``error_code`` is not;
measures also where they were not asked for, or an image has none."""

INTERVAL_SCHEMA: Final = pa.schema(
    [(f"{head}_{end}", pa.float32()) for head in HEADS for end in ("lower", "upper")]
)
"""The columns behind those of `SCHEMA` where intervals were asked for; null like the scores."""


@dataclass(frozen=True, slots=True)
class ScoringModel(ModelRef):
    """The model of a job, which each row names, and what decides about the scores and flags of its rows.

    Attributes:
        image_size_px: The side it scores at.
        engine: What runs it: engines agree, but not to the last bit.
        views: Which views of an image it scores, as JSON values; None: the image squeezed to a square.
        data_sha256: Of the training dataset, if the model's files say so.
        git_commit: Of the code that trained it, if the model's files say so.
        thresholds: A score above its head's threshold is flagged; None: nothing is.
        intervals: Around its scores (`model_facts.Intervals`), as JSON values; None: not asked for.
        scale_version: Of what its scores mean.
    """

    image_size_px: int
    engine: EngineName | None = None
    views: Mapping[str, Any] | None = None
    data_sha256: str | None = None
    git_commit: str | None = None
    thresholds: Mapping[Head, float] | None = None
    intervals: Mapping[str, Any] | None = None
    scale_version: str = FIRST_SCALE_VERSION

    @classmethod
    def of(cls, loaded: "Scorer", *, intervals: bool = False) -> Self:
        """What scoring needs to know of a model that is loaded, with its intervals if they are asked for.

        Raises:
            UsageError: It has no intervals for its views.
        """
        known = loaded.intervals
        if intervals and known is None:
            raise UsageError(
                f"The model {loaded.source.name} has no intervals for these views, or for raw scores.",
                "Leave score.intervals false, score with views auto and not raw, or train the model again.",
            )
        return cls(
            intervals=known.model_dump(mode="json") if intervals and known else None,
            **asdict(loaded.source),
            image_size_px=loaded.image_size_px,
            thresholds=loaded.thresholds,
            engine=loaded.engine_name,
            views=None if loaded.views == SQUEEZED else loaded.views.model_dump(mode="json"),
            data_sha256=loaded.facts.data_sha256,
            git_commit=loaded.facts.git_commit,
            scale_version=loaded.scale_version,
        )

    @property
    def recipe(self) -> ViewRecipe:
        """Which views of an image it scores."""
        return SQUEEZED if self.views is None else ViewRecipe.model_validate(self.views)

    @property
    def schema(self) -> pa.Schema:
        """The columns of its rows."""
        return SCHEMA if self.intervals is None else pa.schema([*SCHEMA, *INTERVAL_SCHEMA])

    def described(self) -> dict[str, Any]:
        """What a result says of its model: JSON values, the thresholds apart."""
        facts = asdict(self)
        thresholds = facts.pop("thresholds")
        return {"model": facts, "thresholds": thresholds}


def make_table(
    keys: Sequence[str], readings: Sequence[Reading], model: ScoringModel, plan_sha256: str
) -> pa.Table:
    """A table of the model's schema, a row for each reading: scores and flags, or an error code.

    Its metadata is what a reader needs to know of the job, each value as JSON.
    """
    failed = np.array([reading.scores is None for reading in readings], dtype=bool)
    scores = np.zeros((len(keys), len(HEADS)), dtype=np.float32)
    scores[~failed] = [reading.scores for reading in readings if reading.scores is not None] or 0.0
    overall = 1.0 - scores @ np.array([OVERALL_WEIGHTS[head] for head in HEADS])  # as records.overall_score
    by_name = dict(zip(HEADS, scores.T, strict=True)) | {
        "overall": np.clip(overall, 0.0, 1.0).astype(np.float32),
        "worst_score": scores.max(axis=1),
    }
    columns: dict[str, Any] = {name: pa.array(values, mask=failed) for name, values in by_name.items()}
    columns["key"] = keys
    columns["worst_head"] = pa.array(np.array(HEADS)[scores.argmax(axis=1)], pa.string(), mask=failed)
    for name in ("sha256", "size_bytes", "width", "height", "format", "error_code", "error_detail"):
        columns[name] = [getattr(reading, name) for reading in readings]
    for name in (each.name for each in MEASURES):
        columns[name] = [(reading.measures or {}).get(name) for reading in readings]
    for head, name in FLAG_COLUMNS.items():
        limit = (model.thresholds or {}).get(head)
        flags = None if limit is None else by_name[head].astype(np.float64) > limit
        columns[name] = pa.nulls(len(keys)) if flags is None else pa.array(flags, mask=failed)
    if model.intervals is not None:
        ends = Intervals.model_validate(model.intervals).of(scores).transpose(2, 0, 1).reshape(-1, len(keys))
        named = zip(INTERVAL_SCHEMA.names, ends, strict=True)
        columns |= {name: pa.array(values, mask=failed) for name, values in named}
    constants = {
        "model_name": model.name,
        "model_version": model.version,
        "model_run_id": model.run_id,
        "model_scale_version": model.scale_version,
        "schema_version": SCHEMA_VERSION,
    }
    columns |= {name: [value] * len(keys) for name, value in constants.items()}
    metadata = {"schema_version": SCHEMA_VERSION, **model.described(), "plan_sha256": plan_sha256}
    fields = model.schema.with_metadata(
        {METADATA_PREFIX + name: json.dumps(value) for name, value in metadata.items()}
    )
    return pa.table({name: columns[name] for name in fields.names}, schema=fields)


def to_parquet(table: pa.Table) -> bytes:
    """The bytes of a part; the same rows give the same bytes."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def from_parquet(data: bytes, path: Path, *, keys: Sequence[str], schema: pa.Schema = SCHEMA) -> pa.Table:
    """Read a part whose bytes its completion marker verifies, and compare it with the plan.

    Raises:
        StorageError: It has not one row for each input of the part.
    """
    with pq.ParquetFile(pa.BufferReader(data)) as file:
        table = file.read()
    if table.schema != schema or table["key"].to_pylist() != list(keys):
        raise StorageError(f"{path} does not hold the inputs of its plan.", "Score into another folder.")
    return table


def replace_rows(table: pa.Table, rows: Sequence[int], new: pa.Table) -> pa.Table:
    """The table with its rows of these numbers replaced by those of ``new``, in order."""
    order = np.arange(table.num_rows)
    order[list(rows)] = table.num_rows + np.arange(new.num_rows)
    joined = pa.concat_tables([table, new]).take(pa.array(order)).combine_chunks()
    return joined.replace_schema_metadata(new.schema.metadata)


def read_rows(output: Path, columns: Collection[str]) -> pa.Table:
    """Some columns of a complete result, in the order of its plan.

    Raises:
        IncompleteError, CorruptError: It is not complete.
    """
    names = [part["file"] for part in storage.read_json(output / JOB_NAME)["parts"]]
    return pa.concat_tables(read_columns(output / name, columns) for name in names)
