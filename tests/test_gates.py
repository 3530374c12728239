"""The gate: what passes, what is refused, and with which reason."""

import copy
import json
import math
import subprocess
import sys
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quality_model.gates import ALL_HEADS, RULES, decide
from quality_model.params import GateParams
from quality_model.records import HEADS

SECTION = GateParams.model_validate(
    {
        "max_mse": dict.fromkeys(HEADS, 0.05),
        "min_r2": dict.fromkeys(HEADS, 0.2),
        "max_mse_increase": dict.fromkeys(HEADS, 0.005),
    }
)


def evaluation(mse: float = 0.03, r2: float = 0.5, **changes: Any) -> dict[str, Any]:
    """What an evaluation gives the gate, the same for every head."""
    heads = {head: {"mse": mse, "r2": r2} for head in HEADS}
    return {"split": "test", "data_sha256": "5e1f", "heads": heads, **changes}


def changed(base: dict[str, Any], head: str, measure: str, value: Any) -> dict[str, Any]:
    result = copy.deepcopy(base)
    result["heads"][head][measure] = value
    return result


def test_without_a_champion_the_thresholds_alone_decide() -> None:
    verdict = decide(SECTION, evaluation(), None)
    assert verdict.passed
    assert verdict.refusals == ()
    assert {row.rule for row in verdict.rows} == {"same_test_set", "max_mse", "min_r2"}
    assert len(verdict.rows) == 1 + 2 * len(HEADS)


def test_a_candidate_as_good_as_the_champion_passes() -> None:
    assert decide(SECTION, evaluation(), evaluation()).passed


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    ("measure", "value", "rule"), [("mse", 0.051, "max_mse"), ("r2", 0.19, "min_r2"), ("r2", -3.0, "min_r2")]
)
def test_one_head_beyond_its_threshold_refuses_and_is_named(
    head: str, measure: str, value: float, rule: str
) -> None:
    verdict = decide(SECTION, changed(evaluation(), head, measure, value), None)
    assert not verdict.passed
    (refused,) = [row for row in verdict.rows if not row.passed]
    assert (refused.head, refused.rule, refused.value) == (head, rule, value)
    assert head in refused.reason and f"{value:g}" in refused.reason


def test_a_value_on_its_threshold_passes() -> None:
    assert decide(SECTION, evaluation(mse=0.05, r2=0.2), None).passed


def test_a_lower_total_loss_does_not_excuse_a_head_that_became_worse() -> None:
    champion = evaluation(mse=0.04, loss=0.04)
    candidate = changed(evaluation(mse=0.01, loss=0.019), "watermark", "mse", 0.0455)
    verdict = decide(SECTION, candidate, champion)
    assert candidate["loss"] < champion["loss"]
    assert not verdict.passed
    assert verdict.refusals == (
        "watermark: mse 0.0455 against the champion's 0.04 is worse by 0.0055, more than 0.005",
    )


def test_a_head_may_be_worse_than_the_champion_within_the_margin() -> None:
    verdict = decide(SECTION, changed(evaluation(), "noise", "mse", 0.034), evaluation())
    assert verdict.passed
    assert any("worse by 0.004, within 0.005" in row.reason for row in verdict.rows)


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
    verdict = decide(SECTION, evaluation(**candidate), evaluation(**champion))
    assert not verdict.passed
    assert reason in verdict.refusals[0]
    assert verdict.rows[0].head == ALL_HEADS


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
@pytest.mark.parametrize("side", ["candidate", "champion"])
def test_a_measure_that_is_no_usable_number_refuses_on_either_side(
    side: str, value: Any, reason: str
) -> None:
    sides = {"candidate": evaluation(), "champion": evaluation()}
    sides[side] = changed(sides[side], "blurriness", "mse", value)
    verdict = decide(SECTION, **sides)
    assert not verdict.passed
    assert all(reason in refusal and "blurriness" in refusal for refusal in verdict.refusals)
    assert ("champion's" in verdict.refusals[-1]) == (side == "champion")


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
    assert "noise: the champion's mse is missing" in verdict.refusals


@pytest.mark.parametrize("section", ["max_mse", "min_r2", "max_mse_increase"])
@pytest.mark.parametrize("threshold", [math.nan, math.inf, -math.inf, None])
def test_a_threshold_that_is_not_finite_or_missing_refuses(section: str, threshold: Any) -> None:
    part = getattr(SECTION, section).model_copy(update={"noise": threshold})
    verdict = decide(SECTION.model_copy(update={section: part}), evaluation(), evaluation())
    assert not verdict.passed
    assert [row.head for row in verdict.rows if not row.passed] == ["noise"]
    assert f"the threshold {section}" in verdict.refusals[0]


@pytest.mark.parametrize("number", [np.float32(0.01), np.float64(0.01), Fraction(1, 100), 0])
def test_every_kind_of_real_number_is_read(number: Any) -> None:
    assert decide(SECTION, evaluation(mse=number), None).passed


ANYTHING = st.one_of(
    st.floats(), st.floats(0, 0.06), st.integers(), st.none(), st.booleans(), st.text(max_size=3)
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_nothing_but_good_finite_numbers_on_one_test_set_ever_passes(data: st.DataObject) -> None:
    candidate, champion = evaluation(), evaluation()
    spot = st.tuples(st.sampled_from(["candidate", "champion"]), st.sampled_from(HEADS), st.just("mse"))
    spots = st.one_of(spot, st.tuples(st.just("candidate"), st.sampled_from(HEADS), st.just("r2")))
    for side, head, measure in data.draw(st.lists(spots, max_size=4)):
        value = data.draw(ANYTHING)
        {"candidate": candidate, "champion": champion}[side]["heads"][head][measure] = value
    verdict = decide(SECTION, candidate, champion)
    fine = True
    for head in HEADS:
        ours, theirs, r2 = (
            candidate["heads"][head]["mse"],
            champion["heads"][head]["mse"],
            candidate["heads"][head]["r2"],
        )
        numbers = all(type(n) in (int, float) and abs(n) < math.inf for n in (ours, theirs, r2))
        fine &= numbers and 0 <= ours <= min(0.05, theirs + 0.005) and theirs >= 0 and 0.2 <= r2 <= 1
    assert verdict.passed == fine
    json.dumps(verdict.to_dict(), allow_nan=False)


def test_the_verdict_as_json_holds_every_row_with_its_reason() -> None:
    verdict = decide(SECTION, changed(evaluation(), "noise", "r2", math.nan), evaluation())
    tree = json.loads(json.dumps(verdict.to_dict(), allow_nan=False))
    assert tree["passed"] is False
    assert "noise: r2 is nan, not finite" in tree["summary"]
    assert len(tree["rows"]) == len(verdict.rows) == 1 + 3 * len(HEADS)
    assert set(tree["rows"][0]) == {"head", "rule", "value", "threshold", "passed", "reason"}


def test_the_table_is_aligned_and_says_what_was_refused() -> None:
    lines = decide(SECTION, evaluation(mse=0.0625), None).table().splitlines()
    start = lines[0].index("reason")
    assert len(lines) == 1 + 1 + 2 * len(HEADS)
    assert all(line[start - 1] == " " and line[start] != " " for line in lines)
    assert sum("REFUSED" in line for line in lines) == len(HEADS)
    assert any(line.startswith("noise") and "0.0625 is above 0.05" in line for line in lines)


def test_the_markdown_table_has_the_same_number_of_cells_in_every_line() -> None:
    text = decide(SECTION, evaluation(split="a|b"), None).markdown()
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert text.startswith("## Gate: refused")
    assert {line.count("|") for line in table} == {7}
    assert len(table) == 2 + 1 + 2 * len(HEADS)


def test_every_rule_can_refuse_and_names_itself_in_its_rows() -> None:
    verdict = decide(SECTION, {}, {})
    assert {row.rule for row in verdict.rows if not row.passed} == {rule.__name__ for rule in RULES}


def test_deciding_needs_neither_torch_nor_a_data_frame() -> None:
    code = "import sys, quality_model.gates; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
