"""The card of a version is written from its evidence and stands where the version is looked at."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from quality_model.core import storage
from quality_model.params import Params
from quality_model.paths import EVIDENCE_NAME, VERDICT_NAME
from quality_model.release.steps import register_candidate


@pytest.fixture
def client(project: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{project}/mlflow.db")


@pytest.fixture
def report(project: Path, two_versions: Path) -> Path:
    """The gate's report about version 2."""
    folder = project / "reports" / "gate"
    sha256 = storage.require_sealed(two_versions / "models" / "2")["sha256"]
    verdict = {"passed": True, "compared_with": "1", "summary": "All is well.", "model_sha256": sha256}
    storage.write_json(folder / VERDICT_NAME, verdict)
    storage.write_json(folder / EVIDENCE_NAME, {"heads": {"noise": {"r2": 0.77, "mse": 0.01}}})
    return folder


def test_registering_writes_the_card_and_attaches_it_to_version_and_run(
    project: Path, params: Params, two_versions: Path, report: Path, registry, client, tmp_path: Path
) -> None:
    model = two_versions / "models" / "2"
    version = register_candidate(params.registry, root=project, model=model, report=report)
    card = (report / "MODEL_CARD.md").read_text()
    for words in ("quality-model version 2", "sample-photos", "2" * 64, "0.770", "0.500", "All is well."):
        assert words in card
    assert registry.find(version).run_id in card
    assert client.get_model_version("quality-model", version).description == card
    kept = client.download_artifacts(registry.find(version).run_id, "MODEL_CARD.md", str(tmp_path))
    assert Path(kept).read_text() == card


def test_a_card_too_long_for_a_description_is_cut_at_a_line_and_whole_in_the_run(
    registry, client, tmp_path: Path
) -> None:
    version = registry.find("2")
    card = "".join(f"line {number:04d}\n" for number in range(900))
    registry.attach_card(version, card)
    shown = client.get_model_version("quality-model", "2").description
    assert len(shown) <= 5000
    assert "MODEL_CARD.md" in shown.splitlines()[-1]
    assert set(shown.splitlines()[:-2]) < set(card.splitlines())
    kept = client.download_artifacts(version.run_id, "MODEL_CARD.md", str(tmp_path))
    assert Path(kept).read_text() == card
