"""A gallery of what a filter drops, a tab for each rule."""

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from quality_model.curate.filter import Filtered, in_line
from quality_model.curate.finished import open_finished
from quality_model.curate.gallery import TITLES, Section, write_gallery
from quality_model.curate.originals import Rows
from quality_model.curate.rules import BestOfDuplicates, Bound, Flag, Only, Rule, Verdict, Where, Worst
from quality_model.records import HEADS, Head

_SHOWN: Final = 100
"""Dropped images of each rule."""
_WIDEST: Final = 28
"""Characters on a tab."""


def show_dropped(output: Path, found: Filtered, to: Path, originals: Path | None = None) -> Path:
    """Write a gallery of what each rule drops, a sample each, the worst first; give its path.

    A rule about one head shows and orders by its scores, others by the worst score. Each card says which
    rules drop the image; near duplicates come behind the image that is kept. ``originals`` is where the
    images are now, if they were moved.

    Raises:
        UsageError, StorageError: As of `write_gallery`.
    """
    result, verdict = open_finished(output), found.verdict
    rows = Rows.of(result.files, result.thresholds)
    names = [tab_title(rule) for rule in verdict.rules]
    sections: list[Section] = []
    notes: dict[str, str] = {}
    for name, rule, count, mask in zip(names, verdict.rules, verdict.counts, verdict.masks, strict=True):
        if not count.drops:
            continue
        head, note = _head(rule), f"{count.drops} dropped, {count.alone} of them by this rule alone"
        numbers = rows.sample(mask & rows.scored, _SHOWN, head or "worst_score")
        if isinstance(rule, BestOfDuplicates):
            numbers, note = _behind_best(numbers, verdict), f"{note}; each behind the image that is kept"
        keys = rows.keys_of(numbers)
        notes |= dict(zip(keys, _notes(numbers, names, verdict, rows), strict=True))
        sections.append(Section(f"Dropped: {in_line(count.title)}", keys, note, head, name, count.drops))
    return write_gallery(
        output,
        to,
        sections,
        heading=f"kept {found.num_kept} of {found.num_rows}",
        about=f"Dropped: {'; '.join(count.title for count in verdict.counts)}",
        notes=notes,
        thresholds=found.thresholds,
        originals=originals,
    )


def tab_title(rule: Rule) -> str:
    """What to call a rule where there is little room."""
    match rule:
        case Flag(head=head):
            title = f"{TITLES[head][0]} flagged"
        case Bound(column=column, limit=limit, is_lowest=is_lowest):
            title = f"{_name(column)} {'<' if is_lowest else '>'} {limit:.4g}"
        case Worst(share=share, column="worst_score"):
            title = f"Worst {float(share * 100):.4g}%"
        case Worst(share=share, column=column):
            title = f"{_name(column)} worst {float(share * 100):.4g}%"
        case Where(condition=condition):
            title = f"Not {condition}"
        case Only(file=file):
            title = f"Not in {file.name}"
        case BestOfDuplicates():
            title = "Near duplicates"
        case _:
            title = rule.title
    return in_line(title, _WIDEST)


def _name(column: str) -> str:
    titles: dict[str, str] = {head: title for head, (title, _) in TITLES.items()}
    return titles.get(column, column.replace("_", " ").capitalize())


def _head(rule: Rule) -> Head | None:
    """The head that a rule is about."""
    column = rule.head if isinstance(rule, Flag) else rule.column if isinstance(rule, Bound | Worst) else None
    return next((head for head in HEADS if head == column), None)


def _behind_best(numbers: npt.NDArray[np.int64], verdict: Verdict) -> npt.NDArray[np.int64]:
    """The kept image of each group, in the order of its first copy, and behind it the copies."""
    groups: dict[int, list[int]] = {}
    for number in numbers.tolist():
        groups.setdefault(int(verdict.copies.best[number]), []).append(number)
    return np.array([one for best, copies in groups.items() for one in (best, *copies)], np.int64)


def _notes(numbers: npt.NDArray[np.int64], names: list[str], verdict: Verdict, rows: Rows) -> list[str]:
    """Of each row which rules drop it, or that it is kept."""
    copies = verdict.copies
    best = copies.best[numbers]
    near = iter(rows.keys_of(best[best >= 0]))
    notes = []
    for number in numbers.tolist():
        if verdict.kept[number]:
            notes.append("kept: the best of these")
        elif copies.best[number] >= 0:
            bits = copies.distance[number]
            notes.append(f"near {next(near)}, {bits} bit{'' if bits == 1 else 's'}")
        else:
            which = [name for name, mask in zip(names, verdict.masks, strict=True) if mask[number]]
            notes.append("; ".join(which))
    return notes
