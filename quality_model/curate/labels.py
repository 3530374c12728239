"""Labels that a person gave to images (good or bad, per head), and the scores of these images."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, cast, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from quality_model.core.predict import Scorer
from quality_model.curate.finished import FinishedResult
from quality_model.errors import UsageError
from quality_model.records import HEADS, Head
from quality_model.score.inputs import NO_CHOICE, InputChoice
from quality_model.score.stream import iter_scores

Label = Literal["good", "bad"]
COLUMNS: Final = ("key", "head", "label")

Labels = Mapping[Head, Mapping[str, bool]]
"""By head and key: whether the image is bad."""


def read_labels(path: Path) -> Labels:
    """Read a CSV file with the columns key, head and label (good or bad); others are ignored.

    A label that is given twice counts once.

    Raises:
        UsageError: There is no such file, or a column is missing; a head or label is unknown; one image
            is both good and bad; or nothing is labelled.
    """
    found: dict[Head, dict[str, bool]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if missing := [name for name in COLUMNS if name not in (rows.fieldnames or ())]:
                raise UsageError(
                    f"{path} has no column {', '.join(missing)}.",
                    "Its first line is key,head,label; labels are good and bad.",
                )
            for row in rows:
                key, head, label = (row[name] or "" for name in COLUMNS)
                _check(head, HEADS, "head", f"{path}, line {rows.line_num}")
                _check(label, get_args(Label), "label", f"{path}, line {rows.line_num}")
                of_head = found.setdefault(cast(Head, head), {})
                if of_head.setdefault(key, label == "bad") != (label == "bad"):
                    raise UsageError(
                        f"{path} says of {key} both good and bad for {head}.", "Remove one of the lines."
                    )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read: {error}.", "Name a CSV file with key,head,label.") from None
    if not found:
        raise UsageError(f"{path} has no labels.", "Label images as good and as bad.")
    return {head: found[head] for head in HEADS if head in found}


@dataclass(frozen=True, slots=True)
class LabelledScores:
    """The scores of labelled images by one head.

    Attributes:
        good, bad: float64 (n,) and (m,), in [0, 1].
        not_scored: Labelled images that have an error in place of scores, each with its error code.
    """

    head: Head
    good: npt.NDArray[np.float64]
    bad: npt.NDArray[np.float64]
    not_scored: tuple[str, ...]


def scores_in_result(result: FinishedResult, labels: Labels) -> list[LabelledScores]:
    """The scores that a result has of labelled images, for every head that has labels.

    Raises:
        UsageError: A labelled image is not in the result.
    """
    named = pa.array(sorted({key for of_head in labels.values() for key in of_head}), pa.string())
    rows = result.rows(["key", *labels, "error_code"])
    rows = rows.filter(pc.is_in(rows["key"], value_set=named))
    if others := sorted({*named.to_pylist()} - {*rows["key"].to_pylist()}):
        first = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise UsageError(
            f"{len(others)} of {len(named)} labelled images are not in {result.folder}: {first}.",
            "Name the result that they were labelled in, or score the same collection again.",
        )
    by_key = {row["key"]: row for row in rows.to_pylist()}
    found = []
    for head, of_head in labels.items():
        scored: dict[bool, list[float]] = {False: [], True: []}
        failed = []
        for key, is_bad in of_head.items():
            if (score := by_key[key][head]) is None:
                failed.append(f"{key}: {by_key[key]['error_code']}")
            else:
                scored[is_bad].append(score)
        found.append(LabelledScores(head, np.array(scored[False]), np.array(scored[True]), tuple(failed)))
    return found


def scores_of_collections(
    good: str, bad: str, head: Head, scorer: Scorer, *, choice: InputChoice = NO_CHOICE, workers: int = 0
) -> LabelledScores:
    """Score a collection of good images and one of bad ones; each is what the command `score` takes.

    Raises:
        UsageError: Both are the same place, or an image is in both; and as of `iter_scores`.
    """
    if Path(good).resolve() == Path(bad).resolve():
        raise UsageError(f"The good and the bad images are both {good}.", "Name two collections.")
    scored: dict[str, list[float]] = {}
    failed: list[str] = []
    place_of: dict[str, tuple[str, str]] = {}
    for place in (good, bad):
        items = iter_scores(
            place,
            scorer,
            kind=choice.kind,
            image_column=choice.image_column,
            key_column=choice.key_column,
            workers=workers,
        )
        scored[place] = []
        for item in items:
            if item.scores is None:
                failed.append(f"{item.key}: {item.error.reason if item.error else 'not_scored'}")
                continue
            other, key = place_of.setdefault(item.sha256 or item.key, (place, item.key))
            if other != place:
                raise UsageError(
                    f"{item.key} in {bad} is the same image as {key} in {good}.", "Leave it in one of them."
                )
            scored[place].append(getattr(item.scores, head))
    return LabelledScores(head, np.array(scored[good]), np.array(scored[bad]), tuple(failed))


def _check(value: str, allowed: tuple[str, ...], name: str, place: str) -> None:
    if value not in allowed:
        raise UsageError(f"{place}: the {name} is {value!r}.", f"A {name} is one of {', '.join(allowed)}.")
