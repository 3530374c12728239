"""What a job will take and flag, from a sample, before it runs; nothing is written."""

import math
import random
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from quality_model.params import LimitsParams, ScoreParams
from quality_model.records import HEADS, Head
from quality_model.score.inputs import NO_CHOICE, InputChoice, Kind, list_inputs, sources_of, survey
from quality_model.score.reading import (
    DownloadRules,
    PlannedInput,
    Scorer,
    fetched,
    read_images,
    with_scores,
)
from quality_model.score.result import ScoringModel
from quality_model.score.selection import Selection

SAMPLE_SIZE: Final = 200
_BLOCKS: Final = 5
_T: Final = 2.78
"""Of Student's distribution with four degrees of freedom: 95 % of a mean of five blocks."""
_Z: Final = 1.96

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a sample says of a collection.

    Attributes:
        kind, num_files, num_inputs, num_bytes: What is there; the bytes are those of images or tables.
        skipped: Files that are no inputs.
        sampled: Inputs that were read.
        errors: Of these, per error code.
        seconds: 95 % interval of the time for all, from the speed of five blocks of the sample.
        flagged: Per head with a threshold, the Wilson 95 % interval of the share that is flagged.
    """

    kind: Kind
    num_files: int
    num_inputs: int
    num_bytes: int
    skipped: Mapping[str, int]
    sampled: int
    errors: Mapping[str, int]
    seconds: Interval
    flagged: Mapping[Head, Interval]

    def lines(self) -> list[str]:
        """The estimate for a console."""
        size = f"{self.num_bytes / 1e9:.2f} GB" if self.num_bytes >= 1e7 else f"{self.num_bytes} bytes"
        lines = [f"{self.num_inputs} inputs in {self.num_files} files of kind {self.kind}, {size}."]
        if self.skipped:
            files = ", ".join(f"{count} x {name or '(no suffix)'}" for name, count in self.skipped.items())
            lines.append(f"Skipped, not inputs: {files}.")
        low, high = map(_shown, self.seconds)
        lines.append(f"From a sample of {self.sampled}: {low} to {high} in all.")
        for head, (least, most) in self.flagged.items():
            counts = f"{least * self.num_inputs:.0f} to {most * self.num_inputs:.0f} images"
            lines.append(f"  {head:<10} flags {least:.1%} to {most:.1%}: {counts}")
        if self.errors:
            errors = ", ".join(f"{count} x {code}" for code, count in self.errors.items())
            lines.append(f"  not scored in the sample: {errors}")
        return lines


def estimate(
    section: ScoreParams,
    limits: LimitsParams,
    *,
    inputs: Path | Selection,
    output: Path,
    model: ScoringModel,
    scorer: Scorer,
    choice: InputChoice = NO_CHOICE,
    download: DownloadRules | None = None,
) -> Estimate:
    """List a collection, and score a uniform sample of it as a job would.

    Bytes of archives and tables are read before the time is taken: a job reads them one after the other,
    which takes far less time than jumping to those of a sample.

    Args:
        section, limits, inputs, output, choice, download: As of `job.score`; ``output`` is only left out.
        model: What it says of the scores and thresholds.
        scorer: Scores pixels.

    Raises:
        UsageError: There is nothing to score.
        CorruptError: A table cannot be read.
    """
    found = survey(inputs, output, choice)
    skipped = Counter(found.skipped)
    sample: list[tuple[int, PlannedInput]] = []
    num_inputs = num_bytes = 0
    chosen, tables = random.Random(0), {}
    for number, planned in enumerate(list_inputs(found, limits, skipped)):
        num_inputs += 1
        if planned.columns:
            tables[planned.file] = planned.num_bytes
        else:
            num_bytes += max(0, planned.num_bytes)
        if len(sample) < SAMPLE_SIZE:
            sample.append((number, planned))
        elif (place := chosen.randrange(num_inputs)) < SAMPLE_SIZE:
            sample[place] = (number, planned)
    sample.sort(key=lambda one: one[0])
    read = list(fetched(sources_of((one for _, one in sample), inputs, found.kind), download, limits))
    done, scores = [time.monotonic()], []
    errors: Counter[str] = Counter()
    readings = read_images(
        read,
        num_sources=len(read),
        workers=section.workers,
        window=section.batch_size,
        image_size_px=model.image_size_px,
        recipe=model.recipe,
        limits=limits,
        engine=scorer.engine,
    )
    with closing(readings):
        for reading in with_scores(readings, scorer, model.recipe, batch_size=1):
            if reading.error_code is not None:
                errors[reading.error_code] += 1
            elif reading.scores is not None:
                scores.append(reading.scores)
            done.append(time.monotonic())
    limit = model.thresholds or {}
    flags = np.array(scores, dtype=np.float64).reshape(-1, len(HEADS))
    return Estimate(
        found.kind,
        found.num_files,
        num_inputs,
        num_bytes + sum(tables.values()),
        dict(sorted(skipped.items())),
        len(sample),
        dict(errors.most_common()),
        _seconds(done, num_inputs),
        {
            head: wilson(int((flags[:, at] > limit[head]).sum()), len(flags))
            for at, head in enumerate(HEADS)
            if head in limit
        },
    )


def wilson(count: int, total: int) -> Interval:
    """The 95 % interval of a share (Wilson, 1927, doi:10.1080/01621459.1927.10502953)."""
    if not total:
        return 0.0, 1.0
    share, spread = count / total, _Z * _Z / total
    middle = (share + spread / 2) / (1 + spread)
    half = _Z * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def _seconds(done: list[float], num_inputs: int) -> Interval:
    """The time for all inputs, from the times at which those of a sample were done; the start is one time."""
    if num_inputs < len(done):
        return done[-1] - done[0], done[-1] - done[0]
    start, steady = done[1] - done[0], done[1:]
    edges = np.linspace(0, len(steady) - 1, _BLOCKS + 1).astype(int)
    each = np.diff(np.array(steady)[edges]) / np.diff(edges)
    half = _T * float(each.std(ddof=1)) / math.sqrt(_BLOCKS)
    mean = float(each.mean())
    return start + num_inputs * max(mean / 2, mean - half), start + num_inputs * (mean + half)


def _shown(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
