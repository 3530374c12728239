"""Evidence as an evaluation gives it to the gate, and ways to change one thing of it."""

import copy
from typing import Any

from quality_model.params import GateParams
from quality_model.records import HEADS
from quality_model.release.gate import Verdict

SECTION = GateParams.model_validate(
    {
        "min_test_groups": 5,
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
        "num_counted_groups": 12,
        "excluded_groups": [],
        "heads": {head: {"mse": mse, "r2": r2, "r2_beside_baselines": r2} for head in HEADS},
        "baselines": {head: {"classical": {"r2": 0.3}, "simple": {"r2": -0.5}} for head in HEADS},
        "ladders": {
            f"{head} {name}": {"head": head, "spearman": value}
            for head in HEADS
            for name, value in (("easy", 0.99), ("hard", 0.95))
        },
        "cross_talk": {
            degraded: {moved: 0.7 if moved == degraded else 0.01 for moved in HEADS} for degraded in HEADS
        },
        "clean_flags": {head: {"threshold": 0.2, "flagged_share": 0.01, "num_images": 100} for head in HEADS},
        **changes,
    }


def paired(difference: float = -0.002, low: float = -0.003, high: float = -0.001) -> dict[str, Any]:
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
    """As `at`, for a measure of a head; R2 on the samples of the baselines goes with the other."""
    result = at(base, ("heads", head, measure), value)
    return at(result, ("heads", head, "r2_beside_baselines"), value) if measure == "r2" else result


def refused(verdict: Verdict) -> list[tuple[str, str]]:
    return [(row.head, row.rule) for row in verdict.rows if not row.passed]
