"""From a planned input to what decoding needs: a path, encoded bytes, or a reason."""

import hashlib
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from quality_model import images
from quality_model.engines import Engine
from quality_model.errors import PictureError
from quality_model.folders import file_name
from quality_model.images import Pixels
from quality_model.params import LimitsParams
from quality_model.scoring import plan
from quality_model.scoring.parquet_tables import RowReader
from quality_model.scoring.tar_shards import MemberReader

Source = Path | bytes | PictureError
"""A picture file to read, encoded bytes that were read, or why there are none."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What reading one input gave.

    One of ``pixels``, uint8 (S, S, 3), ``scores``, float32 (4,), or ``reason`` with ``detail``.
    ``sha256`` is that of the encoded bytes, None where they could not be read; ``width`` and
    ``height`` those of the picture, upright, in pixels.
    """

    sha256: str | None = None
    width: int | None = None
    height: int | None = None
    pixels: Pixels | None = None
    scores: npt.NDArray[np.float32] | None = None
    reason: str | None = None
    detail: str | None = None


def sources(output: Path, base: Path, kind: str, shards: Iterator[int]) -> Generator[Source, None, None]:
    """Give the source of each input of ``shards``, in order; holds one shard's plan at a time."""
    return sources_of((planned for shard in shards for planned in plan.read_shard(output, shard)), base, kind)


def sources_of(inputs: Iterable[plan.PlannedInput], base: Path, kind: str) -> Generator[Source, None, None]:
    """Give the source of each input, in order."""
    rows, members = RowReader(), MemberReader()
    try:
        for planned in inputs:
            yield _source(planned, base, kind, rows, members)
    finally:
        members.close()


def encoded_bytes(source: Source, limits: LimitsParams) -> bytes:
    """The bytes of a source.

    Raises:
        PictureError: There are none, or they cannot be read.
    """
    if isinstance(source, PictureError):
        raise source
    return images.read_bytes(source, limits) if isinstance(source, Path) else source


def read_picture(
    source: Source, *, image_size_px: int, limits: LimitsParams, engine: Engine | None
) -> Reading:
    """Read, decode and resize one input, and score it, given an engine; what goes wrong becomes a reason."""
    sha256 = None
    try:
        data = encoded_bytes(source, limits)
        sha256 = hashlib.sha256(data).hexdigest()
        pixels = images.decode(data, limits)
        height, width = pixels.shape[:2]
        pixels = images.resize(pixels, image_size_px)
    except PictureError as error:
        return Reading(sha256, reason=error.reason, detail=error.detail)
    if engine is None:
        return Reading(sha256, width, height, pixels)
    return Reading(sha256, width, height, scores=engine.scores(pixels[None])[0])


def _source(
    planned: plan.PlannedInput, base: Path, kind: str, rows: RowReader, members: MemberReader
) -> Source:
    if planned.reason is not None:
        return PictureError(planned.reason, planned.detail or "")
    if planned.file is None:
        return base / file_name(planned.key)
    file = base / file_name(planned.file)
    if kind == "parquet":
        return rows.read(file, planned.file, planned.at, planned.column or "")
    try:
        return members.read(file, planned.at, planned.num_bytes)
    except PictureError as error:
        return error
