"""Every engine gives the network's scores; the fastest is chosen among those that do."""

import copy
import logging
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from quality_model.core.engines import choice
from quality_model.core.engines.choice import check_images, choose_engine
from quality_model.core.engines.folding import folded
from quality_model.core.engines.ncnn_engine import NcnnEngine
from quality_model.networks.model import MultiHeadQualityAssessmentModel, to_model_input
from quality_model.params import ArchitectureName, EngineName

CPU = torch.device("cpu")
TOLERANCES: dict[EngineName, float] = {"torch-float32": 1e-5, "ncnn-float32": 1e-5, "torch-bfloat16": 0.01}
SIZE_PX = 48
GOLDEN_SCORES: dict[ArchitectureName, list[list[float]]] = {
    "standard": [
        [0.48836, 0.57098, 0.61910, 0.60629],
        [0.47019, 0.54283, 0.63538, 0.65294],
        [0.48670, 0.56701, 0.62411, 0.58663],
    ],
    "compact": [
        [0.64712, 0.69608, 0.67968, 0.63281],
        [0.68380, 0.66296, 0.59908, 0.54995],
        [0.57041, 0.60577, 0.60221, 0.57835],
    ],
}
"""Of `golden_model` on the check images."""


@pytest.fixture(scope="module", params=["standard", "compact"])
def model(request: pytest.FixtureRequest) -> MultiHeadQualityAssessmentModel:
    """A network whose scores lie apart, with batch statistics as of a trained one."""
    torch.manual_seed(3)
    model = MultiHeadQualityAssessmentModel(architecture=request.param).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0.0, 0.2)
            module.running_var.uniform_(0.3, 1.5)
            module.weight.data.uniform_(0.7, 1.4)
            module.bias.data.normal_(0.0, 0.2)
        if isinstance(module, torch.nn.Linear):
            module.weight.data.mul_(4.0)
    return model


@pytest.fixture(scope="module")
def expected(model: MultiHeadQualityAssessmentModel) -> np.ndarray:
    with torch.inference_mode():
        return model(to_model_input(check_images(SIZE_PX), CPU))["all_scores"].numpy()


@pytest.mark.parametrize("name", TOLERANCES)
def test_an_engine_gives_the_scores_of_the_network(
    model: MultiHeadQualityAssessmentModel, expected: np.ndarray, name: EngineName
) -> None:
    engine = choose_engine(model, CPU, SIZE_PX, name)
    scores = engine.scores(check_images(SIZE_PX))

    assert engine.name == name
    assert scores.dtype == np.float32
    assert np.abs(scores - expected).max() <= TOLERANCES[name]
    assert np.ptp(expected, axis=0).mean() > 0.005


@pytest.mark.parametrize("name", TOLERANCES)
def test_a_score_hangs_neither_on_neighbours_nor_on_the_process(
    model: MultiHeadQualityAssessmentModel, name: EngineName
) -> None:
    engine = choose_engine(model, CPU, SIZE_PX, name)
    images = check_images(SIZE_PX)
    together = engine.scores(images)
    moved = pickle.loads(pickle.dumps(engine))

    assert engine.is_portable
    assert np.array_equal(np.concatenate([engine.scores(one[None]) for one in images]), together)
    assert np.array_equal(moved.scores(images), together)
    assert engine.scores(images[:0]).shape == (0, 4)


def golden_model(architecture: ArchitectureName) -> MultiHeadQualityAssessmentModel:
    """Weights by a formula, so that they are the same with any version of any library."""
    model = MultiHeadQualityAssessmentModel(architecture=architecture).eval()
    for number, (name, tensor) in enumerate(model.state_dict().items()):
        if not tensor.is_floating_point() or name == "degradation_weights":
            continue
        at = torch.arange(tensor.numel(), dtype=torch.float64)
        waves = torch.sin(0.37 * at * (1.0 + at / tensor.numel()) + number).reshape(tensor.shape)
        waves *= (3.0 / tensor[0].numel()) ** 0.5 if tensor.dim() > 1 else 0.1
        is_scale = name.endswith("running_var") or (".bn" in name and name.endswith("weight"))
        tensor.copy_(1.0 + waves if is_scale else waves)
    return model


@pytest.mark.parametrize("name", ["torch-float32", "ncnn-float32"])
@pytest.mark.parametrize("architecture", GOLDEN_SCORES)
def test_scores_of_a_given_checkpoint_are_the_same_for_ever(
    architecture: ArchitectureName, name: EngineName
) -> None:
    engine = choose_engine(golden_model(architecture), CPU, SIZE_PX, name)
    scores = engine.scores(check_images(SIZE_PX))
    assert engine.name == name
    assert scores.tolist() == [pytest.approx(row, abs=1e-4) for row in GOLDEN_SCORES[architecture]]


def test_the_model_itself_is_left_as_it_was(model: MultiHeadQualityAssessmentModel) -> None:
    before = copy.deepcopy(model.state_dict())
    choose_engine(model, CPU, SIZE_PX)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_folding_leaves_no_batch_norm(model: MultiHeadQualityAssessmentModel) -> None:
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded(model).modules())


@pytest.mark.parametrize("asked", [None, "ncnn-float32"])
def test_an_engine_that_does_not_agree_is_not_used_and_the_log_says_so(
    model: MultiHeadQualityAssessmentModel,
    expected: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    asked: EngineName | None,
) -> None:
    monkeypatch.setattr(choice, "LARGEST_DIFFERENCE", -1.0)
    with caplog.at_level(logging.WARNING):
        engine = choose_engine(model, CPU, SIZE_PX, asked)

    assert engine.name == "torch-float32"
    assert np.abs(engine.scores(check_images(SIZE_PX)) - expected).max() <= 1e-6
    assert "ncnn-float32 differs by up to" in caplog.text


def test_what_is_timed_is_what_will_be_scored_at_once() -> None:
    cuda = torch.device("cuda")
    assert choice.timed_load(CPU, 224, 16).shape == (1, 224, 224, 3)
    assert choice.timed_load(CPU, 1024, 16).shape == (1, 256, 256, 3)
    assert choice.timed_load(cuda, 224, 16).shape == (16, 224, 224, 3)
    assert choice.timed_load(cuda, 224, 2).shape == (2, 224, 224, 3)


def test_the_engine_is_timed_with_that_load(
    model: MultiHeadQualityAssessmentModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[tuple[int, ...]] = []
    scores = NcnnEngine.scores

    def recording(self: NcnnEngine, pixels: np.ndarray) -> np.ndarray:
        scored.append(pixels.shape)
        return scores(self, pixels)

    monkeypatch.setattr(NcnnEngine, "scores", recording)
    choose_engine(model, CPU, 160)
    checked, *timed = scored
    assert checked == (3, 96, 96, 3)
    assert len(timed) >= 2
    assert set(timed) == {(1, 160, 160, 3)}


def test_damaged_weights_reach_whoever_scores(model: MultiHeadQualityAssessmentModel) -> None:
    damaged = copy.deepcopy(model)
    damaged.head_noise[6].bias.data.fill_(float("nan"))
    assert np.isnan(choose_engine(damaged, CPU, SIZE_PX).scores(check_images(SIZE_PX))).any()


def test_a_worker_that_scores_with_ncnn_imports_no_torch(tmp_path: Path) -> None:
    engine = choose_engine(MultiHeadQualityAssessmentModel().eval(), CPU, 32, "ncnn-float32")
    (tmp_path / "engine.pickle").write_bytes(pickle.dumps(engine))
    code = (
        "import pickle, sys\n"
        "from quality_model.score.reading import read_image\n"
        "pickle.load(open(sys.argv[1], 'rb'))\n"
        "print('torch' in sys.modules)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "engine.pickle")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"
