"""A small project of its own for each test that runs the whole pipeline."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.project import ROOT, environment
from benchmarks.project import make_project as small_project
from quality_model.core.storage import locked
from quality_model.networks.model import MultiHeadQualityAssessmentModel, save_model
from quality_model.params_file import load_params
from quality_model.records import HEADS
from quality_model.release.decisions import Decision, read_decisions
from quality_model.release.publish import publish
from quality_model.release.registry import Registry
from tests.faults.processes import run_command

PROJECT = ROOT


def each_head(value: float) -> dict[str, float]:
    return dict.fromkeys(HEADS, value)


TINY = {
    "source": {"num_images": 30},
    "generate": {"samples_per_image": 3, "image_size": 32, "workers": 1},
    "train": {
        **{"epochs": 2, "samples": "stored", "weight_average": 0.0, "start_from": "scratch"},
        **{"batch_size": 32, "learning_rate": 0.001, "dropout": 0.3, "max_validation_samples": 1000},
    },
    "evaluate": {"bootstrap_samples": 50, "sweep_images": 4, "baseline_samples": 60},
    "gate": {
        "min_test_groups": 1,
        "min_sweep_spearman": each_head(-1.0),
        "max_cross_talk": each_head(1.0),
        "max_clean_flags": each_head(1.0),
        "max_mse": each_head(1.0),
        "min_r2": each_head(-50.0),
        "min_r2_over_baseline": each_head(-50.0),
        "max_mse_increase": each_head(1.0),
        "max_luck": 1.0,
        "real": None,
    },
    "score": {"workers": 1},
}

Run = Callable[..., subprocess.CompletedProcess[str]]


def command(project: Path, *arguments: str, code: int = 0) -> str:
    """Run a command of quality-model in a project, in a process that has its imports; what it printed.

    It must end with the exit code.
    """
    ended = run_command(project, list(arguments))
    assert ended.code == code, f"{arguments} ended with {ended.code}:\n{ended.output}"
    return ended.output


def outcomes(project: Path) -> list[tuple[str, str | None]]:
    """Each decision on record with its version, the oldest first."""
    return [(decision.action, decision.model.version) for decision in decisions(project)]


def run_of_candidate(project: Path) -> str:
    """The run of the candidate's training, by the tag that names the training."""
    facts = json.loads((project / "models" / "candidate" / "model.json").read_text())["facts"]
    query = "select run_uuid from tags where key = 'quality_model.training' and value = ?"
    with sqlite3.connect(project / "mlflow.db") as database:
        ((run_id,),) = database.execute(query, (facts["training_fingerprint"],)).fetchall()
    return str(run_id)


def decisions(project: Path) -> list[Decision]:
    """The decisions on record, the oldest first."""
    return read_decisions(project, load_params(project / "params.yaml").registry)


def replace_champion_by_a_poor_one(project: Path) -> str:
    """Let a model whose scores are all high be champion, so that any training is better; its version."""
    params = load_params(project / "params.yaml")
    torch.manual_seed(3)
    model = MultiHeadQualityAssessmentModel()
    with torch.no_grad():
        for head in (model.head_color_cast, model.head_blurriness, model.head_watermark, model.head_noise):
            head[-1].bias.fill_(3.0)
    folder = project / "models" / "poor"
    facts = {"seen_groups": [], "thresholds": each_head(0.5)}
    save_model(folder, model.eval(), image_size_px=params.generate.image_size, facts=facts)
    run_id = publish(folder, root=project, registry=params.registry)
    catalogue = Registry(project, params.registry)
    version = catalogue.register(run_id)
    catalogue.move_alias("champion", version)
    return version.version


@pytest.fixture(scope="session")
def run() -> Run:
    """Run a command in a project, as a user would; it must succeed unless ``check=False``."""

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


SCENES = """
import os, sys
from pathlib import Path
from flows.retrain import retrain
from flows.score import score
from quality_model.records import HEADS
from benchmarks.project import change_params
for name, code in {scenes!r}.items():
    sys.stderr.write(f"=== {{name}}\\n")
    try:
        exec(code)
    except (Exception, SystemExit) as error:
        sys.stderr.write(f"failed with {{error!r}}\\n")
"""


def run_scenes(project: Path, scenes: dict[str, str], *, cwd: Path | None = None) -> dict[str, str]:
    """Run pieces of Python in one process, and so with one temporary Prefect server.

    Args:
        project: Its code runs, and its folder keeps Prefect's state.
        scenes: The pieces by name; each may call `retrain`, `score` and `change_params`.
        cwd: Where the process is started, if not in the project.

    Returns:
        What each printed and logged; one that failed says "failed with" its error.
    """
    done = subprocess.run(
        [sys.executable, "-c", SCENES.format(scenes=scenes)],
        cwd=cwd or project,
        env=environment(project) | {"PYTHONPATH": f"{project}:{PROJECT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=560,
        check=False,
    )
    parts = done.stdout.split("=== ")[1:]
    assert done.returncode == 0 and len(parts) == len(scenes), done.stdout
    return dict(zip(scenes, parts, strict=True))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """A project in which `make run`'s flow ran once. Tests may use it, not change its artifacts."""
    shared = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        shared = shared.parent  # one project for all workers
    project = shared / "trained" / "project"
    printed = project / "state" / "printed.txt"
    with locked(shared / "trained.lock", timeout_s=560):
        if not printed.exists():
            small_project(project, TINY)
            done = run(project, sys.executable, "-m", "flows.first_run")
            printed.write_text(done.stdout + done.stderr)
    return project
