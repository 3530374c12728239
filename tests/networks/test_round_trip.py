"""What is saved loads again: the weights, their precision, and the facts beside them."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from quality_model import pretrained
from quality_model.core import storage
from quality_model.core.decoding import Pixels
from quality_model.errors import CheckpointError
from quality_model.networks.checkpoints import MODEL_FILES, load_model, save_model
from quality_model.networks.model import MultiHeadQualityAssessmentModel, to_model_input
from quality_model.records import HEADS

from .conftest import assert_same_weights

CPU = torch.device("cpu")


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


def test_the_file_of_weights_alone_keeps_its_image_size(
    folder: Path, tmp_path: Path, model: MultiHeadQualityAssessmentModel, caplog: pytest.LogCaptureFixture
) -> None:
    bare = (folder / "model.safetensors").rename(tmp_path / "weights.safetensors")
    loaded = load_model(bare, CPU)
    assert_same_weights(model, loaded.model)
    assert (loaded.image_size_px, loaded.model.dropout) == (96, 0.2)
    assert loaded.facts == {}
    assert caplog.text == ""


def test_the_file_of_a_compact_model_alone_is_a_compact_one(tmp_path: Path) -> None:
    compact = MultiHeadQualityAssessmentModel(architecture="compact").eval()
    save_model(tmp_path / "model", compact, image_size_px=64, facts={}, half_precision=True)
    bare = (tmp_path / "model" / "model.safetensors").rename(tmp_path / "model.safetensors")
    loaded = load_model(bare, CPU)
    assert (loaded.model.architecture, loaded.image_size_px) == ("compact", 64)


@pytest.mark.parametrize("name", ["weights.safetensors", "original.pt", "original.pth"])
def test_weights_that_do_not_state_their_image_size_are_taken_to_be_for_224_px_and_it_is_said(
    tmp_path: Path, model: MultiHeadQualityAssessmentModel, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    if name.endswith(".safetensors"):
        save_file(model.state_dict(), tmp_path / name)
    else:
        torch.save(model.state_dict(), tmp_path / name)
    assert load_model(tmp_path / name, CPU).image_size_px == 224
    assert f"{name} does not state its image size: 224 px is assumed" in caplog.text


@pytest.mark.parametrize("name", ["standard", "compact"])
def test_a_bundled_model_states_its_size_in_its_folder_as_before(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(pretrained.__file__).parent / name
    assert load_model(folder, CPU).model.architecture == name
    assert load_model(folder / "model.safetensors", CPU).model.architecture == name
    assert caplog.text == ""


def test_a_tilde_in_the_path_of_a_model_is_the_home_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load_model(Path("~") / folder.name, CPU).image_size_px == 96


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
    image = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(loaded(image)["all_scores"], model(image)["all_scores"], atol=2e-3, rtol=0)


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
    images = to_model_input(crops, CPU)
    model = MultiHeadQualityAssessmentModel()
    for _ in range(20):
        model(images)
    for head, logits in zip(HEADS, model.eval()(images)["all_scores"].logit().T, strict=True):
        last = getattr(model, f"head_{head}")[6]  # spread its scores over images, as training would
        last.bias.copy_(-300 * (logits.mean() - last.bias))
        last.weight.mul_(300)
    save_model(tmp_path / "model", model, image_size_px=48, facts={}, half_precision=True)
    bare = (tmp_path / "model" / "model.safetensors").rename(tmp_path / "bare.safetensors")
    scores = model(images)["all_scores"]
    assert (scores.amax(0) - scores.amin(0)).min() > 0.05  # they do depend on the image
    assert (load_model(bare, CPU).model(images)["all_scores"] - scores).abs().max() < 0.01


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
