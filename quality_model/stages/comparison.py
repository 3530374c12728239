"""The comparison of two models as a step: both score one collection, and what changes is kept."""

import logging
import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from PIL import Image

from quality_model import images, storage
from quality_model.comparison import Comparison, Row, Side, Thumbnails, draw_largest
from quality_model.errors import ModelNotFoundError, PictureError
from quality_model.images import Pixels
from quality_model.inference import MultiHeadQualityInference
from quality_model.params import EngineName, LimitsParams, RegistryParams, ScoreParams
from quality_model.records import HEADS
from quality_model.registry import Registry
from quality_model.scoring import collection, plan
from quality_model.scoring.reading import Source, encoded_bytes, sources_of

log = logging.getLogger(__name__)

JSON_NAME: Final = "comparison.json"
MARKDOWN_NAME: Final = "comparison.md"
TABLE_NAME: Final = "comparison.csv"
FIGURE_NAME: Final = "largest_changes.png"

_THUMBNAIL_PX: Final = 192
_DPI: Final = 110


class _Decoded(NamedTuple):
    """A picture at each model's size, (S, S, 3), and as a thumbnail; or why it cannot be read."""

    key: str
    sizes: dict[int, Pixels]
    thumbnail: Pixels | None
    error: PictureError | None = None


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
) -> Comparison:
    """Score a folder with two models and keep what would change if one took the other's place.

    A picture that cannot be read is a row with its reason. Where the new model is a version of
    the registry, the comparison is attached to it and to its run.

    Args:
        section: Batch size, device and engine, which is the same for both.
        limits: What a picture may be.
        registry: Names the registered model.
        root: The project folder, whose registry a reference means.
        folder: What `score` would take: pictures, also in folders of their own, Parquet files or
            tar shards.
        model: The new model: a registry reference, or a folder or file of weights.
        against: The old one.
        output: Folder for comparison.json, comparison.md, comparison.csv and largest_changes.png.
        num_thumbnails: Pictures that are shown.

    Raises:
        UsageError: It holds nothing to score.
        CorruptError: A Parquet file cannot be read.
        ModelNotFoundError, CheckpointError: A model cannot be had.
        RegistryError: The registry does not answer.
        StorageError: The result could not be written.
    """
    found = collection.survey(folder, output)
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
    with closing(sources_of(inputs, found.base, found.kind)) as sources:
        decoded = (
            _decode(planned.key, source, limits, {old.image_size_px, new.image_size_px})
            for planned, source in zip(inputs, sources, strict=True)
        )
        rows = list(_rows(decoded, old, new, section.batch_size, thumbnails, len(inputs)))
    comparison = Comparison(folder.name or str(folder), _side(old), _side(new), rows)
    _write(comparison, thumbnails, output)
    _attach(registry, root, comparison, output)
    log.info("%s", comparison.headline())
    return comparison


def _decode(key: str, source: Source, limits: LimitsParams, sizes_px: set[int]) -> _Decoded:
    try:
        pixels = images.decode(encoded_bytes(source, limits), limits)
        sizes = {size_px: images.resize(pixels, size_px) for size_px in sizes_px}
        return _Decoded(key, sizes, _thumbnail(pixels))
    except PictureError as error:
        return _Decoded(key, {}, None, error)


def _rows(
    decoded: Iterator[_Decoded],
    old: MultiHeadQualityInference,
    new: MultiHeadQualityInference,
    batch_size: int,
    thumbnails: Thumbnails,
    total: int,
) -> Iterator[Row]:
    """A row for each picture, in order; holds one batch of pixels at a time."""
    from tqdm import tqdm

    with tqdm(total=total, unit="image", disable=not sys.stderr.isatty()) as bar:
        while batch := list(islice(decoded, batch_size)):
            good = [picture for picture in batch if picture.error is None]
            pairs = iter(zip(_scores(old, good), _scores(new, good), strict=True))
            for picture in batch:
                if picture.error is not None:
                    yield Row(picture.key, reason=picture.error.reason, detail=picture.error.detail)
                    continue
                row = Row(picture.key, *next(pairs))
                assert picture.thumbnail is not None
                thumbnails.offer(row, picture.thumbnail)
                yield row
            bar.update(len(batch))


def _scores(model: MultiHeadQualityInference, pictures: list[_Decoded]) -> list[dict[Any, float]]:
    if not pictures:
        return []
    scores = model.score_pixels(np.stack([picture.sizes[model.image_size_px] for picture in pictures]))
    return [dict(zip(HEADS, map(float, row), strict=True)) for row in scores]


def _thumbnail(pixels: Pixels) -> Pixels:
    image = Image.fromarray(pixels)
    image.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    return np.array(image)


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
        [JSON_NAME, MARKDOWN_NAME, TABLE_NAME, FIGURE_NAME],
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
    names = (JSON_NAME, MARKDOWN_NAME, TABLE_NAME, FIGURE_NAME)
    catalogue.attach_comparison(version, comparison.summary(), [output / name for name in names])
