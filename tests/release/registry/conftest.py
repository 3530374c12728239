"""A project whose registry holds three versions."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from quality_model import pretrained
from quality_model.networks.model import MultiHeadQualityAssessmentModel, save_model
from quality_model.params import Params, RegistryParams
from quality_model.release.champion import make_champion
from quality_model.release.publish import publish
from quality_model.release.registry import Registry

SIZE_PX = 32


def write_model(folder: Path, seed: int, facts: Mapping[str, Any]) -> Path:
    """A model folder with random weights for images of 32 px."""
    torch.manual_seed(seed)
    save_model(
        folder, MultiHeadQualityAssessmentModel(architecture="small"), image_size_px=SIZE_PX, facts=facts
    )
    return folder


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
        for number in (1, 2, 3):
            facts = {
                "seen_groups": [],
                "data_sha256": f"{number}" * 64,
                "best_epoch": number,
                "git_commit": "a" * 40,
                "settings": {"source.dataset": "sample-photos"},
            }
            folder = write_model(root / "models" / str(number), number, facts)
            run_id = publish(folder, root=root, registry=params.registry)
            Registry(root, params.registry).register(run_id)
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


@pytest.fixture
def client(project: Path) -> MlflowClient:
    """MLflow's own client, as another program or its UI uses it."""
    return MlflowClient(tracking_uri=f"sqlite:///{project}/mlflow.db")


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package bundles a model of 32 px with a card."""
    facts = {"version": "s1", "data_sha256": "e" * 64, "git_commit": "c" * 40, "seen_groups": []}
    folder = write_model(tmp_path / "standard", 0, facts)
    (folder / "MODEL_CARD.md").write_text("# Model card: the bundled one\n")
    monkeypatch.setitem(pretrained.FOLDERS, pretrained.NAME, folder)
    return folder


def promote(root: Path, section: RegistryParams, version: str, **more: Any) -> bool:
    """Make a version champion without asking for a verdict."""
    registry = Registry(root, section)
    return make_champion(registry, registry.find(version), "promoted", "better", **more)
