"""Peak memory of the check of scores, alone in a process: `python -m benchmarks.checking ROWS`."""

import resource
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np

from quality_model import storage, telemetry
from quality_model.records import HEADS
from quality_model.scoring import ModelIdentity, shards
from quality_model.scoring.reading import Reading
from quality_model.validation import validate_scores

_SHARD_SIZE: Final = 1000
_MODEL: Final = ModelIdentity("benchmark", "3", "a1b2", "c" * 64, 32, {"noise": 0.3})


def write_job(output: Path, num_shards: int) -> None:
    """Write what a finished job leaves for the check: shards of random scores, and their marker."""
    random = np.random.default_rng(0)
    readings = [Reading(f"{number:064x}", 500, 375) for number in range(_SHARD_SIZE)]
    for shard in range(num_shards):
        shards.write_shard(
            output,
            shard,
            first_input=shard * _SHARD_SIZE,
            keys=[f"links/{shard:03d}/{number:06d}.png" for number in range(_SHARD_SIZE)],
            readings=readings,
            scores=random.random((_SHARD_SIZE, len(HEADS)), dtype=np.float32),
            model=_MODEL,
        )
    rows = num_shards * _SHARD_SIZE
    names = [shards.shard_name(shard) for shard in range(num_shards)]
    storage.seal(output, names, rows=rows, inputs=rows, model=asdict(_MODEL))


def main() -> None:
    telemetry.silence()
    num_shards = int(sys.argv[1]) // _SHARD_SIZE
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder)
        write_job(output, num_shards)
        start = time.perf_counter()
        validate_scores(output, output / "report")
        elapsed_s = time.perf_counter() - start
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(f"{num_shards * _SHARD_SIZE} rows: {elapsed_s:.1f} s, {peak_mib:.0f} MiB at most\n")


if __name__ == "__main__":
    main()
