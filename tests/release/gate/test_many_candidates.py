"""Many candidates on one test split: the best of them is partly the luckiest, and must not pass for it."""

from collections.abc import Sequence

import numpy as np
import pytest

from quality_model.evaluate.metrics import Bootstrap, p_below_zero
from quality_model.records import HEADS, ModelRef
from quality_model.release.candidate import num_judged
from quality_model.release.decisions import Action, Decision
from quality_model.release.gate import decide
from tests.release.gate.evidence import SECTION, evidence, refused

NUM_CANDIDATES, NUM_GROUPS, PER_GROUP = 50, 30, 6
GROUPS = np.repeat(np.arange(NUM_GROUPS), PER_GROUP)


def differences(random: np.random.Generator, gain: float = 0.0) -> np.ndarray:
    """A candidate's squared errors less the champion's, which vary by scene and by sample."""
    of_groups = random.standard_normal(NUM_GROUPS)[GROUPS]
    return (of_groups + random.standard_normal(len(GROUPS)) - gain) * 0.01


def verdict_passes(p_values: Sequence[float | None], earlier: int) -> bool:
    changes = {f"champion.heads.{head}.p_better": p for head, p in zip(HEADS, p_values, strict=True)} | {
        "earlier_candidates": earlier
    }
    return decide(SECTION, evidence(changes, champion=True)).passed


def test_of_fifty_candidates_that_are_as_good_as_the_champion_one_passes_no_more_often_than_max_luck() -> (
    None
):
    """In 300 lines of candidates; by a rule of 5 % for each, nearly every line has one that passes."""
    random = np.random.default_rng(7)
    num_lines, passed, naive = 300, 0, 0
    for _ in range(num_lines):
        lowest = [
            min(p or 1.0 for p in (p_below_zero(differences(random), GROUPS) for _ in HEADS))
            for _ in range(NUM_CANDIDATES)
        ]
        allowed = [
            SECTION.max_luck / ((earlier + 1) * (earlier + 2) * len(HEADS))
            for earlier in range(NUM_CANDIDATES)
        ]
        # The rule itself decides where it is close; to call it for all of 15,000 candidates takes a minute.
        passed += any(
            verdict_passes([p, *[1.0] * (len(HEADS) - 1)], earlier)
            for earlier, p in enumerate(lowest)
            if p <= 2 * allowed[earlier]
        )
        naive += any(p <= 0.025 for p in lowest)
    upper_end = SECTION.max_luck + 3 * np.sqrt(SECTION.max_luck * (1 - SECTION.max_luck) / num_lines)
    assert passed / num_lines <= upper_end
    assert passed, "nothing ever passes: the test would not notice a rule that refuses all"
    assert naive / num_lines > 0.95


def test_a_candidate_that_is_much_better_passes_after_fifty_others() -> None:
    p = p_below_zero(differences(np.random.default_rng(3), gain=2.0), GROUPS)
    assert verdict_passes([p, 1.0, 1.0, 1.0], earlier=50)


def test_the_reason_says_how_often_the_test_split_was_used() -> None:
    verdict = decide(SECTION, evidence({"earlier_candidates": 9}, champion=True))
    assert refused(verdict) == [("all", "improvement")]
    assert "for candidate 10 on this test split; new test scenes start anew" in verdict.refusals[0]


def test_chances_are_those_of_students_t_of_groups() -> None:
    alone = np.array([-1.0, -2.0, -3.0, -2.0])
    from scipy.stats import ttest_1samp

    assert p_below_zero(alone, range(4)) == pytest.approx(ttest_1samp(alone, 0, alternative="less").pvalue)
    twice = p_below_zero(np.repeat(alone, 5), np.repeat(range(4), 5))
    assert twice == pytest.approx(p_below_zero(alone, range(4)))  # copies in a group are no evidence


@pytest.mark.parametrize("values", [[-1.0], [-1.0, -1.0], [np.nan, -1.0, -2.0], []])
def test_without_groups_or_scatter_there_is_no_chance_to_name(values: list[float]) -> None:
    assert p_below_zero(values, range(len(values))) is None


def test_the_bootstrap_and_the_chance_agree_about_many_groups() -> None:
    values = differences(np.random.default_rng(5), gain=0.42)
    interval = Bootstrap(samples=4000, confidence=0.95, seed=1).mean(values, GROUPS)
    p = p_below_zero(values, GROUPS)
    assert interval.high is not None and p is not None
    assert (interval.high < 0) == (p < 0.025)


def decision(model: str, data: str, tested_on: tuple[str, ...] = (), action: Action = "refused") -> Decision:
    ref = ModelRef("quality-model", None, None, "")
    return Decision(
        action, "2026-11-28T10:00:00.000+00:00", ref, model, data_sha256=data, tested_on=tested_on
    )


def test_other_candidates_count_that_were_judged_on_a_scene_of_this_split() -> None:
    before = [
        decision("a", "one", ("scene-1", "scene-2")),
        decision("a", "one", ("scene-1", "scene-2")),  # decided again: the same candidate
        decision("b", "two", ("scene-2", "scene-3"), "passed"),
        decision("c", "three", ("scene-9",)),  # other scenes
        decision("d", "four"),  # another machine's, on the same dataset
        decision("e", "one", ("scene-1",), "promoted"),  # no decision of the gate
        decision("own", "one", ("scene-1",)),
    ]
    assert num_judged(before, "four", ("scene-2", "scene-4"), but="own") == 3
    assert num_judged(before, "new", ("scene-7",), but="own") == 0
