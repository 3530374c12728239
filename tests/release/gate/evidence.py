"""Evidence about a good candidate, and ways to change one thing of it."""

import copy
from collections.abc import Mapping
from typing import Any

from quality_model.evaluate.evidence import FORMAT_VERSION, Evidence
from quality_model.params import GateParams, RealParams
from quality_model.records import HEADS
from quality_model.release.gate import Verdict

SECTION = GateParams.model_validate(
    {
        "min_test_groups": 5,
        "with_confidence": False,
        "max_mse": dict.fromkeys(HEADS, 0.05),
        "min_r2": dict.fromkeys(HEADS, 0.2),
        "min_r2_over_baseline": dict.fromkeys(HEADS, 0.1),
        "min_sweep_spearman": dict.fromkeys(HEADS, 0.9),
        "max_cross_talk": dict.fromkeys(HEADS, 0.05),
        "max_clean_flags": dict.fromkeys(HEADS, 0.02),
        "max_mse_increase": dict.fromkeys(HEADS, 0.005),
        "max_luck": 0.1,
        "approval": "none",
        "approval_within_s": 60.0,
        "real": None,
    }
)
ASKS_FOR_REAL = SECTION.model_copy(
    update={"real": RealParams(folder="real", min_auc={"noise": 0.9, "blurriness": 0.8})}
)
CONFIDENT = SECTION.model_copy(update={"with_confidence": True})


def own_labels(before: float, after: float) -> dict[str, Any]:
    """Evidence of a fine-tuning on a person's labels of noise."""
    counts = {"num_train": 20, "num_good": 6, "num_bad": 7}
    areas = {"before": before, "after": after, "low": max(0.0, after - 0.2), "high": min(1.0, after + 0.2)}
    return {"own_labels": {"noise": counts | areas}}


Tree = dict[str, Any]
UNDEFINED: Tree = {"value": None, "low": None, "high": None, "num_groups": 12}


def estimate(
    value: float | None, low: float | None = None, high: float | None = None, groups: int = 12
) -> Tree:
    """An estimate as it is stored; without ends, its interval has no width."""
    ends = (value, value) if low is None and high is None else (low, high)
    return {"value": value, "low": ends[0], "high": ends[1], "num_groups": groups}


def a_slice(mse: float = 0.03, r2: float = 0.5) -> Tree:
    others = dict.fromkeys(("rmse", "mae", "pearson", "spearman", "constant_mse"), estimate(0.4))
    measures = {"mse": estimate(mse), "r2": estimate(r2), **others}
    return {"num_samples": 60, "mean_label": 0.3, "mean_score": 0.3, "measures": measures}


def a_sweep(head: str, spearman: float) -> Tree:
    return {
        "head": head,
        "unit": "px",
        "levels": [0.0, 1.0],
        "mean_scores": [0.1, 0.9],
        "low_scores": [0.0, 0.8],
        "high_scores": [0.2, 1.0],
        "spearman": estimate(spearman),
        "monotone_share": 1.0,
        "num_images": 9,
    }


def a_baseline(r2: float, lead: float) -> Tree:
    return {"mse": 0.06, "r2": r2, "spearman": 0.4, "lead": estimate(lead)}


def a_head(head: str) -> Tree:
    return {
        "all": a_slice(),
        "kinds": {},
        "absent": a_slice(),
        "clean": a_slice(),
        "slices": {"severity": {"low": {"num_samples": 2}, "high": a_slice()}},
        "r2_beside_baselines": 0.5,
        "baselines": {"classical": a_baseline(0.3, 0.2), "simple": a_baseline(-0.5, 1.0)},
        "clean_flags": {"threshold": 0.2, "num_images": 100, "flagged_share": estimate(0.01)},
        "rise": estimate(0.7),
        "cross_talk": {other: estimate(0.01) for other in HEADS if other != head},
    }


def tree(*, champion: bool = False) -> Tree:
    """The evidence as it is stored; with a champion, the candidate is a little better on every head."""
    pair = {"mse": 0.032, "r2": 0.45, "difference": estimate(-0.002, -0.003, -0.001), "p_better": 0.001}
    return {
        "format_version": FORMAT_VERSION,
        "candidate": {
            "format_version": FORMAT_VERSION,
            "split": "test",
            "data_sha256": "5e1f",
            "model_sha256": "c0de",
            "measuring": {"confidence": 0.95, "seed": 1},
            "num_samples": 60,
            "num_groups": 12,
            "num_counted_groups": 12,
            "excluded_groups": [],
            "loss": 0.03,
            "heads": {head: a_head(head) for head in HEADS},
            "sweeps": {
                f"{head} {name}": a_sweep(head, spearman)
                for head in HEADS
                for name, spearman in (("easy", 0.99), ("hard", 0.95))
            },
        },
        "champion": {
            "split": "test",
            "data_sha256": "5e1f",
            "heads": {head: copy.deepcopy(pair) for head in HEADS},
        }
        if champion
        else None,
        "silent_models": [],
        "earlier_candidates": 0,
    }


def changed(base: Tree, changes: Mapping[str, Any]) -> Tree:
    """A copy with other values where the paths lead to, keys joined by dots; `...` takes one away."""
    result = copy.deepcopy(base)
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = result
        for key in parents:
            place = place[key]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return result


def evidence(changes: Mapping[str, Any] | None = None, *, champion: bool = False) -> Evidence:
    """The evidence of `tree`, with changes below ``candidate``, or below ``champion`` if that is named."""
    paths = {
        path
        if path.startswith(("champion.", "silent_models", "real", "own_labels", "earlier_candidates"))
        else f"candidate.{path}": value
        for path, value in (changes or {}).items()
    }
    return Evidence.from_json(changed(tree(champion=champion), paths))


def paired(head: str, value: float, low: float | None, high: float | None, groups: int = 12) -> Tree:
    """The change that gives a head's difference to the champion, sure where the interval is below 0."""
    difference = {"value": value, "low": low, "high": high, "num_groups": groups}
    p_better = None if high is None else 0.001 if high < 0 else 0.5
    return {
        f"champion.heads.{head}.difference": difference,
        f"champion.heads.{head}.p_better": p_better,
    }


def all_paired(value: float, low: float | None, high: float | None, groups: int = 12) -> Tree:
    return {key: one for head in HEADS for key, one in paired(head, value, low, high, groups).items()}


def refused(verdict: Verdict) -> list[tuple[str, str]]:
    return [(row.head, row.rule) for row in verdict.rows if not row.passed]
