"""The evaluation of a model on a split."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from quality_model.core.provenance import HeadIntervals, Intervals
from quality_model.data.dataset import TrainingSet
from quality_model.errors import UsageError
from quality_model.evaluate import metrics
from quality_model.evaluate.evidence import Evaluated, Slice
from quality_model.evaluate.measure import (
    FEWEST_SAMPLES,
    Evaluation,
    bootstrap_of,
    evaluate,
    slices_of,
)
from quality_model.evaluate.metrics import measure_flags
from quality_model.evaluate.step import summary_table, write_evaluation
from quality_model.evaluate.sweeps import SWEEPS
from quality_model.evaluate.whole_images import CleanScores
from quality_model.params import EvaluateParams, PerHead
from quality_model.records import HEADS, Head
from tests.evaluate.conftest import answering

WEIGHTS = PerHead(color_cast=1.0, blurriness=1.0, watermark=1.5, noise=1.0)
THRESHOLDS: dict[Head, float] = {"color_cast": 0.2, "blurriness": 0.3, "watermark": 0.2, "noise": 0.3}
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
        sweep_images=2,
        baseline_samples=12,
        confidence=0.9,
        seed=1,
        device="cpu",
    )


@pytest.fixture(scope="module")
def too_high(section: EvaluateParams, training_set: TrainingSet) -> Evaluation:
    """Of a model whose scores are the labels plus 0.25, at most 1."""
    return evaluate(section, answering(0.25, THRESHOLDS), training_set, loss_weights=WEIGHTS)


def test_a_model_that_answers_the_labels_has_no_error_and_leads_every_baseline(
    section: EvaluateParams, training_set: TrainingSet
) -> None:
    found = evaluate(section, answering(0.0), training_set, loss_weights=WEIGHTS).measured
    assert found.loss == pytest.approx(0.0, abs=1e-9)
    for one in found.heads.values():
        assert one.all.measures.r2.value == pytest.approx(1.0)
        assert one.all.measures.spearman.value == pytest.approx(1.0)
        assert one.r2_beside_baselines == pytest.approx(1.0)
        for baseline in one.baselines.values():
            assert baseline.r2 is not None
            assert baseline.lead.value == pytest.approx(1.0 - baseline.r2)
            assert baseline.lead.num_groups == 5
        assert (one.clean_flags.threshold, one.clean_flags.flagged_share.value) == (None, None)


def test_the_facts_say_what_was_evaluated_and_the_loss_is_the_mean_of_weight_times_mse(
    too_high: Evaluation, training_set: TrainingSet
) -> None:
    found = too_high.measured
    assert (found.split, found.data_sha256, found.model_sha256) == (
        "test",
        training_set.data_sha256,
        "c" * 64,
    )
    assert (found.num_samples, found.num_groups) == (30, 5)
    assert (found.num_counted_groups, found.excluded_groups) == (5, ())
    assert found.measuring.items() >= {"bootstrap_samples": 100, "seed": 1, "sweep_images": 2}.items()
    assert not {"batch_size", "device"} & set(found.measuring)
    errors = {head: one.all.measures.mse.value or 0.0 for head, one in found.heads.items()}
    assert found.loss == pytest.approx(sum(WEIGHTS.as_dict()[head] * errors[head] for head in HEADS) / 4)
    labels = too_high.predictions["noise_label"]
    assert errors["noise"] == pytest.approx(np.mean(np.minimum(0.25, 1 - labels) ** 2), abs=1e-6)


@pytest.mark.parametrize("head", HEADS)
def test_kinds_and_absent_divide_the_samples_among_them_and_so_do_the_finer_slices(
    too_high: Evaluation, head: Head
) -> None:
    found = too_high.measured.heads[head]
    assert set(found.kinds) == KINDS[head]
    parts = [*found.kinds.values(), found.absent]
    assert sum(part.num_samples for part in parts) == found.all.num_samples == 30
    assert sum((part.measures.mse.value or 0) * part.num_samples for part in parts) == pytest.approx(
        30 * (found.all.measures.mse.value or 0)
    )
    assert found.clean.num_samples == too_high.predictions["is_clean"].sum() < found.absent.num_samples
    sizes = {name: sum(one.num_samples for one in slices.values()) for name, slices in found.slices.items()}
    in_slices = [one for slices in found.slices.values() for one in slices.values()]
    assert all(isinstance(one, Slice) == (one.num_samples >= FEWEST_SAMPLES) for one in in_slices)
    if head == "blurriness":  # which is a kind of the training split alone
        box = found.kinds["box"]
        assert (box.num_samples, box.mean_score, box.measures.mse.num_groups) == (0, None, 0)
    degraded = 30 - found.absent.num_samples
    assert sizes == {"severity": degraded, "brightness": 30, "detail": 30, "source": 30}


def test_a_slice_holds_the_measures_of_its_samples_alone(too_high: Evaluation) -> None:
    table = too_high.predictions
    of_kind = table[table["noise_kind"] == "poisson"]
    noise = too_high.measured.heads["noise"]
    name, largest = max(noise.slices["severity"].items(), key=lambda item: item[1].num_samples)
    low, high = map(float, name.split("-"))
    band = table[(table["noise_label"] > low) & (table["noise_label"] <= high)]
    for found, rows, has_interval in (
        (noise.kinds["poisson"], of_kind, True),
        (largest, band, False),
    ):
        assert isinstance(found, Slice)
        expected = metrics.measure(rows["noise_label"], rows["noise_score"], constant=None)
        for name, estimate in found.measures:
            assert name == "constant_mse" or estimate.value == expected[name]
        assert found.measures.mse.num_groups == rows["group"].nunique()
        assert (found.measures.mse.low is not None) == has_interval
        assert found.mean_label == pytest.approx(rows["noise_label"].mean())


def test_clean_images_show_what_a_head_answers_where_there_is_nothing_to_find(too_high: Evaluation) -> None:
    for head, found in too_high.measured.heads.items():
        assert (found.clean.mean_label, found.clean.mean_score) == (0.0, pytest.approx(0.25))
        assert found.clean.measures.mse.value == pytest.approx(0.0625)
        assert (found.clean.measures.r2.value, found.clean.measures.spearman.low) == (None, None)
        share = found.clean_flags.flagged_share
        is_flagged = THRESHOLDS[head] < 0.25
        assert (share.value, share.high if is_flagged else share.low) == (float(is_flagged),) * 2
        assert share.low is not None and share.high is not None and share.low < share.high
        assert found.clean_flags.num_images == found.clean.num_samples


def test_the_constant_predictor_answers_the_mean_of_the_training_labels(
    too_high: Evaluation, training_set: TrainingSet
) -> None:
    manifest = training_set.manifest
    train, test = (manifest[manifest["split"] == split] for split in ("train", "test"))
    found = too_high.measured.heads["watermark"]
    expected = ((test["watermark_label"] - train["watermark_label"].mean()) ** 2).mean()
    assert found.all.measures.constant_mse.value == pytest.approx(expected, rel=1e-5)
    tiled = [part[part["watermark_kind"] == "tiled"]["watermark_label"] for part in (train, test)]
    expected = ((tiled[1] - tiled[0].mean()) ** 2).mean()
    assert found.kinds["tiled"].measures.constant_mse.value == pytest.approx(expected, rel=1e-5)
    assert found.clean.measures.constant_mse.value == 0.0


def test_evaluating_twice_gives_the_same_numbers_and_the_same_files(
    too_high: Evaluation, section: EvaluateParams, training_set: TrainingSet, tmp_path: Path
) -> None:
    again = evaluate(section, answering(0.25, THRESHOLDS), training_set, loss_weights=WEIGHTS)
    assert again.measured == too_high.measured
    for name, evaluation in (("first", too_high), ("second", again)):
        write_evaluation(evaluation, tmp_path / name)
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


def test_a_split_without_samples_is_an_error_that_names_the_parameter(
    section: EvaluateParams, two_groups: TrainingSet
) -> None:
    with pytest.raises(UsageError, match=r"split test has no samples(.|\n)*generate\.test_share"):
        evaluate(section, answering(0.0), two_groups, loss_weights=WEIGHTS)


def test_what_is_written_is_what_was_measured(too_high: Evaluation, tmp_path: Path) -> None:
    write_evaluation(too_high, tmp_path)
    found = too_high.measured
    assert {path.name for path in tmp_path.iterdir()} == {
        "metrics.json",
        "evaluation.json",
        "predictions.csv",
    }
    assert type(found).read(tmp_path / "evaluation.json") == found
    noise, summary = found.heads["noise"], found.summary()
    sweep, cross_talk = found.worst_sweep("noise"), found.largest_cross_talk("noise")
    assert sweep and cross_talk
    assert summary["noise"] == {
        **{name: estimate.value for name, estimate in noise.all.measures},
        "worst_sweep_spearman": sweep[1].value,
        "largest_cross_talk": cross_talk[1].value,
        "interval_coverage": None,
        "clean_flag_share": 0.0,
    }
    few = {head: {name: summary[head][name] for name in ("r2", "clean_flag_share")} for head in HEADS}
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"loss": found.loss, **few}
    head, *rows = summary_table(found).splitlines()
    assert [row.split()[0] for row in rows] == list(HEADS)
    assert len({len(row) for row in (head, *rows)}) == 1
    table = pd.read_csv(tmp_path / "predictions.csv")
    assert list(table["sample_id"]) == list(too_high.predictions["sample_id"])
    for column in ("noise_label", "noise_score", "overall_score"):
        assert table[column].to_numpy() == pytest.approx(too_high.predictions[column].to_numpy(), abs=1e-6)


def test_every_sweep_is_measured_on_clean_test_images_and_as_many_as_the_section_allows(
    too_high: Evaluation,
) -> None:
    found = too_high.measured.sweeps
    assert set(found) == {sweep.name for sweep in SWEEPS}
    assert {one.num_images for one in found.values()} == {2}
    # in a clean image nothing is hidden, so the model answers what it always adds
    assert {one.mean_scores[0] for one in found.values()} == {0.25}


def table(**changes: object) -> pd.DataFrame:
    columns: dict[str, object] = {
        "group": ["a", "a", "b", "c", "d"],
        "noise_kind": [None, "poisson", "poisson", "gaussian", "gaussian"],
        "is_clean": [True, False, False, False, False],
        "noise_label": [0.0, 0.25, 0.26, 0.8, 1.0],
        "mean_brightness": [0.1, 0.33, 0.34, 0.66, 0.9],
        "brightness_std": [0.0, 0.14, 0.2, 0.25, 0.3],
    }
    return pd.DataFrame(columns | changes)


@pytest.mark.parametrize(
    ("dimension", "expected"),
    [
        ("whole", {"all": [0, 1, 2, 3, 4], "absent": [0], "clean": [0]}),
        ("kinds", {"gaussian": [3, 4], "poisson": [1, 2], "salt": []}),
        ("severity", {"0-0.25": [1], "0.25-0.5": [2], "0.5-0.75": [], "0.75-1": [3, 4]}),
        ("brightness", {"dark": [0, 1], "middle": [2, 3], "bright": [4]}),
        ("detail", {"plain": [0, 1], "middle": [2, 3], "detailed": [4]}),
        ("source", {"all": [0, 1, 2, 3, 4]}),
    ],
)
def test_finer_slices_have_fixed_edges_and_an_edge_belongs_to_the_lower_band(
    dimension: str, expected: dict[str, list[int]]
) -> None:
    masks = slices_of(table(), "noise", ["gaussian", "poisson", "salt"])[dimension]
    assert {name: np.flatnonzero(mask).tolist() for name, mask in masks.items()} == expected


def test_sources_are_slices_and_a_manifest_without_a_statistic_has_no_such_slices() -> None:
    named = table(group=["photos/1", "photos/1", "scans/2/x", "photos/3", "scans/9"])
    slices = slices_of(named.drop(columns=["mean_brightness", "brightness_std"]), "noise", [])
    sources = {name: np.flatnonzero(mask).tolist() for name, mask in slices["source"].items()}
    assert sources == {"photos": [0, 1, 3], "scans": [2, 4]}
    assert (slices["brightness"], slices["detail"]) == ({}, {})


def test_the_share_of_flagged_images_has_an_interval_over_groups(section: EvaluateParams) -> None:
    bootstrap = replace(bootstrap_of(section), samples=200)
    flags = measure_flags(bootstrap, clean_scores([0.1, 0.6, 0.1, 0.1], "aabb"), {"noise": 0.5}, "noise")
    assert (flags.num_images, flags.flagged_share.value, flags.slices) == (4, 0.25, {})
    assert flags.flagged_share.low == 0.0
    assert flags.flagged_share.high == pytest.approx(scipy.stats.beta.ppf(0.95, 2, 3))  # of 4, one
    nothing = measure_flags(bootstrap, clean_scores([], ""), {"noise": 0.5}, "noise").flagged_share
    assert (nothing.value, nothing.high) == (None, None)


def test_where_no_image_is_flagged_the_interval_still_says_how_many_could_be(section: EvaluateParams) -> None:
    clean = clean_scores([0.1] * 100, [str(number) for number in range(100)])
    share = measure_flags(bootstrap_of(section), clean, {"noise": 0.5}, "noise").flagged_share
    assert (share.value, share.low) == (0.0, 0.0)
    assert share.high == pytest.approx(1 - 0.05 ** (1 / 100))  # the 90 % interval leaves 5 % above


def test_images_that_are_flagged_together_widen_the_interval(section: EvaluateParams) -> None:
    scores, exact = [0.9] * 20 + [0.1] * 180, scipy.stats.beta.ppf(0.95, 21, 180)
    in_tens = [str(number // 20) for number in range(200)]
    for groups, is_wider in ((in_tens, True), ([str(number) for number in range(200)], False)):
        flags = measure_flags(bootstrap_of(section), clean_scores(scores, groups), {"noise": 0.5}, "noise")
        assert ((flags.flagged_share.high or 0.0) > exact + 0.05) == is_wider


def test_slices_of_clean_images_have_shares_of_their_own_if_they_are_large_enough(
    section: EvaluateParams,
) -> None:
    slices = [("as it is", "night")] * 19 + [("as it is",)] + [("look-alike",)] * 20
    clean = clean_scores([0.1] * 20 + [0.9] * 20, [str(number) for number in range(40)], slices)
    found = measure_flags(bootstrap_of(section), clean, {"noise": 0.5}, "noise").slices
    assert {name: (one.num_images, one.flagged_share.value) for name, one in found.items()} == {
        "as it is": (20, 0.0),
        "look-alike": (20, 1.0),
    }


@pytest.mark.parametrize(("half_width", "covers"), [(0.26, 1.0), (0.24, None), (1.0, 1.0)])
def test_coverage_is_the_share_of_labels_within_the_intervals_around_the_scores(
    half_width: float, covers: float | None, section: EvaluateParams, training_set: TrainingSet
) -> None:
    widths = HeadIntervals(edges=[], half_widths=[half_width])
    intervals = Intervals(confidence=0.9, num_images=30, heads=dict.fromkeys(HEADS, widths))
    model = answering(0.25)
    model = replace(model, facts=model.facts.model_copy(update={"intervals": intervals}))
    measured = evaluate(section, model, training_set, loss_weights=WEIGHTS).measured
    labels = training_set.labels[training_set.indices("test")]
    for head, found in measured.heads.items():
        coverage = found.coverage
        assert coverage is not None
        near = (labels[:, HEADS.index(head)] >= 1.0 - half_width).mean()  # scores are at most 1
        assert coverage.covered_share.value == pytest.approx(covers or near)
        assert (coverage.confidence, coverage.num_images) == (0.9, len(labels))
        assert measured.summary()[head]["interval_coverage"] == coverage.covered_share.value
        assert half_width <= coverage.mean_width <= min(1.0, 2 * half_width)
    assert {**measured.to_json()} == Evaluated.from_json(measured.to_json()).to_json()


def test_a_model_without_intervals_has_no_coverage(too_high: Evaluation) -> None:
    assert {found.coverage for found in too_high.measured.heads.values()} == {None}


def clean_scores(noise: Sequence[float], groups: Sequence[str], slices: Any = ()) -> CleanScores:
    scores = np.zeros((len(noise), len(HEADS)), np.float32)
    scores[:, HEADS.index("noise")] = noise
    return CleanScores([scores], [*groups], slices)
