"""From a planned input to what decoding needs: a path, encoded bytes, or a reason."""

import hashlib
from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from quality_model import images
from quality_model.engines import Engine
from quality_model.errors import PictureError
from quality_model.images import Pixels
from quality_model.params import LimitsParams
from quality_model.scoring import plan
from quality_model.scoring.collection import file_name
from quality_model.scoring.parquet_tables import RowReader
from quality_model.scoring.tar_shards import MemberReader

Source = Path | bytes | PictureError
"""A picture file to read, encoded bytes that were read, or why there are none."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What reading one input gave.

    One of ``pixels``, uint8 (S, S, 3), ``scores``, float32 (4,), or ``reason`` with ``detail``.
    ``sha256`` and ``size_bytes`` are those of the encoded bytes, None where they could not be read;
    ``width`` and ``height`` those of the picture, upright, in pixels; ``image_format`` is Pillow's
    name of the format that was decoded.
    """

    sha256: str | None = None
    width: int | None = None
    height: int | None = None
    pixels: Pixels | None = None
    scores: npt.NDArray[np.float32] | None = None
    reason: str | None = None
    detail: str | None = None
    size_bytes: int | None = None
    image_format: str | None = None


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
    sha256, size_bytes = None, None
    try:
        data = encoded_bytes(source, limits)
        sha256, size_bytes = hashlib.sha256(data).hexdigest(), len(data)
        pixels = images.decode(data, limits)
        image_format = images.format_name(data, limits)
        height, width = pixels.shape[:2]
        pixels = images.resize(pixels, image_size_px)
    except PictureError as error:
        return Reading(sha256, reason=error.reason, detail=error.detail, size_bytes=size_bytes)
    read = Reading(sha256, width, height, pixels, size_bytes=size_bytes, image_format=image_format)
    return read if engine is None else replace(read, pixels=None, scores=engine.scores(pixels[None])[0])


def _source(
    planned: plan.PlannedInput, base: Path, kind: str, rows: RowReader, members: MemberReader
) -> Source:
    if planned.reason is not None:
        return PictureError(planned.reason, planned.detail or "")
    if planned.file is None:
        return base / file_name(planned.key)
    file = base / file_name(planned.file)
    if kind == "parquet":
        return rows.read(file, planned.file, planned.at)
    try:
        return members.read(file, planned.at, planned.num_bytes)
    except PictureError as error:
        return error
