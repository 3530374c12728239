"""What is saved loads again; what is no sound model is refused with its name, and nothing of it is run."""

import copy
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from quality_model import pretrained
from quality_model.core import storage
from quality_model.core.model_files import MODEL_FILES
from quality_model.core.network import weight_shapes
from quality_model.errors import CheckpointError
from quality_model.networks.model import MultiHeadQualityAssessmentModel as Network
from quality_model.networks.model import load_model, save_model
from quality_model.params import ArchitectureName
from tests.hostile import Canary

from .conftest import assert_same_weights

CPU = torch.device("cpu")


def change(folder: Path, **values: object) -> None:
    """Change the description and verify it anew, as a writer that is wrong would."""
    description = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**description, **values}))
    storage.seal(folder, ["model.safetensors", "model.json"], rows=1)


def flip_bit(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 4
    path.write_bytes(bytes(data))


def changed_state(model: Network, **values: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """The weights, some of them replaced, left out (None) or added; ``__`` stands for a dot."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, value in values.items():
        state.pop(name.replace("__", "."), None)
        if value is not None:
            state[name.replace("__", ".")] = value
    return state


def test_a_saved_model_loads_with_the_same_bits_and_facts(folder: Path, model: Network) -> None:
    loaded = load_model(folder, CPU)
    assert_same_weights(model, loaded.model)
    assert not loaded.model.training
    assert (loaded.image_size_px, loaded.model.dropout) == (96, 0.2)
    assert loaded.facts.to_json() == {"best_epoch": 7}
    assert loaded.thresholds is None
    assert loaded.sha256 == storage.file_sha256(folder / "model.safetensors")
    assert loaded.folder_sha256 == storage.require_sealed(folder, verify=True)["sha256"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(MODEL_FILES)


def test_saving_twice_gives_the_same_bytes(folder: Path, tmp_path: Path, model: Network) -> None:
    channels_last = Network(dropout=0.2).to(memory_format=torch.channels_last)
    channels_last.load_state_dict(model.state_dict())
    save_model(tmp_path / "again", channels_last, image_size_px=96, facts={"best_epoch": 7})
    for name in MODEL_FILES:
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_a_model_is_replaced_by_the_next_one_of_another_architecture(folder: Path) -> None:
    small = Network(architecture="small").eval()
    thresholds = {"noise": 0.5, "color_cast": 0.25, "blurriness": 0, "watermark": 0.75}
    save_model(folder, small, image_size_px=64, facts={"thresholds": thresholds})
    loaded = load_model(folder, CPU)
    assert (loaded.model.architecture, loaded.image_size_px) == ("small", 64)
    assert loaded.thresholds == thresholds
    assert_same_weights(small, loaded.model)


def test_what_training_kept_is_kept_when_a_model_is_saved_again(tmp_path: Path, folder: Path) -> None:
    for name in ("standard", "small"):
        bundled = Path(pretrained.__file__).parent / name
        loaded = load_model(bundled, CPU)
        size_px, views = loaded.image_size_px, loaded.views
        save_model(tmp_path / name, loaded.model, image_size_px=size_px, views=views, facts=loaded.facts)
        told = json.loads((bundled / "model.json").read_text())
        assert json.loads((tmp_path / name / "model.json").read_text()) == told
        assert told["architecture"] == name


def test_a_description_from_before_there_were_two_architectures_means_the_standard_one(
    folder: Path, model: Network
) -> None:
    change(folder, architecture="MultiHeadQualityAssessmentModel")
    assert_same_weights(model, load_model(folder, CPU).model)


def test_the_file_of_weights_alone_keeps_its_architecture_and_image_size(
    folder: Path, tmp_path: Path, model: Network, caplog: pytest.LogCaptureFixture
) -> None:
    assert load_model(folder / "model.safetensors", CPU).facts.best_epoch == 7  # stands for its folder
    bare = load_model((folder / "model.safetensors").rename(tmp_path / "weights.safetensors"), CPU)
    assert_same_weights(model, bare.model)
    assert (bare.image_size_px, bare.model.dropout, bare.facts.to_json()) == (96, 0.2, {})
    save_model(tmp_path / "c", Network(architecture="small"), image_size_px=64, facts={})
    small = load_model((tmp_path / "c" / "model.safetensors").rename(tmp_path / "c.safetensors"), CPU)
    assert (small.model.architecture, small.image_size_px) == ("small", 64)
    assert caplog.text == ""


@pytest.mark.parametrize("name", ["weights.safetensors", "original.pt", "original.pth"])
@pytest.mark.parametrize("key", [None, "model_state_dict", "state_dict"])
def test_weights_of_the_original_design_load_and_224_px_are_assumed_with_a_warning(
    tmp_path: Path, model: Network, name: str, key: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    state, path = model.state_dict(), tmp_path / name
    if path.suffix == ".safetensors":
        save_file(state, path, {"format": "pt"})  # metadata of another tool
    else:
        torch.save({"epoch": 12, key: state, "val_loss": 0.03} if key else state, path)
    loaded = load_model(path, CPU)
    assert loaded.image_size_px == 224
    assert_same_weights(model, loaded.model)
    assert f"{name} does not state its image size: 224 px is assumed" in caplog.text


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_of_any_float_dtype_load_as_float32_with_exact_overall_weights(
    tmp_path: Path, model: Network, dtype: torch.dtype, suffix: str
) -> None:
    state = {n: t.to(dtype) if t.is_floating_point() else t for n, t in model.state_dict().items()}
    path = tmp_path / f"other{suffix}"
    if suffix == ".pt":
        torch.save(state, path)
    else:
        save_file(state, path)
    loaded = load_model(path, CPU).model.state_dict()
    for name, tensor in model.state_dict().items():
        assert loaded[name].dtype == tensor.dtype
        if name == "degradation_weights":
            assert torch.equal(loaded[name], tensor)
        else:
            assert torch.equal(loaded[name], state[name].to(tensor.dtype))


def test_half_precision_takes_less_than_five_megabytes(tmp_path: Path, model: Network) -> None:
    save_model(tmp_path / "half", model, image_size_px=96, facts={}, half_precision=True)
    assert (tmp_path / "half" / "model.safetensors").stat().st_size < 5_000_000
    kept, loaded = load_file(tmp_path / "half" / "model.safetensors"), load_model(tmp_path / "half", CPU)
    for name, tensor in model.state_dict().items():
        assert kept[name].dtype == (torch.float16 if tensor.is_floating_point() else tensor.dtype)
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.model(image)["all_scores"], model(image)["all_scores"], atol=2e-3, rtol=0
        )
    large = copy.deepcopy(model)
    with torch.no_grad():
        large.head_noise[6].bias.fill_(70_000.0)
    with pytest.raises(CheckpointError, match=r"head_noise\.6\.bias"):
        save_model(tmp_path / "large", large, image_size_px=96, facts={}, half_precision=True)
    assert not (tmp_path / "large").exists()


@pytest.mark.parametrize("architecture", ["standard", "small"])
def test_the_names_and_shapes_that_are_checked_are_those_of_the_network(
    architecture: ArchitectureName,
) -> None:
    state = Network(architecture=architecture).state_dict()
    assert weight_shapes(architecture) == {name: tuple(tensor.shape) for name, tensor in state.items()}


# -- refusals


@pytest.mark.parametrize("name", ["model.safetensors", "model.json", "_complete.json"])
@pytest.mark.parametrize("share", [0.0, 0.999])
def test_a_flipped_bit_or_a_missing_file_is_noticed(folder: Path, name: str, share: float) -> None:
    path = folder / name
    position = int(share * path.stat().st_size)
    if name == "_complete.json":  # within a hash
        position = path.read_text().index('"sha256"') + 12 + int(share * 60)
    flip_bit(path, position)
    with pytest.raises(CheckpointError) as caught:
        load_model(folder, CPU)
    assert str(folder) in str(caught.value)
    assert caught.value.remedy
    path.unlink()
    with pytest.raises(CheckpointError, match=name):
        load_model(folder / "model.safetensors", CPU)


def test_a_damaged_completion_marker_gives_an_error_of_ours_or_the_very_same_weights(
    folder: Path, model: Network
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
    storage.seal(folder, ["model.json"], rows=1)
    with pytest.raises(CheckpointError, match="does not verify"):
        load_model(folder, CPU)


@pytest.mark.parametrize("name", ["model.safetensors", "original.pt"])
@pytest.mark.parametrize("kept_share", [0.0, 0.0001, 0.5, 0.99])
def test_a_file_cut_short_is_refused_by_name(
    tmp_path: Path, model: Network, name: str, kept_share: float
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


def test_a_flipped_bit_in_a_weight_of_a_pt_file_is_noticed(tmp_path: Path, model: Network) -> None:
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


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"channel_attention__0__bias": None}, r"missing: channel_attention\.0\.bias"),
        ({"head_rain__0__bias": torch.zeros(1)}, r"unknown: head_rain\.0\.bias"),
        ({"head_noise__6__bias": torch.zeros(2)}, r"head_noise.6.bias \(2,\), not \(1,\)"),
        ({"degradation_weights": torch.full((4,), 0.25)}, "overall"),
        ({"head_noise__6__bias": torch.tensor([float("nan")])}, r"head_noise\.6\.bias holds NaN"),
        ({"head_noise__6__bias": torch.tensor([float("inf")])}, r"head_noise\.6\.bias holds NaN or infinity"),
        ({"backbone__0__bn__running_var": torch.full((32,), -1.0)}, "running_var is a variance below zero"),
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_of_another_network_or_no_numbers_are_refused_with_what_differs(
    tmp_path: Path, model: Network, changes: dict[str, torch.Tensor | None], said: str, suffix: str
) -> None:
    state, path = changed_state(model, **changes), tmp_path / f"other{suffix}"
    if suffix == ".pt":
        torch.save(state, path)
    else:
        save_file(state, path)
    with pytest.raises(CheckpointError, match=said):
        load_model(path, CPU)


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path, model: Network) -> None:
    broken = copy.deepcopy(model)
    broken.head_noise[6].bias.data.fill_(float("nan"))
    with pytest.raises(CheckpointError, match=r"head_noise\.6\.bias"):
        save_model(tmp_path / "model", broken, image_size_px=32, facts={})
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {1: torch.zeros(1)}, torch.zeros(3), None])
def test_a_pt_file_without_a_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="no state dict"):
        load_model(tmp_path / "other.pt", CPU)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("format_version", 2, "format version 2"),
        ("format_version", None, "does not describe"),
        ("architecture", "SmallModel", "SmallModel"),
        ("architecture", "small", "of another architecture than small"),
        ("heads", ["noise"], "heads"),
        ("image_size_px", "large", "image_size_px"),
        ("image_size_px", -5, "image_size_px"),
        ("image_size_px", 224, r"96 px, but model\.json standard for 224 px"),
        ("dropout", 2.0, "dropout"),
        ("facts", None, "facts"),
        ("facts", {"seen_groups": "all"}, "seen_groups"),
        ("facts", {"data_sha256": 7}, "data_sha256"),
    ],
)
def test_a_description_of_something_else_is_refused(folder: Path, key: str, value: object, said: str) -> None:
    change(folder, **{key: value})
    with pytest.raises(CheckpointError, match=said) as caught:
        load_model(folder, CPU)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    "thresholds", [{"noise": "high"}, {"noise": True}, {"noise": float("nan")}, {"sharpness": 0.5}, [0.5] * 4]
)
def test_thresholds_that_are_not_understood_are_neither_saved_nor_loaded(
    folder: Path, model: Network, thresholds: object
) -> None:
    with pytest.raises(CheckpointError, match="thresholds"):
        save_model(folder, model, image_size_px=96, facts={"thresholds": thresholds})
    change(folder, facts={"thresholds": thresholds})
    with pytest.raises(CheckpointError, match="thresholds"):
        load_model(folder, CPU)


@pytest.mark.parametrize(
    "stated", ["", "[]", "{}", '{"format_version": 1, "image_size_px": "large"}', '{"format_version": 2}']
)
def test_metadata_that_is_not_understood_is_refused(tmp_path: Path, model: Network, stated: str) -> None:
    save_file(model.state_dict(), tmp_path / "odd.safetensors", {"quality_model": stated})
    with pytest.raises(CheckpointError, match=r"odd\.safetensors"):
        load_model(tmp_path / "odd.safetensors", CPU)


def test_a_file_that_is_not_there_or_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8")
    for name in ("gone.safetensors", "gone.pt", "gone", "photo.jpg"):
        with pytest.raises(CheckpointError, match=name):
            load_model(tmp_path / name, CPU)
