"""What commands take from the shell, from the first byte read to the prompt."""

import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.project import environment, make_project

_SMALL: Final[dict[str, dict[str, Any]]] = {
    "source": {"num_images": 30},
    "generate": {"samples_per_image": 2, "image_size": 32, "workers": 1},
    "train": {"epochs": 1, "samples": "stored", "weight_average": 0.0},
    "evaluate": {"bootstrap_samples": 50, "ladder_pictures": 4, "baseline_samples": 60},
}
"""The project of these commands: what it takes to do nothing does not hang on how much there is to do."""


@dataclass(frozen=True, slots=True)
class StartUp:
    """How long a command took, each time, in seconds, and how long it may."""

    command: str
    elapsed_s: list[float]
    most_s: float

    def line(self) -> str:
        """A line of a Markdown table."""
        low, high = min(self.elapsed_s), max(self.elapsed_s)
        median = statistics.median(self.elapsed_s)
        return f"| `{self.command}` | {median:.2f} s | {low:.2f} to {high:.2f} s | {self.most_s:g} s |"


def measure(folder: Path, picture: Path, model: Path, repetitions: int) -> list[StartUp]:
    """Time the commands that ought to answer at once, and those that have nothing to do.

    Args:
        folder: For a project that is made for this and brought up to date first.
        picture: What `predict` scores.
        model: What it scores with.
        repetitions: Of each command; the first one, which warms the caches, is not counted.
    """
    project = make_project(folder, _SMALL)
    _run(project, sys.executable, "-m", "flows.retrain")
    timed = [
        (0.5, ("quality-model", "--help")),
        (0.5, ("quality-model", "list-datasets")),
        (4.0, ("quality-model", "predict", "--model", str(model), str(picture))),
        (3.0, ("dvc", "repro")),
        (20.0, ("python", "-m", "flows.retrain")),
    ]
    found = []
    for most_s, command in timed:
        elapsed_s = [_run(project, *command) for _ in range(repetitions + 1)][1:]
        shown = " ".join(word for word in command if not word.startswith(os.sep))
        found.append(StartUp(shown.replace(" --model", ""), elapsed_s, most_s))
    return found


def _run(project: Path, *command: str) -> float:
    start = time.perf_counter()
    done = subprocess.run(command, cwd=project, env=environment(project), capture_output=True, text=True)
    elapsed_s = time.perf_counter() - start
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return elapsed_s
