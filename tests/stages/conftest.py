"""A project with a champion and a candidate that see noise differently."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from quality_model.core.decoding import Pixels
from quality_model.networks.checkpoints import save_model
from quality_model.networks.model import MultiHeadQualityAssessmentModel
from quality_model.params import Params
from quality_model.records import HEADS
from quality_model.release.publish import publish
from quality_model.release.registry import Registry

SETTINGS = {"source.dataset": "sample-photos", "generate.profile": "seed", "train.epochs": 2}


def make_model(noise_bias: float) -> MultiHeadQualityAssessmentModel:
    """Random weights, the same each time; its noise score is below 0.2 for a bias of -3, above 0.8 for 3."""
    torch.manual_seed(7)
    model = MultiHeadQualityAssessmentModel()
    with torch.no_grad():
        model.head_noise[6].bias.fill_(noise_bias)
    return model.eval()


@pytest.fixture(scope="session")
def two_versions(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path, params: Params) -> Path:
    """Project folder whose version 1 is champion and 2 candidate. Copied by `project`, never changed."""
    root = tmp_path_factory.mktemp("two-versions")
    shutil.copyfile(mlflow_database, root / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        registry = Registry(root, params.registry)
        for number, bias in ((1, -3.0), (2, 3.0)):
            folder = root / "models" / str(number)
            facts = {
                "data_sha256": str(number) * 64,
                "num_train": 600,
                "settings": SETTINGS,
                "thresholds": dict.fromkeys(HEADS, 0.5),
            }
            save_model(folder, make_model(bias), image_size_px=32, facts=facts)
            registry.register(publish(folder, root=root, registry=params.registry))
        registry.move_alias("champion", registry.find("1"))
        registry.move_alias("candidate", registry.find("2"))
    return root


@pytest.fixture
def project(project: Path, two_versions: Path) -> Path:
    """A project folder of its own with the two versions; their files are shared."""
    shutil.copyfile(two_versions / "mlflow.db", project / "mlflow.db")
    (project / "mlartifacts").symlink_to(two_versions / "mlartifacts")
    return project


@pytest.fixture
def registry(project: Path, params: Params) -> Registry:
    return Registry(project, params.registry)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory, photo: Pixels) -> Path:
    """Five images, one of them wide, a broken one and a file that is no image."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "album").mkdir()
    for number in range(5):
        crop = photo[40 * number : 40 * number + 96, : 96 if number else 200]
        Image.fromarray(crop).save(folder / ("album" if number % 2 else ".") / f"{number}.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not the rest")
    (folder / "notes.txt").write_text("no image")
    return folder
