"""The parts of a result: Parquet files of score rows, each with a completion marker of its own.

``data/`` never holds anything but whole parts: one is written beside that folder, then moved into it.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import numpy.typing as npt

from quality_model.core import storage
from quality_model.core.processes import FailureKind
from quality_model.errors import CorruptError, StorageError
from quality_model.records import FLAG_COLUMNS, HEADS, OVERALL_WEIGHTS, SCALE_VERSION, SCHEMA_VERSION
from quality_model.score.identity import ModelIdentity
from quality_model.score.reading import Reading

DATA_FOLDER: Final = "data"
MARKERS_FOLDER: Final = "parts"
SCORE_COLUMNS: Final = (*HEADS, "overall", "worst_score")
METADATA_PREFIX: Final = "quality_model."
NOT_FINAL: Final = frozenset(get_args(FailureKind))
"""Error codes that say something of the machine at that time: such inputs are read again."""


def part_name(number: int) -> str:
    """A part's path in the result's folder."""
    return f"{DATA_FOLDER}/part-{number:05d}.parquet"


def marker_name(number: int) -> str:
    return f"{MARKERS_FOLDER}/part-{number:05d}.json"


def schema() -> Any:
    """The columns of a part, as docs/results-format.md describes them.

    The scores, `SCORE_COLUMNS` and ``worst_head``, are null exactly where ``error_code`` is not.
    """
    import pyarrow as pa

    return pa.schema(
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


def metadata(model: ModelIdentity, plan_sha256: str) -> dict[str, str]:
    """The file metadata of a part: what its reader needs to know of the job, each value as JSON."""
    facts = asdict(model)
    values = {
        "schema_version": SCHEMA_VERSION,
        "thresholds": facts.pop("thresholds"),
        "model": {**facts, "scale_version": SCALE_VERSION},
        "plan_sha256": plan_sha256,
    }
    return {METADATA_PREFIX + name: json.dumps(value) for name, value in values.items()}


def overall(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """float32 (N, 4) scores in the order of HEADS -> float32 (N,), 1 best (see `records.overall_score`)."""
    weights = np.array([OVERALL_WEIGHTS[head] for head in HEADS])
    combined: npt.NDArray[np.float32] = np.clip(1.0 - scores @ weights, 0.0, 1.0).astype(np.float32)
    return combined


def make_table(
    keys: Sequence[str],
    readings: Sequence[Reading],
    scores: npt.NDArray[np.float32],
    model: ModelIdentity,
    plan_sha256: str,
) -> Any:
    """Make the rows of a part.

    Args:
        keys: One per input.
        readings: One per input; their pixels are not looked at.
        scores: float32 (M, 4), one row for each reading without an error code, in order.
        model: Named in each row; its thresholds decide what is flagged.
        plan_sha256: Of the job's plan.

    Returns:
        A `pyarrow.Table` of `schema`.
    """
    import pyarrow as pa

    good = np.array([reading.reason is None for reading in readings], dtype=bool)
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
        "error_code": [reading.reason for reading in readings],
        "error_detail": [None if reading.detail is None else _valid(reading.detail) for reading in readings],
        "model_name": [model.name] * len(keys),
        "model_version": [model.version] * len(keys),
        "model_run_id": [model.run_id] * len(keys),
        "model_scale_version": [SCALE_VERSION] * len(keys),
        "schema_version": [SCHEMA_VERSION] * len(keys),
    }
    fields = schema().with_metadata(metadata(model, plan_sha256))
    return pa.table({name: columns[name] for name in fields.names}, schema=fields)


def replace_rows(table: Any, rows: Sequence[int], new: Any) -> Any:
    """The table with its rows of these numbers replaced by those of ``new``, in order."""
    import pyarrow as pa

    order = np.arange(table.num_rows)
    order[list(rows)] = table.num_rows + np.arange(new.num_rows)
    return (
        pa.concat_tables([table, new])
        .take(order)
        .combine_chunks()
        .replace_schema_metadata(new.schema.metadata)
    )


def write_part(output: Path, number: int, table: Any) -> dict[str, Any]:
    """Write a part and then its marker.

    Returns:
        The marker: ``file``, ``rows``, ``scored``, ``errors`` (counts by code), ``bytes``, ``sha256``.
    """
    import pyarrow.parquet as pq

    path = output / part_name(number)
    with storage.staged(path, beside=output / path.name) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    errors = Counter(table["error_code"].drop_null().to_pylist())
    marker = {
        "file": part_name(number),
        "rows": table.num_rows,
        "scored": table.num_rows - errors.total(),
        "errors": dict(sorted(errors.items())),
        "bytes": path.stat().st_size,
        "sha256": storage.file_sha256(path),
    }
    storage.write_json(output / marker_name(number), marker)
    return marker


def read_marker(output: Path, number: int, *, rows: int) -> dict[str, Any] | None:
    """The marker of a part, if the part is there, whole, and what the marker says; else None."""
    path, marker = output / part_name(number), output / marker_name(number)
    if not path.exists() or not marker.exists():
        return None
    try:
        facts = storage.read_json(marker)
    except CorruptError:
        return None
    is_whole = (
        isinstance(facts, dict)
        and isinstance(facts.get("errors"), dict)
        and facts.get("rows") == rows
        and facts.get("bytes") == path.stat().st_size
        and facts.get("sha256") == storage.file_sha256(path)
    )
    return facts if is_whole else None


def rows_to_retry(output: Path, number: int, marker: dict[str, Any]) -> list[int]:
    """The rows of a finished part whose error code is not final."""
    import pyarrow.parquet as pq

    if NOT_FINAL.isdisjoint(marker["errors"]):
        return []
    with pq.ParquetFile(output / part_name(number)) as file:
        codes = file.read(columns=["error_code"])["error_code"].to_pylist()
    return [row for row, code in enumerate(codes) if code in NOT_FINAL]


def read_checked(output: Path, number: int, *, keys: Sequence[str]) -> Any:
    """Read a part back and compare it with the plan.

    Returns:
        The part as a `pyarrow.Table`.

    Raises:
        StorageError: An input has no row, two, or both scores and an error code.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    path = output / part_name(number)
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
    except (pa.ArrowException, OSError) as error:
        raise CorruptError(f"{path} cannot be read: {error}", "Run the same command again.") from None
    if table.schema != schema() or table["key"].to_pylist() != list(keys):
        raise StorageError(f"{path} does not hold the inputs of its plan.", "Score into another folder.")
    has_error = pc.is_valid(table["error_code"])
    for name in (*SCORE_COLUMNS, "worst_head"):
        if pc.any(pc.equal(pc.is_valid(table[name]), has_error)).as_py():
            raise StorageError(
                f"{path} has a row with both or neither of {name} and an error code.",
                "Score into another folder.",
            )
    return table


def _valid(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")
