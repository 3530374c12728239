"""One output file per shard, with its own marker written after it."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from quality_model import storage
from quality_model.errors import CorruptError, StorageError
from quality_model.records import HEADS, OVERALL_WEIGHTS, flagged_heads
from quality_model.scoring.identity import ModelIdentity
from quality_model.scoring.reading import Reading

SCORE_COLUMNS: Final = (*HEADS, "overall")


def shard_name(shard: int) -> str:
    return f"shard-{shard:05d}.parquet"


def marker_name(shard: int) -> str:
    return f"shard-{shard:05d}.json"


def schema() -> Any:
    """The columns of a shard.

    ``input`` is the number of the input in the job, from 0. Scores and ``flags`` (the heads
    whose score is above the model's threshold) are null exactly where ``reason`` is not.
    Sizes are in pixels, of the picture as read.
    """
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("input", pa.int64(), nullable=False),
            pa.field("key", pa.string(), nullable=False),
            ("sha256", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            *[(name, pa.float32()) for name in SCORE_COLUMNS],
            ("flags", pa.list_(pa.string())),
            pa.field("model_name", pa.string(), nullable=False),
            ("model_version", pa.string()),
            ("run_id", pa.string()),
            ("reason", pa.string()),
            ("detail", pa.string()),
        ]
    )


def overall(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """float32 (N, 4) scores in the order of HEADS -> float32 (N,), 1 best (see `records.overall_score`)."""
    weights = np.array([OVERALL_WEIGHTS[head] for head in HEADS])
    combined: npt.NDArray[np.float32] = np.clip(1.0 - scores @ weights, 0.0, 1.0).astype(np.float32)
    return combined


def write_shard(
    output: Path,
    shard: int,
    *,
    first_input: int,
    keys: Sequence[str],
    readings: Sequence[Reading],
    scores: npt.NDArray[np.float32],
    model: ModelIdentity,
) -> dict[str, Any]:
    """Write a shard and then its marker.

    Args:
        output: Folder of the job.
        shard: Its number.
        first_input: Number of its first input in the job.
        keys: One per input.
        readings: One per input; their pixels are not looked at.
        scores: float32 (M, 4), one row for each reading without a reason, in order.
        model: Named in each row; its thresholds decide about the flags.

    Returns:
        The marker: ``rows``, ``scored``, ``reasons`` (counts), ``bytes``, ``sha256``.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    good = np.array([reading.reason is None for reading in readings], dtype=bool)
    columns: dict[str, Any] = {
        "input": np.arange(first_input, first_input + len(keys)),
        "key": keys,
        "sha256": [reading.sha256 for reading in readings],
        "width": [reading.width for reading in readings],
        "height": [reading.height for reading in readings],
        "model_name": [model.name] * len(keys),
        "model_version": [model.version] * len(keys),
        "run_id": [model.run_id] * len(keys),
        "reason": [reading.reason for reading in readings],
        "detail": [None if reading.detail is None else _valid(reading.detail) for reading in readings],
    }
    full = np.zeros((len(keys), len(SCORE_COLUMNS)), dtype=np.float32)
    full[good] = np.column_stack([scores, overall(scores)])
    for number, name in enumerate(SCORE_COLUMNS):
        columns[name] = pa.array(full[:, number], mask=~good)
    by_head = (dict(zip(HEADS, map(float, row), strict=True)) for row in scores)
    flags = (flagged_heads(row, model.thresholds) for row in by_head)
    columns["flags"] = [next(flags) if is_good else None for is_good in good]
    table = pa.table({field.name: columns[field.name] for field in schema()}, schema=schema())
    path = output / shard_name(shard)
    with storage.staged(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    reasons = Counter(reading.reason for reading in readings if reading.reason is not None)
    marker = {
        "file": path.name,
        "first_input": first_input,
        "rows": len(keys),
        "scored": int(good.sum()),
        "reasons": dict(sorted(reasons.items())),
        "bytes": path.stat().st_size,
        "sha256": storage.file_sha256(path),
    }
    storage.write_json(output / marker_name(shard), marker)
    return marker


def is_finished(output: Path, shard: int, *, rows: int) -> bool:
    """Whether a shard is there, whole, and what its marker vouches for."""
    path, marker = output / shard_name(shard), output / marker_name(shard)
    if not path.exists() or not marker.exists():
        return False
    try:
        facts = storage.read_json(marker)
    except CorruptError:
        return False
    return (
        isinstance(facts, dict)
        and facts.get("rows") == rows
        and facts.get("bytes") == path.stat().st_size
        and facts.get("sha256") == storage.file_sha256(path)
    )


def read_checked(output: Path, shard: int, *, first_input: int, keys: Sequence[str]) -> Any:
    """Read a shard back and hold it against the plan.

    Returns:
        The shard as a `pyarrow.Table`.

    Raises:
        StorageError: An input has no row, two, or both scores and a reason.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    path = output / shard_name(shard)
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise CorruptError(f"{path} cannot be read: {error}", "Run the same command again.") from None
    numbers = np.arange(first_input, first_input + len(keys))
    if (
        table.schema != schema()
        or not np.array_equal(table["input"].to_numpy(), numbers)
        or table["key"].to_pylist() != list(keys)
    ):
        raise StorageError(f"{path} does not hold the inputs of its plan.", "Score into another folder.")
    has_reason = pc.is_valid(table["reason"])
    for name in (*SCORE_COLUMNS, "flags"):
        if pc.any(pc.equal(pc.is_valid(table[name]), has_reason)).as_py():
            raise StorageError(
                f"{path} has a row with both or neither of {name} and a reason.", "Score into another folder."
            )
    return table


def _valid(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")
