import copy
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from quality_model import storage
from quality_model.checkpoints import MODEL_FILES, load_model, save_model
from quality_model.errors import CheckpointError
from quality_model.images import Pixels
from quality_model.model import MultiHeadQualityAssessmentModel, to_model_input
from quality_model.records import HEADS

CPU = torch.device("cpu")


class Canary:
    """What a hostile pickle holds: loading it would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def model() -> MultiHeadQualityAssessmentModel:
    torch.manual_seed(3)
    model = MultiHeadQualityAssessmentModel(dropout=0.2)
    model(torch.rand(4, 3, 32, 32))  # batch norm has seen something
    return model.eval()


@pytest.fixture
def folder(tmp_path: Path, model: MultiHeadQualityAssessmentModel) -> Path:
    save_model(tmp_path / "model", model, image_size_px=96, facts={"best_epoch": 7})
    return tmp_path / "model"


def assert_same_weights(one: MultiHeadQualityAssessmentModel, other: MultiHeadQualityAssessmentModel) -> None:
    theirs = other.state_dict()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name


def flip_bit(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 4
    path.write_bytes(bytes(data))


def test_a_saved_model_loads_with_the_same_bits(folder: Path, model: MultiHeadQualityAssessmentModel) -> None:
    loaded = load_model(folder, CPU)
    assert_same_weights(model, loaded.model)
    assert loaded.image_size_px == 96
    assert loaded.facts == {"best_epoch": 7}
    assert loaded.model.dropout == 0.2
    assert loaded.sha256 == storage.file_sha256(folder / "model.safetensors")
    assert not loaded.model.training


def test_a_compact_model_comes_back_as_one(tmp_path: Path) -> None:
    compact = MultiHeadQualityAssessmentModel(dropout=0.1, architecture="compact").eval()
    save_model(tmp_path / "model", compact, image_size_px=64, facts={})
    assert json.loads((tmp_path / "model" / "model.json").read_text())["architecture"] == "compact"
    loaded = load_model(tmp_path / "model", CPU).model
    assert loaded.architecture == "compact"
    assert_same_weights(compact, loaded)


def test_weights_of_one_architecture_under_the_name_of_another_are_refused(tmp_path: Path) -> None:
    compact = MultiHeadQualityAssessmentModel(architecture="compact")
    folder = tmp_path / "model"
    save_model(folder, compact, image_size_px=64, facts={})
    description = json.loads((folder / "model.json").read_text())
    storage.write_json(folder / "model.json", {**description, "architecture": "standard"})
    storage.seal(folder, ["model.safetensors", "model.json"], rows=1)
    with pytest.raises(CheckpointError, match="of another architecture than standard"):
        load_model(folder, CPU)


def test_a_description_from_before_there_were_two_architectures_means_the_standard_one(
    folder: Path, model: MultiHeadQualityAssessmentModel
) -> None:
    description = json.loads((folder / "model.json").read_text())
    earlier = {**description, "architecture": "MultiHeadQualityAssessmentModel"}
    storage.write_json(folder / "model.json", earlier)
    storage.seal(folder, ["model.safetensors", "model.json"], rows=1)
    loaded = load_model(folder, CPU).model
    assert loaded.architecture == "standard"
    assert_same_weights(model, loaded)


def test_the_folder_holds_weights_a_description_and_a_marker(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(MODEL_FILES)
    assert storage.require_sealed(folder, verify=True)["rows"] == 1
    description = json.loads((folder / "model.json").read_text())
    assert description["heads"] == ["color_cast", "blurriness", "watermark", "noise"]


def test_saving_twice_gives_the_same_bytes(
    folder: Path, tmp_path: Path, model: MultiHeadQualityAssessmentModel
) -> None:
    channels_last = MultiHeadQualityAssessmentModel(dropout=0.2).to(memory_format=torch.channels_last)
    channels_last.load_state_dict(model.state_dict())
    save_model(tmp_path / "again", channels_last, image_size_px=96, facts={"best_epoch": 7})
    for name in MODEL_FILES:
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_a_model_is_replaced_by_the_next_one(folder: Path) -> None:
    torch.manual_seed(9)
    other = MultiHeadQualityAssessmentModel()
    save_model(folder, other, image_size_px=64, facts={})
    loaded = load_model(folder, CPU)
    assert loaded.image_size_px == 64
    assert_same_weights(other, loaded.model)


def test_the_file_of_weights_inside_a_folder_stands_for_the_folder(folder: Path) -> None:
    assert load_model(folder / "model.safetensors", CPU).image_size_px == 96


def test_a_bare_file_of_weights_is_taken_to_be_for_224_px(
    folder: Path, tmp_path: Path, model: MultiHeadQualityAssessmentModel
) -> None:
    bare = (folder / "model.safetensors").rename(tmp_path / "weights.safetensors")
    loaded = load_model(bare, CPU)
    assert_same_weights(model, loaded.model)
    assert loaded.image_size_px == 224
    assert loaded.facts == {}


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
@pytest.mark.parametrize("key", [None, "model_state_dict", "state_dict"])
def test_a_state_dict_of_the_original_design_loads(
    tmp_path: Path, model: MultiHeadQualityAssessmentModel, suffix: str, key: str | None
) -> None:
    state = model.state_dict()
    path = tmp_path / f"original{suffix}"
    torch.save({"epoch": 12, key: state, "val_loss": 0.03} if key else state, path)
    assert_same_weights(model, load_model(path, CPU).model)


def test_weights_in_half_precision_load_and_keep_the_overall_weights_exact(
    tmp_path: Path, model: MultiHeadQualityAssessmentModel
) -> None:
    half = {name: t.half() if t.is_floating_point() else t for name, t in model.state_dict().items()}
    save_file(half, tmp_path / "half.safetensors")
    loaded = load_model(tmp_path / "half.safetensors", CPU).model
    assert torch.equal(loaded.degradation_weights, model.degradation_weights)
    picture = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(loaded(picture)["all_scores"], model(picture)["all_scores"], atol=2e-3, rtol=0)


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


def test_weights_hold_every_tensor_once(folder: Path, model: MultiHeadQualityAssessmentModel) -> None:
    assert load_file(folder / "model.safetensors").keys() == model.state_dict().keys()


@pytest.fixture
def half(tmp_path: Path, model: MultiHeadQualityAssessmentModel) -> Path:
    save_model(tmp_path / "half", model, image_size_px=96, facts={}, half_precision=True)
    return tmp_path / "half"


def test_weights_in_half_precision_take_less_than_five_megabytes_and_load_as_float32(
    half: Path, model: MultiHeadQualityAssessmentModel
) -> None:
    assert (half / "model.safetensors").stat().st_size < 5_000_000
    kept = load_file(half / "model.safetensors")
    loaded = load_model(half, CPU).model.state_dict()
    for name, tensor in model.state_dict().items():
        assert kept[name].dtype == (torch.float16 if tensor.is_floating_point() else tensor.dtype)
        assert loaded[name].dtype == tensor.dtype
        assert torch.allclose(loaded[name], tensor, rtol=1e-3, atol=1e-6), name
    assert torch.equal(loaded["degradation_weights"], model.degradation_weights)


@torch.no_grad()
def test_half_precision_changes_scores_by_less_than_a_hundredth(tmp_path: Path, photo: Pixels) -> None:
    torch.manual_seed(8)
    crops = np.stack([photo[y : y + 48, x : x + 48] for y, x in ((0, 0), (200, 90), (300, 300), (40, 400))])
    pictures = to_model_input(crops, CPU)
    model = MultiHeadQualityAssessmentModel()
    for _ in range(20):
        model(pictures)
    for head, logits in zip(HEADS, model.eval()(pictures)["all_scores"].logit().T, strict=True):
        last = getattr(model, f"head_{head}")[6]  # spread its scores over pictures, as training would
        last.bias.copy_(-300 * (logits.mean() - last.bias))
        last.weight.mul_(300)
    save_model(tmp_path / "model", model, image_size_px=48, facts={}, half_precision=True)
    bare = (tmp_path / "model" / "model.safetensors").rename(tmp_path / "bare.safetensors")
    scores = model(pictures)["all_scores"]
    assert (scores.amax(0) - scores.amin(0)).min() > 0.05  # they do depend on the picture
    assert (load_model(bare, CPU).model(pictures)["all_scores"] - scores).abs().max() < 0.01


def test_a_weight_too_large_for_half_precision_is_refused(
    tmp_path: Path, model: MultiHeadQualityAssessmentModel
) -> None:
    large = copy.deepcopy(model)
    with torch.no_grad():
        large.head_noise[6].bias.fill_(70_000.0)
    with pytest.raises(CheckpointError, match=r"head_noise\.6\.bias"):
        save_model(tmp_path / "model", large, image_size_px=96, facts={}, half_precision=True)
    assert not (tmp_path / "model").exists()


def test_thresholds_come_with_the_model(tmp_path: Path, model: MultiHeadQualityAssessmentModel) -> None:
    thresholds = {"noise": 0.5, "color_cast": 0.25, "blurriness": 0, "watermark": 0.75}
    save_model(tmp_path / "model", model, image_size_px=96, facts={"thresholds": thresholds})
    loaded = load_model(tmp_path / "model", CPU).thresholds
    assert loaded == thresholds
    assert list(loaded) == list(HEADS)


def test_a_model_without_thresholds_has_none(folder: Path) -> None:
    assert load_model(folder, CPU).thresholds is None


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
