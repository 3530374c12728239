"""The gate: whether a candidate may become champion, with a reason for every rule.

A pure decision on numbers. It fails closed: `Evidence` holds no number that is not finite or is impossible,
and what is not defined refuses, like evidence about other data. A new rule is a function from the thresholds
and the evidence to rows, added to `RULES`; docs/gate.md says what each is for.
"""

from quality_model.evaluate.evidence import Evidence
from quality_model.params import GateParams
from quality_model.release.gate.rules import ABOUT_THE_EVIDENCE, RULES, Rule
from quality_model.release.gate.verdict import AFTER_A_REFUSAL, ALL_HEADS, Row, Verdict

__all__ = [
    "AFTER_A_REFUSAL",
    "ALL_HEADS",
    "RULES",
    "Row",
    "Rule",
    "Verdict",
    "decide",
]


def decide(section: GateParams, evidence: Evidence) -> Verdict:
    """Decide whether the candidate may become champion.

    Args:
        section: Thresholds.
        evidence: About the candidate, and about the champion on the same test set; where there is no
            champion yet, the thresholds alone decide.

    Returns:
        The verdict. Nothing is raised for bad evidence: it refuses.
    """
    rules = RULES if evidence.candidate.num_counted_groups else ABOUT_THE_EVIDENCE
    rows = tuple(row for rule in rules for row in rule(section, evidence))
    return Verdict(passed=all(row.passed for row in rows), rows=rows)
