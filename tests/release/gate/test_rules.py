"""The gate: what passes, what is refused, and with which reason."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quality_model.records import HEADS
from quality_model.release.gate import ALL_HEADS, decide

from .evidence import (
    ASKS_FOR_REAL,
    CONFIDENT,
    SECTION,
    UNDEFINED,
    a_baseline,
    all_paired,
    estimate,
    evidence,
    own_labels,
    paired,
    refused,
)

MEASURES = "heads.noise.all.measures"

ESTIMATES = {  # rule: where its estimate is, what is just good enough, and whether less is better
    "max_mse": (f"{MEASURES}.mse", 0.05, True),
    "skill": (f"{MEASURES}.r2", 0.2, False),
    "baseline_skill": ("heads.noise.baselines.simple.lead", 0.1, False),
    "severity_sweep": ("sweeps.noise hard.spearman", 0.9, False),
    "cross_talk": ("heads.noise.cross_talk.blurriness", 0.05, True),
    "clean_flags": ("heads.noise.clean_flags.flagged_share", 0.02, True),
}


def test_without_a_champion_the_thresholds_alone_decide() -> None:
    verdict = decide(SECTION, evidence())
    assert verdict.passed
    assert verdict.refusals == ()
    assert {row.rule for row in verdict.rows} == {"same_test_set", "unseen_groups", *ESTIMATES}
    assert len(verdict.rows) == 2 + 6 * len(HEADS)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(ESTIMATES)), st.floats(-0.015, 0.015))
def test_a_figure_on_its_threshold_or_better_passes_and_a_worse_one_is_refused(rule: str, off: float) -> None:
    place, limit, less_is_better = ESTIMATES[rule]
    value = limit + off
    verdict = decide(SECTION, evidence({place: estimate(value)}))
    good = value <= limit if less_is_better else value >= limit
    assert refused(verdict) == ([] if good else [("noise", rule)])
    assert all("noise" in reason and "over 12 groups" in reason for reason in verdict.refusals)


@pytest.mark.parametrize("rule", ESTIMATES)
def test_with_confidence_the_worse_end_of_the_interval_decides_and_without_it_the_figure(rule: str) -> None:
    place, limit, less_is_better = ESTIMATES[rule]
    worse = 0.01 if less_is_better else -0.01
    good_but_unsure = estimate(limit, *sorted((limit - worse, limit + worse)))
    assert decide(SECTION, evidence({place: good_but_unsure})).passed
    verdict = decide(CONFIDENT, evidence({place: good_but_unsure}))
    assert refused(verdict) == [("noise", rule)]
    assert f"the {'upper' if less_is_better else 'lower'} end is" in verdict.refusals[0]
    sure = estimate(limit - worse, *sorted((limit - 2 * worse, limit)))
    assert decide(CONFIDENT, evidence({place: sure})).passed


@pytest.mark.parametrize("rule", ESTIMATES)
def test_one_group_gives_no_interval_which_is_said_and_refuses_with_confidence(rule: str) -> None:
    place, limit, _ = ESTIMATES[rule]
    alone = {"value": limit, "low": None, "high": None, "num_groups": 1}
    rows = decide(SECTION, evidence({place: alone})).rows
    assert any(row.rule == rule and row.passed and "of 1 group," in row.reason for row in rows)
    verdict = decide(CONFIDENT, evidence({place: alone}))
    assert refused(verdict) == [("noise", rule)]
    assert "needs 2 test groups, there is 1" in verdict.refusals[0]


def test_too_few_test_groups_that_no_model_has_seen_refuse_and_the_seen_ones_are_named() -> None:
    few = {"num_counted_groups": 4, "excluded_groups": ["coffee", "rocket"]}
    verdict = decide(SECTION, evidence(few, champion=True))
    assert refused(verdict) == [(ALL_HEADS, "unseen_groups")]
    assert "4 of 6 test groups count, 5 are needed" in verdict.refusals[0]
    assert "coffee, rocket" in verdict.refusals[0]


def test_where_every_test_group_was_seen_no_other_rule_looks_at_a_figure() -> None:
    seen = [f"scene-{number}" for number in range(12)]
    changes = {f"{MEASURES}.mse": estimate(0.9), "num_counted_groups": 0, "excluded_groups": seen}
    verdict = decide(SECTION, evidence(changes, champion=True))
    assert not verdict.passed
    assert [row.rule for row in verdict.rows] == ["same_test_set", "unseen_groups"]
    assert "scene-0, scene-1, scene-2, scene-3, scene-4 and 7 more" in verdict.refusals[0]


def test_a_model_that_does_not_say_what_it_has_seen_is_named_with_the_way_out() -> None:
    changes = {"silent_models": ["champion"], "num_counted_groups": 0, "excluded_groups": ["coffee"]}
    (reason,) = decide(SECTION, evidence(changes, champion=True)).refusals
    assert "the champion does not say what it was trained on" in reason
    assert "promote bundled" in reason


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (
            "heads.noise.baselines.simple",
            a_baseline(0.45, 0.05),
            "noise: r2 less that of the baseline simple, 0.05",
        ),
        ("sweeps.noise hard.spearman", estimate(-0.31), "spearman of the severity sweep noise hard -0.31"),
        ("heads.noise.cross_talk.blurriness", estimate(0.08), "movement under severe blurriness 0.08"),
    ],
)
def test_the_worst_of_several_decides_and_is_named(place: str, value: Any, reason: str) -> None:
    verdict = decide(SECTION, evidence({place: value}))
    assert len(verdict.refusals) == 1
    assert reason in verdict.refusals[0]


def test_measures_of_different_data_or_another_split_are_not_compared() -> None:
    for change, reason in (
        ({"champion.data_sha256": "b"}, "measured on data 5e1f, the champion on b"),
        ({"split": "validation"}, "the candidate was measured on the split 'validation'"),
        ({"champion.split": "train"}, "the champion was measured on the split 'train'"),
    ):
        verdict = decide(SECTION, evidence(change, champion=True))
        assert refused(verdict) == [(ALL_HEADS, "same_test_set")]
        assert reason in verdict.refusals[0]


def test_a_candidate_passes_if_it_is_better_on_a_head_and_within_the_margin_on_the_others() -> None:
    pairs = {**all_paired(0.003, 0.001, 0.005), **paired("blurriness", -0.05, -0.07, -0.03)}
    verdict = decide(SECTION, evidence(pairs, champion=True))
    assert verdict.passed
    assert verdict.rows[-1].reason == "better on blurriness by 0.05 (p 0.001), p at most 0.013"
    assert any("0.003 in [0.001, 0.005] over 12 groups, within 0.005" in row.reason for row in verdict.rows)
    as_good = decide(SECTION, evidence(all_paired(0.0, -0.001, 0.001), champion=True))
    assert as_good.refusals == ("better than the champion on no head with confidence, p at most 0.013",)


@pytest.mark.parametrize(
    ("ends", "reason"),
    [
        ((0.0084, 0.0084, 0.0084), "worse than the champion: mse minus the champion's is 0.0084"),
        ((-0.002, -0.02, 0.02), "not shown to be as good as the champion"),
        ((-0.002, None, None), "has no interval over its 12 groups"),
    ],
)
def test_a_head_that_is_or_may_be_worse_beyond_the_margin_is_refused_whatever_the_others_gain(
    ends: tuple[float, float | None, float | None], reason: str
) -> None:
    verdict = decide(SECTION, evidence(paired("noise", *ends), champion=True))
    assert refused(verdict) == [("noise", "non_inferiority")]
    assert reason in verdict.refusals[0]


def test_one_test_group_is_not_enough_to_compare_with_the_champion() -> None:
    verdict = decide(SECTION, evidence(all_paired(-0.01, None, None, groups=1), champion=True))
    assert refused(verdict) == [*((head, "non_inferiority") for head in HEADS), (ALL_HEADS, "improvement")]
    assert all("needs 2 test groups, there is 1" in reason for reason in verdict.refusals[:-1])


def real(problem: str | None = None, **heads: dict[str, Any]) -> dict[str, Any]:
    found = {head: {"num_bad": 40, "num_clean": 90, "auc": auc} for head, auc in heads.items()}
    return {"real": {"problem": problem, "heads": found}}


def test_real_defects_are_judged_for_each_head_that_is_asked_about_and_for_no_other() -> None:
    changes = real(noise=estimate(0.95, 0.88, 0.98), blurriness=estimate(0.7), watermark=estimate(0.1))
    verdict = decide(ASKS_FOR_REAL, evidence(changes))
    assert refused(verdict) == [("blurriness", "real_defects")]
    assert "auc of 40 images with real defects among 90 clean ones 0.7 in" in verdict.refusals[0]
    by_lower_end = ASKS_FOR_REAL.model_copy(update={"with_confidence": True})
    assert ("noise", "real_defects") in refused(decide(by_lower_end, evidence(changes)))
    assert decide(SECTION, evidence(changes)).passed


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "no evidence of real defects: they were not measured"),
        (real("x is not there"), "no evidence of real defects: x is not there"),
        (real(noise=UNDEFINED, blurriness=UNDEFINED), "is not defined"),
    ],
    ids=["never measured", "no folder", "no clean image"],
)
def test_missing_evidence_of_real_defects_refuses_with_the_reason(
    changes: dict[str, Any], reason: str
) -> None:
    verdict = decide(ASKS_FOR_REAL, evidence(changes))
    assert refused(verdict) == [("noise", "real_defects"), ("blurriness", "real_defects")]
    assert all(reason in refusal for refusal in verdict.refusals)


def test_a_fine_tuning_that_orders_the_labels_held_out_worse_than_before_is_refused() -> None:
    verdict = decide(SECTION, evidence(own_labels(0.9, 0.85)))
    assert refused(verdict) == [("noise", "own_labels")]
    assert "worse on the labels of your own" in verdict.refusals[0]
    assert "0.850 (0.650 to 1.000) after, 0.900 before, on 6 good and 7 bad images" in verdict.refusals[0]
    for before, after in ((0.9, 0.9), (0.9, 0.95), (0.0, 0.0), (1.0, 1.0)):
        assert decide(SECTION, evidence(own_labels(before, after))).passed
    assert not [row for row in decide(SECTION, evidence()).rows if row.rule == "own_labels"]
