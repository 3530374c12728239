"""A scoring job from start to end: plan, resume, account for every input, write the completion marker."""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from quality_model.core import processes, storage
from quality_model.core.folders import JOB_NAME, printable
from quality_model.errors import (
    CheckpointError,
    CorruptError,
    InputErrorsAboveLimit,
    StorageError,
    UsageError,
)
from quality_model.params import LimitsParams, ScoreParams
from quality_model.records import HEADS, SCALE_VERSION, SCHEMA_VERSION
from quality_model.score import collection, output_folder, parts, plan
from quality_model.score.identity import ModelIdentity, Scorer
from quality_model.score.reading import Reading, read_images, sources_of
from quality_model.score.summary import (
    FIGURE_NAME,
    REPORT_NAME,
    SUMMARY_NAME,
    ScoreSummary,
    Tally,
    nothing_scored,
    write_figure,
)

LOCK_NAME: Final = ".lock"
_LOCK_TIMEOUT_S: Final = 5.0
Todo = Mapping[int, list[int] | None]
"""The parts to work on, and which rows of each: None for all."""

logger = logging.getLogger(__name__)


def score(
    section: ScoreParams,
    limits: LimitsParams,
    *,
    inputs: Path,
    output: Path,
    scorer: Scorer,
    model: ModelIdentity,
    overwrite: bool = False,
    check: Callable[[dict[str, Any]], object] | None = None,
    kind: collection.Kind | None = None,
    image_column: str | None = None,
    key_column: str | None = None,
) -> ScoreSummary:
    """Score a collection: a row for every input, with scores or with an error code.

    A job that was interrupted resumes at its first unfinished part and ends with the
    bytes of an undisturbed one; one that is complete is not done again. Inputs whose error code
    is not final (`parts.NOT_FINAL`) are read again, they alone.

    Args:
        section: Sizes, workers, and the share of errors that is allowed.
        limits: What an image may be.
        inputs: A folder of images (recursive), Parquet files or tar shards, or one file.
        output: Folder of the result; docs/results-format.md describes it.
        scorer: Scores pixels; in this process.
        model: Whose scores they are.
        overwrite: Throw away the result of another job in ``output``; this job's own is kept.
        check: Gets the content of the completion marker before it is written; what it raises leaves
            the result incomplete.
        kind, image_column, key_column: What to score, if the inputs leave a choice (see
            `collection.survey`).

    Raises:
        UsageError: Nothing to score, keys that occur twice, or ``output`` holds another
            job's result or other files.
        CorruptError: A Parquet file of the inputs is broken.
        InputErrorsAboveLimit: None of the inputs could be scored, or too few; everything is written.
        StorageError: The disk is full, another process writes to ``output``, or the
            accounts do not add up.
    """
    processes.end_if_imported_again()
    found = collection.survey(inputs, output, kind=kind, image_column=image_column, key_column=key_column)
    with storage.locked(output / LOCK_NAME, timeout_s=_LOCK_TIMEOUT_S):
        for place in (output, output / parts.MARKERS_FOLDER, output / REPORT_NAME):
            storage.sweep(place)
        parameters = plan.job_parameters(section, limits, in_batches=scorer.engine is None)
        parameters |= found.parameters()
        job = _begin(output, inputs, found, limits, model, parameters, overwrite)
        summary = _carry_on(inputs, output, job, section, limits, found.base, scorer, check)
    if not summary.scored:
        raise nothing_scored(summary.reasons, f"The column error_detail in {output / parts.DATA_FOLDER}")
    if summary.error_share > section.max_error_share:
        raise InputErrorsAboveLimit(
            f"{summary.inputs - summary.scored} of {summary.inputs} inputs could not be scored"
            f" ({summary.error_share:.1%}, allowed {section.max_error_share:.1%}): "
            + ", ".join(f"{count} x {reason}" for reason, count in summary.reasons.items())
            + ".",
            f"Everything else is scored, in {output}; the column error_detail says what is wrong.",
        )
    return summary


def _begin(
    output: Path,
    inputs: Path,
    found: collection.Survey,
    limits: LimitsParams,
    model: ModelIdentity,
    parameters: dict[str, Any],
    overwrite: bool,
) -> plan.Job:
    """Resume the job of ``output`` if it is this one; plan a new one if it has none."""
    job, num_parts = None, None
    try:
        job = plan.open_job(output)
        if job is not None:
            num_parts = job.num_shards
            plan.require_same(job, found, model, parameters)
    except (UsageError, CorruptError):
        if not overwrite:
            raise
        job = None
    else:
        if job is None and (others := output_folder.foreign(output)):
            raise UsageError(
                f"{output} is not empty and holds no scoring job: {', '.join(others[:3])}.",
                "Choose another output folder.",
            )
    if others := output_folder.foreign_parts(output, num_parts):
        raise UsageError(
            f"{output / parts.DATA_FOLDER} is for score rows alone and holds {', '.join(others[:3])}.",
            "Move that away, or choose another output folder.",
        )
    return job or plan.make_plan(
        output, inputs, found, limits, model, parameters, when_listed=partial(output_folder.clear, output)
    )


def _carry_on(
    inputs: Path,
    output: Path,
    job: plan.Job,
    section: ScoreParams,
    limits: LimitsParams,
    base: Path,
    scorer: Scorer,
    check: Callable[[dict[str, Any]], object] | None,
) -> ScoreSummary:
    todo: dict[int, list[int] | None] = {}
    for number in range(job.num_shards):
        marker = parts.read_marker(output, number, rows=job.rows_of(number))
        if marker is None:
            todo[number] = None
        elif rows := parts.rows_to_retry(output, number, marker):
            todo[number] = rows
    num_retried = sum(len(rows) for rows in todo.values() if rows)
    num_read = num_retried + sum(job.rows_of(number) for number, rows in todo.items() if rows is None)
    started = time.monotonic()
    if todo:
        storage.unseal(output, JOB_NAME)
        _score_parts(output, job, todo, num_read, section, limits, base, scorer)
    elapsed_s = time.monotonic() - started if todo else 0.0
    tally = _account(output, job)
    if todo or not _is_complete(output, job):
        _complete(inputs, output, job, tally, check)
    return ScoreSummary(
        output=output,
        model=job.model,
        inputs=tally.inputs,
        scored=tally.scored,
        reasons=tally.sorted_reasons(),
        skipped=job.skipped,
        shards=job.num_shards,
        shards_before=sum(todo.get(number, []) is not None for number in range(job.num_shards)),
        elapsed_s=elapsed_s,
        images_per_s=num_read / elapsed_s if elapsed_s > 0 else 0.0,
        quantiles=tally.quantiles(),
        flagged=tally.flagged(job.model.thresholds),
        retried=num_retried,
    )


def _score_parts(
    output: Path,
    job: plan.Job,
    todo: Todo,
    num_inputs: int,
    section: ScoreParams,
    limits: LimitsParams,
    base: Path,
    scorer: Scorer,
) -> None:
    from tqdm import tqdm

    logger.info("Scoring %d inputs in %d parts.", num_inputs, len(todo))
    bar = tqdm(total=num_inputs, unit="image", disable=not sys.stderr.isatty())
    planned = (one for number, rows in todo.items() for one in _planned(output, number, rows))
    given = sources_of(planned, base, job.kind)
    reading = read_images(
        given,
        num_sources=num_inputs,
        workers=section.workers,
        window=2 * section.batch_size,
        image_size_px=job.model.image_size_px,
        limits=limits,
        engine=scorer.engine,
    )
    with bar, closing(given), closing(reading) as readings:
        for number, rows in todo.items():
            started = time.monotonic()
            table = _score_part(output, job, number, rows, readings, section.batch_size, scorer, bar)
            marker = parts.write_part(output, number, table)
            logger.info(
                "Part %d of %d: %d inputs, %d scored, %.1f images/s.",
                number + 1,
                job.num_shards,
                marker["rows"],
                marker["scored"],
                (job.rows_of(number) if rows is None else len(rows)) / max(time.monotonic() - started, 1e-9),
            )


def _planned(output: Path, number: int, rows: list[int] | None) -> list[plan.PlannedInput]:
    planned = plan.read_shard(output, number)
    return planned if rows is None else [planned[row] for row in rows]


def _score_part(
    output: Path,
    job: plan.Job,
    number: int,
    rows: list[int] | None,
    readings: Iterator[Reading],
    batch_size: int,
    scorer: Scorer,
    bar: Any,
) -> Any:
    """Give the table of a part, of which some ``rows`` or all were read again.

    Scores come with the readings, or batch by batch of their pixels. Batches never cross a part's
    border, so that they are the same after an interruption.
    """
    keys = [planned.key for planned in _planned(output, number, rows)]
    kept: list[Reading] = []
    batch: list[npt.NDArray[np.uint8]] = []
    scores: list[npt.NDArray[np.float32]] = []
    for reading in islice(readings, len(keys)):
        if reading.scores is not None:
            scores.append(_checked(reading.scores[None], 1))
        if reading.pixels is not None:
            batch.append(reading.pixels)
        kept.append(replace(reading, pixels=None, scores=None))
        if len(batch) == batch_size:
            scores.append(_checked(scorer.score_pixels(np.stack(batch)), len(batch)))
            batch.clear()
        bar.update(1)
    if batch:
        scores.append(_checked(scorer.score_pixels(np.stack(batch)), len(batch)))
    if len(kept) != len(keys):
        raise StorageError(f"Part {number} has {len(keys)} inputs; {len(kept)} were read.", "Run it again.")
    stacked = np.concatenate(scores) if scores else np.zeros((0, len(HEADS)), dtype=np.float32)
    table = parts.make_table(keys, kept, stacked, job.model, job.plan_sha256)
    if rows is None:
        return table
    all_keys = [planned.key for planned in plan.read_shard(output, number)]
    return parts.replace_rows(parts.read_checked(output, number, keys=all_keys), rows, table)


def _checked(scores: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.float32]:
    """The scores of so many images, once they are such."""
    if scores.shape != (count, len(HEADS)) or not bool(np.all((scores >= 0) & (scores <= 1))):
        raise CheckpointError(
            f"The model gave {count} images scores of shape {scores.shape} from {scores.min()} to"
            f" {scores.max()}; expected {len(HEADS)} each, in [0, 1].",
            "Its weights are damaged or not of this network; score with another model.",
        )
    return scores


def _account(output: Path, job: plan.Job) -> Tally:
    """Read every part back and compare it with the plan: inputs = scores + error codes."""
    tally = Tally()
    for number in range(job.num_shards):
        keys = [planned.key for planned in plan.read_shard(output, number)]
        tally.add(parts.read_checked(output, number, keys=keys))
    if tally.inputs != job.num_inputs or tally.inputs != tally.scored + tally.reasons.total():
        raise StorageError(
            f"{job.num_inputs} inputs were planned; {tally.scored} scores and {tally.reasons.total()} error"
            " codes were written.",
            "Score into another folder.",
        )
    return tally


def _is_complete(output: Path, job: plan.Job) -> bool:
    try:
        marker = storage.require_sealed(output, marker_name=JOB_NAME)
    except StorageError:
        return False
    return bool(marker.get("plan_sha256") == job.plan_sha256)


def _complete(
    inputs: Path, output: Path, job: plan.Job, tally: Tally, check: Callable[[dict[str, Any]], object] | None
) -> None:
    """Write the summary, have the result checked, then write the completion marker, job.json."""
    model = asdict(job.model)
    thresholds = model.pop("thresholds")
    markers = [storage.read_json(output / parts.marker_name(number)) for number in range(job.num_shards)]
    counts: dict[str, Any] = {  # of inputs and model alone: the same after any interruption
        "scored": tally.scored,
        "errors": tally.sorted_reasons(),
        "flagged": tally.flagged(job.model.thresholds),
    }
    facts: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "model": {**model, "scale_version": SCALE_VERSION},
        "thresholds": thresholds,
        "inputs": {
            "root": printable(str(inputs)),
            "absolute_root": printable(str(inputs.resolve())),
            "kind": job.kind,
            "num_files": job.num_files,
            "num_inputs": job.num_inputs,
            "fingerprint": job.fingerprint,
            "skipped": job.skipped,
        },
        "settings": job.parameters,
        "plan_sha256": job.plan_sha256,
        **counts,
        "parts": [
            {name: marker[name] for name in ("file", "rows", "scored", "sha256")} for marker in markers
        ],
    }
    summary = {
        "model": facts["model"],
        "thresholds": thresholds,
        "inputs": tally.inputs,
        **counts,
        "skipped": job.skipped,
        "parts": job.num_shards,
        "quantiles": tally.quantiles(),
    }
    storage.write_json(output / SUMMARY_NAME, summary)
    version = f" version {job.model.version}" if job.model.version else ""
    title = f"{tally.scored} images scored by {job.model.name}{version}"
    write_figure(output / FIGURE_NAME, tally, job.model.thresholds, title)
    if check is not None:
        check(facts)
    storage.seal(
        output,
        [*(marker["file"] for marker in markers), SUMMARY_NAME, FIGURE_NAME],
        rows=tally.inputs,
        hashed={marker["file"]: marker["sha256"] for marker in markers},
        marker_name=JOB_NAME,
        **facts,
    )
