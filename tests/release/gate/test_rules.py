"""The gate: what passes, what is refused, and with which reason."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from quality_model.evaluate import metrics
from quality_model.params import PerHead
from quality_model.records import HEADS
from quality_model.release.gate import ALL_HEADS, decide

from .evidence import SECTION, at, changed, evaluation, paired, refused


def test_without_a_champion_the_thresholds_alone_decide() -> None:
    verdict = decide(SECTION, evaluation(), None)
    assert verdict.passed
    assert verdict.refusals == ()
    per_head = {"max_mse", "skill", "baseline_skill", "ladder", "cross_talk", "clean_flags"}
    assert {row.rule for row in verdict.rows} == {"same_test_set", "unseen_groups", *per_head}
    assert len(verdict.rows) == 2 + 6 * len(HEADS)


def test_a_candidate_that_is_better_than_the_champion_passes_and_the_verdict_says_by_how_much() -> None:
    verdict = decide(SECTION, evaluation(), evaluation(), paired())
    assert verdict.passed
    assert "better on color_cast by 0.001 to 0.003, blurriness by 0.001 to 0.003" in verdict.rows[-1].reason


def test_a_candidate_as_good_as_the_champion_is_no_reason_to_replace_it() -> None:
    verdict = decide(SECTION, evaluation(), evaluation(), paired(0.0, -0.001, 0.001))
    assert refused(verdict) == [(ALL_HEADS, "improvement")]
    assert verdict.refusals == ("better than the champion on no head with confidence",)


def test_a_candidate_that_is_better_on_one_head_and_within_the_margin_elsewhere_passes() -> None:
    pairs = {**paired(0.001, -0.001, 0.003), "blurriness": paired(-0.05, -0.07, -0.03)["blurriness"]}
    verdict = decide(SECTION, evaluation(), evaluation(), pairs)
    assert verdict.passed
    assert verdict.rows[-1].reason == "better on blurriness by 0.03 to 0.07"


def test_too_few_test_groups_that_no_model_has_seen_refuse_and_the_seen_ones_are_named() -> None:
    candidate = evaluation(num_counted_groups=4, excluded_groups=["coffee", "rocket"])
    verdict = decide(SECTION, candidate, evaluation(), paired())
    assert refused(verdict) == [(ALL_HEADS, "unseen_groups")]
    assert "4 of 6 test groups count, 5 are needed" in verdict.refusals[0]
    assert "coffee, rocket" in verdict.refusals[0]


def test_where_every_test_group_was_seen_no_other_rule_looks_at_a_figure() -> None:
    seen = [f"scene-{number}" for number in range(12)]
    candidate = evaluation(mse=9.0, num_counted_groups=0, excluded_groups=seen)
    verdict = decide(SECTION, candidate, evaluation(), paired())
    assert not verdict.passed
    assert [row.rule for row in verdict.rows] == ["same_test_set", "unseen_groups"]
    assert "scene-0, scene-1, scene-2, scene-3, scene-4 and 7 more" in verdict.refusals[0]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    ("measure", "value", "rules"),
    [
        ("mse", 0.051, ["max_mse"]),
        ("r2", 0.19, ["skill", "baseline_skill"]),
        ("r2", -3.0, ["skill", "baseline_skill"]),
        ("r2", 0.39, ["baseline_skill"]),
    ],
)
def test_one_head_beyond_its_threshold_refuses_and_is_named(
    head: str, measure: str, value: float, rules: list[str]
) -> None:
    verdict = decide(SECTION, changed(evaluation(), head, measure, value), None)
    assert not verdict.passed
    assert refused(verdict) == [(head, rule) for rule in rules]
    assert all(head in reason for reason in verdict.refusals)
    if measure == "mse":
        assert f"{value:g}" in verdict.refusals[0]


def test_a_value_on_its_threshold_passes() -> None:
    section = SECTION.model_copy(update={"min_r2_over_baseline": PerHead(**dict.fromkeys(HEADS, -0.25))})
    exact = evaluation(mse=0.05, r2=0.2)
    exact["baselines"] = {head: {"classical": {"r2": 0.45}} for head in HEADS}
    exact["ladders"] = {f"{head} hard": {"head": head, "spearman": 0.9} for head in HEADS}
    exact["cross_talk"] = {one: dict.fromkeys(HEADS, 0.05) for one in HEADS}
    for head in HEADS:
        exact["clean_flags"][head]["flagged_share"] = 0.02
    pairs = {**paired(0.001, -0.002, 0.005), "noise": paired()["noise"]}
    assert decide(section, {**exact, "num_counted_groups": 5}, exact, pairs).passed


def test_a_head_must_be_better_than_the_best_of_its_baselines_and_the_reason_names_it() -> None:
    candidate = at(evaluation(r2=0.5), ("baselines", "noise", "simple", "r2"), 0.45)
    verdict = decide(SECTION, candidate, None)
    assert refused(verdict) == [("noise", "baseline_skill")]
    assert verdict.refusals == ("noise: r2 less that of the baseline simple, 0.05 is below 0.1",)


def test_it_must_be_better_on_the_samples_of_the_baselines_whatever_it_reaches_on_all() -> None:
    candidate = at(evaluation(r2=0.5), ("heads", "noise", "r2_beside_baselines"), 0.35)
    assert refused(decide(SECTION, candidate, None)) == [("noise", "baseline_skill")]


def test_the_worst_ladder_of_a_head_decides_and_is_named() -> None:
    candidate = at(evaluation(), ("ladders", "watermark hard", "spearman"), -0.31)
    verdict = decide(SECTION, candidate, None)
    assert refused(verdict) == [("watermark", "ladder")]
    assert verdict.refusals == ("watermark: spearman of the ladder watermark hard -0.31 is below 0.9",)


def test_a_head_that_moves_with_another_degradation_is_refused_and_that_one_named() -> None:
    candidate = at(evaluation(), ("cross_talk", "blurriness", "noise"), 0.08)
    verdict = decide(SECTION, candidate, None)
    assert refused(verdict) == [("noise", "cross_talk")]
    assert verdict.refusals == ("noise: movement under severe blurriness 0.08 is above 0.05",)


def test_how_far_a_head_moves_with_its_own_degradation_is_no_cross_talk() -> None:
    assert decide(SECTION, at(evaluation(), ("cross_talk", "noise", "noise"), 1.0), None).passed


def test_a_head_that_flags_too_many_clean_images_is_refused() -> None:
    candidate = at(evaluation(), ("clean_flags", "color_cast", "flagged_share"), 0.07)
    verdict = decide(SECTION, candidate, None)
    assert verdict.refusals == ("color_cast: share of clean images flagged 0.07 is above 0.02",)


def test_a_lower_total_loss_does_not_excuse_a_head_that_became_worse() -> None:
    labels, groups = np.linspace(0, 1, 60), np.arange(60) // 5
    error: dict[str, float] = dict.fromkeys(HEADS, 0.2)  # the champion's, everywhere
    better: dict[str, float] = {**dict.fromkeys(HEADS, 0.1), "watermark": 0.22}

    def measured(errors: Mapping[str, float]) -> dict[str, Any]:
        result = evaluation()
        for head in HEADS:
            result["heads"][head]["mse"] = metrics.mse(labels, labels + errors[head])
        return {**result, "loss": np.mean([result["heads"][head]["mse"] for head in HEADS])}

    candidate, champion = measured(better), measured(error)
    pairs: dict[str, Any] = {}
    for head in HEADS:
        options: dict[str, Any] = {"samples": 100, "confidence": 0.95, "seed": 1}
        ends = metrics.paired_bootstrap(
            labels, labels + better[head], labels + error[head], groups, **options
        )
        assert ends is not None
        difference = candidate["heads"][head]["mse"] - champion["heads"][head]["mse"]
        pairs[head] = {"difference": difference, "low": ends.low, "high": ends.high, "num_groups": 12}
    verdict = decide(SECTION, candidate, champion, pairs)
    assert candidate["loss"] < champion["loss"]
    assert refused(verdict) == [("watermark", "non_inferiority")]
    assert verdict.refusals == (
        "watermark: worse than the champion: mse minus the champion's is 0.0084, in [0.0084, 0.0084] "
        "over groups, beyond 0.005",
    )


def test_a_head_may_be_worse_than_the_champion_within_the_margin() -> None:
    verdict = decide(
        SECTION, evaluation(), evaluation(), {**paired(), "noise": paired(0.003, 0.001, 0.0045)["noise"]}
    )
    assert verdict.passed
    assert any("0.003, in [0.001, 0.0045] over groups, within 0.005" in row.reason for row in verdict.rows)


def test_a_head_that_may_be_much_worse_is_refused_even_if_it_looks_better() -> None:
    pairs = {**paired(), "noise": paired(-0.002, -0.02, 0.02)["noise"]}
    verdict = decide(SECTION, evaluation(), evaluation(), pairs)
    assert refused(verdict) == [("noise", "non_inferiority")]
    assert "not shown to be as good as the champion" in verdict.refusals[0]


def test_variants_of_one_image_do_not_make_a_comparison_sure() -> None:
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(5), 40)
    labels = rng.uniform(0.3, 0.7, len(groups))
    champion = labels + 0.1
    # Better on most images, much worse on all variants of one.
    candidate = labels + np.array([0.02, 0.02, 0.02, 0.02, 0.21])[groups]
    options: dict[str, Any] = {"samples": 400, "confidence": 0.95, "seed": 3}
    margin = PerHead(**dict.fromkeys(HEADS, 0.006))
    section = SECTION.model_copy(update={"max_mse_increase": margin})
    verdicts = {}
    for unit, by in (("groups", groups), ("samples", np.arange(len(groups)))):
        ends = metrics.paired_bootstrap(labels, candidate, champion, by, **options)
        assert ends is not None
        pair = {"difference": 0.0, "low": ends.low, "high": ends.high, "num_groups": len(np.unique(by))}
        verdicts[unit] = decide(section, evaluation(), evaluation(), {**paired(), "noise": pair})
    assert verdicts["samples"].passed
    assert refused(verdicts["groups"]) == [("noise", "non_inferiority")]


def test_one_test_group_is_not_enough_to_compare_with_the_champion() -> None:
    pairs: dict[str, Any] = {
        head: {"difference": -0.01, "low": None, "high": None, "num_groups": 1} for head in HEADS
    }
    verdict = decide(SECTION, evaluation(), evaluation(), pairs)
    assert refused(verdict) == [*((head, "non_inferiority") for head in HEADS), (ALL_HEADS, "improvement")]
    assert all("needs 2 test groups, there is 1" in reason for reason in verdict.refusals[:-1])


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("noise",), ..., "the paired comparison with the champion is missing"),
        (("noise", "high"), None, "(high) is missing"),
        (("noise", "low"), math.nan, "(low) is nan, not finite"),
        (("noise", "difference"), 1.5, "(difference) 1.5 is impossible"),
        (("noise", "high"), -0.5, "ends before it begins"),
        (("noise", "num_groups"), ..., "the number of test groups is missing"),
    ],
)
def test_a_comparison_that_is_not_sound_refuses(path: tuple[str, ...], value: Any, reason: str) -> None:
    verdict = decide(SECTION, evaluation(), evaluation(), at(paired(), path, value))
    assert refused(verdict) == [("noise", "non_inferiority")]
    assert reason in verdict.refusals[0]


def test_a_champion_without_a_comparison_refuses_every_head() -> None:
    verdict = decide(SECTION, evaluation(), evaluation())
    assert refused(verdict) == [*((head, "non_inferiority") for head in HEADS), (ALL_HEADS, "improvement")]


@pytest.mark.parametrize(
    ("candidate", "champion", "reason"),
    [
        ({"data_sha256": "a"}, {"data_sha256": "b"}, "measured on data a, the champion on b"),
        ({"data_sha256": None}, {}, "on which data the candidate"),
        ({}, {"data_sha256": None}, "on which data the champion"),
        ({"data_sha256": ""}, {"data_sha256": ""}, "on which data the candidate"),
        ({"split": "validation"}, {}, "the candidate was measured on the split 'validation'"),
        ({}, {"split": "train"}, "the champion was measured on the split 'train'"),
    ],
)
def test_measures_of_different_or_unknown_data_are_not_compared(
    candidate: dict[str, Any], champion: dict[str, Any], reason: str
) -> None:
    verdict = decide(SECTION, evaluation(**candidate), evaluation(**champion), paired())
    assert not verdict.passed
    assert reason in verdict.refusals[0]
    assert verdict.rows[0].head == ALL_HEADS
