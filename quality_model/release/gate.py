"""The gate: whether a candidate may become champion, with a reason for every rule and head.

A pure decision on numbers. It fails closed: `Evidence` holds no number that is not finite or is impossible,
and what is not defined refuses, like evidence about other data. A new rule is a function from the thresholds
and the evidence to rows, added to `RULES`; docs/gate.md says what each is for.

Every figure is an estimate with an interval over groups. The estimate is compared, or, where
``gate.with_confidence`` is set, the end of the interval that is worse for the candidate. A missing interval
refuses where one is needed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from quality_model.core.figures import markdown_table, text_table
from quality_model.evaluate.evidence import By, Estimate, Evidence
from quality_model.params import EvaluateParams, GateParams, flatten, values_sha256
from quality_model.paths import ProjectPaths
from quality_model.records import HEADS, Head

ALL_HEADS: Final = "all"
"""Stands for the head in a row about the evidence as such."""

AFTER_A_REFUSAL: Final = (
    "Next: train on more scenes of your own (source.dataset: a folder with a sub-folder for each scene), or"
    " longer (train.epochs), and run the retraining again; docs/gate.md explains each rule."
)
"""What a person can do when the gate refused."""

_TITLES: Final = ("head", "rule", "value", "threshold", "result", "reason")
_NUMERIC: Final = ("value", "threshold")


@dataclass(frozen=True, slots=True)
class Row:
    """One rule applied to one head.

    Attributes:
        head: A head, or `ALL_HEADS`.
        rule: The name of a function of `RULES`.
        value: The candidate's measure; None where there is no usable number, or the rule
            is not about one.
        threshold: What it is held against; None as for ``value``.
        passed: Whether the rule is met.
        reason: Why, in words.
    """

    head: str
    rule: str
    value: float | None
    threshold: float | None
    passed: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's decision; ``compared_with`` is the champion's version, None where there is none."""

    passed: bool
    rows: tuple[Row, ...]
    compared_with: str | None = None

    @property
    def refusals(self) -> tuple[str, ...]:
        """The reasons of the rules that are not met, in the order of the rows."""
        return tuple(row.reason for row in self.rows if not row.passed)

    def summary(self) -> str:
        """One line: passed, or refused with every reason."""
        if self.passed:
            return f"The gate lets the candidate pass: all {len(self.rows)} rules are met."
        return f"The gate refuses the candidate: {'; '.join(self.refusals) or 'there is no evidence'}."

    def ending(self, promoted: str | None = None) -> str:
        """One sentence on what came of it; ``promoted`` is the version that became champion, if one did."""
        if promoted is not None:
            better = next(
                (row.reason for row in self.rows if row.rule == "improvement"), "it is the first one"
            )
            return f"Version {promoted} is now champion: {better}."
        before = self.compared_with
        stays = f"Version {before} stays champion" if before else "There is no champion yet"
        return f"{stays}: {self._shortfall()}."

    def _shortfall(self) -> str:
        """Why the candidate did not become champion: too little evidence, or the first rule that refused."""
        refused = [row for row in self.rows if not row.passed]
        few = next((f" ({row.reason})" for row in refused if row.rule == "unseen_groups"), "")
        worse = [row.head for row in refused if row.rule == "non_inferiority" and "worse than" in row.reason]
        if worse:
            return f"the new model is worse on {', '.join(worse)}"
        if few or {row.rule for row in refused} <= {"improvement", "non_inferiority"}:
            return f"too little evidence that the new model is better{few}"
        more = f", and {len(refused) - 1} more" if refused[1:] else ""
        return f"the new model falls short ({refused[0].reason if refused else 'no evidence'}{more})"

    def table(self) -> str:
        """Aligned text for a terminal or a log."""
        return text_table(_TITLES, map(_cells, self.rows), right=_NUMERIC)

    def markdown(self) -> str:
        """The summary and the table in Markdown, under a heading."""
        table = markdown_table(_TITLES, map(_cells, self.rows), right=_NUMERIC)
        after = "" if self.passed else f"\n{AFTER_A_REFUSAL}\n"
        return f"## Gate: {'passed' if self.passed else 'refused'}\n\n{self.summary()}\n\n{table}\n{after}"


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


def gate_sha256(section: GateParams, evaluate: EvaluateParams, root: Path) -> str:
    """Return one hash for the thresholds and all that decides about the figures.

    That is the versions of measures, too, and what the folder of real defects holds; not whether a person is
    asked afterwards.
    """
    from quality_model.evaluate.measure import measuring
    from quality_model.evaluate.real_defects import contents_sha256

    folder = section.real and ProjectPaths(root).place(Path(section.real.folder))
    real = [contents_sha256(folder)] if folder else []
    thresholds = {name: value for name, value in flatten(section).items() if "approval" not in name}
    return values_sha256([thresholds, measuring(evaluate), *real])


# -- the rules


REQUIRED_SPLIT: Final = "test"
"""The only split whose measures are evidence: training and the choice of epoch saw the others."""

_SHOWN_GROUPS: Final = 5
"""Groups that a reason names; the verdict's evidence has all of them."""

FEWEST_GROUPS: Final = 2
"""Groups of the test split that an interval needs: one says nothing about another."""


def same_test_set(section: GateParams, evidence: Evidence) -> Iterator[Row]:
    """Measured was the test split, and the same data for both models."""
    sides = {"candidate": evidence.candidate, "champion": evidence.champion}
    problems = [
        f"the {name} was measured on the split {side.split!r}, not {REQUIRED_SPLIT!r}"
        for name, side in sides.items()
        if side is not None and side.split != REQUIRED_SPLIT
    ]
    reason = "no champion yet: the thresholds alone decide"
    if evidence.champion is not None:
        reason = "candidate and champion were measured on the same test split"
        first, second = evidence.candidate.data_sha256, evidence.champion.data_sha256
        if first != second:
            problems.append(f"the candidate was measured on data {first}, the champion on {second}")
    yield Row(ALL_HEADS, "same_test_set", None, None, not problems, "; ".join(problems) or reason)


def unseen_groups(section: GateParams, evidence: Evidence) -> Iterator[Row]:
    """Enough test groups count: those that no model, nor the weights it began with, has seen in training."""
    counted, limit = evidence.candidate.num_counted_groups, section.min_test_groups
    seen = evidence.candidate.excluded_groups
    note = ""
    if evidence.silent_models:
        note = (
            f"; the {' and the '.join(evidence.silent_models)} does not say what it was trained on, and may"
            " have seen all: `promote bundled` leads to a champion that says it"
        )
    elif seen:
        more = f" and {len(seen) - _SHOWN_GROUPS} more" if len(seen) > _SHOWN_GROUPS else ""
        note = (
            f"; the models or the weights they began with have seen {len(seen)} in training: "
            f"{', '.join(seen[:_SHOWN_GROUPS])}{more}"
        )
    reason = f"{counted} of {counted + len(seen)} test groups count, {limit} are needed{note}"
    yield Row(ALL_HEADS, "unseen_groups", counted, limit, counted >= limit, reason)


def max_mse(section: GateParams, evidence: Evidence) -> Iterator[Row]:
    """Each head's MSE is at most its threshold."""
    for head, found in evidence.candidate.heads.items():
        yield _row(
            section, section.max_mse.as_dict(), head, "max_mse", "mse", found.all.measures.mse, at_most=True
        )


def skill(section: GateParams, evidence: Evidence) -> Iterator[Row]:
    """Each head's R2 is at least its threshold."""
    for head, found in evidence.candidate.heads.items():
        yield _row(
            section, section.min_r2.as_dict(), head, "skill", "r2", found.all.measures.r2, at_most=False
        )


def baseline_skill(section: GateParams, evidence: Evidence) -> Iterator[Row]:
    """Each head's R2 is above the best baseline's, on the samples of those, by its threshold."""
    limits = section.min_r2_over_baseline.as_dict()
    for head in HEADS:
        name, lead = evidence.candidate.smallest_lead(head, _lower(section)) or ("", None)
        what = f"r2 less that of the baseline {name}," if name else "r2 less that of a baseline"
        yield _row(section, limits, head, "baseline_skill", what, lead, at_most=False)


def severity_sweep(section: GateParams, evidence: Evidence) -> Iterator[Row]:
    """Each head's scores rise along all of its severity sweeps: the worst one counts."""
    limits = section.min_sweep_spearman.as_dict()
    for head in HEADS:
        name, worst = evidence.candidate.worst_sweep(head, _lower(section)) or ("", None)
        what = f"spearman of the severity sweep {name}".rstrip()
        yield _row(section, limits, head, "severity_sweep", what, worst, at_most=False)


def cross_talk(section: GateParams, evidence: Evidence) -> Iterator[Row]:
    """Each head keeps still while another degradation becomes severe: its largest movement counts."""
    by: By = "high" if section.with_confidence else "value"
    for head in HEADS:
        name, largest = evidence.candidate.largest_cross_talk(head, by) or ("each other degradation", None)
        what = f"movement under severe {name}"
        yield _row(section, section.max_cross_talk.as_dict(), head, "cross_talk", what, largest, at_most=True)


def clean_flags(section: GateParams, evidence: Evidence) -> Iterator[Row]:
    """Each head flags at most this share of the clean images, at the threshold kept with the model."""
    for head, found in evidence.candidate.heads.items():
        flags, limits = found.clean_flags, section.max_clean_flags.as_dict()
        what = f"share of {flags.num_images} clean {evidence.candidate.flags_of} flagged"
        if flags.threshold is None:
            what = f"the model's threshold for flags is missing, so the {what}"
        yield _row(section, limits, head, "clean_flags", what, flags.flagged_share, at_most=True)


def real_defects(section: GateParams, evidence: Evidence) -> Iterator[Row]:
    """Each head that is asked about parts real defects from clean images: its area under the ROC curve."""
    asked, found = section.real, evidence.real
    for head, limit in asked.min_auc.items() if asked else ():
        one = found.heads.get(head) if found else None
        if one is None:
            why = found.problem if found and found.problem else "they were not measured"
            yield Row(head, "real_defects", None, limit, False, f"{head}: no evidence of real defects: {why}")
        else:
            what = f"auc of {one.num_bad} images with real defects among {one.num_clean} clean ones"
            yield _row(section, {head: limit}, head, "real_defects", what, one.auc, at_most=False)


def own_labels(section: GateParams, evidence: Evidence) -> Iterator[Row]:
    """A fine-tuning on a person's labels orders those that it was not trained on no worse than before."""
    for head, found in evidence.own_labels.items():
        passed = found.after >= found.before
        reason = f"{head}: {'' if passed else 'worse on the labels of your own: '}{found.line()}"
        yield Row(head, "own_labels", found.after, found.before, passed, reason)


def non_inferiority(section: GateParams, evidence: Evidence) -> Iterator[Row]:
    """No head is worse than the champion's: the upper end of the MSE's difference is within the margin.

    An upper end, not the difference itself: a head whose test groups are too few or too different to tell is
    refused like one that is worse.
    """
    for head, pair in (evidence.champion.heads if evidence.champion else {}).items():
        difference, margin = pair.difference, getattr(section.max_mse_increase, head)
        passed = difference.high is not None and difference.high <= margin
        if difference.low is None:
            reason = _without_interval("a comparison with the champion", difference)
        else:
            reason = f"mse minus the champion's is {_shown(difference)}, "
            fault = "worse than" if difference.low > 0 else "not shown to be as good as"
            if passed:
                reason += f"within {margin:.4g}"
            else:
                reason = f"{fault} the champion: {reason}beyond {margin:.4g}"
        yield Row(head, "non_inferiority", difference.high, margin, passed, f"{head}: {reason}")


def improvement(section: GateParams, evidence: Evidence) -> Iterator[Row]:
    """At least one head is better than the champion's, and luck is no explanation, however many were judged.

    Without that there is no reason to replace a champion that is known to work. The n-th candidate that is
    judged on a test split passes by luck with a chance of at most ``max_luck`` / (n (n + 1)), shared by the
    heads. Over all n these add up to ``max_luck``, a union bound, which holds whatever the candidates have in
    common.
    """
    if evidence.champion is None:
        return
    number = evidence.earlier_candidates + 1
    allowed = section.max_luck / (number * (number + 1) * len(HEADS))
    found = {head: pair.p_better for head, pair in evidence.champion.heads.items()}
    lowest = min((p for p in found.values() if p is not None), default=None)
    better = [
        f"{head} by {-pair.difference.value:.2g} (p {pair.p_better:.2g})"
        for head, pair in evidence.champion.heads.items()
        if pair.p_better is not None and pair.p_better <= allowed and pair.difference.value is not None
    ]
    reason = (
        f"better on {', '.join(better)}" if better else "better than the champion on no head with confidence"
    )
    at_most = f"p at most {allowed:.2g}"
    if number > 1:
        at_most += f" for candidate {number} on this test split; new test scenes start anew"
    yield Row(ALL_HEADS, "improvement", lowest, allowed, bool(better), f"{reason}, {at_most}")


Rule = Callable[[GateParams, Evidence], Iterable[Row]]

ABOUT_THE_EVIDENCE: Final[Sequence[Rule]] = (same_test_set, unseen_groups)
"""What must hold for figures to be evidence; where no test group counts, there are none to judge."""

RULES: Final[Sequence[Rule]] = (
    *ABOUT_THE_EVIDENCE,
    max_mse,
    skill,
    baseline_skill,
    severity_sweep,
    cross_talk,
    clean_flags,
    real_defects,
    own_labels,
    non_inferiority,
    improvement,
)
"""Every rule, in the order of the verdict's rows."""


def _lower(section: GateParams) -> By:
    return "low" if section.with_confidence else "value"


def _row(
    section: GateParams,
    limits: Mapping[Head, float],
    head: Head,
    rule: str,
    what: str,
    estimate: Estimate | None,
    *,
    at_most: bool,
) -> Row:
    """Compare an estimate, or the worse end of its interval, with the head's threshold; None refuses."""
    limit = limits[head]
    if estimate is None or estimate.value is None:
        problem = "not defined" if estimate else "missing"
        return Row(head, rule, None, limit, False, f"{head}: {what} is {problem}")
    value, by = estimate.value, ""
    if section.with_confidence:
        end, by = (estimate.high, "the upper end ") if at_most else (estimate.low, "the lower end ")
        if end is None:
            return Row(head, rule, None, limit, False, f"{head}: {_without_interval(what, estimate)}")
        value = end
    passed = value <= limit if at_most else value >= limit
    kept, broken = ("is within", "is above") if at_most else ("reaches", "is below")
    reason = f"{head}: {what} {_shown(estimate)}, {by}{kept if passed else broken} {limit:.6g}"
    return Row(head, rule, value, limit, passed, reason)


def _shown(estimate: Estimate) -> str:
    """The estimate with its interval and the number of groups."""
    groups = f"{estimate.num_groups} group{'s' if estimate.num_groups != 1 else ''}"
    if estimate.low is None:
        return f"{estimate.value:.4g} of {groups}"
    return f"{estimate.value:.4g} in [{estimate.low:.4g}, {estimate.high:.4g}] over {groups}"


def _without_interval(what: str, estimate: Estimate) -> str:
    if estimate.num_groups < FEWEST_GROUPS:
        return (
            f"{what} needs {FEWEST_GROUPS} test groups, there is {estimate.num_groups}: take more groups, "
            "or a larger generate.test_share"
        )
    return f"{what} has no interval over its {estimate.num_groups} groups"


def _cells(row: Row) -> tuple[str, ...]:
    numbers = ["-" if number is None else f"{number:.6g}" for number in (row.value, row.threshold)]
    return (row.head, row.rule, *numbers, "passed" if row.passed else "REFUSED", row.reason)
