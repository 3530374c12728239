"""A scoring job from start to end: plan, go on, account for every input, seal."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from quality_model import spawning, storage
from quality_model.errors import (
    CheckpointError,
    CorruptError,
    InputErrorsAboveLimit,
    StorageError,
    UsageError,
)
from quality_model.params import LimitsParams, ScoreParams
from quality_model.records import HEADS
from quality_model.scoring import collection, plan, shards
from quality_model.scoring.identity import ModelIdentity, Scorer
from quality_model.scoring.reading import Reading, Source, given_up, read_picture, sources
from quality_model.scoring.summary import (
    FIGURE_NAME,
    SUMMARY_NAME,
    ScoreSummary,
    Tally,
    write_figure,
)
from quality_model.workers import Workers, num_workers

LOCK_NAME: Final = ".lock"
_LOCK_TIMEOUT_S: Final = 5.0
_SHARD_FILES: Final = ("shard-*.parquet", "shard-*.json")

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
) -> ScoreSummary:
    """Score a collection: a row for every input, with scores or with a reason.

    A job that was interrupted goes on at its first unfinished shard and ends with the
    bytes of an undisturbed one; one that is complete is not done again.

    Args:
        section: Sizes, workers, and the share of errors that is allowed.
        limits: What a picture may be.
        inputs: A folder of pictures (recursive), Parquet files or tar shards, or one file.
        output: Folder of the result: shard-NNNNN.parquet, summary.json, summary.png, and
            the marker that vouches for them.
        scorer: Scores pixels; in this process.
        model: Whose scores they are.
        overwrite: Throw away the result of another job in ``output``; this job's own is kept.

    Raises:
        UsageError: Nothing to score, keys that occur twice, or ``output`` holds another
            job's result or other files.
        CorruptError: A Parquet file of the inputs is broken.
        InputErrorsAboveLimit: Too many inputs could not be scored; everything is written.
        StorageError: The disk is full, another process writes to ``output``, or the
            accounts do not add up.
    """
    spawning.end_if_imported_again()
    if inputs.exists() and inputs.resolve() == output.resolve():
        raise UsageError(f"{inputs} is both input and output.", "Choose another output folder.")
    found = collection.survey(inputs, output)
    with storage.locked(output / LOCK_NAME, timeout_s=_LOCK_TIMEOUT_S):
        storage.sweep(output)
        parameters = plan.job_parameters(section, limits, in_batches=scorer.engine is None)
        job = _begin(output, inputs, found, limits, model, parameters, overwrite)
        summary = _carry_on(output, job, section, limits, found.base, scorer)
    if summary.error_share > section.max_error_share:
        raise InputErrorsAboveLimit(
            f"{summary.inputs - summary.scored} of {summary.inputs} inputs could not be scored"
            f" ({summary.error_share:.1%}, allowed {section.max_error_share:.1%}): "
            + ", ".join(f"{count} x {reason}" for reason, count in summary.reasons.items())
            + ".",
            f"Everything else is scored, in {output}; the rows with a reason say what is wrong.",
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
    """Go on with the job of ``output`` if it is this one; plan a new one if it has none."""
    try:
        job = plan.open_job(output)
        if job is not None:
            plan.require_same(job, found, model, parameters)
            return job
    except (UsageError, CorruptError):
        if not overwrite:
            raise
        _clear(output)
    else:
        others = sorted({path.name for path in output.iterdir()} - {LOCK_NAME, plan.PLAN_NAME})
        if others:
            raise UsageError(
                f"{output} is not empty and holds no scoring job: {', '.join(others[:3])}.",
                "Choose another output folder.",
            )
    return plan.make_plan(output, inputs, found, limits, model, parameters)


def _carry_on(
    output: Path, job: plan.Job, section: ScoreParams, limits: LimitsParams, base: Path, scorer: Scorer
) -> ScoreSummary:
    finished = [shards.is_finished(output, shard, rows=job.rows_of(shard)) for shard in range(job.num_shards)]
    todo = [shard for shard, done in enumerate(finished) if not done]
    started = time.monotonic()
    if todo:
        storage.unseal(output)
        _score_shards(output, job, todo, section, limits, base, scorer)
    elapsed_s = time.monotonic() - started if todo else 0.0
    tally = _account(output, job)
    if todo or not (output / storage.MARKER_NAME).exists():
        _seal(output, job, tally)
    num_done = sum(job.rows_of(shard) for shard in todo)
    return ScoreSummary(
        output=output,
        model=job.model,
        inputs=tally.inputs,
        scored=tally.scored,
        reasons=tally.sorted_reasons(),
        skipped=job.skipped,
        shards=job.num_shards,
        shards_before=job.num_shards - len(todo),
        elapsed_s=elapsed_s,
        images_per_s=num_done / elapsed_s if elapsed_s > 0 else 0.0,
        quantiles=tally.quantiles(),
        flagged=tally.flagged(job.model.thresholds),
    )


def _score_shards(
    output: Path, job: plan.Job, todo: list[int], section: ScoreParams, limits: LimitsParams, base: Path,
    scorer: Scorer,
) -> None:  # fmt: skip
    from tqdm import tqdm

    num_inputs = sum(job.rows_of(shard) for shard in todo)
    count = num_workers(section.workers, num_inputs)
    work: Callable[[Source], Reading] = partial(
        read_picture, image_size_px=job.model.image_size_px, limits=limits, engine=scorer.engine
    )
    window = 2 * section.batch_size + 2 * count
    workers = Workers(work, given_up=given_up, count=count, window=window, hung_after_s=limits.max_seconds)
    logger.info("Scoring %d inputs in %d shards with %d processes.", num_inputs, len(todo), count)
    bar = tqdm(total=num_inputs, unit="image", disable=not sys.stderr.isatty())
    given = sources(output, base, job.kind, iter(todo))
    with bar, closing(given), closing(workers.map(given)) as readings:
        for shard in todo:
            started = time.monotonic()
            marker = _score_shard(output, job, shard, readings, section.batch_size, scorer, bar)
            logger.info(
                "Shard %d of %d: %d inputs, %d scored, %.1f images/s.",
                shard + 1,
                job.num_shards,
                marker["rows"],
                marker["scored"],
                marker["rows"] / max(time.monotonic() - started, 1e-9),
            )


def _score_shard(
    output: Path, job: plan.Job, shard: int, readings: Iterator[Reading], batch_size: int, scorer: Scorer,
    bar: Any,
) -> dict[str, Any]:  # fmt: skip
    """Scores come with the readings, or batch by batch of their pixels.

    Batches never cross a shard's border, so that they are the same after an interruption.
    """
    keys = [planned.key for planned in plan.read_shard(output, shard)]
    kept: list[Reading] = []
    batch: list[npt.NDArray[np.uint8]] = []
    scores: list[npt.NDArray[np.float32]] = []
    for reading in islice(readings, len(keys)):
        if reading.scores is not None:
            scores.append(_checked(reading.scores[None], 1))
        if reading.pixels is not None:
            batch.append(reading.pixels)
        kept.append(_without_pixels(reading))
        if len(batch) == batch_size:
            scores.append(_checked(scorer.score_pixels(np.stack(batch)), len(batch)))
            batch.clear()
        bar.update(1)
    if batch:
        scores.append(_checked(scorer.score_pixels(np.stack(batch)), len(batch)))
    if len(kept) != len(keys):
        raise StorageError(f"Shard {shard} has {len(keys)} inputs; {len(kept)} were read.", "Run it again.")
    return shards.write_shard(
        output,
        shard,
        first_input=shard * int(job.parameters["shard_size"]),
        keys=keys,
        readings=kept,
        scores=np.concatenate(scores) if scores else np.zeros((0, len(HEADS)), dtype=np.float32),
        model=job.model,
    )


def _checked(scores: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.float32]:
    """The scores of so many pictures, once they are such."""
    if scores.shape != (count, len(HEADS)) or not bool(np.all((scores >= 0) & (scores <= 1))):
        raise CheckpointError(
            f"The model gave {count} pictures scores of shape {scores.shape} from {scores.min()} to"
            f" {scores.max()}; expected {len(HEADS)} each, in [0, 1].",
            "Its weights are damaged or not of this network; score with another model.",
        )
    return scores


def _account(output: Path, job: plan.Job) -> Tally:
    """Read every shard back and hold it against the plan: inputs = scores + reasons."""
    tally = Tally()
    for shard in range(job.num_shards):
        keys = [planned.key for planned in plan.read_shard(output, shard)]
        first = shard * int(job.parameters["shard_size"])
        tally.add(shards.read_checked(output, shard, first_input=first, keys=keys))
    if tally.inputs != job.num_inputs or tally.inputs != tally.scored + tally.reasons.total():
        raise StorageError(
            f"{job.num_inputs} inputs were planned; {tally.scored} scores and {tally.reasons.total()} reasons"
            " were written.",
            "Score into another folder.",
        )
    return tally


def _seal(output: Path, job: plan.Job, tally: Tally) -> None:
    facts: dict[str, Any] = {  # of inputs and model alone: the same after any interruption
        "model": asdict(job.model),
        "inputs": tally.inputs,
        "scored": tally.scored,
        "reasons": tally.sorted_reasons(),
        "skipped": job.skipped,
        "shards": job.num_shards,
        "flagged": tally.flagged(job.model.thresholds),
    }
    storage.write_json(output / SUMMARY_NAME, {**facts, "quantiles": tally.quantiles()})
    version = f" version {job.model.version}" if job.model.version else ""
    write_figure(output / FIGURE_NAME, tally, f"{tally.scored} pictures scored by {job.model.name}{version}")
    names = [shards.shard_name(shard) for shard in range(job.num_shards)]
    storage.seal(output, [*names, SUMMARY_NAME, FIGURE_NAME], rows=tally.inputs, **facts)


def _without_pixels(reading: Reading) -> Reading:
    return Reading(
        reading.sha256, reading.width, reading.height, reason=reading.reason, detail=reading.detail
    )


def _clear(output: Path) -> None:
    """Remove another job's result; its plan stays until that of the new one takes its place."""
    storage.unseal(output)
    for pattern in (*_SHARD_FILES, SUMMARY_NAME, FIGURE_NAME):
        for path in output.glob(pattern):
            path.unlink()
