"""Scores without a result on disk: of a collection in a loop, and of a sample before a long job."""

import math
import random
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from quality_model.core import processes
from quality_model.core.measures import chosen_sets
from quality_model.core.predict import Scorer
from quality_model.errors import ImageError, UsageError
from quality_model.params import LimitsParams, MeasureChoice, ScoreParams
from quality_model.records import HEADS, Head, QualityScores
from quality_model.score.inputs import (
    NO_CHOICE,
    InputChoice,
    Survey,
    list_inputs,
    named_inputs,
    sources_of,
    survey,
)
from quality_model.score.reading import (
    DownloadRules,
    PlannedInput,
    Reading,
    fetched,
    read_images,
    with_scores,
)
from quality_model.score.selection import Kind, Selection

SAMPLE_SIZE: Final = 200
_BLOCKS: Final = 5
_T: Final = 2.78
"""Of Student's distribution with four degrees of freedom: 95 % of a mean of five blocks."""
_Z: Final = 1.96

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class ScoredImage:
    """One input of a collection: its scores, or the error that says why there are none.

    Attributes:
        key: As in a result: the path in the folder, ``archive#member``, or the key of a row.
        scores, error: One of them is None.
        sha256, size_bytes: Of the encoded bytes, None where they could not be read.
        width, height: Of the image, upright, in pixels; None with an error.
        format: Pillow's name of the format that was decoded; None with an error.
        measures: Those that were asked for, by column (docs/results-format.md).
    """

    key: str
    scores: QualityScores | None
    error: ImageError | None
    sha256: str | None
    size_bytes: int | None
    width: int | None
    height: int | None
    format: str | None
    measures: Mapping[str, float | int | None]


def iter_scores(
    inputs: str | Path | Sequence[str | Path],
    scorer: Scorer | None = None,
    *,
    kind: Kind | None = None,
    image_column: str | None = None,
    key_column: str | None = None,
    download: DownloadRules | None = None,
    measures: Sequence[MeasureChoice] = ("none",),
    workers: int = 0,
    batch_size: int = 16,
) -> Generator[ScoredImage, None, None]:
    """Score a collection in a loop: an item for every input, in the order of a result, which is not written.

    Inputs are found and read as `job.score` does, in worker processes, a few ahead of the loop. Memory does
    not grow with the collection (docs/performance.md has what does).
    The processes end when the iterator is exhausted, closed or no longer referenced.

    >>> from pathlib import Path
    >>> from sklearn.datasets import load_sample_images
    >>> from quality_model import Scorer, iter_scores
    >>> folder = Path(load_sample_images().filenames[0]).parent
    >>> for item in iter_scores(folder, Scorer("bundled")):
    ...     print(item.key, item.width, item.scores.flags if item.scores else item.error)
    china.jpg 640 ()
    flower.jpg 640 ()

    Args:
        inputs: What the command `score` takes: a folder, a file, a glob, ``@list``, ``-``, or several.
        scorer: The model, with its limits of images; by default ``Scorer()``.
        kind, image_column, key_column: What to score, if the inputs leave a choice (`InputChoice`).
        download: How URLs are fetched; without it they are not.
        measures: Sets of measures beside the scores.
        workers: Processes that read; 0: one per core, fewer for few images.
        batch_size: Images per forward pass on an accelerator.

    Raises:
        UsageError: There is nothing to score, the choice fits no input, or a script lacks its main guard.
        CorruptError: A table cannot be read.
        CheckpointError, ModelNotFoundError, RegistryError: The model is not available.
    """
    processes.end_if_imported_again()  # before a model is loaded
    if workers < 0 or batch_size < 1:
        raise UsageError(
            f"workers is {workers} and batch_size {batch_size}.", "Give at least 0 workers, and batches of 1."
        )
    arguments = [inputs] if isinstance(inputs, str | Path) else inputs
    named, choice = named_inputs([*map(str, arguments)], InputChoice(kind, image_column, key_column))
    found = survey(named, None, choice)
    return _scores(found, named, scorer or Scorer(), download, chosen_sets(measures), workers, batch_size)


def _scores(
    found: Survey,
    inputs: Path | Selection,
    scorer: Scorer,
    download: DownloadRules | None,
    measures: Sequence[Any],
    workers: int,
    batch_size: int,
) -> Generator[ScoredImage, None, None]:
    keys: list[str] = []  # of the inputs that were taken and are not yet given

    def planned() -> Generator[PlannedInput, None, None]:
        for one in list_inputs(found, scorer.limits, Counter()):
            keys.append(one.key)
            yield one

    readings = read_inputs(
        planned(),
        inputs,
        found.kind,
        download,
        num_sources=found.num_files if found.kind == "images" else sys.maxsize,
        workers=workers,
        window=2 * batch_size,
        image_size_px=scorer.image_size_px,
        recipe=scorer.views,
        limits=scorer.limits,
        engine=scorer.engine,
        measure=measures,
    )
    with closing(readings):
        for reading in with_scores(readings, scorer, scorer.views, batch_size):
            scores = None if reading.scores is None else scorer.as_scores(reading.scores[None])[0]
            error = reading.error_code and ImageError(reading.error_code, reading.error_detail or "")
            yield ScoredImage(
                keys.pop(0),
                scores,
                error or None,
                reading.sha256,
                reading.size_bytes,
                reading.width,
                reading.height,
                reading.format,
                reading.measures or {},
            )


def read_inputs(
    planned: Iterable[PlannedInput],
    inputs: Path | Selection,
    kind: Kind,
    download: DownloadRules | None,
    *,
    limits: LimitsParams,
    **how: Any,
) -> Generator[Reading, None, None]:
    """The readings of planned inputs of a collection, in order; ``how`` are arguments of `read_images`."""
    sources = sources_of(planned, inputs, kind)
    read = fetched(sources, download, limits)
    with closing(sources), closing(read), closing(read_images(read, limits=limits, **how)) as readings:
        yield from readings


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
    scorer: Scorer,
    choice: InputChoice = NO_CHOICE,
    download: DownloadRules | None = None,
) -> Estimate:
    """List a collection, and score a uniform sample of it as a job would.

    Bytes of archives and tables are read before the time is taken: a job reads them one after the other,
    which takes far less time than jumping to those of a sample.

    Args:
        section, limits, inputs, output, choice, download: As of `job.score`; ``output`` is only left out.
        scorer: The model.

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
    in_order = [one for _, one in sorted(sample, key=lambda one: one[0])]
    read = list(fetched(sources_of(in_order, inputs, found.kind), download, limits))
    done, scores = [time.monotonic()], []
    errors: Counter[str] = Counter()
    readings = read_images(
        read,
        num_sources=len(read),
        workers=section.workers,
        window=section.batch_size,
        image_size_px=scorer.image_size_px,
        recipe=scorer.views,
        limits=limits,
        engine=scorer.engine,
    )
    with closing(readings):
        for reading in with_scores(readings, scorer, scorer.views, batch_size=1):
            if reading.error_code is not None:
                errors[reading.error_code] += 1
            elif reading.scores is not None:
                scores.append(reading.scores)
            done.append(time.monotonic())
    limit = scorer.thresholds or {}
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
