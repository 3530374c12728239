"""The gate: whether a candidate may become champion, with a reason for every rule.

A pure decision on numbers. It fails closed: what is missing, not a finite number, or
impossible for its measure refuses, and so does evidence whose data are not known to be the
same. A new rule is a function from `Evidence` to rows, added to `RULES`; docs/gate.md says
what each is for.
"""

from collections.abc import Mapping
from typing import Any

from quality_model.params import EvaluateParams, GateParams, flatten, values_sha256
from quality_model.release.gate.reading import entry
from quality_model.release.gate.rules import ABOUT_THE_EVIDENCE, RULES, Evidence, Rule
from quality_model.release.gate.verdict import AFTER_A_REFUSAL, ALL_HEADS, Row, Verdict

__all__ = [
    "AFTER_A_REFUSAL",
    "ALL_HEADS",
    "RULES",
    "Evidence",
    "Row",
    "Rule",
    "Verdict",
    "decide",
    "gate_sha256",
]


def decide(
    section: GateParams,
    candidate: Mapping[str, Any],
    champion: Mapping[str, Any] | None,
    paired: Mapping[str, Any] | None = None,
) -> Verdict:
    """Decide whether the candidate may become champion.

    Args:
        section: Thresholds.
        candidate: Its evaluation, see `Evidence`.
        champion: The champion's, scored again on the same test set; None when there is
            no champion yet, and then the thresholds alone decide.
        paired: The difference of both for each head, see `Evidence`; with a champion, a
            head without it is refused.

    Returns:
        The verdict. Nothing is raised for bad evidence: it refuses.
    """
    evidence = Evidence(section, candidate, champion, paired)
    rules = ABOUT_THE_EVIDENCE if entry(candidate, "num_counted_groups") == 0 else RULES
    rows = tuple(row for rule in rules for row in rule(evidence))
    return Verdict(passed=bool(rows) and all(row.passed for row in rows), rows=rows)


def gate_sha256(section: GateParams, evaluate: EvaluateParams) -> str:
    """Return one hash for the thresholds and all that decides about the figures, versions of measures too."""
    from quality_model.evaluate.measures import measuring

    return values_sha256([flatten(section), measuring(evaluate)])
