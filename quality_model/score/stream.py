"""A collection read input by input, and its scores for a loop in Python, without a result on disk."""

import sys
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quality_model.core import processes
from quality_model.core.measures import chosen_sets
from quality_model.core.predict import Scorer
from quality_model.errors import ImageError, UsageError
from quality_model.params import LimitsParams, MeasureChoice
from quality_model.records import QualityScores
from quality_model.score.inputs import (
    InputChoice,
    Kind,
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
from quality_model.score.selection import Selection


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
    not grow with the collection, except by eight bytes an input of lists and of key columns.
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
