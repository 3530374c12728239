"""The evaluation of a model on a split."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from torch import nn

from quality_model import metrics
from quality_model.errors import UsageError
from quality_model.evaluation import Evaluation, evaluate, write_evaluation
from quality_model.gates import decide
from quality_model.params import EvaluateParams, Params
from quality_model.records import HEADS
from quality_model.training_set.store import TrainingSet

WEIGHTS = {"color_cast": 1.0, "blurriness": 1.0, "watermark": 1.5, "noise": 1.0}
KINDS = {
    "color_cast": {"red", "cool"},
    "blurriness": {"gaussian", "motion", "box"},
    "watermark": {"tiled", "corner"},
    "noise": {"gaussian", "poisson"},
}


@pytest.fixture(scope="module")
def section() -> EvaluateParams:
    return EvaluateParams(batch_size=16, bootstrap_samples=100, confidence=0.9, seed=1, device="cpu")


@pytest.fixture
def too_high(
    section: EvaluateParams, reads_labels_too_high: nn.Module, training_set: TrainingSet
) -> Evaluation:
    return evaluate(section, reads_labels_too_high, training_set, loss_weights=WEIGHTS)


def test_a_model_that_answers_the_labels_has_no_error_and_explains_everything(
    section: EvaluateParams, reads_labels: nn.Module, training_set: TrainingSet
) -> None:
    result = evaluate(section, reads_labels, training_set, loss_weights=WEIGHTS).metrics
    assert result["loss"] == pytest.approx(0.0, abs=1e-9)
    for head in HEADS:
        assert result["heads"][head]["r2"] == pytest.approx(1.0)
        assert result["heads"][head]["spearman"] == pytest.approx(1.0)


def test_the_facts_say_what_was_evaluated(too_high: Evaluation, training_set: TrainingSet) -> None:
    facts = too_high.metrics
    assert facts["split"] == "test"
    assert facts["data_sha256"] == training_set.data_sha256
    assert (facts["num_samples"], facts["num_groups"]) == (30, 5)
    assert (facts["confidence"], facts["bootstrap_samples"]) == (0.9, 100)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_only_the_samples_of_the_split_are_scored(
    section: EvaluateParams, reads_labels: nn.Module, training_set: TrainingSet, split: str
) -> None:
    evaluation = evaluate(section, reads_labels, training_set, loss_weights=WEIGHTS, split=split)  # type: ignore[arg-type]
    manifest = training_set.manifest
    assert list(evaluation.predictions["sample_id"]) == list(
        manifest.loc[manifest["split"] == split, "sample_id"]
    )


def test_the_loss_is_the_mean_over_heads_of_weight_times_mse(too_high: Evaluation) -> None:
    heads = too_high.metrics["heads"]
    expected = sum(WEIGHTS[head] * heads[head]["mse"] for head in HEADS) / 4
    assert too_high.metrics["loss"] == pytest.approx(expected)
    labels = too_high.predictions["noise_label"]
    assert heads["noise"]["mse"] == pytest.approx(np.mean(np.minimum(0.25, 1 - labels) ** 2), abs=1e-6)


@pytest.mark.parametrize("head", HEADS)
def test_kinds_and_absent_divide_the_samples_among_them(too_high: Evaluation, head: str) -> None:
    measured = too_high.metrics["heads"][head]
    assert set(measured["kinds"]) == KINDS[head]
    parts = [*measured["kinds"].values(), measured["absent"]]
    assert sum(part["num_samples"] for part in parts) == measured["num_samples"] == 30
    assert sum(part["mse"] * part["num_samples"] for part in parts if part["num_samples"]) == pytest.approx(
        30 * measured["mse"]
    )
    assert (
        measured["clean"]["num_samples"]
        == too_high.predictions["is_clean"].sum()
        < measured["absent"]["num_samples"]
    )


def test_a_slice_holds_the_measures_of_its_samples_alone(too_high: Evaluation) -> None:
    table = too_high.predictions[too_high.predictions["noise_kind"] == "poisson"]
    measured = too_high.metrics["heads"]["noise"]["kinds"]["poisson"]
    expected = metrics.measure(table["noise_label"], table["noise_score"], constant=None)
    for name in ("mse", "mae", "r2", "pearson", "spearman"):
        assert measured[name] == expected[name]
    assert measured["num_groups"] == table["group"].nunique()
    assert measured["mean_label"] == pytest.approx(table["noise_label"].mean())


def test_clean_pictures_show_what_a_head_answers_where_there_is_nothing_to_find(too_high: Evaluation) -> None:
    for head in HEADS:
        clean = too_high.metrics["heads"][head]["clean"]
        assert clean["mean_label"] == 0.0
        assert clean["mean_score"] == pytest.approx(0.25)
        assert clean["mse"] == pytest.approx(0.0625)
        assert (clean["r2"], clean["spearman"], clean["intervals"]["r2"]) == (None, None, None)


def test_the_constant_predictor_answers_the_mean_of_the_training_labels(
    too_high: Evaluation, training_set: TrainingSet
) -> None:
    manifest = training_set.manifest
    train, test = (manifest[manifest["split"] == split] for split in ("train", "test"))
    measured = too_high.metrics["heads"]["watermark"]
    expected = ((test["watermark_label"] - train["watermark_label"].mean()) ** 2).mean()
    assert measured["constant_mse"] == pytest.approx(expected, rel=1e-5)
    tiled = [part[part["watermark_kind"] == "tiled"]["watermark_label"] for part in (train, test)]
    expected = ((tiled[1] - tiled[0].mean()) ** 2).mean()
    assert measured["kinds"]["tiled"]["constant_mse"] == pytest.approx(expected, rel=1e-5)
    assert measured["clean"]["constant_mse"] == 0.0


def test_a_kind_that_is_not_in_the_test_split_is_shown_with_no_samples(too_high: Evaluation) -> None:
    box = too_high.metrics["heads"]["blurriness"]["kinds"]["box"]
    assert (box["num_samples"], box["mse"], box["mean_score"]) == (0, None, None)
    assert set(box["intervals"].values()) == {None}


def test_intervals_hold_the_measure_and_are_drawn_over_groups(
    too_high: Evaluation, section: EvaluateParams
) -> None:
    table = too_high.predictions
    for head in HEADS:
        measured = too_high.metrics["heads"][head]
        low, high = measured["intervals"]["mae"]
        assert low <= measured["mae"] <= high
    expected = metrics.bootstrap_intervals(
        table["noise_label"],
        table["noise_score"],
        table["group"],
        constant=None,
        samples=section.bootstrap_samples,
        confidence=section.confidence,
        seed=section.seed,
    )
    assert too_high.metrics["heads"]["noise"]["intervals"]["r2"] == list(expected["r2"] or ())


def test_evaluating_twice_gives_the_same_numbers(
    too_high: Evaluation, section: EvaluateParams, reads_labels_too_high: nn.Module, training_set: TrainingSet
) -> None:
    again = evaluate(section, reads_labels_too_high, training_set, loss_weights=WEIGHTS)
    assert again.metrics == too_high.metrics
    pd.testing.assert_frame_equal(again.predictions, too_high.predictions)


def test_a_split_without_samples_is_an_error_that_names_the_parameter(
    section: EvaluateParams, reads_labels: nn.Module, two_groups: TrainingSet
) -> None:
    with pytest.raises(UsageError, match=r"split test has no samples(.|\n)*generate\.test_share"):
        evaluate(section, reads_labels, two_groups, loss_weights=WEIGHTS)


def test_what_is_written_is_what_was_measured(too_high: Evaluation, tmp_path: Path) -> None:
    write_evaluation(too_high, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "metrics.json",
        "evaluation.json",
        "predictions.csv",
    }
    assert json.loads((tmp_path / "evaluation.json").read_text()) == too_high.metrics
    summary = json.loads((tmp_path / "metrics.json").read_text())
    assert list(summary) == ["loss", *HEADS]
    assert summary["noise"] == {name: too_high.metrics["heads"]["noise"][name] for name in metrics.MEASURES}
    table = pd.read_csv(tmp_path / "predictions.csv")
    assert list(table["sample_id"]) == list(too_high.predictions["sample_id"])
    for column in ("noise_label", "noise_score", "overall_score"):
        assert table[column].to_numpy() == pytest.approx(too_high.predictions[column].to_numpy(), abs=1e-6)


def test_writing_the_same_evaluation_twice_gives_the_same_bytes(too_high: Evaluation, tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_evaluation(too_high, tmp_path / name)
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


def test_the_gate_reads_an_evaluation_as_it_is(
    too_high: Evaluation,
    section: EvaluateParams,
    reads_labels: nn.Module,
    training_set: TrainingSet,
    params: Params,
) -> None:
    exact = evaluate(section, reads_labels, training_set, loss_weights=WEIGHTS)
    assert decide(params.gate, exact.metrics, None).passed
    assert decide(params.gate, exact.metrics, too_high.metrics).passed
    worse = decide(params.gate, too_high.metrics, exact.metrics)
    assert {row.head for row in worse.rows if row.rule == "champion_mse" and not row.passed} == set(HEADS)
