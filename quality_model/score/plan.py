"""The plan of a job: which input is which row of which part, fixed when the job starts.

``plan.parquet`` holds a row per input, a row group per part; ``plan.json``, written after it, says what was
planned, with which model and settings. A job that resumes must find all three as they were.
"""

import shutil
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from quality_model.core import folders, storage
from quality_model.core.folders import JOB_NAME, PLAN_NAME, is_result, is_system
from quality_model.core.jobs import DATA_FOLDER, JobFolder, part_name
from quality_model.errors import CorruptError, StorageError, UsageError
from quality_model.params import EngineName, LimitsParams, ScoreParams
from quality_model.records import SCALE_VERSION, SCHEMA_VERSION
from quality_model.score.inputs import Fingerprint, Kind, PlannedInput, Survey, list_inputs
from quality_model.score.rows import ScoringModel
from quality_model.score.summary import FIGURE_NAME, REPORT_NAME, SUMMARY_NAME

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


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides about the bytes of the result, besides inputs and model.

    Attributes:
        batch_size: Of the forward passes, if images are scored in batches; else None.
        image_columns, key_columns: Those of Parquet files that were chosen; else empty.
    """

    shard_size: int
    max_pixels: int
    max_bytes: int
    formats: tuple[str, ...]
    batch_size: int | None = None
    image_columns: tuple[str, ...] = ()
    key_columns: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION
    scale_version: str = SCALE_VERSION

    @classmethod
    def of(cls, section: ScoreParams, limits: LimitsParams, found: Survey, *, in_batches: bool) -> Self:
        """Those of a job."""
        image_columns, key_columns = found.chosen_columns
        return cls(
            shard_size=section.shard_size,
            batch_size=section.batch_size if in_batches else None,
            max_pixels=limits.max_pixels,
            max_bytes=limits.max_bytes,
            formats=tuple(limits.formats),
            image_columns=image_columns,
            key_columns=key_columns,
        )

    def to_json(self) -> dict[str, Any]:
        """JSON values, without those that are empty."""
        return {name: value for name, value in asdict(self).items() if value not in (None, ())}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Undo `to_json`.

        Raises:
            TypeError: A value is missing or unknown.
        """
        typed: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**typed)


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

    def to_json(self) -> dict[str, Any]:
        """The content of plan.json."""
        thresholds = None if self.model.thresholds is None else dict(self.model.thresholds)
        return {
            **asdict(self),
            "model": {**self.model.to_json(), "thresholds": thresholds},
            "settings": self.settings.to_json(),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Undo `to_json`.

        Raises:
            KeyError, TypeError, AttributeError: It is none of ours.
        """
        model = values["model"]
        typed = {
            "model": ScoringModel.from_json(model, model["thresholds"]),
            "settings": Settings.from_json(values["settings"]),
        }
        return cls(**{**values, **typed})

    def require_same(self, found: Survey, model: ScoringModel, settings: Settings) -> None:
        """Refuse to resume a job whose inputs, model or settings have changed.

        Raises:
            UsageError: Names each change.
        """
        was, now = asdict(self.settings), asdict(settings)
        changes = [f"{key} was {was[key]!r} and is {now[key]!r}" for key in now if was[key] != now[key]]
        was, now = ({**one.to_json(), "thresholds": one.thresholds} for one in (self.model, model))
        changes += [
            f"model {key} was {was[key]!r} and is {now[key]!r}" for key in now if was[key] != now[key]
        ]
        if (self.kind, self.fingerprint) != (found.kind, found.fingerprint):
            files = f"{self.num_files} {self.kind} files then, {found.num_files} {found.kind} files now"
            changes.append(f"the inputs changed ({files})")
        if changes:
            raise UsageError(
                "The output folder holds the scores of another job: " + "; ".join(changes) + ".", _START_AGAIN
            )


def open_plan(output: Path) -> Plan | None:
    """Read the plan of the job in ``output``; None if it has none.

    Raises:
        UsageError: ``output`` holds a result of an earlier release.
        CorruptError: plan.json or plan.parquet is not what was written.
    """
    if not folders.is_result(output):
        return None
    if has_earlier_layout(output):
        raise UsageError(
            f"{output} holds a result of the earlier layout (shard-*.parquet), which cannot be resumed.",
            "Choose another output folder, or replace the result with --overwrite. `trace` still reads it.",
        )
    try:
        plan = Plan.from_json(JobFolder(output).read_plan() or {})
    except (TypeError, KeyError, AttributeError, CorruptError):
        raise CorruptError(f"{output / PLAN_NAME} is not a plan of this release.", _START_AGAIN) from None
    table = output / TABLE_NAME
    if not table.exists() or storage.file_sha256(table) != plan.plan_sha256:
        raise CorruptError(f"{table} is not the plan that {PLAN_NAME} describes.", _START_AGAIN)
    if not pq.read_schema(table).equals(_SCHEMA):
        raise CorruptError(f"{table} is a plan of another release.", _START_AGAIN)
    return plan


def has_earlier_layout(folder: Path) -> bool:
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


def make_plan(
    job: JobFolder,
    inputs: Path,
    found: Survey,
    limits: LimitsParams,
    model: ScoringModel,
    settings: Settings,
    *,
    when_listed: Callable[[], None],
) -> Plan:
    """List the inputs and write the plan. Memory holds one part's rows and eight bytes for each input.

    ``when_listed`` removes what an earlier job left. It is called once it is sure that there will be a plan.

    Raises:
        UsageError: There is no input, or two have the same key.
        CorruptError: A Parquet file cannot be read.
    """
    fingerprint, skipped = Fingerprint(), Counter(found.skipped)
    planned = list_inputs(inputs, job.folder, found, limits, fingerprint, skipped)
    with storage.staged(job.folder / TABLE_NAME) as temporary:
        num_inputs = _write(temporary, planned, settings.shard_size)
        if not num_inputs:
            counts = ", ".join(f"{count} x {name or 'no suffix'}" for name, count in sorted(skipped.items()))
            raise UsageError(
                f"{inputs} holds nothing to score: "
                + (f"its files hold no image (skipped: {counts})." if counts else "its files are empty."),
                "Name a folder or file with images.",
            )
        when_listed()
    plan = Plan(
        kind=found.kind,
        num_inputs=num_inputs,
        num_files=fingerprint.num_files,
        fingerprint=fingerprint.hexdigest(),
        skipped=dict(sorted(skipped.items())),
        plan_sha256=storage.file_sha256(job.folder / TABLE_NAME),
        model=model,
        settings=settings,
    )
    job.write_plan(plan.to_json())
    return plan


def read_plan(output: Path, part: int) -> list[PlannedInput]:
    """The inputs of one part, in order."""
    with pq.ParquetFile(output / TABLE_NAME) as file:
        return _inputs(file.read_row_group(part))


def find_inputs(output: Path, rows: list[int]) -> list[PlannedInput]:
    """The inputs of some rows of the job, in the order of ``rows``."""
    return _inputs(pq.read_table(output / TABLE_NAME).take(pa.array(rows, pa.int64())))


def foreign_files(output: Path, known: Collection[str] = (TABLE_NAME,)) -> list[str]:
    """What an output folder without a result holds, beside some names and what systems leave anywhere."""
    if not output.is_dir():
        return []
    return sorted(
        path.name
        for path in output.iterdir()
        if not (
            is_system(path.name)
            or path.name in known
            or (path.name == DATA_FOLDER and path.is_dir() and not foreign_parts(output, 0))
        )
    )


def foreign_parts(output: Path, num_parts: int | None) -> list[str]:
    """What is in the folder of score rows beside so many parts (None: any number) and hidden files.

    Anyone who reads that folder as a dataset skips hidden files alone.
    """
    folder = output / DATA_FOLDER
    if not folder.is_dir():
        return []
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    if num_parts is None:
        return sorted(name for name in names if not Path(name).match("part-*.parquet"))
    return sorted(names - {Path(part_name(number)).name for number in range(num_parts)})


def clear(folder: JobFolder) -> None:
    """Remove another job's result, of any layout: first what completes it, last what says that it is ours."""
    output = folder.folder
    if not is_result(output):
        return
    is_earlier = has_earlier_layout(output)
    storage.unseal(output)
    if not is_earlier:
        folder.reopen()
    folder.remove_parts()
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
    hashes = array("q")
    with pq.ParquetWriter(path, _SCHEMA, compression="zstd") as writer:
        while rows := list(islice(planned, shard_size)):
            columns = {name: [getattr(row, name) for row in rows] for name in _SCHEMA.names}
            hashes.extend(hash(key) for key in columns["key"])
            writer.write_table(pa.table(columns, schema=_SCHEMA), row_group_size=shard_size)
    _require_unique(path, hashes)
    return len(hashes)


def _require_unique(table: Path, hashes: "array[int]") -> None:
    """Refuse keys that occur twice: first by hash, then, for the suspects, by the keys themselves."""
    values, counts = np.unique(np.frombuffer(hashes, dtype=np.int64), return_counts=True)
    suspects = set(values[counts > 1].tolist())
    if not suspects:
        return
    first: dict[str, str] = {}
    with pq.ParquetFile(table) as file:
        for batch in file.iter_batches(columns=["key", "file"]):
            for key, name in zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True):
                if hash(key) in suspects and key in first:
                    raise UsageError(
                        f"Two inputs are called {key!r}: one in {first[key]}, one in {name}.",
                        "A duplicated file? Move one away, give the rows unique keys, or score the files"
                        " one by one.",
                    )
                if hash(key) in suspects:
                    first[key] = name
