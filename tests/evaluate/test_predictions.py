"""Scores of samples, and thresholds of flags."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quality_model.core.torch_engine import exact_float32
from quality_model.data.dataset import TrainingSet
from quality_model.errors import CheckpointError
from quality_model.evaluate.predictions import calibrate_intervals, calibrate_thresholds
from quality_model.networks.model import MultiHeadQualityAssessmentModel, predict_scores
from quality_model.records import HEADS, overall_score
from tests.evaluate.conftest import ReadsLabels


@pytest.fixture(scope="module")
def network() -> MultiHeadQualityAssessmentModel:
    torch.manual_seed(0)
    return MultiHeadQualityAssessmentModel().eval()


def test_scores_come_in_the_order_of_the_indices_and_not_of_the_file(
    training_set: TrainingSet, cpu: torch.device
) -> None:
    indices = np.array([50, 3, 117, 3])
    scores = predict_scores(ReadsLabels(), training_set.images, indices, batch_size=3, device=cpu)
    assert (scores.dtype, scores.shape) == (np.float32, (4, 4))
    assert scores == pytest.approx(np.asarray(training_set.labels[indices]), abs=1e-6)


def test_the_size_of_a_batch_does_not_change_the_scores(
    training_set: TrainingSet, network: torch.nn.Module, cpu: torch.device
) -> None:
    indices = training_set.indices("test")[:9]
    whole = predict_scores(network, training_set.images, indices, batch_size=9, device=cpu)
    parts = predict_scores(network, training_set.images, indices, batch_size=7, device=cpu)
    assert parts == pytest.approx(whole, abs=1e-5)
    assert ((whole > 0) & (whole < 1)).all()


def test_a_model_in_training_mode_is_scored_without_dropout(
    training_set: TrainingSet, cpu: torch.device
) -> None:
    torch.manual_seed(0)
    model = MultiHeadQualityAssessmentModel(dropout=0.5).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = predict_scores(model, training_set.images, [0, 1], batch_size=2, device=cpu)
    second = predict_scores(model, training_set.images, [0, 1], batch_size=2, device=cpu)
    assert np.array_equal(first, second)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_that_give_nan_are_an_error_that_names_the_remedy(
    training_set: TrainingSet, cpu: torch.device
) -> None:
    model = MultiHeadQualityAssessmentModel()
    with torch.no_grad():
        model.head_noise[0].bias.fill_(float("nan"))
    with pytest.raises(CheckpointError, match=r"not finite for 3 of 3 samples(.|\n)*another checkpoint"):
        predict_scores(model, training_set.images, [0, 1, 2], batch_size=2, device=cpu)


def test_the_table_holds_labels_beside_scores_and_the_overall_of_both(
    training_set: TrainingSet,
) -> None:
    indices = training_set.indices("test")
    scores = np.random.default_rng(0).random((len(indices), 4)).astype(np.float32)
    table = training_set.scored(indices, scores)
    manifest = training_set.manifest.iloc[indices]
    assert list(table["sample_id"]) == list(manifest["sample_id"])
    assert list(table["row"]) == list(indices)
    for position, head in enumerate(HEADS):
        assert table[f"{head}_label"].to_numpy() == pytest.approx(manifest[f"{head}_label"].to_numpy())
        assert table[f"{head}_score"].to_numpy() == pytest.approx(scores[:, position])
        assert (table[f"{head}_kind"].isna() == (table[f"{head}_label"] == 0)).all()
    expected = overall_score({head: float(table.loc[2, f"{head}_score"]) for head in HEADS})
    assert table.loc[2, "overall_score"] == pytest.approx(expected)
    assert (table.loc[table["is_clean"], "overall_label"] == 1.0).all()


def test_figures_are_computed_in_float32_proper_and_the_settings_of_the_host_come_back() -> None:
    def settings() -> list[str]:
        return [torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision]

    before = settings()
    with pytest.raises(RuntimeError), exact_float32():
        assert settings() == ["ieee", "ieee"]
        raise RuntimeError
    assert settings() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_the_scores_are_those_of_the_cpu(
    training_set: TrainingSet, network: torch.nn.Module, cpu: torch.device
) -> None:
    rows, cuda = training_set.indices("test"), torch.device("cuda")
    on_cpu = predict_scores(network, training_set.images, rows, batch_size=16, device=cpu)
    on_cuda = predict_scores(network.to(cuda), training_set.images, rows, batch_size=16, device=cuda)
    network.to(cpu)
    assert on_cuda == pytest.approx(on_cpu, abs=1e-5)


@given(st.integers(1, 300), st.sampled_from([0.0, 0.02, 0.1, 0.999]), st.integers(0, 9))
def test_thresholds_flag_the_allowed_share_of_the_images_they_come_from_and_no_more(
    size: int, share: float, seed: int
) -> None:
    clean = np.random.default_rng(seed).beta(1, 20, (size, 4))
    thresholds = calibrate_thresholds(clean, share)
    assert thresholds is not None
    for position, head in enumerate(HEADS):
        flagged = (clean[:, position] > thresholds[head]).mean()
        assert flagged == pytest.approx(np.floor(share * size + 1e-9) / size), head


def test_equal_scores_are_flagged_together_or_not_at_all_and_no_images_give_no_thresholds() -> None:
    clean = np.repeat([[0.1], [0.9]], [90, 10], axis=0) * np.ones((1, 4))
    assert calibrate_thresholds(clean, 0.05) == dict.fromkeys(HEADS, 0.9)
    assert calibrate_thresholds(np.empty((0, 4)), 0.02) is None


@given(st.integers(0, 50))
def test_intervals_cover_the_promised_share_of_other_images_where_a_head_is_sure_and_where_it_is_not(
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.random((8000, len(HEADS)))
    labels = np.clip(scores + rng.normal(0.0, 0.02 + 0.2 * scores), 0.0, 1.0)
    intervals = calibrate_intervals(scores[:4000], labels[:4000])
    assert intervals is not None
    low, high = intervals.of(scores[4000:].astype(np.float32))
    covered = (low <= labels[4000:]) & (labels[4000:] <= high)
    sure, unsure = scores[4000:] < 0.25, scores[4000:] > 0.75
    for part in (sure, unsure):
        assert covered[part].mean() == pytest.approx(intervals.confidence, abs=0.05)
    for found in intervals.heads.values():
        assert len(found.half_widths) == 4
        assert found.half_widths[0] * 2 < found.half_widths[-1]


def test_the_half_width_is_the_corrected_quantile_and_too_few_images_promise_nothing() -> None:
    residuals = np.linspace(0.01, 0.19, 19)[:, None] * np.ones((1, len(HEADS)))
    intervals = calibrate_intervals(np.zeros((19, 4)), residuals)
    assert intervals is not None and intervals.num_images == 19
    assert intervals.heads["noise"].half_widths == [pytest.approx(0.18)]  # rank ceil(20 * .9) of 19
    few = calibrate_intervals(np.zeros((8, 4)), residuals[:8])
    assert few is not None and few.heads["noise"].half_widths == [1.0]
    assert calibrate_intervals([], []) is None
