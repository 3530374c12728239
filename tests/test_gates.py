"""The gate: what passes, what is refused, and with which reason."""

import copy
import json
import math
import re
import subprocess
import sys
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quality_model import metrics
from quality_model.gates import ALL_HEADS, RULES, Verdict, decide
from quality_model.params import GateParams, Params, PerHead, load_params
from quality_model.records import HEADS

PROJECT = Path(__file__).resolve().parent.parent
SECTION = GateParams.model_validate(
    {
        "max_mse": dict.fromkeys(HEADS, 0.05),
        "min_r2": dict.fromkeys(HEADS, 0.2),
        "min_r2_over_baseline": dict.fromkeys(HEADS, 0.1),
        "min_ladder_spearman": dict.fromkeys(HEADS, 0.9),
        "max_cross_talk": dict.fromkeys(HEADS, 0.05),
        "max_clean_flags": dict.fromkeys(HEADS, 0.02),
        "max_mse_increase": dict.fromkeys(HEADS, 0.005),
    }
)


def evaluation(mse: float = 0.03, r2: float = 0.5, **changes: Any) -> dict[str, Any]:
    """What an evaluation gives the gate, the same for every head."""
    return {
        "split": "test",
        "data_sha256": "5e1f",
        "trained_on_sha256": "5e1f",
        "heads": {head: {"mse": mse, "r2": r2} for head in HEADS},
        "baselines": {head: {"classical": {"r2": 0.3}, "simple": {"r2": -0.5}} for head in HEADS},
        "ladders": {
            f"{head} {name}": {"head": head, "spearman": value}
            for head in HEADS
            for name, value in (("easy", 0.99), ("hard", 0.95))
        },
        "cross_talk": {
            degraded: {moved: 0.7 if moved == degraded else -0.01 for moved in HEADS} for degraded in HEADS
        },
        "clean_flags": {
            head: {"threshold": 0.2, "flagged_share": 0.01, "num_pictures": 100} for head in HEADS
        },
        **changes,
    }


def paired(difference: float = 0.0, low: float = -0.001, high: float = 0.001) -> dict[str, Any]:
    """How the candidate compares with the champion, the same for every head."""
    ends = {"difference": difference, "low": low, "high": high, "num_groups": 12}
    return {head: dict(ends) for head in HEADS}


def at(base: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A copy of ``base`` with another value in the place that ``path`` leads to; `...` takes it away."""
    result = copy.deepcopy(base)
    place = result
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return result


def changed(base: dict[str, Any], head: str, measure: str, value: Any) -> dict[str, Any]:
    return at(base, ("heads", head, measure), value)


def refused(verdict: Verdict) -> list[tuple[str, str]]:
    return [(row.head, row.rule) for row in verdict.rows if not row.passed]


def test_without_a_champion_the_thresholds_alone_decide() -> None:
    verdict = decide(SECTION, evaluation(), None)
    assert verdict.passed
    assert verdict.refusals == ()
    rules = {"same_test_set", "max_mse", "skill", "baseline_skill", "ladder", "cross_talk", "clean_flags"}
    assert {row.rule for row in verdict.rows} == rules
    assert len(verdict.rows) == 1 + 6 * len(HEADS)


def test_a_candidate_as_good_as_the_champion_passes() -> None:
    assert decide(SECTION, evaluation(), evaluation(), paired()).passed


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
    exact["cross_talk"] = {one: dict.fromkeys(HEADS, -0.05) for one in HEADS}
    for head in HEADS:
        exact["clean_flags"][head]["flagged_share"] = 0.02
    assert decide(section, exact, exact, paired(0.001, -0.002, 0.005)).passed


def test_a_head_must_be_better_than_the_best_of_its_baselines_and_the_reason_names_it() -> None:
    candidate = at(evaluation(r2=0.5), ("baselines", "noise", "simple", "r2"), 0.45)
    verdict = decide(SECTION, candidate, None)
    assert refused(verdict) == [("noise", "baseline_skill")]
    assert verdict.refusals == ("noise: r2 less that of the baseline simple, 0.05 is below 0.1",)


def test_the_worst_ladder_of_a_head_decides_and_is_named() -> None:
    candidate = at(evaluation(), ("ladders", "watermark hard", "spearman"), -0.31)
    verdict = decide(SECTION, candidate, None)
    assert refused(verdict) == [("watermark", "ladder")]
    assert verdict.refusals == ("watermark: spearman of the ladder watermark hard -0.31 is below 0.9",)


@pytest.mark.parametrize("moved", [0.08, -0.08])
def test_a_head_that_moves_either_way_with_another_degradation_is_refused_and_that_one_named(
    moved: float,
) -> None:
    candidate = at(evaluation(), ("cross_talk", "blurriness", "noise"), moved)
    verdict = decide(SECTION, candidate, None)
    assert refused(verdict) == [("noise", "cross_talk")]
    assert verdict.refusals == ("noise: movement under severe blurriness 0.08 is above 0.05",)


def test_how_far_a_head_moves_with_its_own_degradation_is_no_cross_talk() -> None:
    assert decide(SECTION, at(evaluation(), ("cross_talk", "noise", "noise"), 1.0), None).passed


def test_a_head_that_flags_too_many_clean_pictures_is_refused() -> None:
    candidate = at(evaluation(), ("clean_flags", "color_cast", "flagged_share"), 0.07)
    verdict = decide(SECTION, candidate, None)
    assert verdict.refusals == ("color_cast: share of clean pictures flagged 0.07 is above 0.02",)


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


def test_variants_of_one_picture_do_not_make_a_comparison_sure() -> None:
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(5), 40)
    labels = rng.uniform(0.3, 0.7, len(groups))
    champion = labels + 0.1
    # Better on most pictures, much worse on all variants of one.
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
    assert refused(verdict) == [(head, "non_inferiority") for head in HEADS]
    assert all("needs 2 test groups, there is 1" in reason for reason in verdict.refusals)


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
    assert refused(verdict) == [(head, "non_inferiority") for head in HEADS]


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
        (("clean_flags", "noise", "num_pictures"), 0, "clean_flags"),
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
    ("trained_on", "said"),
    [
        ("5e1f", "measured on the same test split"),
        ("other", "the champion was trained on other data: groups may overlap"),
        (None, "it is not known on which data the champion was trained: groups may overlap"),
    ],
)
def test_a_champion_that_may_have_seen_the_test_pictures_is_told_and_not_refused(
    trained_on: str | None, said: str
) -> None:
    verdict = decide(SECTION, evaluation(), evaluation(trained_on_sha256=trained_on), paired())
    assert verdict.passed
    assert verdict.rows[0].reason.endswith(said)


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


@pytest.mark.parametrize("section", GateParams.model_fields)
@pytest.mark.parametrize("threshold", [math.nan, math.inf, -math.inf, None])
def test_a_threshold_that_is_not_finite_or_missing_refuses(section: str, threshold: Any) -> None:
    part = getattr(SECTION, section).model_copy(update={"noise": threshold})
    verdict = decide(SECTION.model_copy(update={section: part}), evaluation(), evaluation(), paired())
    assert not verdict.passed
    assert [row.head for row in verdict.rows if not row.passed] == ["noise"]
    assert f"the threshold {section}" in verdict.refusals[0]


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
    ("paired", "high"): (-0.001, 0.005),
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
    assert verdict.passed == fine
    json.dumps(verdict.to_dict(), allow_nan=False)


def test_the_verdict_as_json_holds_every_row_with_its_reason() -> None:
    verdict = decide(SECTION, changed(evaluation(), "noise", "r2", math.nan), evaluation(), paired())
    tree = json.loads(json.dumps(verdict.to_dict(), allow_nan=False))
    assert tree["passed"] is False
    assert "noise: r2 is nan, not finite" in tree["summary"]
    assert len(tree["rows"]) == len(verdict.rows) == 1 + 7 * len(HEADS)
    assert set(tree["rows"][0]) == {"head", "rule", "value", "threshold", "passed", "reason"}


def test_the_table_is_aligned_and_says_what_was_refused() -> None:
    lines = decide(SECTION, evaluation(mse=0.0625), None).table().splitlines()
    start = lines[0].index("reason")
    assert len(lines) == 1 + 1 + 6 * len(HEADS)
    assert all(line[start - 1] == " " and line[start] != " " for line in lines)
    assert sum("REFUSED" in line for line in lines) == len(HEADS)
    assert any(line.startswith("noise") and "0.0625 is above 0.05" in line for line in lines)


def test_the_markdown_table_has_the_same_number_of_cells_in_every_line() -> None:
    text = decide(SECTION, evaluation(split="a|b"), None).markdown()
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert text.startswith("## Gate: refused")
    assert {line.count("|") for line in table} == {7}
    assert len(table) == 2 + 1 + 6 * len(HEADS)


def test_every_rule_can_refuse_and_names_itself_in_its_rows() -> None:
    verdict = decide(SECTION, {}, {})
    assert {row.rule for row in verdict.rows if not row.passed} == {rule.__name__ for rule in RULES}


def test_deciding_needs_neither_torch_nor_a_data_frame() -> None:
    code = "import sys, quality_model.gates; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_the_gates_documentation_names_every_rule_and_threshold_and_its_strict_values_are_taken() -> None:
    text = (PROJECT / "docs" / "gate.md").read_text()
    assert {rule.__name__ for rule in RULES} <= set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE))
    values = dict(re.findall(r"--set (gate\.\w+)='(.*?)'", text))
    assert {key.removeprefix("gate.") for key in values} == set(GateParams.model_fields)
    overrides = {
        key: json.loads(value.replace("{", '{"').replace(": ", '": ').replace(", ", ', "'))
        for key, value in values.items()
    }
    strict = load_params(PROJECT / "params.yaml", overrides).gate
    assert strict.min_r2.as_dict() == {
        "color_cast": 0.75,
        "blurriness": 0.93,
        "watermark": 0.85,
        "noise": 0.97,
    }


def test_the_committed_thresholds_let_a_weak_model_pass_that_is_no_worse_than_the_mean(
    params: Params,
) -> None:
    weak = evaluation(mse=0.04, r2=0.05)
    weak["cross_talk"] = {one: dict.fromkeys(HEADS, 0.4) for one in HEADS}
    for part in weak["ladders"].values():
        part["spearman"] = 0.1
    assert decide(params.gate, weak, None).passed
