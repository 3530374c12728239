"""Scoring pictures with a trained model, from Python.

from quality_model import MultiHeadQualityInference

scores = MultiHeadQualityInference("champion").predict("holiday.jpg")
scores.blurriness, scores.overall
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from quality_model import images
from quality_model.checkpoints import load_model
from quality_model.device import choose_device
from quality_model.errors import CheckpointError, PictureError, UsageError
from quality_model.images import Pixels
from quality_model.model import to_model_input
from quality_model.params import LimitsParams
from quality_model.records import HEADS, QualityScores, overall_score

Picture = Image.Image | npt.NDArray[np.uint8] | str | Path
"""A PIL image; uint8 (height, width, 3) RGB or (height, width) grey; or the path of a picture."""

SAFE_LIMITS: Final = LimitsParams(
    max_pixels=100_000_000,
    max_bytes=100_000_000,
    formats=("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO", "PPM"),
)
"""Limits for callers without a params.yaml; a test holds them equal to the committed ones."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model came from.

    ``version`` and ``run_id`` are None for a file that no registry knows; ``sha256`` is that
    of its weights.
    """

    name: str
    version: str | None
    run_id: str | None
    sha256: str
    path: Path


class MultiHeadQualityInference:
    """A trained model that scores pictures, in float32.

    Args:
        model_path: A folder or file of weights (see `checkpoints.load_model`), or a registry
            reference: ``champion``, ``candidate``, a version number, ``models:/name@alias``
            or ``models:/name/3``. A path that exists wins over a reference of the same name.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        limits: What a picture file may be before it is refused; by default `SAFE_LIMITS`.
        root: The project folder whose registry a reference means; by default the current one.

    Raises:
        CheckpointError: The weights do not load.
        ModelNotFoundError: The reference names nothing.
        RegistryError: The registry does not answer.
        DeviceUnavailableError: The device is not here.
    """

    def __init__(
        self,
        model_path: str | Path = "champion",
        device: str = "auto",
        limits: LimitsParams | None = None,
        *,
        root: Path | None = None,
    ) -> None:
        self.device = choose_device(device)
        self._limits = limits or SAFE_LIMITS
        path, name, version, run_id = _find(model_path, root)
        loaded = load_model(path, self.device)
        self._model = loaded.model
        self.image_size_px: int = loaded.image_size_px
        """side to which pictures are resized"""
        self.facts: dict[str, Any] = loaded.facts
        """what training kept beside the weights; empty for a bare file"""
        self.source = ModelSource(name, version, run_id, loaded.sha256, path)

    def predict(self, image: Picture) -> QualityScores:
        """Score one picture.

        Raises:
            PictureError: It cannot be read.
        """
        return _to_scores(self.score_pixels(self._read(image)[None]))[0]

    def predict_batch(self, pictures: Iterable[Picture], *, batch_size: int = 16) -> list[QualityScores]:
        """Score pictures in their order, ``batch_size`` in memory at a time.

        Raises:
            PictureError: One cannot be read; the detail starts with its position, from 0.
            UsageError: ``batch_size`` is below 1.
        """
        if batch_size < 1:
            raise UsageError(f"batch_size is {batch_size}.", "Give at least 1.")
        scores: list[QualityScores] = []
        remaining = self._read_all(pictures)
        while batch := list(islice(remaining, batch_size)):
            scores += _to_scores(self.score_pixels(np.stack(batch)))
        return scores

    def score_pixels(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Score pictures that are decoded and resized, in one forward pass.

        Args:
            pixels: uint8 (N, S, S, 3) RGB, S being ``image_size_px``.

        Returns:
            float32 (N, 4) in [0, 1] (0 absent, 1 severe), in the order of `records.HEADS`.

        Raises:
            PictureError: ``bad_array``: another shape or dtype.
            CheckpointError: A score is not a finite number.
        """
        size = self.image_size_px
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (size, size, 3):
            raise PictureError(
                "bad_array",
                f"dtype {pixels.dtype}, shape {pixels.shape}; expected uint8 (N, {size}, {size}, 3)",
            )
        if len(pixels) == 0:
            return np.empty((0, len(HEADS)), dtype=np.float32)
        with torch.inference_mode():
            output = self._model(to_model_input(pixels, self.device))["all_scores"]
        scores: npt.NDArray[np.float32] = output.float().cpu().numpy()
        if not np.isfinite(scores).all():
            raise CheckpointError(
                f"The model {self.source.path} gives scores that are not finite numbers.",
                "Use another checkpoint, or train the model again.",
            )
        return scores

    def _read_all(self, pictures: Iterable[Picture]) -> Iterator[Pixels]:
        for position, picture in enumerate(pictures):
            try:
                yield self._read(picture)
            except PictureError as error:
                raise PictureError(error.reason, f"picture {position}: {error.detail}") from None

    def _read(self, image: Picture) -> Pixels:
        if isinstance(image, Image.Image):
            pixels = images.from_image(image)
        elif isinstance(image, np.ndarray):
            pixels = images.from_array(image)
        elif isinstance(image, str | Path):
            pixels = images.decode(images.read_bytes(Path(image), self._limits), self._limits)
        else:
            raise UsageError(
                f"A picture cannot be a {type(image).__name__}.",
                "Give a PIL image, a uint8 array of pixels, or a path.",
            )
        return images.resize(pixels, self.image_size_px)


def _find(reference: str | Path, root: Path | None) -> tuple[Path, str, str | None, str | None]:
    """Path, name, version and run id of what the reference names."""
    path = Path(reference)
    text = os.fspath(reference)
    if path.exists() or _is_a_path(text):
        return path, path.name, None, None
    from quality_model.registry import resolve

    resolved = resolve(text, root=root)
    return resolved.path, resolved.name, resolved.version, resolved.run_id


def _is_a_path(reference: str) -> bool:
    """Whether this can only be meant as a path, so that a missing file is called a missing file."""
    if reference.startswith("models:/"):
        return False
    return os.sep in reference or reference.endswith((".safetensors", ".pt", ".pth"))


def _to_scores(scores: npt.NDArray[np.float32]) -> list[QualityScores]:
    rows = [dict(zip(HEADS, map(float, row), strict=True)) for row in scores]
    return [QualityScores(**row, overall=overall_score(row)) for row in rows]
