"""Peak memory of the check of scores, alone in a process: `python -m benchmarks.checking ROWS`."""

import resource
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from quality_model.core import telemetry
from quality_model.data.checks import validate_scores
from quality_model.records import HEADS, SCALE_VERSION, SCHEMA_VERSION
from quality_model.score import ModelIdentity, parts
from quality_model.score.reading import Reading

_PART_SIZE: Final = 1000
_MODEL: Final = ModelIdentity("benchmark", "3", "a1b2", "c" * 64, 32, {"noise": 0.3})


def write_job(output: Path, num_parts: int) -> dict[str, Any]:
    """Write parts of random scores, and give what the completion marker of such a job holds."""
    random = np.random.default_rng(0)
    readings = [
        Reading(f"{number:064x}", 500, 375, size_bytes=50_000, image_format="JPEG")
        for number in range(_PART_SIZE)
    ]
    markers = []
    for part in range(num_parts):
        keys = [f"links/{part:03d}/{number:06d}.png" for number in range(_PART_SIZE)]
        scores = random.random((_PART_SIZE, len(HEADS)), dtype=np.float32)
        table = parts.make_table(keys, readings, scores, _MODEL, "0" * 64)
        markers.append(parts.write_part(output, part, table))
    return {
        "schema_version": SCHEMA_VERSION,
        "model": {**asdict(_MODEL), "scale_version": SCALE_VERSION},
        "thresholds": _MODEL.thresholds,
        "inputs": {"num_inputs": num_parts * _PART_SIZE},
        "parts": markers,
    }


def main() -> None:
    telemetry.silence()
    num_parts = int(sys.argv[1]) // _PART_SIZE
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder)
        job = write_job(output, num_parts)
        start = time.perf_counter()
        validate_scores(output, job, output / "report")
        elapsed_s = time.perf_counter() - start
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(f"{num_parts * _PART_SIZE} rows: {elapsed_s:.1f} s, {peak_mib:.0f} MiB at most\n")


if __name__ == "__main__":
    main()
