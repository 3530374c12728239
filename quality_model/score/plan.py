"""The plan of a job: which input is which row of which part, fixed when the job starts.

``plan.parquet`` holds a row per input; ``plan.json``, written after it, says what was
planned, with which model and settings. A job that resumes must find all three as they were.
"""

import shutil
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from quality_model.core import folders, storage
from quality_model.core.folders import JOB_NAME, PLAN_NAME, is_result, is_system
from quality_model.core.jobs import DATA_FOLDER, UPDATE_FOLDER, JobFolder, part_name
from quality_model.core.parquet import open_parquet
from quality_model.core.stores import is_in_store
from quality_model.errors import CorruptError, StorageError, UsageError
from quality_model.params import EngineName, LimitsParams, MeasureSet
from quality_model.records import HEADS, SCALE_VERSION, SCHEMA_VERSION
from quality_model.score.inputs import Survey, list_inputs, nothing_to_score
from quality_model.score.plan_table import SCHEMA, inputs_from, read_rows, write_inputs
from quality_model.score.reading import PlannedInput
from quality_model.score.result import ScoringModel
from quality_model.score.selection import Kind
from quality_model.score.summary import DISTRIBUTIONS_NAME, FIGURE_NAME, REPORT_NAME, SUMMARY_NAME
from quality_model.score.thumbnails import THUMBNAILS_NAME

TABLE_NAME: Final = "plan.parquet"
UPDATE_NAME, UPDATE_TABLE_NAME = "update.json", "update.parquet"
"""The plan of an update, until it is complete."""
_REPORT_FILES: Final = (
    *(SUMMARY_NAME, DISTRIBUTIONS_NAME, FIGURE_NAME, THUMBNAILS_NAME),
    *(f"{REPORT_NAME}/{name}" for name in ("validation.json", "gallery.html", "chosen.html")),
)
_EARLIER_LAYOUT: Final = ("shard-*.parquet", "shard-*.json", "summary.json", "summary.png")
_START_AGAIN: Final = "Choose another output folder, or replace this result with --overwrite."


class Settings(BaseModel):
    """What decides about the bytes of the result, besides inputs and model."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    shard_size: int
    max_pixels: int
    max_bytes: int
    formats: tuple[str, ...]
    batch_size: int | None = None
    """of the forward passes, if images are scored in batches"""
    image_columns: tuple[str, ...] = ()
    key_columns: tuple[str, ...] = ()
    """the columns of Parquet files that were chosen"""
    measures: tuple[MeasureSet, ...] = ()
    """the sets of measures beside the scores"""
    schema_version: int = SCHEMA_VERSION
    scale_version: str = SCALE_VERSION

    def to_json(self) -> dict[str, Any]:
        """JSON values, without those that are empty."""
        return {name: value for name, value in self if value not in (None, ())}


@dataclass(frozen=True)
class Plan:
    """A planned job, as plan.json describes it.

    ``fingerprint`` covers name, length and time of change of every input file, ``plan_sha256`` plan.parquet.
    Of a result that was updated, ``parts`` has the rows of each part by its number, and ``counts`` says what
    the update found; ``is_update`` marks the plan of an update that is not complete.
    """

    kind: Kind
    num_inputs: int
    num_files: int
    fingerprint: str
    skipped: dict[str, int]
    plan_sha256: str
    model: ScoringModel
    settings: Settings
    parts: Mapping[str, int] | None = None
    counts: Mapping[str, int] | None = None
    is_update: bool = False

    @cached_property
    def rows_of_parts(self) -> dict[int, int]:
        """Inputs of each part, by its number, in the order of the rows of the plan."""
        if self.parts is not None:
            return {int(number): rows for number, rows in self.parts.items()}
        size = self.settings.shard_size
        starts = range(0, self.num_inputs, size)
        return {number: min(size, self.num_inputs - start) for number, start in enumerate(starts)}

    def table_path(self, output: Path) -> Path:
        return output / (UPDATE_TABLE_NAME if self.is_update else TABLE_NAME)

    @cached_property
    def _first_rows(self) -> dict[int, int]:
        """The row of the plan at which each part begins."""
        return dict(zip(self.rows_of_parts, accumulate(self.rows_of_parts.values(), initial=0), strict=False))

    def rows_of(self, output: Path, part: int) -> pa.Table:
        """The rows of the plan that are of one part."""
        first, count = self._first_rows[part], self.rows_of_parts[part]
        return read_rows(self.table_path(output), self.plan_sha256, first, count)

    def inputs_of(self, output: Path, part: int) -> list[PlannedInput]:
        """The inputs of one part, in order."""
        return inputs_from(self.rows_of(output, part))

    def write(self, output: Path) -> None:
        """Write plan.json, or update.json; the table comes first."""
        facts = {**asdict(self), "settings": self.settings.to_json()}
        del facts["is_update"]
        facts = {name: value for name, value in facts.items() if value is not None}
        storage.write_json(output / (UPDATE_NAME if self.is_update else PLAN_NAME), facts)

    def has_same_inputs(self, found: Survey) -> bool:
        """Whether the files are those that were planned."""
        return (self.kind, self.fingerprint) == (found.kind, found.fingerprint)

    def require_same(self, found: Survey, model: ScoringModel, settings: Settings) -> None:
        """Refuse to resume a job whose kind of inputs, model or settings have changed.

        Raises:
            UsageError: Names each change.
        """

        def decisive(model: ScoringModel, settings: Settings) -> dict[str, Any]:
            return {**dict(settings), **{f"model {name}": value for name, value in asdict(model).items()}}

        was, now = decisive(self.model, self.settings), decisive(model, settings)
        changes = [_difference(key, was[key], now[key]) for key in now if was[key] != now[key]]
        if self.kind != found.kind:
            changes.append(f"the kind of inputs was {self.kind!r} and is {found.kind!r}")
        if changes:
            raise UsageError(
                "The output folder holds the scores of another job: " + "; ".join(changes) + ".", _START_AGAIN
            )


def _difference(name: str, was: Any, now: Any) -> str:
    """What has changed, in words; of other nested values than thresholds only which they are."""
    if name == "model thresholds":
        before, after = was or {}, now or {}
        changed = [head for head in HEADS if before.get(head) != after.get(head)]
        texts = [(head, *_told_apart(before.get(head), after.get(head))) for head in changed]
        return "; ".join(f"the threshold of {head} was {old} and is {new}" for head, old, new in texts)
    if isinstance(was, Mapping) or isinstance(now, Mapping):
        return f"the {name} differ"
    return f"{name} was {was!r} and is {now!r}"


def _told_apart(*values: float | None) -> list[str]:
    """Numbers, rounded where that does not make them one."""
    short = ["none" if value is None else f"{value:.3g}" for value in values]
    return short if len({*short}) > 1 else [repr(value) for value in values]


def begin(
    job: JobFolder,
    found: Survey,
    limits: LimitsParams,
    model: ScoringModel,
    settings: Settings,
    *,
    overwrite: bool,
    verify: bool = False,
) -> Plan:
    """Resume the job of a folder if it is this one; plan a new one if it has none.

    If its inputs have changed, and they alone, the plan is one of an update.

    ``overwrite`` plans a new one, too, if it is another, and removes what that left; ``verify`` decides by
    the bytes of an input whether it has changed.

    Raises:
        UsageError: The folder holds another job or other files, there is no input, or two have the same key.
        CorruptError: The plan in the folder is damaged, or a Parquet file cannot be read.
    """
    from quality_model.score import update  # which needs plans

    output = job.folder
    plan, pending, numbers = None, None, None
    try:
        update.finish(job)
        plan, pending = open_plan(output), update.open_pending(output)
        if plan is not None:
            numbers = {*plan.rows_of_parts, *(pending.rows_of_parts if pending else ())}
            plan.require_same(found, model, settings)
    except (UsageError, CorruptError):
        if not overwrite:
            raise
        plan = None
    else:
        if plan is None:
            require_own(output, (TABLE_NAME,), "scoring job")
    if others := _foreign_parts(output, numbers):
        raise UsageError(
            f"{output / DATA_FOLDER} is for score rows alone and holds {', '.join(others[:3])}.",
            "Move that away, or choose another output folder.",
        )
    if plan is None or (overwrite and not plan.has_same_inputs(found)):
        return _make(job, found, limits, model, settings)
    if pending is not None and not verify and pending.has_same_inputs(found):
        return pending
    if pending is not None or (output / UPDATE_FOLDER).exists():
        update.discard(job, plan)
    if plan.has_same_inputs(found) and not verify:
        return plan
    return update.make(job, plan, found, limits, verify=verify)


def open_plan(output: Path) -> Plan | None:
    """Read the plan of the job in ``output``; None if it has none.

    Raises:
        UsageError, CorruptError: It is of an earlier release, or not what was written.
    """
    if not folders.is_result(output):
        return None
    if _has_earlier_layout(output):
        raise UsageError(
            f"{output} holds a result of the earlier layout (shard-*.parquet), which cannot be resumed.",
            "Choose another output folder, or replace the result with --overwrite. `trace` still reads it.",
        )
    try:
        plan = plan_from(JobFolder(output).read_plan() or {})
    except (TypeError, KeyError, ValueError, CorruptError):
        raise CorruptError(f"{output / PLAN_NAME} is not a plan of this release.", _START_AGAIN) from None
    table = output / TABLE_NAME
    if not table.is_file() or storage.file_sha256(table) != plan.plan_sha256:
        raise CorruptError(f"{table} is not the plan that {PLAN_NAME} describes.", _START_AGAIN)
    with open_parquet(table) as file:
        schema = file.schema_arrow
    if not schema.equals(SCHEMA):
        raise CorruptError(f"{table} is a plan of another release.", _START_AGAIN)
    return plan


def _has_earlier_layout(folder: Path) -> bool:
    """Whether a folder is a result with shard-*.parquet, whose plan was job.json."""
    job = folders.result_facts(folder / JOB_NAME)
    return bool(job) and "schema_version" not in job and not (folder / PLAN_NAME).exists()


def planned_engine(output: Path) -> EngineName | None:
    """The engine of the job in ``output``, with which it must resume; None if there is no such job."""
    try:
        plan = open_plan(output)
    except (UsageError, StorageError):
        return None
    return None if plan is None else plan.model.engine


def plan_from(values: Mapping[str, Any], *, is_update: bool = False) -> Plan:
    """The plan that JSON values describe; TypeError, KeyError or ValueError if none of this release."""
    model, settings = ScoringModel(**values["model"]), Settings(**values["settings"])
    return Plan(**{**values, "model": model, "settings": settings, "is_update": is_update})


def find_inputs(output: Path, keys: list[str]) -> list[PlannedInput]:
    """The inputs of a job that have some keys, in the order of ``keys``."""
    wanted = pa.array(keys, pa.string())
    with open_parquet(output / TABLE_NAME) as file:
        groups = (file.read_row_group(number) for number in range(file.num_row_groups))
        table = pa.concat_tables(
            [SCHEMA.empty_table(), *(g.filter(pc.is_in(g["key"], wanted)) for g in groups)]
        )
    return inputs_from(table.take(pc.index_in(wanted, table["key"])))


def require_own(output: Path, names: Collection[str], kind: str) -> None:
    """Refuse a folder that holds more than these names, whole parts, and what systems leave anywhere."""
    has_rows_alone = (output / DATA_FOLDER).is_dir() and not _foreign_parts(output, ())
    known = {*names, DATA_FOLDER} if has_rows_alone else names
    others = sorted(
        path.name for path in output.glob("*") if not (is_system(path.name) or path.name in known)
    )
    if others:
        raise UsageError(
            f"{output} is not empty and holds no {kind}: {', '.join(others[:3])}.",
            "Choose another output folder.",
        )


def _foreign_parts(output: Path, numbers: Collection[int] | None) -> list[str]:
    """What is in the folder of score rows beside these parts (None: any) and hidden files.

    Anyone who reads that folder as a dataset skips hidden files alone.
    """
    names = {path.name for path in (output / DATA_FOLDER).glob("*") if not path.name.startswith(".")}
    if numbers is None:
        return sorted(name for name in names if not Path(name).match("part-*.parquet"))
    return sorted(names - {Path(part_name(number)).name for number in numbers})


def _make(
    job: JobFolder, found: Survey, limits: LimitsParams, model: ScoringModel, settings: Settings
) -> Plan:
    """List the inputs and write the plan."""
    skipped = Counter(found.skipped)
    planned = list_inputs(found, limits, skipped)
    with storage.staged(job.folder / TABLE_NAME) as temporary:
        num_inputs = write_inputs(temporary, planned)
        if not num_inputs:
            raise nothing_to_score(found, skipped)
        plan_sha256 = storage.file_sha256(temporary)
        _clear(job)  # it is sure now that there will be a plan
    plan = Plan(
        kind=found.kind,
        num_inputs=num_inputs,
        num_files=found.num_files,
        fingerprint=found.fingerprint,
        skipped=dict(sorted(skipped.items())),
        plan_sha256=plan_sha256,
        model=model,
        settings=settings,
    )
    plan.write(job.folder)
    return plan


def _clear(job: JobFolder) -> None:
    """Remove another job's result, of any layout: first what completes it, last what says that it is ours."""
    output = job.folder
    if not is_result(output):
        return
    is_earlier = _has_earlier_layout(output)
    storage.unseal(output)
    if not is_earlier:
        job.reopen()
    job.keep_parts(())
    for name in _REPORT_FILES:
        storage.remove(output / name)
    for pattern in _EARLIER_LAYOUT if is_earlier else ():
        for path in output.glob(pattern):
            path.unlink()
    if not is_in_store(output):
        shutil.rmtree(output / REPORT_NAME / "docs", ignore_errors=True)
    with suppress(OSError):
        (output / REPORT_NAME).rmdir()
    for name in (UPDATE_NAME, UPDATE_TABLE_NAME, PLAN_NAME, JOB_NAME):
        storage.remove(output / name)
