"""What commands take from the shell, from the first byte read to the prompt."""

import shutil
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
    "evaluate": {"bootstrap_samples": 50, "sweep_images": 4, "baseline_samples": 60},
}
"""The project of these commands: the time to do nothing does not depend on the amount of data."""


_CROWN: Final = """
import json
from pathlib import Path
from quality_model.params import load_params
from quality_model.paths import ProjectPaths
from quality_model.release.publish import publish
from quality_model.release.registry import Registry
paths = ProjectPaths(Path())
section = load_params(paths.params).registry
registry = Registry(Path(), section)
version = registry.register(publish(paths.model, root=Path(), registry=section))
registry.move_alias("champion", version)
"""
"""Makes the candidate champion, which no gate would do with so small a one."""


@dataclass(frozen=True, slots=True)
class StartUp:
    """How long a command took, each time, in seconds, and how long it may; ``where`` it ran."""

    command: str
    where: str
    elapsed_s: list[float]
    most_s: float

    def line(self) -> str:
        """A line of a Markdown table."""
        low, high = min(self.elapsed_s), max(self.elapsed_s)
        median = statistics.median(self.elapsed_s)
        took = f"{median:.2f} s | {low:.2f} to {high:.2f} s"
        return f"| `{self.command}`, {self.where} | {took} | {self.most_s:g} s |"


def measure(folder: Path, image: Path, repetitions: int) -> list[StartUp]:
    """Time the commands that ought to answer at once, and those that have nothing to do.

    `predict` is timed where the bundled model scores, and where the registry has a champion, whose files
    are known after the first, uncounted call.

    Args:
        folder: For a project that is made for this and brought up to date first, and for a
            folder with nothing but a photograph.
        image: What `predict` scores.
        repetitions: Of each command; the first one, which warms the caches, is not counted.
    """
    project, photographs = folder / "project", folder / "photographs"
    make_project(project, _SMALL)
    photographs.mkdir()
    for place in (project, photographs):
        shutil.copyfile(image, place / "photo.jpg")
    _run(project, project, sys.executable, "-m", "flows.retrain")

    def timed(where: str, place: Path, most_s: float, *command: str) -> StartUp:
        elapsed_s = [_run(project, place, *command) for _ in range(repetitions + 1)][1:]
        return StartUp(" ".join(command), where, elapsed_s, most_s)

    found = [
        timed("anywhere", project, 0.4, "quality-model", "--help"),
        timed("anywhere", project, 0.2, "python", "-c", "import quality_model"),
        timed("anywhere", project, 0.5, "quality-model", "list-datasets"),
        timed("no registry", photographs, 2.0, "quality-model", "predict", "photo.jpg"),
        timed("nothing to do", project, 3.0, "dvc", "repro"),
        timed("everything unchanged", project, 20.0, "python", "-m", "flows.retrain"),
    ]
    _run(project, project, sys.executable, "-c", _CROWN)
    return [*found, timed("a champion", project, 2.0, "quality-model", "predict", "photo.jpg")]


def _run(project: Path, place: Path, *command: str) -> float:
    """Seconds that a command of ``project`` takes in the folder ``place``."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=place, env=environment(project), capture_output=True, text=True)
    elapsed_s = time.perf_counter() - start
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return elapsed_s
