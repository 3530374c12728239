"""A result of the earlier layout, as `score` wrote it before the result was a dataset."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from quality_model.core import storage
from quality_model.records import HEADS
from quality_model.score.result import ScoringModel

SCHEMA = pa.schema(
    [
        pa.field("input", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        ("sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        *[(name, pa.float32()) for name in (*HEADS, "overall")],
        ("flags", pa.list_(pa.string())),
        pa.field("model_name", pa.string(), nullable=False),
        ("model_version", pa.string()),
        ("run_id", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
SHARD_SIZE = 2


def write_earlier_result(output: Path, model: ScoringModel, num_inputs: int = 3) -> Path:
    """Write scores of some inputs, the last of them unreadable."""
    output.mkdir(parents=True)
    keys = [f"{number}.jpg" for number in range(num_inputs)]
    identity = {
        "name": model.name,
        "version": model.version,
        "run_id": model.run_id,
        "sha256": model.sha256,
        "image_size_px": model.image_size_px,
        "thresholds": model.thresholds,
        "engine": model.engine,
    }
    nothing = [None] * num_inputs
    columns = {"key": keys, "file": nothing, "at": [0] * num_inputs, "num_bytes": [0] * num_inputs}
    plan = pa.table({**columns, "reason": nothing, "detail": nothing})
    pq.write_table(plan, output / "plan.parquet", compression="zstd", row_group_size=SHARD_SIZE)
    job = {
        "kind": "images",
        "num_inputs": num_inputs,
        "num_files": num_inputs,
        "fingerprint": "f" * 64,
        "skipped": {},
        "plan_sha256": storage.file_sha256(output / "plan.parquet"),
        "model": identity,
        "parameters": {
            "shard_size": SHARD_SIZE,
            "batch_size": 4,
            "max_pixels": 100_000_000,
            "max_bytes": 200_000_000,
            "formats": ["JPEG", "PNG"],
        },
    }
    storage.write_json(output / "job.json", job)
    names = []
    for first in range(0, num_inputs, SHARD_SIZE):
        rows = [
            _row(number, keys[number], model, is_broken=number == num_inputs - 1)
            for number in range(first, min(first + SHARD_SIZE, num_inputs))
        ]
        name = f"shard-{first // SHARD_SIZE:05d}"
        shard = output / f"{name}.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), shard, compression="zstd")
        reasons = [row["reason"] for row in rows if "reason" in row]
        marker = {
            "file": shard.name,
            "first_input": first,
            "rows": len(rows),
            "scored": len(rows) - len(reasons),
            "reasons": dict.fromkeys(reasons, 1),
            "bytes": shard.stat().st_size,
            "sha256": storage.file_sha256(shard),
        }
        storage.write_json(output / f"{name}.json", marker)
        names.append(shard.name)
    facts = {
        "model": identity,
        "inputs": num_inputs,
        "scored": num_inputs - 1,
        "reasons": {"empty": 1},
        "skipped": {},
        "shards": len(names),
        "flagged": {},
    }
    storage.write_json(output / "summary.json", {**facts, "quantiles": {}})
    (output / "summary.png").write_bytes(b"\x89PNG")
    storage.write_json(output / "report" / "validation.json", {"passed": True})
    storage.seal(output, [*names, "summary.json", "summary.png"], rows=num_inputs, **facts)
    return output


def _row(number: int, key: str, model: ScoringModel, *, is_broken: bool) -> dict[str, object]:
    row: dict[str, object] = {
        "input": number,
        "key": key,
        "model_name": model.name,
        "model_version": model.version,
        "run_id": model.run_id,
    }
    if is_broken:
        return {**row, "reason": "empty", "detail": "the file has no bytes"}
    scores = dict.fromkeys(HEADS, 0.25) | {"overall": 0.75}
    return {**row, **scores, "sha256": "a" * 64, "width": 64, "height": 48, "flags": []}
