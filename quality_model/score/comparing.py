"""The comparison of two models as a step: both score one collection, and what changes is kept."""

import logging
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np

from quality_model.core import processes, storage
from quality_model.core.inference import MultiHeadQualityInference
from quality_model.core.processes import Failure, WorkerProcesses, num_workers
from quality_model.errors import ModelNotFoundError, UsageError
from quality_model.params import EngineName, LimitsParams, RegistryParams, ScoreParams
from quality_model.records import HEADS
from quality_model.release.registry import Registry
from quality_model.score import Kind, collection, output_folder, plan
from quality_model.score.comparison import Comparison, Row, Side, Thumbnails, draw_largest
from quality_model.score.reading import ResizedImage, read_sizes, sources_of
from quality_model.score.summary import nothing_scored

log = logging.getLogger(__name__)

JSON_NAME: Final = "comparison.json"
MARKDOWN_NAME: Final = "comparison.md"
TABLE_NAME: Final = "comparison.csv"
FIGURE_NAME: Final = "largest_changes.png"
_NAMES: Final = (JSON_NAME, MARKDOWN_NAME, TABLE_NAME, FIGURE_NAME)

_THUMBNAIL_PX: Final = 192
_DPI: Final = 110


def compare_models(
    section: ScoreParams,
    limits: LimitsParams,
    registry: RegistryParams,
    *,
    root: Path,
    folder: Path,
    model: str,
    against: str,
    output: Path,
    num_thumbnails: int = 12,
    kind: Kind | None = None,
    image_column: str | None = None,
    key_column: str | None = None,
) -> Comparison:
    """Score a folder with two models and keep what would change if one took the other's place.

    Images are read as `score` reads them: in worker processes, with a time limit. One that cannot be
    read is a row with its error code. Where the new model is a version of
    the registry, the comparison is attached to it and to its run.

    Args:
        section: Batch size, workers, device and engine, which is the same for both.
        limits: What an image may be.
        registry: Names the registered model.
        root: The project folder, whose registry a reference means.
        folder: What `score` would take: images, also in folders of their own, Parquet files or
            tar shards.
        model: The new model: a registry reference, or a folder or file of weights.
        against: The old one.
        output: Folder for comparison.json, comparison.md, comparison.csv and largest_changes.png.
        num_thumbnails: Images that are shown.
        kind, image_column, key_column: What to score, if the folder leaves a choice (see
            `collection.survey`).

    Raises:
        UsageError: It holds nothing to score, or ``output`` holds other files.
        InputErrorsAboveLimit: No image could be scored: the comparison is written, not attached.
        CorruptError: A Parquet file cannot be read.
        ModelNotFoundError, CheckpointError: A model cannot be had.
        RegistryError: The registry does not answer.
        StorageError: The result could not be written.
    """
    processes.end_if_imported_again()
    found = collection.survey(folder, output, kind=kind, image_column=image_column, key_column=key_column)
    if others := output_folder.foreign(output, known=(*_NAMES, storage.MARKER_NAME)):
        raise UsageError(
            f"{output} is not empty and holds no comparison: {', '.join(others[:3])}.",
            "Choose another output folder.",
        )
    inputs = list(plan.list_inputs(folder, output, found, limits))

    def load(reference: str | Path, engine: EngineName | None) -> MultiHeadQualityInference:
        return MultiHeadQualityInference(
            reference,
            section.device,
            limits,
            root=root,
            registry=registry,
            engine=engine,
            batch_size=section.batch_size,
        )

    new = load(model, None if section.engine == "auto" else section.engine)
    old = load(against, new.engine_name)  # of what two engines differ by, no flag changes
    thumbnails = Thumbnails(num_thumbnails)
    count = num_workers(section.workers, len(inputs))
    sizes_px = {old.image_size_px, new.image_size_px}
    workers = WorkerProcesses(count, window=2 * section.batch_size + 2 * count, timeout_s=limits.max_seconds)
    work = partial(read_sizes, sizes_px=sizes_px, thumbnail_px=_THUMBNAIL_PX, limits=limits)
    with (
        closing(sources_of(inputs, found.base, found.kind)) as sources,
        closing(workers.run(work, sources)) as outcomes,
    ):
        read = (
            ResizedImage(reason=outcome.kind, detail=outcome.detail)
            if isinstance(outcome, Failure)
            else outcome
            for outcome in outcomes
        )
        keyed = zip((planned.key for planned in inputs), read, strict=True)
        rows = list(_rows(keyed, old, new, section.batch_size, thumbnails, len(inputs)))
    comparison = Comparison(folder.name or str(folder), _side(old), _side(new), rows)
    _write(comparison, thumbnails, output)
    if not comparison.scored:
        raise nothing_scored(comparison.summary()["reasons"], f"The column detail in {output / TABLE_NAME}")
    _attach(registry, root, comparison, output)
    return comparison


def _rows(
    images: Iterator[tuple[str, ResizedImage]],
    old: MultiHeadQualityInference,
    new: MultiHeadQualityInference,
    batch_size: int,
    thumbnails: Thumbnails,
    total: int,
) -> Iterator[Row]:
    """A row for each image, in order; holds one batch of pixels at a time."""
    from tqdm import tqdm

    with tqdm(total=total, unit="image", disable=not sys.stderr.isatty()) as bar:
        while batch := list(islice(images, batch_size)):
            good = [image for _, image in batch if image.reason is None]
            pairs = iter(zip(_scores(old, good), _scores(new, good), strict=True))
            for key, image in batch:
                if image.thumbnail is None:
                    yield Row(key, reason=image.reason, detail=image.detail)
                    continue
                row = Row(key, *next(pairs))
                thumbnails.offer(row, image.thumbnail)
                yield row
            bar.update(len(batch))


def _scores(model: MultiHeadQualityInference, images: list[ResizedImage]) -> list[dict[Any, float]]:
    if not images:
        return []
    scores = model.score_pixels(np.stack([image.sizes[model.image_size_px] for image in images]))
    return [dict(zip(HEADS, map(float, row), strict=True)) for row in scores]


def _side(model: MultiHeadQualityInference) -> Side:
    source = model.source
    return Side(
        name=source.name,
        version=source.version,
        run_id=source.run_id,
        sha256=source.sha256,
        image_size_px=model.image_size_px,
        thresholds=model.thresholds,
    )


def _write(comparison: Comparison, thumbnails: Thumbnails, output: Path) -> None:
    storage.unseal(output)
    storage.write_json(output / JSON_NAME, comparison.to_dict(thumbnails.count))
    storage.write_text(output / MARKDOWN_NAME, comparison.markdown(FIGURE_NAME))
    storage.write_text(output / TABLE_NAME, comparison.csv())
    with storage.staged(output / FIGURE_NAME) as temporary:
        draw_largest(comparison, thumbnails).savefig(
            temporary, format="png", dpi=_DPI, metadata={"Software": None}
        )
    storage.seal(
        output,
        _NAMES,
        rows=len(comparison.rows),
        kind="comparison",
    )


def _attach(registry: RegistryParams, root: Path, comparison: Comparison, output: Path) -> None:
    """Keep the comparison with the new model's version and run, if the registry has them."""
    new = comparison.new
    if new.version is None or new.name != registry.model_name:
        return
    catalogue = Registry(root, registry)
    try:
        version = catalogue.find(new.version)
    except ModelNotFoundError:
        log.warning("Version %s is gone meanwhile; the comparison stays in %s.", new.version, output)
        return
    catalogue.attach_comparison(version, comparison.summary(), [output / name for name in _NAMES])
