"""One repetition of one side of a job: `python -m benchmarks.repetition JOB SIDE TASK`, TASK being JSON."""

import json
import os
import resource
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from benchmarks.jobs import JOBS, Outcome, Side, Task
from quality_model.core.system import num_cores


@dataclass(frozen=True)
class Repetition(Outcome):
    """An outcome in a process of its own: ``peak_memory_mb`` is of it and its workers together, at most."""

    peak_memory_mb: float


def repeat(job: str, side: Side, task: Task) -> Repetition:
    """Run one side once, from a quiet disk.

    Raises:
        subprocess.CalledProcessError: It failed; what it said is on stderr.
    """
    os.sync()
    command = [sys.executable, "-m", __name__, job, side, json.dumps(asdict(task), default=str)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Repetition(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    job, side, text = sys.argv[1:]
    plain: dict[str, Any] = json.loads(text)
    values: dict[str, Any] = {name: Path(v) if isinstance(v, str) else v for name, v in plain.items()}
    task = Task(**values)
    outcome = JOBS[job][cast("Side", side)](task)
    workers = task.params.generate.workers or num_cores()
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # The system keeps the largest of the children: an upper bound for all of them.
    peak_kb += workers * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    sys.stdout.write(f"\n{json.dumps({**asdict(outcome), 'peak_memory_mb': peak_kb / 1024})}\n")


if __name__ == "__main__":
    main()
