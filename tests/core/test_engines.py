"""Every engine gives the network's scores, and which one scores is decided by rule."""

import pickle
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from quality_model.core import engines
from quality_model.core.engines import check_images, choose_device, choose_engine
from quality_model.core.model_files import StoredModel, read_model
from quality_model.core.network import reference_scores
from quality_model.errors import CheckpointError, DeviceUnavailableError, UsageError
from quality_model.networks.model import MultiHeadQualityAssessmentModel as Network
from quality_model.networks.model import save_model, to_model_input
from quality_model.params import ArchitectureName, EngineName

TOLERANCES: dict[EngineName, float] = {"torch-float32": 1e-5, "ncnn-float32": 1e-5, "torch-bfloat16": 0.01}
GOLDEN_SCORES: dict[ArchitectureName, list[list[float]]] = {
    "standard": [
        [0.48836, 0.57098, 0.61910, 0.60629],
        [0.47019, 0.54283, 0.63538, 0.65294],
        [0.48670, 0.56701, 0.62411, 0.58663],
    ],
    "small": [
        [0.79869, 0.82088, 0.23681, 0.94790],
        [0.35019, 0.79889, 0.28331, 0.70558],
        [0.92653, 0.81481, 0.29634, 0.99408],
    ],
}
"""Of `golden_network` on the check images of 48 px."""

Store = Callable[[Network, int], StoredModel]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Save a network as a model folder and read it."""

    def stored(network: Network, image_size_px: int) -> StoredModel:
        folder = tmp_path_factory.mktemp("stored") / "model"
        save_model(folder, network, image_size_px=image_size_px, facts={})
        return read_model(folder)

    return stored


@pytest.fixture(scope="module", params=["standard", "small"])
def network(request: pytest.FixtureRequest) -> Network:
    """A network whose scores differ, with batch statistics as of a trained one."""
    torch.manual_seed(3)
    network = Network(architecture=request.param).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0.0, 0.2)
            module.running_var.uniform_(0.3, 1.5)
            module.weight.data.uniform_(0.7, 1.4)
            module.bias.data.normal_(0.0, 0.2)
        if isinstance(module, torch.nn.Linear):
            module.weight.data.mul_(4.0)
    return network


def golden_network(architecture: ArchitectureName) -> Network:
    """Weights by a formula, so that they are the same with any version of any library."""
    network = Network(architecture=architecture).eval()
    for number, (name, tensor) in enumerate(network.state_dict().items()):
        if not tensor.is_floating_point() or name == "degradation_weights":
            continue
        at = torch.arange(tensor.numel(), dtype=torch.float64)
        waves = torch.sin(0.37 * at * (1.0 + at / tensor.numel()) + number).reshape(tensor.shape)
        waves *= (3.0 / tensor[0].numel()) ** 0.5 if tensor.dim() > 1 else 0.1
        is_scale = name.endswith("running_var") or ("bn" in name and name.endswith("weight"))
        tensor.copy_(1.0 + waves if is_scale else waves)
    return network


@pytest.mark.parametrize("size_px", [48, 49])
def test_engines_and_the_reference_give_the_scores_of_the_network_whatever_borders_are_cut_off(
    network: Network, store: Store, size_px: int
) -> None:
    model, images = store(network, size_px), check_images(size_px)
    with torch.inference_mode():
        expected = network(to_model_input(images, torch.device("cpu")))["all_scores"].numpy()
    assert np.ptp(expected, axis=0).mean() > 0.005
    assert np.abs(reference_scores(model.weights, model.architecture, images) - expected).max() <= 1e-5
    for name, tolerance in TOLERANCES.items():
        engine = choose_engine(model, "cpu", name)
        scores = engine.scores(images)
        assert engine.name == name
        assert scores.dtype == np.float32
        assert np.abs(scores - expected).max() <= tolerance


@pytest.mark.parametrize("name", TOLERANCES)
def test_a_score_depends_neither_on_neighbours_nor_on_the_process(
    network: Network, store: Store, name: EngineName
) -> None:
    engine, images = choose_engine(store(network, 48), "cpu", name), check_images(48)
    together = engine.scores(images)
    moved = pickle.loads(pickle.dumps(engine))
    assert engine.is_portable
    assert np.array_equal(np.concatenate([engine.scores(one[None]) for one in images]), together)
    assert np.array_equal(moved.scores(images), together)
    assert engine.scores(images[:0]).shape == (0, 4)


@pytest.mark.parametrize("name", ["torch-float32", "ncnn-float32"])
@pytest.mark.parametrize("architecture", GOLDEN_SCORES)
def test_scores_of_a_given_checkpoint_are_the_same_for_ever(
    architecture: ArchitectureName, name: EngineName, store: Store
) -> None:
    engine = choose_engine(store(golden_network(architecture), 48), "cpu", name)
    scores = engine.scores(check_images(48))
    assert engine.name == name
    assert scores.tolist() == [pytest.approx(row, abs=1e-4) for row in GOLDEN_SCORES[architecture]]


def test_a_cpu_scores_by_ncnn_unless_another_engine_is_named_and_the_weights_stay(
    network: Network, store: Store
) -> None:
    model = store(network, 48)
    before = {name: array.copy() for name, array in model.weights.items()}
    assert choose_engine(model, "cpu").name == "ncnn-float32"
    assert all(np.array_equal(before[name], array) for name, array in model.weights.items())


def test_an_engine_that_does_not_agree_is_not_used_and_the_log_says_so(
    network: Network, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = store(network, 48)
    exact = choose_engine(model, "cpu", "torch-float32").scores(check_images(48))
    in_bfloat16 = choose_engine(model, "cpu", "torch-bfloat16").scores(check_images(48))
    largest = float(np.abs(exact - in_bfloat16).max()) / 2
    assert largest > 1e-5
    monkeypatch.setattr(engines, "LARGEST_DIFFERENCE", largest)
    assert choose_engine(model, "cpu", "torch-bfloat16").name == "torch-float32"
    assert "torch-bfloat16 differs by up to" in caplog.text
    monkeypatch.setattr(engines, "LARGEST_DIFFERENCE", -1.0)
    with pytest.raises(CheckpointError, match="No engine gives"):
        choose_engine(model, "cpu")


def test_a_model_whose_scores_are_not_finite_is_refused(network: Network, store: Store) -> None:
    model = store(network, 48)
    last = max(name for name in model.weights if name.startswith("head_noise") and name.endswith("bias"))
    damaged = {**model.weights, last: np.array([np.nan], np.float32)}
    with pytest.raises(CheckpointError, match="not finite"):
        choose_engine(replace(model, weights=damaged), "cpu")


def test_a_device_is_named_and_one_that_is_not_there_is_refused() -> None:
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") in ("cpu", "cuda", "mps")
    with pytest.raises(UsageError, match="auto, cpu, cuda or mps"):
        choose_device("gpu")
    absent = "mps" if torch.cuda.is_available() else "cuda"
    with pytest.raises(DeviceUnavailableError, match=absent):
        choose_device(absent)
