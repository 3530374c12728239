"""A small project of its own for each test that runs the whole way."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.project import ROOT, environment
from benchmarks.project import make_project as small_project
from quality_model.storage import locked

PROJECT = ROOT

TINY = {
    "source": {"num_images": 30},
    "generate": {"samples_per_image": 3, "image_size": 32, "workers": 1},
    "train": {"epochs": 2, "samples": "stored", "weight_average": 0.0},
    "evaluate": {"bootstrap_samples": 50, "ladder_pictures": 4, "baseline_samples": 60},
    "gate": {
        "max_mse": dict.fromkeys(("color_cast", "blurriness", "watermark", "noise"), 1.0),
        "min_r2": dict.fromkeys(("color_cast", "blurriness", "watermark", "noise"), -50.0),
        "min_r2_over_baseline": dict.fromkeys(("color_cast", "blurriness", "watermark", "noise"), -50.0),
        "max_mse_increase": dict.fromkeys(("color_cast", "blurriness", "watermark", "noise"), 1.0),
    },
    "score": {"workers": 1},
}

Run = Callable[..., subprocess.CompletedProcess[str]]


def make_project(folder: Path) -> Path:
    """A git and DVC project with this code and parameters that take seconds."""
    return small_project(folder, TINY)


@pytest.fixture(scope="session")
def run() -> Run:
    """Run a command in a project, as a user would; it must end well unless ``check=False``."""

    def run(
        project: Path, *command: str, check: bool = True, timeout_s: float = 560
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command, cwd=project, env=environment(project), capture_output=True, text=True, timeout=timeout_s
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """A project in which `make run`'s flow ran once. Tests may use it, not change its artifacts."""
    shared = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        shared = shared.parent  # one project for all workers
    project = shared / "trained" / "project"
    told = project / "state" / "told.txt"
    with locked(shared / "trained.lock", timeout_s=560):
        if not told.exists():
            make_project(project)
            done = run(project, sys.executable, "-m", "flows.first_run")
            told.write_text(done.stdout + done.stderr)
    return project
