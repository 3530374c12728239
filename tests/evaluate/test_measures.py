"""The evaluation of a model on a split."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from torch import nn

from quality_model.data.dataset import TrainingSet
from quality_model.errors import UsageError
from quality_model.evaluate import Evaluation, evaluate, metrics, write_evaluation
from quality_model.evaluate.baselines import BASELINE_VERSION
from quality_model.evaluate.ladders import LADDERS
from quality_model.evaluate.measures import MEASURES_VERSION, score_split
from quality_model.params import EvaluateParams, Params
from quality_model.records import HEADS
from quality_model.release.gate import decide

WEIGHTS = {"color_cast": 1.0, "blurriness": 1.0, "watermark": 1.5, "noise": 1.0}
THRESHOLDS = {"color_cast": 0.2, "blurriness": 0.3, "watermark": 0.2, "noise": 0.3}
KINDS = {
    "color_cast": {"red", "cool"},
    "blurriness": {"gaussian", "motion", "box"},
    "watermark": {"tiled", "corner"},
    "noise": {"gaussian", "poisson"},
}


@pytest.fixture(scope="module")
def section() -> EvaluateParams:
    return EvaluateParams(
        batch_size=16,
        bootstrap_samples=100,
        ladder_images=2,
        baseline_samples=100,
        confidence=0.9,
        seed=1,
        device="cpu",
    )


@pytest.fixture(scope="module")
def too_high(
    section: EvaluateParams, reads_labels_too_high: nn.Module, training_set: TrainingSet
) -> Evaluation:
    return evaluate(section, reads_labels_too_high, training_set, loss_weights=WEIGHTS, thresholds=THRESHOLDS)


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
    assert (facts["num_counted_groups"], facts["excluded_groups"]) == (5, [])
    assert facts["measuring"] == {
        "bootstrap_samples": 100,
        "ladder_images": 2,
        "baseline_samples": 100,
        "confidence": 0.9,
        "seed": 1,
        "measures_version": MEASURES_VERSION,
        "baseline_version": BASELINE_VERSION,
    }


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_only_the_samples_of_the_split_are_scored(
    section: EvaluateParams, reads_labels: nn.Module, training_set: TrainingSet, split: str
) -> None:
    scored = score_split(section, reads_labels, training_set, split=split)
    manifest = training_set.manifest
    assert list(scored["sample_id"]) == list(manifest.loc[manifest["split"] == split, "sample_id"])


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


def test_clean_images_show_what_a_head_answers_where_there_is_nothing_to_find(too_high: Evaluation) -> None:
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
    again = evaluate(
        section, reads_labels_too_high, training_set, loss_weights=WEIGHTS, thresholds=THRESHOLDS
    )
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
    measures = {name: too_high.metrics["heads"]["noise"][name] for name in metrics.MEASURES}
    assert measures.items() <= summary["noise"].items()
    table = pd.read_csv(tmp_path / "predictions.csv")
    assert list(table["sample_id"]) == list(too_high.predictions["sample_id"])
    for column in ("noise_label", "noise_score", "overall_score"):
        assert table[column].to_numpy() == pytest.approx(too_high.predictions[column].to_numpy(), abs=1e-6)


def test_writing_the_same_evaluation_twice_gives_the_same_bytes(too_high: Evaluation, tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_evaluation(too_high, tmp_path / name)
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


@pytest.mark.parametrize("head", HEADS)
def test_severity_bands_divide_the_degraded_samples_and_hold_their_measures(
    too_high: Evaluation, head: str
) -> None:
    measured = too_high.metrics["heads"][head]
    bands = measured["slices"]["severity"]
    degraded = measured["num_samples"] - measured["absent"]["num_samples"]
    assert sum(band["num_samples"] for band in bands.values()) == degraded
    table = too_high.predictions
    told = {name: band for name, band in bands.items() if band["num_samples"] >= 5}
    assert told
    for name, band in told.items():
        low, high = map(float, name.split("-"))
        within = table[(table[f"{head}_label"] > low) & (table[f"{head}_label"] <= high)]
        assert len(within) == band["num_samples"]
        assert band["mean_score"] == pytest.approx(within[f"{head}_score"].mean())
        assert band["mse"] == metrics.mse(within[f"{head}_label"], within[f"{head}_score"])
        assert set(band["intervals"].values()) == {None}


def test_a_slice_of_few_samples_gives_their_number_and_claims_nothing(too_high: Evaluation) -> None:
    slices = [
        measured
        for head in HEADS
        for dimension in too_high.metrics["heads"][head]["slices"].values()
        for measured in dimension.values()
    ]
    small = [measured for measured in slices if measured["num_samples"] < 5]
    assert small
    assert all(set(measured) == {"num_samples"} for measured in small)
    assert all("mse" in measured for measured in slices if measured["num_samples"] >= 5)


def test_brightness_detail_and_source_divide_all_samples(too_high: Evaluation) -> None:
    slices = too_high.metrics["heads"]["noise"]["slices"]
    for dimension in ("brightness", "detail", "source"):
        assert sum(measured["num_samples"] for measured in slices[dimension].values()) == 30, dimension


def test_every_ladder_is_measured_on_clean_test_images_and_as_many_as_the_section_allows(
    too_high: Evaluation,
) -> None:
    assert set(too_high.metrics["ladders"]) == {ladder.name for ladder in LADDERS}
    assert {found["num_images"] for found in too_high.metrics["ladders"].values()} == {2}
    # in a clean image nothing is hidden, so the model answers what it always adds
    assert {found["mean_scores"][0] for found in too_high.metrics["ladders"].values()} == {0.25}


def test_cross_talk_is_that_of_the_ladders(too_high: Evaluation) -> None:
    ladders, matrix = too_high.metrics["ladders"], too_high.metrics["cross_talk"]
    for head in HEADS:
        climbs = [
            found["mean_scores"][-1] - found["mean_scores"][0]
            for found in ladders.values()
            if found["head"] == head
        ]
        assert matrix[head][head] == pytest.approx(min(climbs))
        assert set(matrix[head]) == set(HEADS)


def test_clean_flags_are_counted_on_clean_test_samples_with_the_models_thresholds(
    too_high: Evaluation,
) -> None:
    clean = int(too_high.predictions["is_clean"].sum())
    flags = too_high.metrics["clean_flags"]
    assert flags["color_cast"] == {"threshold": 0.2, "flagged_share": 1.0, "num_images": clean}
    assert flags["noise"] == {"threshold": 0.3, "flagged_share": 0.0, "num_images": clean}


def test_without_thresholds_and_baselines_the_evidence_says_that_they_are_not_known(
    section: EvaluateParams, reads_labels: nn.Module, training_set: TrainingSet
) -> None:
    evaluation = evaluate(section, reads_labels, training_set, loss_weights=WEIGHTS)
    assert evaluation.metrics["clean_flags"]["noise"]["flagged_share"] is None
    assert evaluation.metrics["baselines"] == {}


def test_baselines_that_were_measured_are_taken_over_as_they_are(
    section: EvaluateParams, reads_labels: nn.Module, training_set: TrainingSet
) -> None:
    known = {"noise": {"estimate_sigma": {"mse": 0.1, "r2": 0.5, "spearman": 0.9}}}
    evaluation = evaluate(section, reads_labels, training_set, loss_weights=WEIGHTS, baselines=known)
    assert evaluation.metrics["baselines"] == known


def test_the_summary_has_the_worst_ladder_the_largest_cross_talk_and_the_clean_flags_of_each_head() -> None:
    heads = {head: dict.fromkeys(metrics.MEASURES, 0.5) for head in HEADS}
    ladders = {
        f"{head} {name}": {"head": head, "spearman": spearman}
        for head in HEADS
        for name, spearman in (("one", 0.9), ("other", 0.7))
    }
    ladders["noise other"]["spearman"] = None
    matrix = {degraded: dict.fromkeys(HEADS, 0.01) for degraded in HEADS}
    matrix["blurriness"] = {"color_cast": 0.02, "blurriness": 0.9, "watermark": 0.3, "noise": 0.0}
    flags = {head: {"flagged_share": 0.02} for head in HEADS}
    facts = {
        "loss": 0.1, "heads": heads, "ladders": ladders, "cross_talk": matrix, "clean_flags": flags
    }  # fmt: skip
    summary = Evaluation(facts, pd.DataFrame()).summary()
    assert summary["watermark"]["worst_ladder_spearman"] == 0.7
    assert summary["noise"]["worst_ladder_spearman"] is None
    assert summary["watermark"]["largest_cross_talk"] == 0.3
    assert summary["blurriness"]["largest_cross_talk"] == 0.01
    assert summary["noise"]["clean_flag_share"] == 0.02


def test_the_gate_finds_all_it_asks_for_in_an_evaluation(too_high: Evaluation, params: Params) -> None:
    baselines = {head: {"a baseline": {"mse": 0.1, "r2": 0.0, "spearman": 0.0}} for head in HEADS}
    ladders = {  # those of a model that saw them; this one reads a few pixels
        name: found | {"spearman": 0.9} for name, found in too_high.metrics["ladders"].items()
    }
    verdict = decide(params.gate, too_high.metrics | {"baselines": baselines, "ladders": ladders}, None)
    assert {row.rule for row in verdict.rows if row.value is None} == {"same_test_set"}
    assert verdict.rows[0].passed
    assert {row.rule for row in verdict.rows if row.value is None} == {"same_test_set"}  # no champion
