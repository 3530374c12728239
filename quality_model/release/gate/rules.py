"""The rules: each reads the evidence and gives a row for every head, with its reason."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from quality_model.params import GateParams, PerHead
from quality_model.records import HEADS
from quality_model.release.gate.reading import Number, bounded, decisive, entries, entry, finite, minus
from quality_model.release.gate.verdict import ALL_HEADS, Row

REQUIRED_SPLIT: Final = "test"
"""The only split whose measures are evidence: training and the choice of epoch saw the others."""

_SHOWN_GROUPS: Final = 5
"""Groups that a reason names; the verdict's evidence has all of them."""

FEWEST_GROUPS: Final = 2
"""Groups of the test split that an interval over groups needs: one says nothing about another."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the rules read: thresholds, and what was measured of both models on one test set.

    Attributes:
        section: The thresholds.
        candidate: The ``metrics`` of its `quality_model.evaluate.Evaluation`: ``split``,
            ``data_sha256``, under ``heads`` each head's ``mse``, ``r2`` and ``r2_beside_baselines``, and the
            ``baselines``, ``ladders``, ``cross_talk`` and ``clean_flags``, and of the test groups
            ``num_counted_groups`` and ``excluded_groups``, and ``silent_models``, those that do not say
            what they have seen.
        champion: Its ``split``, ``data_sha256`` and ``heads``; None if there is none.
        paired: For each head how the candidate's MSE differs from the champion's on the same
            samples: ``difference``, the ends ``low`` and ``high`` of its interval over groups
            (see `quality_model.evaluate.metrics.paired_bootstrap`), and ``num_groups``.
    """

    section: GateParams
    candidate: Any
    champion: Any | None
    paired: Any | None = None


def same_test_set(evidence: Evidence) -> Iterator[Row]:
    """Measured was the test split, and the same data for both models."""
    problems = _unknown_data("candidate", evidence.candidate)
    reason = "no champion yet: the thresholds alone decide"
    if evidence.champion is not None:
        reason = "candidate and champion were measured on the same test split"
        problems += _unknown_data("champion", evidence.champion)
        first, second = entry(evidence.candidate, "data_sha256"), entry(evidence.champion, "data_sha256")
        if not problems and first != second:
            problems = [f"the candidate was measured on data {first}, the champion on {second}"]
    yield Row(ALL_HEADS, "same_test_set", None, None, not problems, "; ".join(problems) or reason)


def unseen_groups(evidence: Evidence) -> Iterator[Row]:
    """Enough test groups count: those that no model, nor the weights it began with, has seen in training."""
    counted = finite(entry(evidence.candidate, "num_counted_groups"), "the number of test groups that count")
    limit = finite(evidence.section.min_test_groups, "the threshold min_test_groups")
    excluded = entry(evidence.candidate, "excluded_groups")
    seen = [str(group) for group in excluded] if isinstance(excluded, list) else []
    more = f" and {len(seen) - _SHOWN_GROUPS} more" if len(seen) > _SHOWN_GROUPS else ""
    silent = entry(evidence.candidate, "silent_models")
    note = ""
    if isinstance(silent, list) and silent:
        note = (
            f"; the {' and the '.join(map(str, silent))} does not say what it was trained on, and may have"
            " seen all: `promote bundled` leads to a champion that says it"
        )
    elif seen:
        note = (
            f"; the models or the weights they began with have seen {len(seen)} in training: "
            f"{', '.join(seen[:_SHOWN_GROUPS])}{more}"
        )

    def judge(value: float, least: float) -> tuple[bool, str]:
        total = value + len(seen)
        return value >= least, f"{value:g} of {total:g} test groups count, {least:g} are needed{note}"

    yield _row(ALL_HEADS, "unseen_groups", counted, limit, judge)


def max_mse(evidence: Evidence) -> Iterator[Row]:
    """Each head's MSE is at most its threshold."""
    for head in HEADS:
        value = bounded(entry(evidence.candidate, "heads", head, "mse"), "mse", "mse")
        limit = _threshold(evidence.section.max_mse, "max_mse", head)
        yield _row(head, "max_mse", value, limit, _at_most("mse"))


def skill(evidence: Evidence) -> Iterator[Row]:
    """Each head's R2 is at least its threshold."""
    for head in HEADS:
        limit = _threshold(evidence.section.min_r2, "min_r2", head)
        yield _row(head, "skill", _r2(evidence.candidate, head), limit, _at_least("r2"))


def baseline_skill(evidence: Evidence) -> Iterator[Row]:
    """Each head's R2 is above the best baseline's, on the samples of those, by its threshold."""
    for head in HEADS:
        found = {
            name: bounded(entry(baseline, "r2"), f"r2 of the baseline {name}", "r2")
            for name, baseline in entries(entry(evidence.candidate, "baselines", head))
        }
        name, best = decisive(found, "baselines", max)
        limit = _threshold(evidence.section.min_r2_over_baseline, "min_r2_over_baseline", head)
        ours = entry(evidence.candidate, "heads", head, "r2_beside_baselines")
        value = minus(bounded(ours, "r2 on the samples of the baselines", "r2"), best)
        yield _row(head, "baseline_skill", value, limit, _at_least(f"r2 less that of the baseline {name},"))


def ladder(evidence: Evidence) -> Iterator[Row]:
    """Each head's scores rise along all of its severity ladders: the worst one counts."""
    ladders = entries(entry(evidence.candidate, "ladders"))
    for head in HEADS:
        found: dict[str, Number] = {}
        for name, steps in ladders:
            if entry(steps, "head") not in HEADS:
                found[name] = Number(None, f"the ladder {name} names no head")
            elif entry(steps, "head") == head:
                found[name] = bounded(entry(steps, "spearman"), f"spearman of the ladder {name}", "spearman")
        name, value = decisive(found, "ladders", min)
        limit = _threshold(evidence.section.min_ladder_spearman, "min_ladder_spearman", head)
        yield _row(head, "ladder", value, limit, _at_least(f"spearman of the ladder {name}"))


def cross_talk(evidence: Evidence) -> Iterator[Row]:
    """Each head keeps still while another degradation becomes severe: its largest movement counts."""
    for head in HEADS:
        found: dict[str, Number] = {}
        for degraded in HEADS:
            if degraded != head:
                moved = entry(evidence.candidate, "cross_talk", degraded, head)
                found[degraded] = bounded(moved, f"movement under severe {degraded}", "movement")
        name, value = decisive(found, "cross-talk", max)
        limit = _threshold(evidence.section.max_cross_talk, "max_cross_talk", head)
        yield _row(head, "cross_talk", value, limit, _at_most(f"movement under severe {name}"))


def clean_flags(evidence: Evidence) -> Iterator[Row]:
    """Each head flags at most this share of the clean images, at the threshold kept with the model."""
    for head in HEADS:
        value = _flagged_share(entry(evidence.candidate, "clean_flags", head))
        limit = _threshold(evidence.section.max_clean_flags, "max_clean_flags", head)
        yield _row(head, "clean_flags", value, limit, _at_most("share of clean images flagged"))


def non_inferiority(evidence: Evidence) -> Iterator[Row]:
    """No head is worse than the champion's: the upper end of the MSE's difference is within the margin.

    An upper end, not the difference itself: a head whose test groups are too few or too
    different to tell is refused like one that is worse.
    """
    if evidence.champion is None:
        return
    for head in HEADS:
        pair = entry(evidence.paired, head)
        margin = _threshold(evidence.section.max_mse_increase, "max_mse_increase", head)
        yield _row(head, "non_inferiority", _upper_end(pair), margin, _not_inferior(pair))


def improvement(evidence: Evidence) -> Iterator[Row]:
    """At least one head is better than the champion's: its MSE's difference lies below 0 with confidence.

    Without that there is no reason to replace a champion that is known to work.
    """
    if evidence.champion is None:
        return
    ends = {head: _ends(entry(evidence.paired, head)) for head in HEADS}
    usable = {head: pair for head, pair in ends.items() if pair[1].value is not None}
    better = [
        f"{head} by {-high.value:.2g} to {-low.value:.2g}"
        for head, (low, high) in usable.items()
        if low.value is not None and high.value is not None and high.value < 0
    ]
    reason = (
        f"better on {', '.join(better)}" if better else "better than the champion on no head with confidence"
    )
    lowest = min((high.value for _, high in usable.values() if high.value is not None), default=None)
    yield Row(ALL_HEADS, "improvement", lowest, 0.0, bool(better), reason)


Rule = Callable[[Evidence], Iterable[Row]]

ABOUT_THE_EVIDENCE: Final[Sequence[Rule]] = (same_test_set, unseen_groups)
"""What must hold for figures to be evidence; where no test group counts, there are none to judge."""

RULES: Final[Sequence[Rule]] = (
    *ABOUT_THE_EVIDENCE,
    max_mse,
    skill,
    baseline_skill,
    ladder,
    cross_talk,
    clean_flags,
    non_inferiority,
    improvement,
)
"""Every rule, in the order of the verdict's rows."""


_Judge = Callable[[float, float], tuple[bool, str]]
"""Takes the value and the threshold; says whether the rule is met, and why."""


def _row(head: str, rule: str, value: Number, threshold: Number, judge: _Judge) -> Row:
    about = "" if head == ALL_HEADS else f"{head}: "
    if value.value is None or threshold.value is None:
        problems = "; ".join(filter(None, (value.problem, threshold.problem)))
        return Row(head, rule, value.value, threshold.value, False, f"{about}{problems}")
    passed, reason = judge(value.value, threshold.value)
    return Row(head, rule, value.value, threshold.value, passed, f"{about}{reason}")


def _at_most(name: str) -> _Judge:
    def judge(value: float, limit: float) -> tuple[bool, str]:
        passed = value <= limit
        return passed, f"{name} {value:.6g} is {'within' if passed else 'above'} {limit:.6g}"

    return judge


def _at_least(name: str) -> _Judge:
    def judge(value: float, limit: float) -> tuple[bool, str]:
        passed = value >= limit
        return passed, f"{name} {value:.6g} {'reaches' if passed else 'is below'} {limit:.6g}"

    return judge


def _not_inferior(pair: Any) -> _Judge:
    def judge(high: float, margin: float) -> tuple[bool, str]:
        difference, low = float(pair["difference"]), float(pair["low"])
        sides = f"mse minus the champion's is {difference:.4g}, in [{low:.4g}, {high:.4g}] over groups"
        if high <= margin:
            return True, f"{sides}, within {margin:.4g}"
        fault = "worse than the champion" if low > 0 else "not shown to be as good as the champion"
        return False, f"{fault}: {sides}, beyond {margin:.4g}"

    return judge


def _flagged_share(flags: Any) -> Number:
    """The share of clean images flagged, if the model has a threshold and there were images."""
    if flags is None:
        return Number(None, "clean flags are missing")
    share = bounded(entry(flags, "flagged_share"), "share of clean images flagged", "flagged_share")
    threshold = finite(entry(flags, "threshold"), "the model's threshold for flags")
    images = bounded(entry(flags, "num_images"), "number of clean images", "count")
    problems = "; ".join(number.problem for number in (threshold, images, share) if number.problem)
    return Number(None, problems) if problems else share


def _upper_end(pair: Any) -> Number:
    """The upper end of a paired interval, if all that belongs to it is sound."""
    return _ends(pair)[1]


def _ends(pair: Any) -> tuple[Number, Number]:
    """Both ends of a paired interval; without values where something that belongs to it is not sound."""
    if pair is None:
        return _neither("the paired comparison with the champion is missing")
    groups = finite(entry(pair, "num_groups"), "the number of test groups")
    if groups.value is not None and groups.value < FEWEST_GROUPS:
        return _neither(
            f"a comparison with the champion needs {FEWEST_GROUPS} test groups, there is "
            f"{groups.value:g}: take more groups, or a larger generate.test_share"
        )
    low, high, difference = (
        bounded(entry(pair, key), f"the paired difference to the champion ({key})", "difference")
        for key in ("low", "high", "difference")
    )
    problems = "; ".join(number.problem for number in (groups, difference, low, high) if number.problem)
    if problems or low.value is None or high.value is None:
        return _neither(problems)
    if low.value > high.value:
        return _neither("the paired interval ends before it begins, which is impossible")
    return low, high


def _neither(problem: str) -> tuple[Number, Number]:
    return Number(None, problem), Number(None, problem)


def _r2(evaluation: Any, head: str) -> Number:
    return bounded(entry(evaluation, "heads", head, "r2"), "r2", "r2")


def _threshold(section: PerHead, rule: str, head: str) -> Number:
    return finite(getattr(section, head, None), f"the threshold {rule}")


def _unknown_data(whose: str, evaluation: Any) -> list[str]:
    problems = []
    if entry(evaluation, "split") != REQUIRED_SPLIT:
        problems.append(
            f"the {whose} was measured on the split {entry(evaluation, 'split')!r}, not {REQUIRED_SPLIT!r}"
        )
    digest = entry(evaluation, "data_sha256")
    if not isinstance(digest, str) or not digest:
        problems.append(f"it is not known on which data the {whose} was measured: data_sha256 is {digest!r}")
    return problems
