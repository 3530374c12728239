"""The plan of a job: which input is which row of which part, fixed when the job starts.

``plan.parquet`` holds a row per input, a row group per part; ``plan.json``, written after it, says what was
planned, with which model and settings. A job that resumes must find all three as they were.
"""

import shutil
from array import array
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from quality_model.core import folders, storage
from quality_model.core.folders import JOB_NAME, PLAN_NAME, is_result, is_system
from quality_model.core.jobs import DATA_FOLDER, JobFolder, part_name
from quality_model.errors import CorruptError, StorageError, UsageError
from quality_model.params import EngineName, LimitsParams, MeasureSet
from quality_model.records import SCALE_VERSION, SCHEMA_VERSION
from quality_model.score.inputs import Kind, Survey, list_inputs, repeated_hashes
from quality_model.score.reading import PlannedInput
from quality_model.score.result import FIGURE_NAME, REPORT_NAME, SUMMARY_NAME, ScoringModel

TABLE_NAME: Final = "plan.parquet"
_REPORT_FILES: Final = (SUMMARY_NAME, FIGURE_NAME, f"{REPORT_NAME}/validation.json")
_EARLIER_LAYOUT: Final = ("shard-*.parquet", "shard-*.json", "summary.json", "summary.png")
_START_AGAIN: Final = "Choose another output folder, or replace this result with --overwrite."

_SCHEMA: Final = pa.schema(
    {
        "key": pa.string(),
        "file": pa.string(),
        "at": pa.int64(),
        "num_bytes": pa.int64(),
        "error_code": pa.string(),
        "error_detail": pa.string(),
        "columns": pa.list_(pa.string()),
    }
)
"""The columns of the plan, which are the fields of `PlannedInput`."""


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


@dataclass(frozen=True, slots=True)
class Plan:
    """A planned job, as plan.json describes it.

    ``fingerprint`` covers name, length and time of change of every input file, ``plan_sha256`` plan.parquet.
    """

    kind: Kind
    num_inputs: int
    num_files: int
    fingerprint: str
    skipped: dict[str, int]
    plan_sha256: str
    model: ScoringModel
    settings: Settings

    @property
    def num_parts(self) -> int:
        return -(-self.num_inputs // self.settings.shard_size)

    def rows_of(self, part: int) -> int:
        """Inputs of a part; the last may have fewer than the others."""
        return min(self.settings.shard_size, self.num_inputs - part * self.settings.shard_size)

    def require_same(self, found: Survey, model: ScoringModel, settings: Settings) -> None:
        """Refuse to resume a job whose inputs, model or settings have changed.

        Raises:
            UsageError: Names each change.
        """
        was, now = _decisive(self.model, self.settings), _decisive(model, settings)
        changes = [f"{key} was {was[key]!r} and is {now[key]!r}" for key in now if was[key] != now[key]]
        if (self.kind, self.fingerprint) != (found.kind, found.fingerprint):
            files = f"{self.num_files} {self.kind} files then, {found.num_files} {found.kind} files now"
            changes.append(f"the inputs changed ({files})")
        if changes:
            raise UsageError(
                "The output folder holds the scores of another job: " + "; ".join(changes) + ".", _START_AGAIN
            )


def _decisive(model: ScoringModel, settings: Settings) -> dict[str, Any]:
    return {**dict(settings), **{f"model {name}": value for name, value in asdict(model).items()}}


def begin(
    job: JobFolder,
    found: Survey,
    limits: LimitsParams,
    model: ScoringModel,
    settings: Settings,
    *,
    overwrite: bool,
) -> Plan:
    """Resume the job of a folder if it is this one; plan a new one if it has none.

    Args:
        overwrite: Plan a new one, too, if it is another; what that left is then removed.

    Raises:
        UsageError: The folder holds another job or other files, there is no input, or two have the same key.
        CorruptError: The plan in the folder is damaged, or a Parquet file cannot be read.
    """
    output = job.folder
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
        if plan is None:
            require_own(output, (TABLE_NAME,), "scoring job")
    if others := _foreign_parts(output, num_parts):
        raise UsageError(
            f"{output / DATA_FOLDER} is for score rows alone and holds {', '.join(others[:3])}.",
            "Move that away, or choose another output folder.",
        )
    return plan or _make(job, found, limits, model, settings)


def open_plan(output: Path) -> Plan | None:
    """Read the plan of the job in ``output``; None if it has none.

    Raises:
        UsageError: ``output`` holds a result of an earlier release.
        CorruptError: plan.json or plan.parquet is not what was written.
    """
    if not folders.is_result(output):
        return None
    if _has_earlier_layout(output):
        raise UsageError(
            f"{output} holds a result of the earlier layout (shard-*.parquet), which cannot be resumed.",
            "Choose another output folder, or replace the result with --overwrite. `trace` still reads it.",
        )
    try:
        values = JobFolder(output).read_plan() or {}
        model, settings = ScoringModel(**values["model"]), Settings(**values["settings"])
        plan = Plan(**{**values, "model": model, "settings": settings})
    except (TypeError, KeyError, ValueError, CorruptError):
        raise CorruptError(f"{output / PLAN_NAME} is not a plan of this release.", _START_AGAIN) from None
    table = output / TABLE_NAME
    if not table.exists() or storage.file_sha256(table) != plan.plan_sha256:
        raise CorruptError(f"{table} is not the plan that {PLAN_NAME} describes.", _START_AGAIN)
    if not pq.read_schema(table).equals(_SCHEMA):
        raise CorruptError(f"{table} is a plan of another release.", _START_AGAIN)
    return plan


def _has_earlier_layout(folder: Path) -> bool:
    """Whether a folder is a result of the layout with shard-*.parquet, whose plan was job.json."""
    job = folders.result_facts(folder / JOB_NAME)
    return bool(job) and "schema_version" not in job and not (folder / PLAN_NAME).exists()


def planned_engine(output: Path) -> EngineName | None:
    """The engine of the job in ``output``, with which it must resume; None if there is no such job."""
    try:
        plan = open_plan(output)
    except (UsageError, StorageError):
        return None
    return None if plan is None else plan.model.engine


def read_plan(output: Path, part: int) -> list[PlannedInput]:
    """The inputs of one part, in order."""
    with pq.ParquetFile(output / TABLE_NAME) as file:
        return _inputs(file.read_row_group(part))


def find_inputs(output: Path, keys: list[str]) -> list[PlannedInput]:
    """The inputs of a job that have some keys, in the order of ``keys``."""
    table = pq.read_table(output / TABLE_NAME)
    return _inputs(table.take(pc.index_in(pa.array(keys, pa.string()), table["key"])))


def require_own(output: Path, names: Collection[str], kind: str) -> None:
    """Refuse a folder that holds anything beside these names, whole parts, and what systems leave anywhere.

    Raises:
        UsageError: Names what it holds; ``kind`` is what it does not hold.
    """
    has_rows_alone = (output / DATA_FOLDER).is_dir() and not _foreign_parts(output, 0)
    known = {*names, DATA_FOLDER} if has_rows_alone else names
    others = sorted(
        path.name for path in output.glob("*") if not (is_system(path.name) or path.name in known)
    )
    if others:
        raise UsageError(
            f"{output} is not empty and holds no {kind}: {', '.join(others[:3])}.",
            "Choose another output folder.",
        )


def _foreign_parts(output: Path, num_parts: int | None) -> list[str]:
    """What is in the folder of score rows beside so many parts (None: any number) and hidden files.

    Anyone who reads that folder as a dataset skips hidden files alone.
    """
    names = {path.name for path in (output / DATA_FOLDER).glob("*") if not path.name.startswith(".")}
    if num_parts is None:
        return sorted(name for name in names if not Path(name).match("part-*.parquet"))
    return sorted(names - {Path(part_name(number)).name for number in range(num_parts)})


def _make(
    job: JobFolder, found: Survey, limits: LimitsParams, model: ScoringModel, settings: Settings
) -> Plan:
    """List the inputs and write the plan. Memory holds one part's rows and eight bytes for each input."""
    skipped = Counter(found.skipped)
    planned = list_inputs(found, limits, skipped)
    with storage.staged(job.folder / TABLE_NAME) as temporary:
        num_inputs = _write(temporary, planned, settings.shard_size)
        if not num_inputs:
            counts = ", ".join(f"{count} x {name or 'no suffix'}" for name, count in sorted(skipped.items()))
            raise UsageError(
                f"{found.inputs} holds nothing to score: "
                + (f"its files hold no image (skipped: {counts})." if counts else "its files are empty."),
                "Name a folder or file with images.",
            )
        _clear(job)  # it is sure now that there will be a plan
    plan = Plan(
        kind=found.kind,
        num_inputs=num_inputs,
        num_files=found.num_files,
        fingerprint=found.fingerprint,
        skipped=dict(sorted(skipped.items())),
        plan_sha256=storage.file_sha256(job.folder / TABLE_NAME),
        model=model,
        settings=settings,
    )
    job.write_plan({**asdict(plan), "settings": settings.to_json()})
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
    job.remove_parts()
    for pattern in (*_REPORT_FILES, *(_EARLIER_LAYOUT if is_earlier else ())):
        for path in output.glob(pattern):
            path.unlink()
    shutil.rmtree(output / REPORT_NAME / "docs", ignore_errors=True)
    with suppress(OSError):
        (output / REPORT_NAME).rmdir()
    for name in (PLAN_NAME, JOB_NAME):
        storage.remove(output / name)


def _inputs(table: pa.Table) -> list[PlannedInput]:
    return [PlannedInput(**{**row, "columns": tuple(row["columns"])}) for row in table.to_pylist()]


def _write(path: Path, planned: Iterator[PlannedInput], shard_size: int) -> int:
    """Write the table of the plan, a row group per part, and give the number of inputs.

    Raises:
        UsageError: Two inputs have the same key: found first by hash, then, of the suspects, by the keys.
    """
    hashes = array("q")
    with pq.ParquetWriter(path, _SCHEMA, compression="zstd") as writer:
        while rows := list(islice(planned, shard_size)):
            columns = {name: [getattr(row, name) for row in rows] for name in _SCHEMA.names}
            hashes.extend(map(hash, columns["key"]))
            writer.write_table(pa.table(columns, schema=_SCHEMA), row_group_size=shard_size)
    suspects, _ = repeated_hashes(hashes)
    first: dict[str, str] = {}
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=["key", "file"]) if suspects else ():
            for key, name in zip(*batch.to_pydict().values(), strict=True):
                if hash(key) not in suspects:
                    continue
                if key in first:
                    raise UsageError(
                        f"Two inputs are called {key!r}: one in {first[key]}, one in {name}.",
                        "A duplicated file? Move one away, give the rows unique keys, or score the files"
                        " one by one.",
                    )
                first[key] = name
    return len(hashes)
