"""What is no sound model is refused with its name, and nothing of it is run."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from quality_model.core import storage
from quality_model.errors import CheckpointError
from quality_model.networks.checkpoints import load_model, save_model
from quality_model.networks.model import MultiHeadQualityAssessmentModel

from .conftest import assert_same_weights

CPU = torch.device("cpu")


class Canary:
    """What a hostile pickle holds: loading it would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def flip_bit(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 4
    path.write_bytes(bytes(data))


def test_weights_of_one_architecture_under_the_name_of_another_are_refused(tmp_path: Path) -> None:
    compact = MultiHeadQualityAssessmentModel(architecture="compact")
    folder = tmp_path / "model"
    save_model(folder, compact, image_size_px=64, facts={})
    description = json.loads((folder / "model.json").read_text())
    storage.write_json(folder / "model.json", {**description, "architecture": "standard"})
    storage.seal(folder, ["model.safetensors", "model.json"], rows=1)
    with pytest.raises(CheckpointError, match="of another architecture than standard"):
        load_model(folder, CPU)


@pytest.mark.parametrize("name", ["model.safetensors", "model.json", "_complete.json"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_flipped_bit_anywhere_in_the_folder_is_noticed(folder: Path, name: str, share: float) -> None:
    path = folder / name
    position = int(share * path.stat().st_size)
    if name == "_complete.json":  # within what the marker vouches with
        text = path.read_text()
        position = text.index('"sha256"') + 12 + int(share * 60)
    flip_bit(path, position)
    with pytest.raises(CheckpointError) as caught:
        load_model(folder, CPU)
    assert str(folder) in str(caught.value)
    assert caught.value.remedy


def test_a_damaged_marker_gives_an_error_of_ours_or_the_very_same_weights(
    folder: Path, model: MultiHeadQualityAssessmentModel
) -> None:
    path = folder / "_complete.json"
    whole = path.read_bytes()
    for position in range(0, len(whole), len(whole) // 15):
        flip_bit(path, position)
        try:
            assert_same_weights(model, load_model(folder, CPU).model)
        except CheckpointError as error:
            assert str(folder) in str(error)
        path.write_bytes(whole)


@pytest.mark.parametrize("name", ["model.safetensors", "model.json", "_complete.json"])
def test_a_missing_file_is_noticed(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load_model(folder, CPU)


@pytest.mark.parametrize("name", ["model.safetensors", "original.pt"])
@pytest.mark.parametrize("kept_share", [0.0, 0.0001, 0.5, 0.99])
def test_a_file_cut_short_is_refused_by_name(
    tmp_path: Path, model: MultiHeadQualityAssessmentModel, name: str, kept_share: float
) -> None:
    path = tmp_path / name
    if path.suffix == ".pt":
        torch.save(model.state_dict(), path)
    else:
        save_file(model.state_dict(), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept_share * len(data))])
    with pytest.raises(CheckpointError, match=name):
        load_model(path, CPU)


def test_a_flipped_bit_in_a_weight_of_a_pt_file_is_noticed(
    tmp_path: Path, model: MultiHeadQualityAssessmentModel
) -> None:
    torch.save(model.state_dict(), tmp_path / "original.pt")
    flip_bit(tmp_path / "original.pt", (tmp_path / "original.pt").stat().st_size // 2)
    with pytest.raises(CheckpointError, match="checksum"):
        load_model(tmp_path / "original.pt", CPU)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    canary = tmp_path / "ran"
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Canary(canary)))
    torch.save({"state_dict": Canary(canary)}, tmp_path / "zipped.pth")
    (tmp_path / "renamed.safetensors").write_bytes(pickle.dumps(Canary(canary)))
    for name in ("raw.pt", "zipped.pth", "renamed.safetensors"):
        with pytest.raises(CheckpointError, match=name):
            load_model(tmp_path / name, CPU)
    assert not canary.exists()
    pickle.loads((tmp_path / "raw.pt").read_bytes())  # the canary is a live one
    assert canary.exists()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(
    tmp_path: Path, model: MultiHeadQualityAssessmentModel, bad: float
) -> None:
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["head_noise.6.bias"][0] = bad
    save_file(state, tmp_path / "bad.safetensors")
    with pytest.raises(CheckpointError, match=r"head_noise\.6\.bias"):
        load_model(tmp_path / "bad.safetensors", CPU)
    broken = MultiHeadQualityAssessmentModel()
    broken.load_state_dict(state)
    with pytest.raises(CheckpointError, match=r"head_noise\.6\.bias"):
        save_model(tmp_path / "model", broken, image_size_px=32, facts={})
    assert not (tmp_path / "model").exists()


def test_a_variance_below_zero_is_refused(tmp_path: Path, model: MultiHeadQualityAssessmentModel) -> None:
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["backbone.0.bn.running_var"][3] = -1.0
    save_file(state, tmp_path / "bad.safetensors")
    with pytest.raises(CheckpointError, match="running_var"):
        load_model(tmp_path / "bad.safetensors", CPU)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("channel_attention.0.bias"), "missing: channel_attention.0.bias"),
        (lambda state: state.update({"head_rain.0.bias": torch.zeros(1)}), "unknown: head_rain.0.bias"),
        (
            lambda state: state.update({"head_noise.6.bias": torch.zeros(2)}),
            r"head_noise.6.bias \(2,\), not \(1,\)",
        ),
        (lambda state: state.update({"degradation_weights": torch.full((4,), 0.25)}), "overall"),
        (lambda state: state.clear(), "missing"),
    ],
    ids=["missing", "unknown", "shape", "overall weights", "empty"],
)
def test_another_architecture_is_refused_with_what_differs(
    tmp_path: Path, model: MultiHeadQualityAssessmentModel, change, said: str
) -> None:
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    change(state)
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=said):
        load_model(tmp_path / "other.pt", CPU)


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {1: torch.zeros(1)}, torch.zeros(3), None])
def test_a_pt_file_without_a_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="no state dict"):
        load_model(tmp_path / "other.pt", CPU)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("format_version", 2, "format version 2"),
        ("architecture", "SmallModel", "SmallModel"),
        ("heads", ["noise"], "heads"),
        ("image_size_px", "large", "does not describe"),
        ("image_size_px", -5, "does not describe"),
        ("dropout", 2.0, "does not describe"),
        ("facts", None, "does not describe"),
    ],
)
def test_a_description_of_something_else_is_refused(folder: Path, key: str, value: object, said: str) -> None:
    description = json.loads((folder / "model.json").read_text())
    storage.write_json(folder / "model.json", {**description, key: value})
    storage.seal(folder, ["model.safetensors", "model.json"], rows=1)
    with pytest.raises(CheckpointError, match=said):
        load_model(folder, CPU)


def test_a_marker_that_does_not_vouch_for_the_weights_is_refused(folder: Path) -> None:
    storage.seal(folder, ["model.json"], rows=1)
    with pytest.raises(CheckpointError, match="does not vouch"):
        load_model(folder, CPU)


@pytest.mark.parametrize("name", ["gone.safetensors", "gone.pt", "gone"])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=name):
        load_model(tmp_path / name, CPU)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8")
    with pytest.raises(CheckpointError, match=r"photo\.jpg"):
        load_model(tmp_path / "photo.jpg", CPU)


@pytest.mark.parametrize(
    ("thresholds", "said"),
    [
        ({"noise": "high"}, "noise"),
        ({"noise": True}, "noise"),
        ({"noise": float("nan")}, "noise"),
        ({"sharpness": 0.5}, "sharpness"),
        ([0.5, 0.5, 0.5, 0.5], "not a number for each head"),
    ],
)
def test_thresholds_that_are_not_understood_are_refused(
    folder: Path, model: MultiHeadQualityAssessmentModel, thresholds: object, said: str
) -> None:
    with pytest.raises(CheckpointError, match=said):
        save_model(folder, model, image_size_px=96, facts={"thresholds": thresholds})
    description = json.loads((folder / "model.json").read_text())
    description["facts"]["thresholds"] = thresholds
    (folder / "model.json").write_text(json.dumps(description))
    storage.seal(folder, ["model.safetensors", "model.json"], rows=1)
    with pytest.raises(CheckpointError, match=said):
        load_model(folder, CPU)


def test_weights_that_state_another_image_size_than_the_description_are_refused(folder: Path) -> None:
    description = json.loads((folder / "model.json").read_text())
    storage.write_json(folder / "model.json", {**description, "image_size_px": 224})
    storage.seal(folder, ["model.safetensors", "model.json"], rows=1)
    with pytest.raises(CheckpointError, match=r"96 px, but model\.json standard for 224 px"):
        load_model(folder, CPU)


def test_weights_with_a_description_but_without_a_marker_beside_them_are_incomplete(folder: Path) -> None:
    (folder / "_complete.json").unlink()
    with pytest.raises(CheckpointError, match="_complete"):
        load_model(folder / "model.safetensors", CPU)


@pytest.mark.parametrize(
    "stated", ["", "[]", "{}", '{"format_version": 1, "image_size_px": "large"}', '{"format_version": 2}']
)
def test_metadata_that_is_not_understood_is_refused(
    tmp_path: Path, model: MultiHeadQualityAssessmentModel, stated: str
) -> None:
    save_file(model.state_dict(), tmp_path / "odd.safetensors", {"quality_model": stated})
    with pytest.raises(CheckpointError, match=r"odd\.safetensors"):
        load_model(tmp_path / "odd.safetensors", CPU)


def test_metadata_of_another_tool_is_ignored(tmp_path: Path, model: MultiHeadQualityAssessmentModel) -> None:
    save_file(model.state_dict(), tmp_path / "theirs.safetensors", {"format": "pt"})
    assert load_model(tmp_path / "theirs.safetensors", CPU).image_size_px == 224
