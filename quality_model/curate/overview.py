"""What a result shows at a glance, found in one pass over its rows in memory that does not grow with them."""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from quality_model.curate.finished import FinishedResult
from quality_model.records import HEADS, Head
from quality_model.score.sketches import order_of

NUM_STEPS: Final = 1000
"""Of the fine histograms."""

NUM_WORST: Final = 48
NUM_NEAR: Final = 40
NUM_SAMPLE: Final = 96
_NUM_EXAMPLES: Final = 10
_COLUMNS: Final = ("key", *HEADS, "overall", "error_code", "error_detail")


@dataclass(frozen=True, slots=True)
class Row:
    """An image that was scored: scores in the order of `HEADS`."""

    key: str
    scores: tuple[float, ...]
    overall: float


@dataclass(slots=True)
class ErrorExamples:
    """How many inputs have an error code, and the keys and details of the first of them."""

    count: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)


@dataclass(slots=True)
class Overview:
    """What `overview` found.

    Attributes:
        inputs: Rows of the result; those with an error code are in ``errors``.
        histograms: int64 (1001,) per head: scores of 0, then of (0, .001], (.001, .002] and so on: a limit of
            .3 keeps exactly the images of the first 301.
        flagged: Images above the threshold of each head that has one.
        worst, near: Rows per head, highest score first; ``near`` are around the threshold.
        sample: The rows with the smallest hashes of their keys: the same on every machine.
        chosen: The rows that were asked for, by key.
    """

    inputs: int = 0
    errors: dict[str, ErrorExamples] = field(default_factory=dict)
    histograms: dict[Head, npt.NDArray[np.int64]] = field(
        default_factory=lambda: {head: np.zeros(NUM_STEPS + 1, np.int64) for head in HEADS}
    )
    flagged: Counter[Head] = field(default_factory=Counter)
    worst: dict[Head, list[Row]] = field(default_factory=dict)
    near: dict[Head, list[Row]] = field(default_factory=dict)
    sample: list[Row] = field(default_factory=list)
    chosen: dict[str, Row] = field(default_factory=dict)

    @property
    def scored(self) -> int:
        return self.inputs - sum(error.count for error in self.errors.values())


class _Least:
    """Of all rows that come by, the ``count`` of the smallest ranks; infinity is never kept."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._limit = np.inf
        self.kept: list[tuple[float, Row]] = []

    def add(self, ranks: npt.NDArray[np.float64], batch: pa.RecordBatch) -> None:
        places = np.flatnonzero(ranks < self._limit)
        if len(places) == 0:
            return
        places = places[np.argsort(ranks[places], kind="stable")[: self._count]]
        found = zip(ranks[places].tolist(), _rows(batch.take(pa.array(places))), strict=True)
        self.kept = sorted([*self.kept, *found], key=lambda one: one[0])[: self._count]
        if len(self.kept) == self._count:
            self._limit = self.kept[-1][0]

    @property
    def rows(self) -> list[Row]:
        return [row for _, row in self.kept]


def overview(
    result: FinishedResult, *, shown: Collection[str] | None = None, keys: Iterable[str] = ()
) -> Overview:
    """Count the rows of a result and choose those to show, in one pass.

    Args:
        result: Of any size.
        shown: Only rows of these keys are chosen; None: of any.
        keys: Rows that are wanted besides.
    """
    found = Overview()
    wanted, able = pa.array(list(keys), pa.string()), None if shown is None else pa.array(shown, pa.string())
    worst = {head: _Least(NUM_WORST) for head in HEADS}
    near = {head: _Least(NUM_NEAR) for head in result.thresholds}
    sample = _Least(NUM_SAMPLE)
    for batch in result.batches(_COLUMNS):
        found.inputs += len(batch)
        failed = pc.is_valid(batch["error_code"])
        _add_errors(found.errors, batch.filter(failed))
        batch = batch.filter(pc.invert(failed))
        if len(wanted):
            found.chosen |= {row.key: row for row in _rows(batch.filter(pc.is_in(batch["key"], wanted)))}
        scores = {head: batch[head].to_numpy().astype(np.float64) for head in HEADS}
        for head, values in scores.items():
            steps = np.ceil(values * NUM_STEPS).astype(np.int64)
            found.histograms[head] += np.bincount(steps, minlength=NUM_STEPS + 1)
            found.flagged[head] += int((values > result.thresholds.get(head, np.inf)).sum())
        if able is not None:
            is_able = pc.is_in(batch["key"], able)
            scores = {head: values[is_able.to_numpy(zero_copy_only=False)] for head, values in scores.items()}
            batch = batch.filter(is_able)
        for head, least in worst.items():
            least.add(-scores[head], batch)
        for head, least in near.items():
            least.add(np.abs(scores[head] - result.thresholds[head]), batch)
        sample.add(np.array([*map(order_of, batch["key"].to_pylist())], np.float64), batch)
    found.worst = {head: least.rows for head, least in worst.items()}
    for head, least in near.items():
        found.near[head] = _highest_first(least.rows, head)
    found.sample = sample.rows
    return found


def _highest_first(rows: list[Row], head: Head) -> list[Row]:
    place = HEADS.index(head)
    return sorted(rows, key=lambda row: -row.scores[place])


def _rows(batch: pa.RecordBatch) -> list[Row]:
    return [
        Row(
            row["key"],
            tuple(row[head] for head in HEADS),
            row["overall"],
        )
        for row in batch.to_pylist()
    ]


def _add_errors(errors: dict[str, ErrorExamples], failed: pa.RecordBatch) -> None:
    for counted in pc.value_counts(failed["error_code"]).to_pylist():
        error = errors.setdefault(counted["values"], ErrorExamples())
        error.count += counted["counts"]
        if missing := _NUM_EXAMPLES - len(error.examples):
            of_code = failed.filter(pc.equal(failed["error_code"], counted["values"])).slice(0, missing)
            error.examples += [(row["key"], row["error_detail"] or "") for row in of_code.to_pylist()]
