"""The compact relative of the network goes every way that the standard one goes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from quality_model.core.decoding import Pixels
from quality_model.core.predict import MultiHeadQualityInference
from quality_model.data.dataset import TrainingSet
from quality_model.errors import CheckpointError
from quality_model.networks.checkpoints import load_model, save_model
from quality_model.networks.model import MultiHeadQualityAssessmentModel, to_model_input
from quality_model.params import TrainParams
from quality_model.records import HEADS
from quality_model.release.bundle import bundle_model
from quality_model.train import train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def compact(section: TrainParams) -> TrainParams:
    return section.model_copy(update={"architecture": "compact", "epochs": 1})


@pytest.fixture(scope="module")
def folder(compact: TrainParams, training_set: TrainingSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compact model as training leaves it."""
    root = tmp_path_factory.mktemp("compact")
    trained = train(compact, training_set, root / "checkpoints")
    facts = {**trained.facts(), "thresholds": dict.fromkeys(HEADS, 0.5)}
    save_model(root / "model", trained.model, image_size_px=training_set.image_size_px, facts=facts)
    return root / "model"


def test_a_compact_model_is_trained_saved_loaded_and_scores(folder: Path, training_set: TrainingSet) -> None:
    loaded = load_model(folder, CPU)
    images = np.array(training_set.images[:3])
    with torch.inference_mode():
        expected = loaded.model(to_model_input(images, CPU))["all_scores"].numpy()
    scores = MultiHeadQualityInference(folder, device="cpu").score_pixels(images)
    assert loaded.model.architecture == "compact"
    np.testing.assert_allclose(scores, expected, atol=0.01)


def test_a_compact_model_is_bundled_as_one_and_its_card_says_so(
    folder: Path, tmp_path: Path, photo: Pixels
) -> None:
    bundle_model(folder, tmp_path / "shipped", root=tmp_path, image_licence=None)
    assert load_model(tmp_path / "shipped", CPU).model.architecture == "compact"
    assert "architecture `compact`" in (tmp_path / "shipped" / "MODEL_CARD.md").read_text()
    trained, shipped = (
        MultiHeadQualityInference(path, device="cpu").predict(photo)
        for path in (folder, tmp_path / "shipped")
    )
    assert shipped.noise == pytest.approx(trained.noise, abs=0.01)


def test_weights_to_begin_with_must_be_of_the_same_architecture(
    section: TrainParams, compact: TrainParams, training_set: TrainingSet, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"of architecture compact, but train.architecture is standard"):
        train(section, training_set, tmp_path / "checkpoints", start=load_model(folder, CPU))
    torch.save(MultiHeadQualityAssessmentModel().state_dict(), tmp_path / "original.pt")
    original = load_model(tmp_path / "original.pt", CPU)
    with pytest.raises(CheckpointError, match=r"of architecture standard, but train.architecture is compact"):
        train(compact, training_set, tmp_path / "checkpoints", start=original)
    assert not (tmp_path / "checkpoints").exists()


def test_a_run_of_one_architecture_does_not_go_on_from_checkpoints_of_the_other(
    section: TrainParams, compact: TrainParams, training_set: TrainingSet, tmp_path: Path
) -> None:
    first = train(compact, training_set, tmp_path / "checkpoints")
    standard = section.model_copy(update={"epochs": 1})
    other = train(standard, training_set, tmp_path / "checkpoints")
    assert (first.model.architecture, other.model.architecture) == ("compact", "standard")
    assert other.resumed_from_epoch == 0
    assert train(compact, training_set, tmp_path / "checkpoints").resumed_from_epoch == 1
