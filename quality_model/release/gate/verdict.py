"""The gate's decision: a row for every rule and head, and how it is shown."""

from dataclasses import dataclass
from typing import Final

from quality_model.core.figures import markdown_table, text_table

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


def _cells(row: Row) -> tuple[str, ...]:
    numbers = ["-" if number is None else f"{number:.6g}" for number in (row.value, row.threshold)]
    return (row.head, row.rule, *numbers, "passed" if row.passed else "REFUSED", row.reason)
