"""A model and the folder that it was saved to."""

import shutil
from pathlib import Path

import pytest
import torch

from quality_model.networks.model import MultiHeadQualityAssessmentModel, save_model


@pytest.fixture(scope="module")
def model() -> MultiHeadQualityAssessmentModel:
    torch.manual_seed(3)
    model = MultiHeadQualityAssessmentModel(dropout=0.2)
    model(torch.rand(4, 3, 32, 32))  # batch norm has seen something
    return model.eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, model: MultiHeadQualityAssessmentModel) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    save_model(folder, model, image_size_px=96, facts={"best_epoch": 7})
    return folder


@pytest.fixture
def folder(tmp_path: Path, saved: Path) -> Path:
    """A copy for one test, which may damage it."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def assert_same_weights(one: MultiHeadQualityAssessmentModel, other: MultiHeadQualityAssessmentModel) -> None:
    theirs = other.state_dict()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name
