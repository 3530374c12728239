"""The plan of a job: which input is which row of which part, fixed when the job starts.

``plan.parquet`` holds a row per input, a row group per part; ``plan.json``, written after
it, says what was planned, with which model and parameters. A job that goes on must find
all three as they were.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from quality_model.core import folders, storage
from quality_model.core.folders import JOB_NAME, PLAN_NAME, ListedFile
from quality_model.errors import CorruptError, IncompleteError, StorageError, UsageError
from quality_model.params import EngineName, LimitsParams, ScoreParams
from quality_model.records import SCALE_VERSION, SCHEMA_VERSION
from quality_model.score import collection, parquet_tables, tar_shards
from quality_model.score.collection import Fingerprint, Survey
from quality_model.score.identity import ModelIdentity

TABLE_NAME: Final = "plan.parquet"


@dataclass(frozen=True, slots=True)
class PlannedInput:
    """One input.

    ``key`` is its path or key, unique in the job. ``file`` is the Parquet file or tar
    shard that holds it (None for an image file), ``at`` the row or the offset there, ``columns``
    the columns of images there.
    ``reason`` and ``detail`` say why it cannot be read, where the listing knows.
    """

    key: str
    file: str | None = None
    at: int = 0
    num_bytes: int = 0
    reason: str | None = None
    detail: str | None = None
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """A planned job, as plan.json describes it."""

    kind: collection.Kind
    num_inputs: int
    num_files: int
    fingerprint: str
    skipped: dict[str, int]
    plan_sha256: str
    model: ModelIdentity
    parameters: dict[str, Any]

    @property
    def num_shards(self) -> int:
        return -(-self.num_inputs // int(self.parameters["shard_size"]))

    def rows_of(self, shard: int) -> int:
        """Inputs of a shard; the last may have fewer than the others."""
        size = int(self.parameters["shard_size"])
        return min(size, self.num_inputs - shard * size)


def job_parameters(section: ScoreParams, limits: LimitsParams, *, in_batches: bool) -> dict[str, Any]:
    """The parameters that decide about the bytes of the result; the batch does where there are batches."""
    return {
        "schema_version": SCHEMA_VERSION,
        "scale_version": SCALE_VERSION,
        "shard_size": section.shard_size,
        **({"batch_size": section.batch_size} if in_batches else {}),
        "max_pixels": limits.max_pixels,
        "max_bytes": limits.max_bytes,
        "formats": list(limits.formats),
    }


def open_job(output: Path) -> Job | None:
    """Read the job of ``output``; None if it has none.

    Raises:
        UsageError: ``output`` holds a result of an earlier release.
        CorruptError: plan.json or the plan is not what was written.
    """
    import pyarrow.parquet as pq

    if not folders.is_result(output):
        return None
    if has_earlier_layout(output):
        raise UsageError(
            f"{output} holds a result of the earlier layout (shard-*.parquet), which cannot be resumed.",
            "Choose another output folder, or replace the result with --overwrite. `trace` still reads it.",
        )
    try:
        facts = storage.read_json(output / PLAN_NAME)
        job = Job(**{**facts, "model": ModelIdentity(**facts["model"])})
    except (TypeError, KeyError, CorruptError, IncompleteError):
        raise CorruptError(f"{output / PLAN_NAME} is not the plan of a job.", _START_AGAIN) from None
    plan = output / TABLE_NAME
    if not plan.exists() or storage.file_sha256(plan) != job.plan_sha256:
        raise CorruptError(f"{plan} is not the plan that {PLAN_NAME} describes.", _START_AGAIN)
    if not pq.read_schema(plan).equals(_schema()):
        raise CorruptError(f"{plan} is a plan of another release.", _START_AGAIN)
    return job


def has_earlier_layout(folder: Path) -> bool:
    """Whether a folder is a result of the layout with shard-*.parquet, whose plan was job.json."""
    job = folders.result_facts(folder / JOB_NAME)
    return bool(job) and "schema_version" not in job and not (folder / PLAN_NAME).exists()


def planned_engine(output: Path) -> EngineName | None:
    """What runs the model of the job of ``output``, so that a job that goes on goes on with it."""
    try:
        job = open_job(output)
    except (UsageError, StorageError):
        return None
    return None if job is None else job.model.engine


def require_same(job: Job, found: Survey, model: ModelIdentity, parameters: dict[str, Any]) -> None:
    """Refuse to go on with a job whose inputs, model or parameters have changed.

    Raises:
        UsageError: Names each change.
    """
    changes = [
        f"{key} was {job.parameters.get(key)!r} and is {value!r}"
        for key, value in parameters.items()
        if job.parameters.get(key) != value
    ]
    was, now = asdict(job.model), asdict(model)  # thresholds too: they decide about the flags
    changes += [f"model {key} was {was[key]!r} and is {now[key]!r}" for key in now if was[key] != now[key]]
    if (job.kind, job.fingerprint) != (found.kind, found.fingerprint):
        files = f"{job.num_files} {job.kind} files then, {found.num_files} {found.kind} files now"
        changes.append(f"the inputs changed ({files})")
    if changes:
        raise UsageError(
            "The output folder holds the scores of another job: " + "; ".join(changes) + ".",
            _START_AGAIN,
        )


def make_plan(
    output: Path,
    inputs: Path,
    found: Survey,
    limits: LimitsParams,
    model: ModelIdentity,
    parameters: Any,
    *,
    when_listed: Callable[[], None],
) -> Job:
    """List the inputs and write the plan.

    ``when_listed`` is called before the plan gets its place, once it is sure that there will be one:
    it removes what an earlier job left.

    Memory holds one shard's rows and eight bytes for each input.

    Raises:
        UsageError: There is no input, or two have the same key.
        CorruptError: A Parquet file cannot be read.
    """
    fingerprint, skipped = Fingerprint(), Counter(found.skipped)
    planned = _plan(_files(inputs, output, found, fingerprint), found, limits, skipped)
    with storage.staged(output / TABLE_NAME) as temporary:
        num_inputs = _write_plan(temporary, planned, int(parameters["shard_size"]))
        if not num_inputs:
            counts = ", ".join(f"{count} x {name or 'no suffix'}" for name, count in sorted(skipped.items()))
            raise UsageError(
                f"{inputs} holds nothing to score: "
                + (f"its files hold no image (skipped: {counts})." if counts else "its files are empty."),
                "Name a folder or file with images.",
            )
        when_listed()
    job = Job(
        kind=found.kind,
        num_inputs=num_inputs,
        num_files=fingerprint.num_files,
        fingerprint=fingerprint.hexdigest(),
        skipped=dict(sorted(skipped.items())),
        plan_sha256=storage.file_sha256(output / TABLE_NAME),
        model=model,
        parameters=parameters,
    )
    storage.write_json(output / PLAN_NAME, asdict(job))
    return job


def list_inputs(inputs: Path, output: Path, found: Survey, limits: LimitsParams) -> Iterator[PlannedInput]:
    """The inputs of a collection in the order of a job, for who needs no job.

    Raises:
        CorruptError: A Parquet file cannot be read.
        UsageError: A Parquet file has no column of images.
    """
    return _plan(_files(inputs, output, found, Fingerprint()), found, limits, Counter())


def read_shard(output: Path, shard: int) -> list[PlannedInput]:
    """The inputs of one part, in order."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(output / TABLE_NAME) as file:
        table = file.read_row_group(shard)
    return [PlannedInput(**{**row, "columns": tuple(row["columns"])}) for row in table.to_pylist()]


_START_AGAIN = "Choose another output folder, or replace this result with --overwrite."


def _files(inputs: Path, output: Path, found: Survey, fingerprint: Fingerprint) -> Iterator[ListedFile]:
    for file in folders.walk(inputs, leave_out=output):
        if not inputs.is_dir() or found.takes(file):
            fingerprint.add(file)
            yield file


def _plan(
    files: Iterator[ListedFile], found: Survey, limits: LimitsParams, skipped: Counter[str]
) -> Iterator[PlannedInput]:
    tables = []
    for file in files:
        name = folders.printable(file.name)
        path = found.base / file.name
        if file.problem is not None:
            yield PlannedInput(name, reason=file.problem.reason, detail=file.problem.detail)
        elif found.kind == "images":
            yield PlannedInput(name)
        elif found.kind == "parquet":
            columns = found.columns[name]
            if columns.problem is not None:
                yield PlannedInput(name, reason="unreadable_rows", detail=columns.problem)
            else:
                tables.append((name, path, columns))
        else:
            for member in tar_shards.list_members(path, limits, skipped):
                key = f"{name}#{member.name}" if member.name else name
                yield PlannedInput(key, name, member.offset, member.num_bytes, member.reason, member.detail)
    for key, name, row, image_columns in parquet_tables.list_keys(tables):
        yield PlannedInput(key, name, row, columns=image_columns)


def _schema() -> Any:
    """The columns of the plan, which are the fields of `PlannedInput`."""
    import pyarrow as pa

    return pa.schema(
        {
            "key": pa.string(),
            "file": pa.string(),
            "at": pa.int64(),
            "num_bytes": pa.int64(),
            "reason": pa.string(),
            "detail": pa.string(),
            "columns": pa.list_(pa.string()),
        }
    )


def _write_plan(path: Path, planned: Iterator[PlannedInput], shard_size: int) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema()
    hashes = array("q")
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while rows := list(islice(planned, shard_size)):
            columns = {name: [getattr(row, name) for row in rows] for name in schema.names}
            hashes.extend(hash(key) for key in columns["key"])
            writer.write_table(pa.table(columns, schema=schema), row_group_size=shard_size)
    _require_unique(path, hashes)
    return len(hashes)


def _require_unique(plan: Path, hashes: "array[int]") -> None:
    """Refuse keys that occur twice: first by hash, then, for the suspects, by the keys themselves."""
    import numpy as np
    import pyarrow.parquet as pq

    values, counts = np.unique(np.frombuffer(hashes, dtype=np.int64), return_counts=True)
    suspects = set(values[counts > 1].tolist())
    if not suspects:
        return
    first: dict[str, str] = {}
    with pq.ParquetFile(plan) as file:
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
