"""The scores of images that a person labelled: from a finished result, or made on the spot."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from quality_model.core.predict import Scorer
from quality_model.curate.finished import FinishedResult
from quality_model.curate.labels import Labels
from quality_model.errors import UsageError
from quality_model.records import Head
from quality_model.score.inputs import NO_CHOICE, InputChoice
from quality_model.score.stream import iter_scores


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
    everything = result.rows(["key", *labels, "error_code"])
    rows = everything.filter(pc.is_in(everything["key"], value_set=named))
    if others := sorted({*named.to_pylist()} - {*rows["key"].to_pylist()}):
        first = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise UsageError(
            f"{len(others)} of {len(named)} labelled images are not in {result.folder}: {first}.",
            f"Its keys are such as {everything['key'][0]}. Name the result that they were labelled in, or"
            " score the same collection again.",
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
