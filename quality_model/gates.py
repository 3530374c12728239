"""The gate: whether a candidate may become champion, with a reason for every rule.

A pure decision on numbers. It fails closed: what is missing, not a finite number, or
impossible for its measure refuses, and so does evidence whose data are not known to be the
same. A new rule is a function from `Evidence` to rows, added to `RULES`.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any, Final, NamedTuple

from quality_model.params import GateParams
from quality_model.records import HEADS

REQUIRED_SPLIT: Final = "test"
"""The only split whose measures are evidence: training and the choice of epoch saw the others."""

ALL_HEADS: Final = "all"
"""What stands for the head in a row about the evidence as a whole."""

_POSSIBLE: Final[dict[str, tuple[float, float]]] = {"mse": (0.0, math.inf), "r2": (-math.inf, 1.0)}
_TITLES: Final = ("head", "rule", "value", "threshold", "result", "reason")
_NUMERIC: Final = ("value", "threshold")


@dataclass(frozen=True, slots=True)
class Row:
    """One rule applied to one head.

    Attributes:
        head: A head, or `ALL_HEADS`.
        rule: ``same_test_set``, ``max_mse``, ``min_r2`` or ``champion_mse``.
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
class Evidence:
    """What the rules read: thresholds, and the evaluations of both models on one test set.

    An evaluation is the ``metrics`` of `quality_model.evaluation.Evaluation`: ``split``,
    ``data_sha256`` and, under ``heads``, each head's ``mse`` and ``r2``.
    """

    section: GateParams
    candidate: Any
    champion: Any | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's decision."""

    passed: bool
    rows: tuple[Row, ...]

    @property
    def refusals(self) -> tuple[str, ...]:
        """The reasons of the rules that are not met, in the order of the rows."""
        return tuple(row.reason for row in self.rows if not row.passed)

    def summary(self) -> str:
        """One line: passed, or refused with every reason."""
        if self.passed:
            return f"The gate lets the candidate pass: all {len(self.rows)} rules are met."
        return f"The gate refuses the candidate: {'; '.join(self.refusals) or 'there is no evidence'}."

    def table(self) -> str:
        """Aligned text for a terminal or a log."""
        lines = [_TITLES, *map(_cells, self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if title in _NUMERIC else cell.ljust(width)
                for title, cell, width in zip(_TITLES, line, widths, strict=True)
            ).rstrip()
            for line in lines
        )

    def markdown(self) -> str:
        """The summary and the table in Markdown, under a heading."""
        rules = tuple("---:" if title in _NUMERIC else "---" for title in _TITLES)
        lines = [_TITLES, rules, *map(_cells, self.rows)]
        body = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
        return f"## Gate: {'passed' if self.passed else 'refused'}\n\n{self.summary()}\n\n{body}\n"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: ``passed``, ``summary`` and ``rows``."""
        return {
            "passed": self.passed,
            "summary": self.summary(),
            "rows": [asdict(row) for row in self.rows],
        }


def decide(section: GateParams, candidate: Mapping[str, Any], champion: Mapping[str, Any] | None) -> Verdict:
    """Decide whether the candidate may become champion.

    Args:
        section: Thresholds.
        candidate: Its evaluation, see `Evidence`.
        champion: The champion's, scored again on the same test set; None when there is
            no champion yet, and then the thresholds alone decide.

    Returns:
        The verdict. Nothing is raised for bad evidence: it refuses.
    """
    evidence = Evidence(section, candidate, champion)
    rows = tuple(row for rule in RULES for row in rule(evidence))
    return Verdict(passed=bool(rows) and all(row.passed for row in rows), rows=rows)


def same_test_set(evidence: Evidence) -> Iterator[Row]:
    """Measured was the test split, and the same data for both models."""
    problems = _unknown_data("candidate", evidence.candidate)
    reason = "no champion yet: the thresholds alone decide"
    if evidence.champion is not None:
        reason = "candidate and champion were measured on the same test split"
        problems += _unknown_data("champion", evidence.champion)
        first, second = _get(evidence.candidate, "data_sha256"), _get(evidence.champion, "data_sha256")
        if not problems and first != second:
            problems = [f"the candidate was measured on data {first}, the champion on {second}"]
    yield Row(ALL_HEADS, "same_test_set", None, None, not problems, "; ".join(problems) or reason)


def max_mse(evidence: Evidence) -> Iterator[Row]:
    """Each head's MSE is at most its threshold."""
    for head in HEADS:
        value = _measured(evidence.candidate, head, "mse")
        limit = _threshold(evidence.section.max_mse, "max_mse", head)
        yield _row(head, "max_mse", value, limit, _at_most)


def min_r2(evidence: Evidence) -> Iterator[Row]:
    """Each head's R2 is at least its threshold."""
    for head in HEADS:
        value = _measured(evidence.candidate, head, "r2")
        limit = _threshold(evidence.section.min_r2, "min_r2", head)
        yield _row(head, "min_r2", value, limit, _at_least)


def champion_mse(evidence: Evidence) -> Iterator[Row]:
    """No head's MSE is above the champion's by more than the margin."""
    if evidence.champion is None:
        return
    for head in HEADS:
        value = _measured(evidence.candidate, head, "mse")
        champion = _measured(evidence.champion, head, "mse", whose="the champion's ")
        margin = _threshold(evidence.section.max_mse_increase, "max_mse_increase", head)
        yield _row(head, "champion_mse", value, _sum(champion, margin), _near_champion(champion, margin))


Rule = Callable[[Evidence], Iterable[Row]]

RULES: Final[Sequence[Rule]] = (same_test_set, max_mse, min_r2, champion_mse)
"""Every rule, in the order of the verdict's rows."""


class _Number(NamedTuple):
    """A finite number, or none and what is wrong with it."""

    value: float | None
    problem: str = ""


_Judge = Callable[[float, float], tuple[bool, str]]
"""Takes the value and the threshold; says whether the rule is met, and why."""


def _row(head: str, rule: str, value: _Number, threshold: _Number, judge: _Judge) -> Row:
    if value.value is None or threshold.value is None:
        problems = "; ".join(filter(None, (value.problem, threshold.problem)))
        return Row(head, rule, value.value, threshold.value, False, f"{head}: {problems}")
    passed, reason = judge(value.value, threshold.value)
    return Row(head, rule, value.value, threshold.value, passed, f"{head}: {reason}")


def _at_most(value: float, limit: float) -> tuple[bool, str]:
    passed = value <= limit
    return passed, f"mse {value:.6g} is {'within' if passed else 'above'} {limit:.6g}"


def _at_least(value: float, limit: float) -> tuple[bool, str]:
    passed = value >= limit
    return passed, f"r2 {value:.6g} {'reaches' if passed else 'is below'} {limit:.6g}"


def _near_champion(champion: _Number, margin: _Number) -> _Judge:
    def judge(value: float, limit: float) -> tuple[bool, str]:
        passed, worse = value <= limit, value - (champion.value or 0.0)
        sides = f"mse {value:.6g} against the champion's {champion.value:.6g}"
        if not passed:
            return False, f"{sides} is worse by {worse:.6g}, more than {margin.value:.6g}"
        if worse > 0:
            return True, f"{sides} is worse by {worse:.6g}, within {margin.value:.6g}"
        return True, f"{sides} is no worse"

    return judge


def _measured(evaluation: Any, head: str, measure: str, *, whose: str = "") -> _Number:
    value = _get(_get(_get(evaluation, "heads"), head), measure)
    number = _finite(value, f"{whose}{measure}")
    low, high = _POSSIBLE[measure]
    if number.value is not None and not low <= number.value <= high:
        return _Number(None, f"{whose}{measure} {number.value:.6g} is impossible")
    return number


def _threshold(section: Any, rule: str, head: str) -> _Number:
    return _finite(getattr(section, head, None), f"the threshold {rule}")


def _sum(first: _Number, second: _Number) -> _Number:
    if first.value is None or second.value is None:
        return _Number(None, "; ".join(filter(None, (first.problem, second.problem))))
    return _finite(first.value + second.value, "the champion's mse with the margin")


def _finite(value: Any, name: str) -> _Number:
    if value is None:
        return _Number(None, f"{name} is missing")
    if isinstance(value, bool) or not isinstance(value, Real):
        return _Number(None, f"{name} is not a number but {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    return _Number(number) if math.isfinite(number) else _Number(None, f"{name} is {number}, not finite")


def _unknown_data(whose: str, evaluation: Any) -> list[str]:
    problems = []
    if _get(evaluation, "split") != REQUIRED_SPLIT:
        problems.append(
            f"the {whose} was measured on the split {_get(evaluation, 'split')!r}, not {REQUIRED_SPLIT!r}"
        )
    digest = _get(evaluation, "data_sha256")
    if not isinstance(digest, str) or not digest:
        problems.append(f"it is not known on which data the {whose} was measured: data_sha256 is {digest!r}")
    return problems


def _get(tree: Any, key: str) -> Any:
    return tree.get(key) if isinstance(tree, Mapping) else None


def _cells(row: Row) -> tuple[str, ...]:
    numbers = ["-" if number is None else f"{number:.6g}" for number in (row.value, row.threshold)]
    return (row.head, row.rule, *numbers, "passed" if row.passed else "REFUSED", row.reason)
