"""What a filter drops and why: a table of every such input, and a gallery with a tab for each rule."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from quality_model.core import storage
from quality_model.curate.finished import FinishedResult, open_finished
from quality_model.curate.gallery import TITLES, Section, write_gallery
from quality_model.curate.originals import Rows
from quality_model.curate.rules import BestOfDuplicates, Bound, Flag, Only, Rule, Verdict, Where, Worst
from quality_model.errors import UsageError
from quality_model.records import HEADS, Head

DROPPED_SCHEMA: Final = pa.schema(
    [
        ("key", pa.string()),
        ("rules", pa.string()),
        ("worst_head", pa.string()),
        ("worst_score", pa.float32()),
        *[(head, pa.float32()) for head in HEADS],
        ("error_code", pa.string()),
        ("duplicate_of", pa.string()),
        ("distance", pa.uint8()),
    ]
)
"""Columns of each dropped input (docs/filter.md)."""

_SHOWN: Final = 100
"""Dropped images of each rule."""
_WIDEST_TAB: Final = 28
_WIDEST_LINE: Final = 60
"""Characters of a rule on a tab, and where there is more room."""

_STORED: Final = ("key", "worst_head", "worst_score", *HEADS, "error_code")


def require_dropped_name(path: Path) -> None:
    """Refuse a name that `write_dropped` would not know how to write.

    Raises:
        UsageError: It ends in neither .csv nor .parquet.
    """
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise UsageError(f"{path} is neither .csv nor .parquet.", "Name a file that ends in one of them.")


def write_dropped(path: Path, result: FinishedResult, rows: Rows, verdict: Verdict) -> None:
    """Write a row of `DROPPED_SCHEMA` for each input that is not kept, in the order of the plan.

    Raises:
        UsageError: As of `require_dropped_name`.
        StorageError: It cannot be written, or the result was updated meanwhile.
    """
    require_dropped_name(path)
    is_csv = path.suffix.lower() == ".csv"
    with storage.staged(path) as temporary, result.unchanged():
        if is_csv:
            with pyarrow.csv.CSVWriter(temporary, DROPPED_SCHEMA) as csv_writer:
                for batch in _dropped(rows, verdict):
                    csv_writer.write_batch(batch)
        else:
            with pq.ParquetWriter(temporary, DROPPED_SCHEMA, compression="zstd") as writer:
                for batch in _dropped(rows, verdict):
                    writer.write_batch(batch)


def _dropped(rows: Rows, verdict: Verdict) -> Iterator[pa.RecordBatch]:
    best = verdict.copies.best
    of = np.unique(best[best >= 0])
    keys = pa.array(rows.keys_of(of), pa.string())
    first = 0
    for batch in rows.batches(_STORED):
        numbers = first + np.flatnonzero(~verdict.kept[first : first + len(batch)])
        stored = batch.take(pa.array(numbers - first))
        is_copy = best[numbers] >= 0
        places = pa.array(np.searchsorted(of, best[numbers]), mask=~is_copy)
        columns = {
            **{name: stored[name] for name in _STORED},
            "rules": _titles(verdict, numbers),
            "duplicate_of": keys.take(places),
            "distance": pa.array(verdict.copies.distance[numbers], mask=~is_copy),
        }
        yield pa.record_batch(
            [columns[each.name].cast(each.type) for each in DROPPED_SCHEMA], schema=DROPPED_SCHEMA
        )
        first += len(batch)


def _titles(verdict: Verdict, numbers: npt.NDArray[np.int64]) -> pa.Array:
    """The titles of the rules that drop these rows; empty of inputs with an error code."""
    if not verdict.masks:
        return pa.array([""] * len(numbers), pa.string())
    which = np.stack([mask[numbers] for mask in verdict.masks], axis=1)
    combinations, place = np.unique(which, axis=0, return_inverse=True)
    titles = [count.title for count in verdict.counts]
    texts = ["; ".join(np.array(titles, object)[one]) for one in combinations]
    return pa.array(texts, pa.string()).take(pa.array(place.ravel()))


# -- the gallery


def show_dropped(
    output: Path,
    verdict: Verdict,
    to: Path,
    thresholds: Mapping[Head, float],
    originals: Path | None = None,
) -> Path:
    """Write a gallery of what each rule drops, a sample each, the worst first; give its path.

    A rule about one head shows and orders by its scores, others by the worst score. Each card says which
    rules drop the image; near duplicates come behind the image that is kept. Flags are by ``thresholds``, or
    those of the result. ``originals`` is where the images are now, if they were moved.

    Raises:
        UsageError, StorageError: As of `write_gallery`.
    """
    result = open_finished(output)
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
        heading=f"kept {verdict.kept.sum()} of {len(verdict.kept)}",
        about=f"Dropped: {'; '.join(count.title for count in verdict.counts)}",
        notes=notes,
        thresholds=thresholds,
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
    return in_line(title, _WIDEST_TAB)


def in_line(title: str, most: int = _WIDEST_LINE) -> str:
    """A title in one line of at most so many characters."""
    title = " ".join(title.split())
    return title if len(title) <= most else f"{title[: most - 3]}..."


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
