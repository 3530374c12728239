"""A small project of its own for each test that runs the whole way."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from quality_model.storage import locked
from quality_model.telemetry import QUIET

PROJECT = Path(__file__).resolve().parents[2]
PARTS = (
    "quality_model", "flows", "tasks", "dvc.yaml", "params.yaml", "prefect.yaml", "requirements.lock",
    ".dvcignore", ".gitignore",
)  # fmt: skip

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


def environment(project: Path) -> dict[str, str]:
    """What a shell with the project's environment active would have, with all state in the project."""
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_"))},
        **QUIET,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(project),
        "PREFECT_HOME": str(project / "state" / "prefect"),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "DVC_SITE_CACHE_DIR": str(project / "state" / "dvc"),
    }


def make_project(folder: Path) -> Path:
    """A git and DVC project with this code and parameters that take seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in PARTS:
        source = PROJECT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, folder / name)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    for section, values in TINY.items():
        params[section] |= values
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    (folder / "state" / "prefect").mkdir(parents=True)
    for command in (
        ["git", "init", "-q"],
        ["git", "config", "user.name", "Test"],
        ["git", "config", "user.email", "test@example.com"],
        ["dvc", "init", "-q"],
        ["git", "add", "-A"],
        ["git", "commit", "-qm", "A project"],
    ):
        subprocess.run(command, cwd=folder, env=environment(folder), check=True, capture_output=True)
    return folder


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
