"""A scoring job from start to end: plan, resume, account for every input, write the completion marker."""

import logging
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice, repeat
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from quality_model.core import predict, processes, storage
from quality_model.core.folders import JOB_NAME, is_folder, printable
from quality_model.core.jobs import JobFolder, Part, part_name
from quality_model.core.measures import chosen_sets, measures_of
from quality_model.core.provenance import deciding_record
from quality_model.errors import UsageError
from quality_model.params import LimitsParams, RegistryParams, ScoreParams
from quality_model.records import SCHEMA_VERSION
from quality_model.score import result, update
from quality_model.score.inputs import NO_CHOICE, InputChoice, Survey, collection_of, survey
from quality_model.score.plan import Plan, Settings, begin, planned_engine
from quality_model.score.reading import DownloadRules, PlannedInput, Reading, Scorer, with_scores
from quality_model.score.result import ScoringModel
from quality_model.score.selection import Selection
from quality_model.score.shares import Share, join, require_all
from quality_model.score.sketches import Wanted
from quality_model.score.stream import read_inputs
from quality_model.score.summary import REPORT_NAME, Range, ScoreSummary, require_scored, write_report
from quality_model.score.thumbnails import ThumbnailKeeper

logger = logging.getLogger(__name__)

Check = Callable[[ScoreSummary], object]
"""Looks at the summary of a job before its completion marker is written; may raise."""


def score(
    section: ScoreParams,
    limits: LimitsParams,
    *,
    inputs: Path | Selection,
    output: Path,
    choice: InputChoice = NO_CHOICE,
    download: DownloadRules | None = None,
    overwrite: bool = False,
    verify: bool = False,
    check: Check | None = None,
    root: Path | None = None,
    registry: RegistryParams | None = None,
    scorer: Scorer | None = None,
    model: ScoringModel | None = None,
    share: Share | None = None,
) -> ScoreSummary:
    """Score a collection: a row for every input, with scores or with an error code.

    An interrupted job resumes at its first unfinished part and ends with the bytes of an undisturbed one;
    a complete one is not done again, but updated if its inputs have changed: what is new or changed is
    scored, what is gone is dropped, and until that is complete the earlier result stays. Inputs with an error
    code of `result.NOT_FINAL` are read again.

    Args:
        section: Model, sizes, workers, and the share of errors that is allowed.
        limits: What an image may be.
        inputs: A folder (recursive) of images, tables or archives; one file; or a selection of several, lists
            or URLs.
        output: Folder of the result; docs/results-format.md describes it.
        choice: What to score, if the inputs leave a choice.
        download: How URLs are fetched; without it they are not.
        verify: Decide by the bytes of an input, not by length and time, whether it has changed.
        overwrite: Remove the result of another job from ``output``; this job's own is kept.
        check: What it raises leaves the result incomplete.
        root: The project folder, whose registry ``section.model`` means; by default the current one.
        registry: Registry parameters; by default those of the project's params.yaml.
        scorer: Scores pixels; by default the model that ``section.model`` names.
        model: Whose scores they are; needed with a ``scorer`` alone.
        share: Make this share of the parts alone, beside other processes; `merge` completes the job, and
            judges the errors of the inputs.

    Returns:
        The summary of all rows, or of those of the share.

    Raises:
        ModelNotFoundError, CheckpointError: The model is not available.
        UsageError: Nothing to score, keys that occur twice, or ``output`` holds another
            job's result or other files.
        CorruptError: A Parquet file of the inputs is broken.
        InputErrorsAboveLimit: None of the inputs could be scored, or too few; everything is written.
        StorageError: The disk is full, another process writes to ``output``, or a part is not of its plan.
    """
    processes.end_if_imported_again()  # before a model is loaded
    if share is not None and (overwrite or verify):
        raise UsageError("--part neither overwrites nor verifies a result.", "Do that without --part.")
    is_given = scorer is not None and model is not None

    def loaded() -> tuple[Scorer, ScoringModel]:
        if scorer is not None and model is not None:
            return scorer, model
        engine = planned_engine(output) if section.engine == "auto" else None
        found = predict.Scorer.from_params(section, limits, root=root, registry=registry, engine=engine)
        return found, ScoringModel.of(found, intervals=section.intervals)

    its_scorer, its_model = loaded()
    found = survey(inputs, output, choice)
    folder = JobFolder(output)

    def begun() -> Plan:
        settings = _settings(section, limits, found, in_batches=its_scorer.engine is None)
        return begin(folder, found, limits, its_model, settings, overwrite=overwrite, verify=verify)

    with folder.locked() if share is None else folder.shared(share.number, share.count, begun):
        if share is None:
            storage.sweep(output / REPORT_NAME)
            plan = begun()
        else:
            if not is_given and its_model.engine != planned_engine(output):  # another node has planned
                its_scorer, its_model = loaded()
            settings = _settings(section, limits, found, in_batches=its_scorer.engine is None)
            plan = join(folder, found, its_model, settings)
        keeper = ThumbnailKeeper(output, its_model.thresholds, plan.rows_of_parts, is_on=section.thumbnails)
        job = _Job(folder, plan, section, limits, inputs, its_scorer, root or Path(), download, keeper, share)
        summary = job.run(check)
    if share is None:
        require_scored(summary, section.max_error_share)
    return summary


def merge(
    section: ScoreParams,
    limits: LimitsParams,
    *,
    inputs: Path | Selection,
    output: Path,
    choice: InputChoice = NO_CHOICE,
    check: Check | None = None,
    root: Path | None = None,
) -> ScoreSummary:
    """Complete a job whose parts several processes have made, each its `Share`; arguments as of `score`.

    Raises:
        IncompleteError: A part is missing, or nothing was planned.
        UsageError: The job is another one, or its inputs have changed.
        StorageError: Another process works in ``output``, or a part is not of its plan.
        InputErrorsAboveLimit: As of `score`.
    """
    found = survey(inputs, output, choice)
    folder = JobFolder(output)
    with folder.locked():
        storage.sweep(output / REPORT_NAME)
        update.finish(folder)
        in_batches = "batch_size" in (folder.read_plan() or {}).get("settings", {})
        plan = join(folder, found, None, _settings(section, limits, found, in_batches=in_batches))
        keeper = ThumbnailKeeper(output, plan.model.thresholds, plan.rows_of_parts, is_on=section.thumbnails)
        summary = _Job(folder, plan, section, limits, inputs, None, root or Path(), None, keeper).run(check)
    require_scored(summary, section.max_error_share)
    return summary


def _settings(section: ScoreParams, limits: LimitsParams, found: Survey, *, in_batches: bool) -> Settings:
    image_columns, key_columns = found.chosen_columns
    return Settings(
        shard_size=section.shard_size,
        batch_size=section.batch_size if in_batches else None,
        max_pixels=limits.max_pixels,
        max_bytes=limits.max_bytes,
        formats=limits.formats,
        image_columns=image_columns,
        key_columns=key_columns,
        measures=chosen_sets(section.measures),
    )


class _Todo(NamedTuple):
    """Inputs to read: all of a part, or some rows of a finished table that are read again."""

    part: int
    rows: Sequence[int]
    table: pa.Table | None


@dataclass(frozen=True, slots=True)
class _Job:
    """A planned job and what carries it out.

    Without ``scorer`` all parts must be there; with ``share`` it is that of the parts, and does not complete.
    """

    folder: JobFolder
    plan: Plan
    section: ScoreParams
    limits: LimitsParams
    inputs: Path | Selection
    scorer: Scorer | None
    root: Path
    download: DownloadRules | None
    keeper: ThumbnailKeeper
    share: Share | None = None

    def run(self, check: Check | None) -> ScoreSummary:
        """Make what is not there yet, and complete the job."""
        plan, folder, numbers = self.plan, self.folder, self._numbers
        summary = ScoreSummary(
            folder.folder,
            plan.model,
            plan.skipped,
            plan.num_inputs,
            len(numbers),
            changes=plan.counts or {},
        )
        summary.measured = {each.name: Range() for each in measures_of(plan.settings.measures)}
        is_merged = self.scorer is None or (self.share is not None and (folder.folder / JOB_NAME).exists())
        again = frozenset() if is_merged else result.NOT_FINAL | ({"url"} if self.download else set())
        parts: dict[int, Part] = {}
        todo: list[_Todo] = []
        for number in numbers:
            rows = plan.rows_of_parts[number]
            if (finished := folder.read_part(number, rows=rows)) is None:
                todo.append(_Todo(number, range(rows), None))
                continue
            part, data = finished
            keys = [planned.key for planned in plan.inputs_of(folder.folder, number)]
            path = folder.folder / part_name(number)
            table = result.from_parquet(data, path, keys=keys, schema=plan.model.schema)
            self.keeper.add_part(number, table)
            codes = enumerate(table["error_code"].to_pylist())
            if retried := [row for row, code in codes if code in again]:
                todo.append(_Todo(number, retried, table))
                summary.retried += len(retried)
            else:
                parts[number] = part
                summary.add(table)
        summary.parts_before = len(numbers) - sum(one.table is None for one in todo)
        if self.scorer is None:
            require_all(folder, plan, [one.part for one in todo])
        elif todo:
            started = time.monotonic()
            num_inputs = sum(len(one.rows) for one in todo)
            if self.share is None and not plan.is_update:
                folder.reopen()  # before an update is complete, the earlier result stays
            for number, part, table in self._make(todo, num_inputs, self.scorer):
                parts[number] = part
                summary.add(table)
            summary.elapsed_s = time.monotonic() - started
            summary.images_per_s = num_inputs / max(summary.elapsed_s, 1e-9)
        if self.share is not None:
            return summary
        completion = folder.completion() or {}
        if completion.get("plan_sha256") != plan.plan_sha256 or self.keeper.must_remove():
            self._complete([parts[number] for number in plan.rows_of_parts], summary, check)
        return summary

    @property
    def _numbers(self) -> list[int]:
        """Those of the parts that this process accounts for."""
        return [*(self.share.of(self.plan.rows_of_parts) if self.share else self.plan.rows_of_parts)]

    @property
    def _place(self) -> Path:
        """The folder or file; of a selection, what its names are relative to."""
        return self.inputs.base if isinstance(self.inputs, Selection) else self.inputs

    def _make(
        self, todo: list[_Todo], num_inputs: int, scorer: Scorer
    ) -> Iterator[tuple[int, Part, pa.Table]]:
        """Make parts, in order, each written before the next one begins."""
        from tqdm import tqdm

        def planned(one: _Todo) -> list[PlannedInput]:
            inputs = self.plan.inputs_of(self.folder.folder, one.part)
            return [inputs[row] for row in one.rows]

        asked: deque[str] = deque()

        def all_planned() -> Iterator[PlannedInput]:
            for one in todo:
                for each in planned(one):
                    asked.append(each.key)
                    yield each

        def wanted() -> Iterator[Wanted | None]:
            for _ in repeat(None):
                yield self.keeper.wanted(asked.popleft())

        logger.info("Scoring %d inputs in %d part%s.", num_inputs, len(todo), "" if len(todo) == 1 else "s")
        readings = read_inputs(
            all_planned(),
            self.inputs,
            self.plan.kind,
            self.download,
            num_sources=num_inputs,
            workers=self.section.workers,
            window=2 * self.section.batch_size,
            image_size_px=self.plan.model.image_size_px,
            recipe=self.plan.model.recipe,
            limits=self.limits,
            engine=scorer.engine,
            measure=self.plan.settings.measures,
            wanted=wanted(),
        )
        bar = tqdm(total=num_inputs, unit="image", disable=not sys.stderr.isatty())
        with bar, closing(readings):
            for one in todo:
                started = time.monotonic()
                # Batches never cross a part's border, so that they are the same after an interruption.
                of_part = islice(readings, len(one.rows))
                scored: list[Reading] = []
                keys = [each.key for each in planned(one)]
                for reading in with_scores(of_part, scorer, self.plan.model.recipe, self.section.batch_size):
                    self.keeper.add(keys[len(scored)], reading)
                    scored.append(replace(reading, thumbnail=None))
                    bar.update(1)
                table = result.make_table(keys, scored, self.plan.model, self.plan.plan_sha256)
                if one.table is not None:
                    table = result.replace_rows(one.table, one.rows, table)
                errors = Counter(table["error_code"].drop_null().to_pylist())
                self.keeper.write_part(one.part, table)
                part = self.folder.write_part(
                    one.part,
                    result.to_parquet(table),
                    rows=table.num_rows,
                    errors=errors,
                    for_update=self.plan.is_update,
                )
                logger.info(
                    "Part %d of %d: %d inputs, %d scored, %.1f images/s.",
                    *(one.part + 1, max(self.plan.rows_of_parts) + 1, part.rows, part.rows - part.num_errors),
                    len(one.rows) / max(time.monotonic() - started, 1e-9),
                )
                yield one.part, part, table

    def _complete(self, parts: list[Part], summary: ScoreSummary, check: Check | None) -> None:
        """Write the summary, have it checked, then write the completion marker."""
        plan = self.plan
        self.folder.release_other_files()
        report = write_report(summary)
        if check is not None:
            check(summary)
        report += self.keeper.write()
        self.folder.publish_parts(plan.rows_of_parts)
        self.folder.complete(
            parts,
            report,
            {
                "schema_version": SCHEMA_VERSION,
                **summary.model.described(),
                "decision": deciding_record(self.root, plan.model.sha256),
                "inputs": {
                    "root": printable(collection_of(self.inputs).title),
                    "absolute_root": printable(str(self._place.resolve())),
                    "is_folder": not isinstance(self.inputs, Selection) and is_folder(self.inputs),
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
        update.finish(self.folder)
