"""A model in the place of the bundled one, whose weights these tests do not need."""

from pathlib import Path

import pytest
import torch

from quality_model import pretrained
from quality_model.networks.model import MultiHeadQualityAssessmentModel, save_model
from quality_model.records import HEADS
from quality_model.release.card import bundle_model


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model's folder, with facts of its machine and its code."""
    torch.manual_seed(4)
    folder = tmp_path_factory.mktemp("trained") / "model"
    facts = {
        "best_epoch": 3,
        "data_sha256": "e" * 64,
        "thresholds": dict.fromkeys(HEADS, 0.25),
        "settings": {
            "source.dataset": "sample-photos*250 + /home/someone/images",
            "train.device": "cuda",
            "generate.workers": 16,
            "train.epochs": 8,
            "train.loss_weights": {"noise": 1.0},
        },
        "hostname": "grey-box",
        "run_id": "0123abcd",
        "git_commit": "c" * 40,
        "git_dirty": "true",
        "files": ["~/more/of-them", "sample-photos", "zh-plus/tiny-imagenet"],
    }
    save_model(folder, MultiHeadQualityAssessmentModel().eval(), image_size_px=32, facts=facts)
    return folder


@pytest.fixture(scope="session")
def bundled_files(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package") / "standard"
    bundle_model(trained, folder, root=folder.parent, image_licence=None)
    return folder


@pytest.fixture
def bundled(bundled_files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package has a bundled model."""
    monkeypatch.setitem(pretrained.FOLDERS, pretrained.NAME, bundled_files)
    return bundled_files


@pytest.fixture
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package has no bundled model."""
    for name in pretrained.FOLDERS:
        monkeypatch.setitem(pretrained.FOLDERS, name, tmp_path / name)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: no project, no registry."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder
