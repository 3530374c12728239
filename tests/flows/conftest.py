"""A small project of its own for each test that runs the whole way."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.project import ROOT, environment
from benchmarks.project import make_project as small_project
from quality_model.core.storage import locked
from quality_model.networks.checkpoints import save_model
from quality_model.networks.model import MultiHeadQualityAssessmentModel
from quality_model.params import load_params
from quality_model.records import HEADS
from quality_model.release.registry import Registry
from quality_model.release.tracking import start_run

PROJECT = ROOT

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
        "min_sweep_spearman": dict.fromkeys(("color_cast", "blurriness", "watermark", "noise"), -1.0),
        "max_cross_talk": dict.fromkeys(("color_cast", "blurriness", "watermark", "noise"), 1.0),
        "max_clean_flags": dict.fromkeys(("color_cast", "blurriness", "watermark", "noise"), 1.0),
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


def replace_champion_by_a_poor_one(project: Path) -> str:
    """Let a model whose every score is high be champion, so that any training is better; its version."""
    params = load_params(project / "params.yaml")
    torch.manual_seed(3)
    model = MultiHeadQualityAssessmentModel()
    with torch.no_grad():
        for head in (model.head_color_cast, model.head_blurriness, model.head_watermark, model.head_noise):
            head[6].bias.fill_(3.0)
    folder = project / "models" / "poor"
    facts = {"seen_groups": [], "thresholds": dict.fromkeys(HEADS, 0.5)}
    save_model(folder, model.eval(), image_size_px=params.generate.image_size, facts=facts)
    with start_run(
        project, params.registry, name="poor", params={}, params_sha256="0" * 64, system_metrics=False
    ) as opened:
        opened.log_model(folder)
        run_id = opened.require_delivered()
    catalogue = Registry(project, params.registry)
    version = catalogue.register(run_id).version
    catalogue.promote(version, "moved by hand")
    return version


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
