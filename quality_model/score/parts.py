"""Parts of a planned job: how they are made, in this process or in one on a node, and read back."""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice, repeat
from pathlib import Path

import pyarrow as pa

from quality_model.core.jobs import JobFolder, Part, part_name
from quality_model.core.kept_processes import KeptProcesses
from quality_model.params import LimitsParams, ScoreParams
from quality_model.score import result
from quality_model.score.plan import Plan
from quality_model.score.reading import DownloadRules, PlannedInput, Reading, Scorer, with_scores
from quality_model.score.selection import Selection
from quality_model.score.sketches import Wanted
from quality_model.score.stream import read_inputs
from quality_model.score.thumbnails import ThumbnailKeeper

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Todo:
    """A part of so many rows to make: all of them, or those of a finished one that are read ``again``."""

    number: int
    rows: int
    again: tuple[int, ...] | None = None

    @property
    def num_inputs(self) -> int:
        return self.rows if self.again is None else len(self.again)


@dataclass(frozen=True, slots=True)
class MadePart:
    """A part that was made; ``table``, its rows, stays where it was made."""

    todo: Todo
    part: Part
    elapsed_s: float
    table: pa.Table | None = None

    def log(self, num_parts: int) -> None:
        """Log what was made, and how fast."""
        part, speed = self.part, self.todo.num_inputs / max(self.elapsed_s, 1e-9)
        logger.info(
            "Part %d of %d: %d inputs, %d scored, %.1f images/s.",
            *(self.todo.number + 1, num_parts, part.rows, part.rows - part.num_errors, speed),
        )


def read_finished(folder: JobFolder, plan: Plan, number: int, rows: int) -> tuple[Part, pa.Table] | None:
    """A finished part of so many rows, and these; None if it is not there.

    Raises:
        StorageError: It is not of this plan, or cannot be read.
    """
    if (finished := folder.read_part(number, rows=rows)) is None:
        return None
    part, data = finished
    keys = [planned.key for planned in plan.inputs_of(folder.folder, number)]
    path = folder.folder / part_name(number)
    return part, result.from_parquet(data, path, keys=keys, schema=plan.model.schema)


@dataclass(frozen=True, slots=True)
class PartMaker:
    """Makes parts, in order, each written before the next one begins.

    Attributes:
        folder, plan: Of the job.
        section, limits, download: How inputs are read.
        inputs: What their names are relative to.
        scorer: The model.
        keeper: Keeps thumbnails, and knows those of finished parts.
        processes: Those that read, kept from one call to the next; None: each call has its own.
    """

    folder: JobFolder
    plan: Plan
    section: ScoreParams
    limits: LimitsParams
    download: DownloadRules | None
    inputs: Path | Selection
    scorer: Scorer
    keeper: ThumbnailKeeper
    processes: KeptProcesses | None = None

    def make(
        self, todo: Sequence[Todo], advance: Callable[[int], object] = lambda count: None
    ) -> Iterator[MadePart]:
        """Make parts; ``advance`` is called with the number of inputs that were done since.

        Raises:
            CheckpointError: A score is not in [0, 1].
            StorageError: The disk is full.
        """
        plan = self.plan

        def planned(one: Todo) -> list[PlannedInput]:
            inputs = plan.inputs_of(self.folder.folder, one.number)
            return inputs if one.again is None else [inputs[row] for row in one.again]

        asked: deque[str] = deque()

        def all_planned() -> Iterator[PlannedInput]:
            for one in todo:
                for each in planned(one):
                    asked.append(each.key)
                    yield each

        def wanted() -> Iterator[Wanted | None]:
            for _ in repeat(None):
                yield self.keeper.wanted(asked.popleft())

        readings = read_inputs(
            all_planned(),
            self.inputs,
            plan.kind,
            self.download,
            num_sources=sum(one.num_inputs for one in todo),
            workers=self.section.workers,
            window=2 * self.section.batch_size,
            image_size_px=plan.model.image_size_px,
            recipe=plan.model.recipe,
            limits=self.limits,
            engine=self.scorer.engine,
            measure=plan.settings.measures,
            wanted=wanted(),
            processes=self.processes,
        )
        with closing(readings):
            for one in todo:
                started = time.monotonic()
                # Batches never cross a part's border, so that they are the same after an interruption.
                of_part = islice(readings, one.num_inputs)
                scored: list[Reading] = []
                keys = [each.key for each in planned(one)]
                for reading in with_scores(of_part, self.scorer, plan.model.recipe, self.section.batch_size):
                    self.keeper.add(keys[len(scored)], reading)
                    scored.append(replace(reading, thumbnail=None))
                    advance(1)
                table = result.make_table(keys, scored, plan.model, plan.plan_sha256)
                part = self._write(one, self._whole(one, table))
                yield replace(part, elapsed_s=time.monotonic() - started)

    def _whole(self, one: Todo, table: pa.Table) -> pa.Table:
        """All rows of a part of which some were made again."""
        if one.again is None:
            return table
        finished = read_finished(self.folder, self.plan, one.number, one.rows)
        assert finished is not None  # it was when the rows were chosen, under the same lock
        self.keeper.add_part(one.number, finished[1])
        return result.replace_rows(finished[1], one.again, table)

    def _write(self, one: Todo, table: pa.Table) -> MadePart:
        self.keeper.write_part(one.number, table)
        part = self.folder.write_part(
            one.number,
            result.to_parquet(table),
            rows=table.num_rows,
            errors=Counter(table["error_code"].drop_null().to_pylist()),
            for_update=self.plan.is_update,
        )
        return MadePart(one, part, 0.0, table)
