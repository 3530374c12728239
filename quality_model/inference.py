"""Scoring pictures with a trained model, from Python.

from quality_model import MultiHeadQualityInference

scores = MultiHeadQualityInference().predict("holiday.jpg")
scores.blurriness, scores.overall, scores.flags
"""

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from quality_model import images, pretrained
from quality_model.checkpoints import load_model
from quality_model.device import choose_device
from quality_model.engines import Engine
from quality_model.engines.choice import choose_engine
from quality_model.errors import CheckpointError, ModelNotFoundError, PictureError, UsageError
from quality_model.images import Pixels
from quality_model.params import WITHOUT_PROJECT, EngineName, LimitsParams, RegistryParams, load_params
from quality_model.paths import ProjectPaths
from quality_model.records import HEADS, Head, QualityScores, flagged_heads, overall_score

if TYPE_CHECKING:
    from quality_model.registry import ResolvedModel

Picture = Image.Image | npt.NDArray[np.uint8] | str | Path
"""A PIL image; uint8 (height, width, 3) RGB or (height, width) grey; or the path of a picture."""

SAFE_LIMITS: Final = WITHOUT_PROJECT.limits
"""Limits for callers without a params.yaml."""

AUTO: Final = "auto"
"""Names the champion if there is one, else the model that ships inside the package."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model came from.

    ``version`` and ``run_id`` are None for a file that no registry knows; the shipped model's
    are those that it was shipped with. ``sha256`` is that of its weights.
    """

    name: str
    version: str | None
    run_id: str | None
    sha256: str
    path: Path


class MultiHeadQualityInference:
    """A trained model that scores pictures.

    Args:
        model_path: ``auto``: the registry's champion, or the model that ships inside the
            package while there is none; ``pretrained``: the latter; a folder or file of weights
            (see `checkpoints.load_model`); or a registry reference: ``champion``, ``candidate``,
            a version number, ``models:/name@alias`` or ``models:/name/3``. A path that exists
            wins over a reference of the same name, but not over auto and pretrained.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        limits: What a picture file may be before it is refused; by default `SAFE_LIMITS`.
        root: The project folder whose registry a reference means; by default the current one.
        registry: Registry parameters; by default those of the project's params.yaml.
        engine: What runs the network; by default the fastest that gives its scores (`engines`).
        batch_size: Pictures that will be scored at once on an accelerator, as which engine is
            fastest there may hang on it.

    Raises:
        CheckpointError: The weights do not load.
        ModelNotFoundError: The reference names nothing, or no weights ship with this installation.
        RegistryError: The registry does not answer.
        DeviceUnavailableError: The device is not here.
    """

    def __init__(
        self,
        model_path: str | Path = AUTO,
        device: str = "auto",
        limits: LimitsParams | None = None,
        *,
        root: Path | None = None,
        registry: RegistryParams | None = None,
        engine: EngineName | None = None,
        batch_size: int = WITHOUT_PROJECT.score.batch_size,
    ) -> None:
        self.device = choose_device(device)
        self._limits = limits or SAFE_LIMITS
        found = _find(model_path, root or Path(), registry)
        loaded = load_model(found.path, self.device)
        self._engine = choose_engine(
            loaded.model, self.device, loaded.image_size_px, engine, batch_size=batch_size
        )
        self.image_size_px: int = loaded.image_size_px
        """side to which pictures are resized"""
        self.facts: dict[str, Any] = loaded.facts
        """what training kept beside the weights; empty for a bare file"""
        self.thresholds: dict[Head, float] | None = loaded.thresholds
        """scores above which a head flags a picture; None if the model came without"""
        self.source = replace(
            found,
            version=found.version or loaded.facts.get("version"),
            run_id=found.run_id or loaded.facts.get("run_id"),
            sha256=loaded.sha256,
        )

    @property
    def engine_name(self) -> EngineName:
        """What runs the network."""
        return self._engine.name

    @property
    def engine(self) -> Engine | None:
        """What worker processes can score with; None where only this process can."""
        return self._engine if self._engine.is_portable else None

    def predict(self, image: Picture) -> QualityScores:
        """Score one picture.

        Raises:
            PictureError: It cannot be read.
        """
        return self._to_scores(self.score_pixels(self._read(image)[None]))[0]

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
            scores += self._to_scores(self.score_pixels(np.stack(batch)))
        return scores

    def score_pixels(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Score pictures that are decoded and resized; on an accelerator in one forward pass.

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
        scores = self._engine.scores(pixels)
        if not np.isfinite(scores).all():
            raise CheckpointError(
                f"The model {self.source.path} gives scores that are not finite numbers.",
                "Use another checkpoint, or train the model again.",
            )
        return scores

    def _to_scores(self, scores: npt.NDArray[np.float32]) -> list[QualityScores]:
        rows = [dict(zip(HEADS, map(float, row), strict=True)) for row in scores]
        return [
            QualityScores(**row, overall=overall_score(row), flags=flagged_heads(row, self.thresholds))
            for row in rows
        ]

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


def _find(reference: str | Path, root: Path, registry: RegistryParams | None) -> ModelSource:
    """What the reference names; the hash of its weights is known once they are loaded."""
    if reference == AUTO:
        return _champion_or_shipped(root, registry)
    if reference == pretrained.NAME:
        return _shipped()
    path = Path(reference)
    text = os.fspath(reference)
    if path.exists() or _is_a_path(text):
        return ModelSource(path.name, None, None, "", path)
    from quality_model.registry import resolve

    return _registered(resolve(text, root=root, section=registry))


def _champion_or_shipped(root: Path, registry: RegistryParams | None) -> ModelSource:
    """The champion; the shipped model only where none is registered, never where one does not load.

    A folder without params.yaml is no project, so nothing there says whose champion is meant.
    """
    from quality_model.registry import Registry
    from quality_model.registry.connection import database_exists

    if registry is None and (file := ProjectPaths(root).params).exists():
        registry = load_params(file).registry
    if registry is not None and database_exists(root):  # else MLflow is not even imported
        versions = Registry(root, registry)
        champion = versions.champion()
        if champion is not None:
            logger.info("The champion scores: version %s of %s.", champion.version, champion.name)
            return _registered(versions.resolve(champion.version))
    source = _shipped("No champion is registered, and ")
    logger.info("No champion is registered: the model that ships with this package scores.")
    return source


def _shipped(before: str = "") -> ModelSource:
    folder = pretrained.pretrained_folder()
    if folder is None:
        problem = f"{before}no weights ship with this installation."
        raise ModelNotFoundError(
            problem[0].upper() + problem[1:],
            "Train and promote a model, or name one: a version of the registry or a checkpoint file.",
        )
    return ModelSource(pretrained.NAME, None, None, "", folder)


def _registered(resolved: "ResolvedModel") -> ModelSource:
    return ModelSource(resolved.name, resolved.version, resolved.run_id, "", resolved.path)


def _is_a_path(reference: str) -> bool:
    """Whether this can only be meant as a path, so that a missing file is called a missing file."""
    if reference.startswith("models:/"):
        return False
    return os.sep in reference or reference.endswith((".safetensors", ".pt", ".pth"))
