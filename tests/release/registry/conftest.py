"""A project whose registry holds three versions."""

import shutil
from pathlib import Path

import pytest
import torch

from quality_model.networks.checkpoints import save_model
from quality_model.networks.model import MultiHeadQualityAssessmentModel
from quality_model.params import Params, RegistryParams
from quality_model.release.publish import publish
from quality_model.release.registry import Registry


@pytest.fixture
def section(params: Params) -> RegistryParams:
    return params.registry


@pytest.fixture(scope="session")
def three_versions(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path, params: Params) -> Path:
    """Project folder with versions 1, 2 and 3, and no alias. Copied by `project`, never changed."""
    root = tmp_path_factory.mktemp("three-versions")
    shutil.copyfile(mlflow_database, root / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        registry = Registry(root, params.registry)
        for number in (1, 2, 3):
            torch.manual_seed(number)
            folder = root / "models" / str(number)
            save_model(
                folder,
                MultiHeadQualityAssessmentModel(),
                image_size_px=32,
                facts={"number": number, "seen_groups": [], "data_sha256": f"{number}" * 64},
            )
            registry.register(publish(folder, root=root, registry=params.registry))
    return root


@pytest.fixture
def project(project: Path, three_versions: Path) -> Path:
    """A project folder of its own with the three versions; their files are shared."""
    shutil.copyfile(three_versions / "mlflow.db", project / "mlflow.db")
    (project / "mlartifacts").symlink_to(three_versions / "mlartifacts")
    return project


@pytest.fixture
def registry(project: Path, section: RegistryParams) -> Registry:
    return Registry(project, section)
