"""The gate passes nothing on evidence that is missing, contradicts itself or is no usable number."""

import json
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quality_model.params import GateParams
from quality_model.records import HEADS
from quality_model.release.gate import ALL_HEADS, decide

from .evidence import SECTION, at, changed, evaluation, paired, refused

EVIDENCE = {
    "baseline_skill": ("baselines", "noise", "classical", "r2"),
    "ladder": ("ladders", "noise easy", "spearman"),
    "cross_talk": ("cross_talk", "watermark", "noise"),
    "clean_flags": ("clean_flags", "noise", "flagged_share"),
}


@pytest.mark.parametrize("value", [..., None, math.nan, math.inf, -math.inf, "0.5", True, [0.5], 1.5])
@pytest.mark.parametrize("rule", EVIDENCE)
def test_evidence_that_is_no_usable_number_refuses_the_head_it_is_about(rule: str, value: Any) -> None:
    verdict = decide(SECTION, at(evaluation(), EVIDENCE[rule], value), None)
    assert refused(verdict) == [("noise", rule)]


@pytest.mark.parametrize(
    ("path", "value", "rule"),
    [
        (("clean_flags", "noise", "threshold"), None, "clean_flags"),
        (("clean_flags", "noise", "num_images"), 0, "clean_flags"),
        (("baselines", "noise"), {}, "baseline_skill"),
        (("ladders", "noise easy", "head"), "watermark", None),
    ],
)
def test_evidence_that_does_not_hold_together_refuses(
    path: tuple[str, ...], value: Any, rule: str | None
) -> None:
    verdict = decide(SECTION, at(evaluation(), path, value), None)
    assert refused(verdict) == ([("noise", rule)] if rule else [])


@pytest.mark.parametrize("part", ["baselines", "ladders", "cross_talk", "clean_flags"])
@pytest.mark.parametrize("value", [..., None, {}, []])
def test_evidence_that_was_never_taken_refuses_every_head(part: str, value: Any) -> None:
    verdict = decide(SECTION, at(evaluation(), (part,), value), None)
    assert [head for head, _ in refused(verdict)] == list(HEADS)


def test_a_ladder_of_no_head_refuses_every_head_for_it_might_be_any_ones_worst() -> None:
    verdict = decide(SECTION, at(evaluation(), ("ladders", "noise easy", "head"), None), None)
    assert refused(verdict) == [(head, "ladder") for head in HEADS]
    assert all("noise easy names no head" in reason for reason in verdict.refusals)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "is missing"),
        (math.nan, "is nan, not finite"),
        (math.inf, "is inf, not finite"),
        (-math.inf, "is -inf, not finite"),
        (10**400, "is inf, not finite"),
        ("0.01", "is not a number but '0.01'"),
        (True, "is not a number but True"),
        ([0.01], "is not a number"),
        (-0.01, "is impossible"),
    ],
)
@pytest.mark.parametrize("head", ["blurriness", "noise"])
def test_a_measure_that_is_no_usable_number_refuses(head: str, value: Any, reason: str) -> None:
    verdict = decide(SECTION, changed(evaluation(), head, "mse", value), None)
    assert refused(verdict) == [(head, "max_mse")]
    assert reason in verdict.refusals[0]


def test_an_r2_above_one_is_impossible_and_refuses() -> None:
    assert not decide(SECTION, evaluation(r2=1.5), None).passed


@pytest.mark.parametrize("candidate", [{}, {"heads": None}, {"heads": []}, {"heads": {"noise": 0.1}}, None])
def test_evidence_without_measures_refuses_for_every_head(candidate: Any) -> None:
    verdict = decide(SECTION, candidate, None)
    assert not verdict.passed
    assert {row.head for row in verdict.rows if not row.passed} == {ALL_HEADS, *HEADS}


def test_an_empty_champion_is_missing_evidence_and_not_the_absence_of_a_champion() -> None:
    verdict = decide(SECTION, evaluation(), {})
    assert not verdict.passed
    assert "noise: the paired comparison with the champion is missing" in verdict.refusals


@pytest.mark.parametrize("section", [name for name in GateParams.model_fields if name != "min_test_groups"])
@pytest.mark.parametrize("threshold", [math.nan, math.inf, -math.inf, None])
def test_a_threshold_that_is_not_finite_or_missing_refuses(section: str, threshold: Any) -> None:
    part = getattr(SECTION, section).model_copy(update={"noise": threshold})
    verdict = decide(SECTION.model_copy(update={section: part}), evaluation(), evaluation(), paired())
    assert not verdict.passed
    assert [row.head for row in verdict.rows if not row.passed] == ["noise"]
    assert f"the threshold {section}" in verdict.refusals[0]


@pytest.mark.parametrize("threshold", [math.nan, math.inf, None])
def test_without_a_number_of_test_groups_that_are_needed_nothing_passes(threshold: Any) -> None:
    section = SECTION.model_copy(update={"min_test_groups": threshold})
    assert refused(decide(section, evaluation(), evaluation(), paired())) == [(ALL_HEADS, "unseen_groups")]


@pytest.mark.parametrize("counted", [..., None, math.nan, "12", True])
def test_an_unknown_number_of_test_groups_that_count_refuses(counted: Any) -> None:
    candidate = at(evaluation(), ("num_counted_groups",), counted)
    assert refused(decide(SECTION, candidate, evaluation(), paired())) == [(ALL_HEADS, "unseen_groups")]


@pytest.mark.parametrize("number", [np.float32(0.01), np.float64(0.01), Fraction(1, 100), 0])
def test_every_kind_of_real_number_is_read(number: Any) -> None:
    assert decide(SECTION, evaluation(mse=number), None).passed


ANYTHING = st.one_of(
    st.floats(), st.floats(-0.1, 0.1), st.integers(), st.none(), st.booleans(), st.text(max_size=3)
)
LIMITS = {
    ("heads", "mse"): (0.0, 0.05),
    ("heads", "r2"): (0.4, 1.0),  # 0.1 above the baseline's 0.3
    ("clean_flags", "flagged_share"): (0.0, 0.02),
    ("paired", "high"): (-0.003, 0.005),
}


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(LIMITS)), st.sampled_from(HEADS), ANYTHING), max_size=4))
def test_nothing_but_good_finite_numbers_on_one_test_set_ever_passes(
    spots: list[tuple[tuple[str, str], str, Any]],
) -> None:
    candidate, pairs = evaluation(), paired()
    for (part, measure), head, value in spots:
        (pairs if part == "paired" else candidate[part])[head][measure] = value
    verdict = decide(SECTION, candidate, evaluation(), pairs)
    fine = True
    for (part, measure), (low, high) in LIMITS.items():
        for head in HEADS:
            value = (pairs if part == "paired" else candidate[part])[head][measure]
            fine &= type(value) in (int, float) and low <= value <= high
    fine = fine and any(pairs[head]["high"] < 0 for head in HEADS)
    assert verdict.passed == fine
    json.dumps(verdict.to_dict(), allow_nan=False)
