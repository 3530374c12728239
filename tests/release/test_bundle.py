"""What `ship` writes, and that the package carries it."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from quality_model import pretrained
from quality_model.cli import cli
from quality_model.core import storage
from quality_model.errors import CheckpointError
from quality_model.networks.checkpoints import load_model
from quality_model.params import values_sha256

CPU = torch.device("cpu")
PROJECT = Path(__file__).resolve().parents[2]


def test_the_shipped_model_is_the_trained_one_in_half_precision(trained: Path, shipped_files: Path) -> None:
    assert (shipped_files / "model.safetensors").stat().st_size < 5_000_000
    assert storage.require_sealed(shipped_files, verify=True)["kind"] == "model"
    original, shipped = load_model(trained, CPU), load_model(shipped_files, CPU)
    assert shipped.image_size_px == original.image_size_px
    assert shipped.thresholds == original.thresholds
    images = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        difference = shipped.model(images)["all_scores"] - original.model(images)["all_scores"]
    assert difference.abs().max() < 0.01


def test_its_facts_lead_back_to_its_training_and_not_to_a_machine(trained: Path, shipped_files: Path) -> None:
    facts = load_model(shipped_files, CPU).facts
    sha256 = storage.file_sha256(trained / "model.safetensors")
    assert (facts["trained_sha256"], facts["version"], facts["run_id"]) == (sha256, sha256[:12], "0123abcd")
    assert (facts["git_commit"], facts["git_dirty"]) == ("c" * 40, "true")
    assert facts["model_sha256"] == storage.require_sealed(trained)["sha256"]
    assert facts["params_sha256"] == values_sha256(load_model(trained, CPU).facts["settings"])
    assert (facts["best_epoch"], facts["data_sha256"]) == (3, "e" * 64)
    assert facts["settings"] == {
        "source.dataset": "sample-photos*250 + images",
        "train.epochs": 8,
        "train.loss_weights": {"noise": 1.0},
    }
    assert "hostname" not in facts
    assert facts["files"] == ["of-them", "sample-photos", "zh-plus/tiny-imagenet"]


def ship_by_command(trained: Path, output: Path, report: Path) -> str:
    """Run the command, and return the card that it wrote."""
    arguments = ["ship", "--model", str(trained), "--output", str(output), "--report", str(report)]
    result = CliRunner().invoke(cli, [*arguments, "--image-licence", "CC0"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "model.safetensors" in result.output
    return (output / "MODEL_CARD.md").read_text()


def test_the_command_ships_with_a_card_and_leaves_other_files_alone(trained: Path, tmp_path: Path) -> None:
    output = tmp_path / "standard"
    output.mkdir()
    (output / "LICENSES.md").write_text("Of the images")
    for _ in range(2):  # again over what is there
        card = ship_by_command(trained, output, tmp_path / "no report")
    assert "CC0" in card
    assert f"`{'c' * 40}` with uncommitted changes" in card
    assert (output / "LICENSES.md").read_text() == "Of the images"
    assert json.loads((output / "model.json").read_text())["facts"]["run_id"] == "0123abcd"


def test_the_card_tells_the_evidence_about_this_model_and_not_about_another(
    trained: Path, tmp_path: Path
) -> None:
    report = tmp_path / "gate"
    verdict = {"passed": True, "summary": "All is well."}
    storage.write_json(report / "evidence.json", {"heads": {"noise": {"r2": 0.77}}})
    storage.write_json(report / "verdict.json", {**verdict, "model_sha256": "of another"})
    other = ship_by_command(trained, tmp_path / "standard", report)
    assert "All is well." not in other
    assert "0.770" not in other
    sha256 = storage.require_sealed(trained)["sha256"]
    storage.write_json(report / "verdict.json", {**verdict, "model_sha256": sha256})
    own = ship_by_command(trained, tmp_path / "standard", report)
    assert "All is well." in own
    assert "0.770" in own


def test_a_model_that_is_not_whole_does_not_ship(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="gone"):
        pretrained.ship(tmp_path / "gone", tmp_path / "standard")
    assert not (tmp_path / "standard").exists()


def test_the_package_carries_the_folders_of_the_shipped_models() -> None:
    setuptools = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]
    package = Path(pretrained.__file__).parent
    patterns = setuptools["package-data"][pretrained.__name__]
    carried = {package / pattern.removesuffix("/*") for pattern in patterns}
    assert carried == set(pretrained.FOLDERS.values())


@pytest.mark.parametrize(("name", "architecture"), [("bundled", "standard"), ("bundled-compact", "compact")])
def test_what_ships_is_whole_and_loads(name: str, architecture: str) -> None:
    folder = pretrained.pretrained_folder(name)
    assert folder is not None
    loaded = load_model(folder, CPU)
    assert (folder / "model.safetensors").stat().st_size < 5_000_000
    assert loaded.thresholds is not None
    assert (loaded.model.architecture, loaded.image_size_px) == (architecture, 224)
    card = (folder / "MODEL_CARD.md").read_text()
    assert f"version {loaded.facts['version']}" in card.splitlines()[0]
    (licences,) = re.findall(r"those in (\S+LICENSES\.md|LICENSES\.md)", card)
    assert (folder / licences).read_text().strip()


def test_the_two_that_ship_learned_from_the_same_data() -> None:
    facts = [load_model(folder, CPU).facts for folder in pretrained.FOLDERS.values()]
    assert len({fact["data_sha256"] for fact in facts}) == 1
