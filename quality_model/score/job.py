"""A scoring job from start to end: plan, resume, account for every input, write the completion marker."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from quality_model.core import predict, processes, storage
from quality_model.core.folders import JOB_NAME, is_folder, printable
from quality_model.core.jobs import JobFolder, Part
from quality_model.core.measures import chosen_sets, measures_of
from quality_model.core.provenance import deciding_record
from quality_model.core.ray_cluster import LOCAL, executor_on
from quality_model.core.ray_nodes import RayNodes
from quality_model.errors import UsageError
from quality_model.params import LimitsParams, RegistryParams, ScoreParams
from quality_model.records import SCHEMA_VERSION
from quality_model.score import result, update
from quality_model.score.inputs import NO_CHOICE, InputChoice, Survey, collection_of, survey
from quality_model.score.node_parts import ModelFiles, NodeParts, make_on, read_made
from quality_model.score.parts import MadePart, PartMaker, Todo, read_finished
from quality_model.score.plan import Plan, Settings, begin, planned_engine
from quality_model.score.reading import DownloadRules, Scorer
from quality_model.score.result import ScoringModel
from quality_model.score.selection import Selection
from quality_model.score.shares import Share, join, require_all
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
    on: str = LOCAL,
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
        on: Where parts are made: see `ray_cluster.executor_on`. The result is the same.

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
    if share is not None and on != LOCAL:
        raise UsageError(f"--part does not go with --on {on}: Ray shares the parts out.", "Leave one out.")
    is_given = scorer is not None and model is not None
    folder = JobFolder(output)
    with ExitStack() as held:
        on_gpu = section.device in ("auto", "cuda") and not is_given
        nodes = held.enter_context(executor_on(on, cpus=section.workers or 1, gpu=on_gpu))

        def loaded() -> tuple[Scorer | ModelFiles, ScoringModel, bool]:
            if scorer is not None and model is not None:
                return scorer, model, scorer.engine is None
            engine = planned_engine(output) if section.engine == "auto" else None
            if nodes is not None and nodes.gpus:  # which this machine may lack
                ref, path, _ = predict.open_model(section.model, root or Path(), registry)
                files = ModelFiles.of(ref, path)
                return files, *files.described_on(nodes, section, limits, engine)
            found = predict.Scorer.from_params(section, limits, root=root, registry=registry, engine=engine)
            return found, ScoringModel.of(found, intervals=section.intervals), found.engine is None

        its_scorer, its_model, in_batches = loaded()
        found = survey(inputs, output, choice)

        def begun() -> Plan:
            settings = _settings(section, limits, found, in_batches=in_batches)
            return begin(folder, found, limits, its_model, settings, overwrite=overwrite, verify=verify)

        if share is None:
            held.enter_context(folder.locked())
            storage.sweep(output / REPORT_NAME)
            plan = begun()
        else:
            held.enter_context(folder.shared(share.number, share.count, begun))
            if not is_given and its_model.engine != planned_engine(output):  # another node has planned
                its_scorer, its_model, in_batches = loaded()
            plan = join(folder, found, its_model, _settings(section, limits, found, in_batches=in_batches))
        keeper = ThumbnailKeeper(output, its_model.thresholds, plan.rows_of_parts, is_on=section.thumbnails)
        job = _Job(
            *(folder, plan, section, limits, inputs, its_scorer, root or Path(), download, keeper, share),
            nodes,
        )
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


@dataclass(frozen=True, slots=True)
class _Job:
    """A planned job and what carries it out.

    Without ``scorer`` all parts must be there; with ``share`` it is that of the parts, and does not complete;
    with ``nodes`` these make the parts.
    """

    folder: JobFolder
    plan: Plan
    section: ScoreParams
    limits: LimitsParams
    inputs: Path | Selection
    scorer: Scorer | ModelFiles | None
    root: Path
    download: DownloadRules | None
    keeper: ThumbnailKeeper
    share: Share | None = None
    nodes: RayNodes | None = None

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
        todo: list[Todo] = []
        rows_of_parts = plan.rows_of_parts
        for number in numbers:
            rows = rows_of_parts[number]
            if (finished := read_finished(folder, plan, number, rows)) is None:
                todo.append(Todo(number, rows))
                continue
            part, table = finished
            codes = enumerate(table["error_code"].to_pylist())
            if retried := tuple(row for row, code in codes if code in again):
                todo.append(Todo(number, rows, retried))
                summary.retried += len(retried)
            else:
                parts[number] = part
                summary.add(table)
                self.keeper.add_part(number, table)
        summary.parts_before = len(numbers) - sum(one.again is None for one in todo)
        if self.scorer is None:
            require_all(folder, plan, [one.number for one in todo])
        elif todo:
            started = time.monotonic()
            num_inputs = sum(one.num_inputs for one in todo)
            if self.share is None and not plan.is_update:
                folder.reopen()  # before an update is complete, the earlier result stays
            for made in self._make(todo, num_inputs, self.scorer):
                parts[made.todo.number] = made.part
                summary.add(made.table)
                made.log(max(rows_of_parts) + 1)
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

    def _make(self, todo: list[Todo], num_inputs: int, scorer: Scorer | ModelFiles) -> Iterator[MadePart]:
        """Make parts, each written before it is given, and account for their thumbnails."""
        from tqdm import tqdm

        logger.info("Scoring %d inputs in %d part%s.", num_inputs, len(todo), "" if len(todo) == 1 else "s")
        with tqdm(total=num_inputs, unit="image", disable=not sys.stderr.isatty()) as bar:
            if self.nodes is None:
                assert not isinstance(scorer, ModelFiles)
                maker = PartMaker(
                    *(self.folder, self.plan, self.section, self.limits, self.download, self.inputs),
                    scorer,
                    self.keeper,
                )
                yield from maker.make(todo, bar.update)
                return
            model = (
                ModelFiles.of(scorer.source, scorer.path) if isinstance(scorer, predict.Scorer) else scorer
            )
            base = collection_of(self.inputs).base.absolute()
            section = self.section.model_copy(update={"workers": self.nodes.cpus})
            parts = NodeParts(
                self.folder.folder.absolute(), self.plan, section, self.limits, self.download, base, model
            )
            for made in make_on(self.nodes, parts, todo):
                table = read_made(self.folder, self.plan, made)
                self.keeper.add_part(made.todo.number, table)
                bar.update(made.todo.num_inputs)
                yield replace(made, table=table)
        self.folder.sweep()  # of what lost nodes were writing

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
