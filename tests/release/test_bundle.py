"""What makes a trained model the bundled one, and that the package carries it."""

import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from quality_model import pretrained
from quality_model.cli import cli
from quality_model.core import storage
from quality_model.errors import CheckpointError
from quality_model.networks.model import load_model
from quality_model.params import values_sha256
from quality_model.records import ModelRef
from quality_model.release.card import bundle_model
from quality_model.release.decisions import Decision, now, write_record
from tests.pretrained.conftest import trained as trained
from tests.release.gate.evidence import tree

CPU = torch.device("cpu")
PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bundled(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package") / "standard"
    bundle_model(trained, folder, root=folder.parent, image_licence=None)
    return folder


def test_the_bundled_model_is_the_trained_one_in_half_precision(trained: Path, bundled: Path) -> None:
    assert (bundled / "model.safetensors").stat().st_size < 5_000_000
    assert storage.require_sealed(bundled, verify=True)["kind"] == "model"
    original, half = load_model(trained, CPU), load_model(bundled, CPU)
    assert half.image_size_px == original.image_size_px
    assert half.thresholds == original.thresholds
    images = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        difference = half.model(images)["all_scores"] - original.model(images)["all_scores"]
    assert difference.abs().max() < 0.01


def test_its_facts_lead_back_to_its_training_and_not_to_a_machine(trained: Path, bundled: Path) -> None:
    facts = load_model(bundled, CPU).facts
    sha256 = storage.file_sha256(trained / "model.safetensors")
    assert (facts.trained_sha256, facts.version, facts.run_id) == (sha256, sha256[:12], "0123abcd")
    assert (facts.git_commit, facts.git_dirty) == ("c" * 40, "true")
    assert facts.model_sha256 == storage.require_sealed(trained)["sha256"]
    assert facts.params_sha256 == values_sha256(load_model(trained, CPU).facts.settings or {})
    assert (facts.best_epoch, facts.data_sha256) == (3, "e" * 64)
    assert facts.settings == {
        "source.dataset": "sample-photos*250 + images",
        "train.epochs": 8,
        "train.loss_weights": {"noise": 1.0},
    }
    # The host's name is gone.
    assert facts.model_extra == {"files": ["of-them", "sample-photos", "zh-plus/tiny-imagenet"]}


def bundle_by_command(trained: Path, output: Path) -> str:
    """Run the command in the current project, and return the card that it wrote."""
    arguments = ["ship", "--model", str(trained), "--output", str(output), "--image-licence", "CC0"]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "model.safetensors" in result.output
    return (output / "MODEL_CARD.md").read_text()


def test_the_command_writes_a_card_with_the_gates_decision_on_this_model_and_keeps_other_files(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "standard"
    output.mkdir()
    (output / "LICENSES.md").write_text("Of the images")
    ref = ModelRef("quality-model", None, None, "w")
    other = Decision("passed", now(), ref, "of another", gate_sha256="g")
    write_record(tmp_path, other, evidence=json.dumps(tree()))
    card = bundle_by_command(trained, output)
    assert "CC0" in card and "The verdict is missing" in card and "The evaluation is missing" in card
    assert f"`{'c' * 40}` with uncommitted changes" in card
    write_record(
        tmp_path,
        replace(other, model_sha256=storage.sealed_sha256(trained)),
        evidence=json.dumps(tree()),
    )
    card = bundle_by_command(trained, output)  # again over what is there
    assert "Passed; there was no champion" in card and "| `noise` | 0.500 [0.500, 0.500] |" in card
    assert (output / "LICENSES.md").read_text() == "Of the images"
    assert json.loads((output / "model.json").read_text())["facts"]["run_id"] == "0123abcd"


def test_a_model_that_is_not_complete_is_not_bundled(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="gone"):
        bundle_model(tmp_path / "gone", tmp_path / "standard", root=tmp_path, image_licence=None)
    assert not (tmp_path / "standard").exists()


def test_the_package_carries_the_folders_of_the_bundled_models() -> None:
    setuptools = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]
    package = Path(pretrained.__file__).parent
    patterns = setuptools["package-data"][pretrained.__name__]
    carried = {package / pattern.removesuffix("/*") for pattern in patterns}
    assert carried == set(pretrained.FOLDERS.values())


@pytest.mark.parametrize(("name", "architecture"), [("bundled", "small"), ("bundled-standard", "standard")])
def test_what_is_bundled_is_complete_and_loads(name: str, architecture: str) -> None:
    folder = pretrained.pretrained_folder(name)
    assert folder is not None
    loaded = load_model(folder, CPU)
    assert (folder / "model.safetensors").stat().st_size < 5_000_000
    assert loaded.thresholds is not None
    assert (loaded.model.architecture, loaded.image_size_px) == (architecture, 224)
    card = (folder / "MODEL_CARD.md").read_text()
    assert f"version {loaded.facts.version}" in card.splitlines()[0]
    (licences,) = re.findall(r"those in (\S+LICENSES\.md|LICENSES\.md)", card)
    assert (folder / licences).read_text().strip()
