"""A scoring job from start to end: plan, resume, account for every input, write the completion marker."""

import logging
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from quality_model.core import processes, storage
from quality_model.core.engines import Engine
from quality_model.core.folders import printable
from quality_model.core.jobs import DATA_FOLDER, JobFolder, Part, part_name
from quality_model.errors import CheckpointError, CorruptError, InputErrorsAboveLimit, UsageError
from quality_model.params import LimitsParams, RegistryParams, ScoreParams
from quality_model.records import HEADS, SCHEMA_VERSION
from quality_model.score import rows
from quality_model.score.inputs import Kind, Survey, survey
from quality_model.score.plan import (
    Plan,
    Settings,
    clear,
    foreign_files,
    foreign_parts,
    make_plan,
    open_plan,
    planned_engine,
    read_plan,
)
from quality_model.score.reading import Reading, Source, read_images, sources_of
from quality_model.score.rows import ScoringModel
from quality_model.score.summary import (
    REPORT_NAME,
    ScoreSummary,
    Tally,
    nothing_scored,
    write_report,
)

logger = logging.getLogger(__name__)

Check = Callable[[ScoreSummary], object]
"""Looks at the summary of a job before its completion marker is written; may raise."""


class Scorer(Protocol):
    """What scoring needs of a model.

    Attributes:
        engine: What worker processes score with, each on its core; None if only this process
            can, as with an accelerator: `score_pixels` then gets batches.
    """

    @property
    def engine(self) -> Engine | None: ...

    def score_pixels(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 (N, S, S, 3) RGB -> float32 (N, 4) in [0, 1], in the order of `records.HEADS`."""
        ...


def score_collection(
    section: ScoreParams,
    limits: LimitsParams,
    *,
    root: Path,
    inputs: Path,
    output: Path,
    overwrite: bool = False,
    registry: RegistryParams | None = None,
    check: Check | None = None,
    kind: Kind | None = None,
    image_column: str | None = None,
    key_column: str | None = None,
) -> ScoreSummary:
    """Score a collection with the model that ``section.model`` names.

    Args:
        root: The project folder, whose registry a reference means.
        registry: Registry parameters; by default those of the project's params.yaml.

    The other arguments are those of `score`.

    Raises:
        ModelNotFoundError, CheckpointError: The model is not available.
        UsageError, InputErrorsAboveLimit, StorageError: See `score`.
    """
    processes.end_if_imported_again()  # before the model is loaded
    from quality_model.core.predict import MultiHeadQualityInference  # worker processes need none

    scorer = MultiHeadQualityInference(
        section.model,
        section.device,
        limits,
        root=root,
        registry=registry,
        engine=planned_engine(output) if section.engine == "auto" else section.engine,
    )
    return score(
        section,
        limits,
        inputs=inputs,
        output=output,
        scorer=scorer,
        model=ScoringModel.of(scorer),
        overwrite=overwrite,
        check=check,
        kind=kind,
        image_column=image_column,
        key_column=key_column,
    )


def score(
    section: ScoreParams,
    limits: LimitsParams,
    *,
    inputs: Path,
    output: Path,
    scorer: Scorer,
    model: ScoringModel,
    overwrite: bool = False,
    check: Check | None = None,
    kind: Kind | None = None,
    image_column: str | None = None,
    key_column: str | None = None,
) -> ScoreSummary:
    """Score a collection: a row for every input, with scores or with an error code.

    An interrupted job resumes at its first unfinished part and ends with the bytes of an undisturbed one;
    a complete one is not done again. Inputs whose error code is not final (`rows.NOT_FINAL`) are read again.

    Args:
        section: Sizes, workers, and the share of errors that is allowed.
        limits: What an image may be.
        inputs: A folder of images (recursive), Parquet files or tar shards, or one file.
        output: Folder of the result; docs/results-format.md describes it.
        scorer: Scores pixels; in this process.
        model: Whose scores they are.
        overwrite: Remove the result of another job from ``output``; this job's own is kept.
        check: What it raises leaves the result incomplete.
        kind, image_column, key_column: What to score, if the inputs leave a choice (see `inputs.survey`).

    Raises:
        UsageError: Nothing to score, keys that occur twice, or ``output`` holds another
            job's result or other files.
        CorruptError: A Parquet file of the inputs is broken.
        InputErrorsAboveLimit: None of the inputs could be scored, or too few; everything is written.
        StorageError: The disk is full, another process writes to ``output``, or a part is not of its plan.
    """
    processes.end_if_imported_again()
    found = survey(inputs, output, kind=kind, image_column=image_column, key_column=key_column)
    folder = JobFolder(output)
    with folder.locked():
        storage.sweep(output / REPORT_NAME)
        settings = Settings.of(section, limits, found, in_batches=scorer.engine is None)
        plan = _begin(folder, inputs, found, limits, model, settings, overwrite)
        summary = _Job(folder, plan, section, limits, found.base, scorer).run(inputs, check)
    if not summary.scored:
        raise nothing_scored(summary.errors, f"The column error_detail in {output / DATA_FOLDER}")
    if summary.error_share > section.max_error_share:
        raise InputErrorsAboveLimit(
            f"{summary.inputs - summary.scored} of {summary.inputs} inputs could not be scored"
            f" ({summary.error_share:.1%}, allowed {section.max_error_share:.1%}): "
            + ", ".join(f"{count} x {code}" for code, count in summary.errors.items())
            + ".",
            f"Everything else is scored, in {output}; the column error_detail says what is wrong.",
        )
    return summary


def _begin(
    folder: JobFolder,
    inputs: Path,
    found: Survey,
    limits: LimitsParams,
    model: ScoringModel,
    settings: Settings,
    overwrite: bool,
) -> Plan:
    """Resume the job of the folder if it is this one; plan a new one if it has none."""
    output = folder.folder
    plan, num_parts = None, None
    try:
        plan = open_plan(output)
        if plan is not None:
            num_parts = plan.num_parts
            plan.require_same(found, model, settings)
    except (UsageError, CorruptError):
        if not overwrite:
            raise
        plan = None
    else:
        if plan is None and (others := foreign_files(output)):
            raise UsageError(
                f"{output} is not empty and holds no scoring job: {', '.join(others[:3])}.",
                "Choose another output folder.",
            )
    if others := foreign_parts(output, num_parts):
        raise UsageError(
            f"{output / DATA_FOLDER} is for score rows alone and holds {', '.join(others[:3])}.",
            "Move that away, or choose another output folder.",
        )
    return plan or make_plan(
        folder, inputs, found, limits, model, settings, when_listed=lambda: clear(folder)
    )


@dataclass(frozen=True, slots=True)
class _Todo:
    """A part to work on: all its rows, or some of a finished table that are read again."""

    number: int
    rows: list[int] | None = None
    table: pa.Table | None = None


@dataclass(frozen=True, slots=True)
class _Job:
    """A planned job and what carries it out."""

    folder: JobFolder
    plan: Plan
    section: ScoreParams
    limits: LimitsParams
    base: Path
    scorer: Scorer

    def run(self, inputs: Path, check: Check | None) -> ScoreSummary:
        """Make what is not there yet, and complete the job."""
        tally, parts, todo = Tally(), {}, []
        for number in range(self.plan.num_parts):
            if (finished := self.folder.read_part(number, rows=self.plan.rows_of(number))) is None:
                todo.append(_Todo(number))
                continue
            part, data = finished
            keys = [planned.key for planned in read_plan(self.folder.folder, number)]
            table = rows.from_parquet(data, self.folder.folder / part_name(number), keys=keys)
            if retried := rows.rows_to_retry(table):
                todo.append(_Todo(number, retried, table))
            else:
                parts[number] = part
                tally.add(table)
        num_retried = sum(len(one.rows or ()) for one in todo)
        num_read = num_retried + sum(self.plan.rows_of(one.number) for one in todo if one.rows is None)
        started = time.monotonic()
        if todo:
            self.folder.reopen()
            for number, part, table in self._make(todo, num_read):
                parts[number] = part
                tally.add(table)
        elapsed_s = time.monotonic() - started if todo else 0.0
        summary = ScoreSummary(
            output=self.folder.folder,
            model=self.plan.model,
            inputs=tally.inputs,
            scored=tally.scored,
            errors=tally.sorted_errors(),
            skipped=self.plan.skipped,
            parts=self.plan.num_parts,
            parts_before=self.plan.num_parts - sum(one.rows is None for one in todo),
            elapsed_s=elapsed_s,
            images_per_s=num_read / elapsed_s if elapsed_s > 0 else 0.0,
            quantiles=tally.quantiles(),
            ranges=tally.ranges,
            flagged=tally.flagged(self.plan.model.thresholds),
            retried=num_retried,
        )
        if todo or not self._is_complete():
            self._complete(inputs, [part for _, part in sorted(parts.items())], summary, tally, check)
        return summary

    def _make(self, todo: list[_Todo], num_inputs: int) -> Iterator[tuple[int, Part, pa.Table]]:
        """Make parts, in order, each written before the next one begins."""
        from tqdm import tqdm

        planned: deque[list[str]] = deque()  # keys of the parts whose inputs are being read

        def sources() -> Iterator[Source]:
            for one in todo:
                inputs = read_plan(self.folder.folder, one.number)
                inputs = inputs if one.rows is None else [inputs[row] for row in one.rows]
                planned.append([each.key for each in inputs])
                with closing(sources_of(inputs, self.base)) as given:
                    yield from given

        logger.info("Scoring %d inputs in %d parts.", num_inputs, len(todo))
        bar = tqdm(total=num_inputs, unit="image", disable=not sys.stderr.isatty())
        reading = read_images(
            sources(),
            num_sources=num_inputs,
            workers=self.section.workers,
            window=2 * self.section.batch_size,
            image_size_px=self.plan.model.image_size_px,
            limits=self.limits,
            engine=self.scorer.engine,
        )
        with bar, closing(reading):
            for one in todo:
                started = time.monotonic()
                count = self.plan.rows_of(one.number) if one.rows is None else len(one.rows)
                readings, scores = self._score(islice(reading, count), bar)
                table = rows.make_table(
                    planned.popleft(), readings, scores, self.plan.model, self.plan.plan_sha256
                )
                if one.rows is not None:
                    table = rows.replace_rows(one.table, one.rows, table)
                errors = Counter(table["error_code"].drop_null().to_pylist())
                part = self.folder.write_part(
                    one.number, rows.to_parquet(table), rows=table.num_rows, errors=errors
                )
                logger.info(
                    "Part %d of %d: %d inputs, %d scored, %.1f images/s.",
                    *(one.number + 1, self.plan.num_parts, part.rows, part.rows - part.num_errors),
                    count / max(time.monotonic() - started, 1e-9),
                )
                yield one.number, part, table

    def _score(self, readings: Iterator[Reading], bar: Any) -> tuple[list[Reading], npt.NDArray[np.float32]]:
        """The readings of a part without pixels, and float32 (M, 4): the scores of those without an error.

        Scores come with the readings, or batch by batch of their pixels. Batches never cross a part's
        border, so that they are the same after an interruption.
        """
        kept: list[Reading] = []
        batch: list[npt.NDArray[np.uint8]] = []
        scores = [np.zeros((0, len(HEADS)), dtype=np.float32)]
        for reading in readings:
            if reading.scores is not None:
                scores.append(_checked(reading.scores[None], 1))
            if reading.pixels is not None:
                batch.append(reading.pixels)
            kept.append(replace(reading, pixels=None, scores=None))
            if len(batch) == self.section.batch_size:
                scores.append(_checked(self.scorer.score_pixels(np.stack(batch)), len(batch)))
                batch.clear()
            bar.update(1)
        if batch:
            scores.append(_checked(self.scorer.score_pixels(np.stack(batch)), len(batch)))
        return kept, np.concatenate(scores)

    def _is_complete(self) -> bool:
        completion = self.folder.completion()
        return completion is not None and completion.get("plan_sha256") == self.plan.plan_sha256

    def _complete(
        self, inputs: Path, parts: list[Part], summary: ScoreSummary, tally: Tally, check: Check | None
    ) -> None:
        """Write the summary, have it checked, then write the completion marker."""
        plan = self.plan
        report = write_report(summary, tally)
        if check is not None:
            check(summary)
        self.folder.complete(
            parts,
            report,
            {
                "schema_version": SCHEMA_VERSION,
                **summary.model.described(),
                "inputs": {
                    "root": printable(str(inputs)),
                    "absolute_root": printable(str(inputs.resolve())),
                    "kind": plan.kind,
                    "num_files": plan.num_files,
                    "num_inputs": plan.num_inputs,
                    "fingerprint": plan.fingerprint,
                    "skipped": plan.skipped,
                },
                "settings": plan.settings.to_json(),
                "plan_sha256": plan.plan_sha256,
                **summary.counts(),
                "parts": [
                    {"file": p.file, "rows": p.rows, "scored": p.rows - p.num_errors, "sha256": p.sha256}
                    for p in parts
                ],
            },
        )


def _checked(scores: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.float32]:
    """The scores of so many images, once they are such."""
    if scores.shape != (count, len(HEADS)) or not bool(np.all((scores >= 0) & (scores <= 1))):
        raise CheckpointError(
            f"The model gave {count} images scores of shape {scores.shape} from {scores.min()} to"
            f" {scores.max()}; expected {len(HEADS)} each, in [0, 1].",
            "Its weights are damaged or not of this network; score with another model.",
        )
    return scores
