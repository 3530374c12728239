"""Scoring images with a trained model, from Python.

>>> import numpy as np
>>> from quality_model import Scorer
>>> scorer = Scorer("bundled")
>>> noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
>>> "noise" in scorer.predict(noise).flags
True
>>> grey, missing = scorer.predict_batch([np.full((64, 96), 128), "missing.jpg"], errors="return")
>>> grey.noise < 0.2, missing.reason
(True, 'missing')
"""

import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeAlias, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from quality_model.core import decoding
from quality_model.core import views as views_module
from quality_model.core.decoding import Pixels
from quality_model.core.engines import Engine, choose_device, choose_engine
from quality_model.core.model_files import StoredModel, read_model
from quality_model.core.models import AUTO, FoundModel, find_model
from quality_model.core.provenance import Intervals, ModelFacts
from quality_model.core.stores import is_store_address, store_path
from quality_model.core.views import SQUEEZED, ViewRecipe
from quality_model.errors import CheckpointError, ImageError, UsageError
from quality_model.params import WITHOUT_PROJECT, EngineName, LimitsParams, RegistryParams, ScoreParams
from quality_model.paths import user_path
from quality_model.records import (
    FIRST_SCALE_VERSION,
    HEADS,
    RAW_SCALE,
    Head,
    ModelRef,
    QualityScores,
    flagged_heads,
    overall_score,
)

if TYPE_CHECKING:
    import torch

ImageInput: TypeAlias = "Image.Image | npt.NDArray[Any] | torch.Tensor | bytes | str | Path"
"""A PIL image; uint8 (height, width, 3) RGB or (height, width) grey; a tensor, (3, height, width) or
(1, height, width), as torchvision makes them; an encoded image; or the path of one.

Arrays and tensors of other integers or floats follow `decoding.from_array`.
"""

SAFE_LIMITS: Final = WITHOUT_PROJECT.limits
"""Limits for callers without a params.yaml."""

logger = logging.getLogger(__name__)


class Scorer:
    """A trained model that scores images.

    Args:
        model_path: ``auto``: the registry's champion, or the model that is bundled with the
            package while there is none; ``bundled``: the latter; ``bundled-standard``: the bundled one of
            the original architecture; a folder or file of weights (see `model_files.read_model`); or a
            registry reference: ``champion``, ``candidate``, a version number, ``models:/name@alias`` or
            ``models:/name/3``. A path that exists wins over a reference of the same name, but not over
            auto and bundled. A `models.FoundModel` was found already.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        limits: What an image file may be before it is refused; by default `SAFE_LIMITS`.
        root: The project folder whose registry a reference means; by default the current one.
        registry: Registry parameters; by default those of the project's params.yaml.
        engine: What runs the network; by default the rule of `engines.choose_engine` decides.
        views: ``auto``: those that the model was measured with; ``whole``: the image squeezed to a square.
        thresholds: By head, the score in [0, 1] above which it flags, in place of the model's own.
        raw: Leave out the model's map to the scale of the champion before it (`core.scale`), if it has one.
            Its own thresholds then flag the same images.

    Attributes:
        source: Which model it is.
        path: Its folder or file.
        limits: What an image file may be.
        device: ``cpu``, ``cuda`` or ``mps``.
        image_size_px: Side of the square that whole images are resized to, or whose area they get.
        views: Which views of an image are scored, and on which scale (`core.views`).
        scale_version: Of what the scores mean (`records.SCALE_VERSION`); raw ones have another.
        facts: What training kept beside the weights; all None for a bare file.

    Raises:
        CheckpointError: The weights do not load.
        ModelNotFoundError: The reference names nothing, or no weights are bundled with this installation.
        RegistryError: The registry does not answer.
        DeviceUnavailableError: The device is not here.
    """

    source: ModelRef
    path: Path
    limits: LimitsParams
    device: str
    image_size_px: int
    views: ViewRecipe
    facts: ModelFacts
    scale_version: str

    def __init__(
        self,
        model_path: str | Path | FoundModel = AUTO,
        device: str = "auto",
        limits: LimitsParams | None = None,
        *,
        root: Path | None = None,
        registry: RegistryParams | None = None,
        engine: EngineName | None = None,
        views: Literal["auto", "whole"] = "auto",
        thresholds: Mapping[Head, float] | None = None,
        raw: bool = False,
    ) -> None:
        self.device = choose_device(device)
        self.limits = limits or SAFE_LIMITS
        self.source, self.path, stored = open_model(model_path, root or Path(), registry)
        self._engine = choose_engine(stored, self.device, engine)
        self.image_size_px = stored.image_size_px
        self._squeezes_another = views == "whole" and not stored.views.squeezed
        recipe = SQUEEZED.with_scale(stored.views.scale) if self._squeezes_another else stored.views
        self._undone = stored.views.scale if raw else None
        self.views = recipe.with_scale(None) if raw else recipe
        self.facts = stored.facts
        version = stored.facts.scale_version or FIRST_SCALE_VERSION
        self.scale_version = version + RAW_SCALE if self._undone else version
        self._own_thresholds = dict(thresholds or {})

    @classmethod
    def from_params(
        cls,
        section: ScoreParams,
        limits: LimitsParams,
        *,
        root: Path | None = None,
        registry: RegistryParams | None = None,
        engine: EngineName | None = None,
        found: FoundModel | None = None,
    ) -> Self:
        """The model that ``section`` names, or that was found; ``engine`` is used where it says ``auto``."""
        return cls(
            found or section.model,
            section.device,
            limits,
            root=root,
            registry=registry,
            engine=engine if section.engine == "auto" else section.engine,
            views=section.views,
            thresholds=section.thresholds,
            raw=section.raw,
        )

    @property
    def thresholds(self) -> dict[Head, float] | None:
        """Scores above which a head flags an image; None if the model came without, for these views."""
        known = self.facts.thresholds_whole if self._squeezes_another else self.facts.thresholds
        if known and self._undone:
            known = {head: float(self._undone.heads[head].undone(score)) for head, score in known.items()}
        return {**(known or {}), **self._own_thresholds} or None

    @property
    def intervals(self) -> Intervals | None:
        """Around scores of these views, on the model's scale; None if it came without, or scores are raw."""
        return None if self._squeezes_another or self._undone else self.facts.intervals

    @property
    def engine_name(self) -> EngineName:
        """What runs the network."""
        return self._engine.name

    @property
    def engine(self) -> Engine | None:
        """What worker processes can score with; None where only this process can."""
        return self._engine if self._engine.is_portable else None

    def predict(self, image: ImageInput) -> QualityScores:
        """Score one image.

        Raises:
            ImageError: It cannot be read.
        """
        return self.predict_views([self._read(image)])[0]

    @overload
    def predict_batch(
        self, images: Iterable[ImageInput], *, batch_size: int = ..., errors: Literal["raise"] = ...
    ) -> list[QualityScores]: ...

    @overload
    def predict_batch(
        self, images: Iterable[ImageInput], *, batch_size: int = ..., errors: Literal["return"]
    ) -> list[QualityScores | ImageError]: ...

    def predict_batch(
        self,
        images: Iterable[ImageInput],
        *,
        batch_size: int = 16,
        errors: Literal["raise", "return"] = "raise",
    ) -> list[QualityScores] | list[QualityScores | ImageError]:
        """Score images in their order, ``batch_size`` in memory at a time.

        Args:
            images: Any iterable of them.
            batch_size: At least 1.
            errors: ``return``: in the place of an image that cannot be read is the ImageError.

        Raises:
            ImageError: One cannot be read; the detail starts with its position, from 0.
            UsageError: ``batch_size`` is below 1, or there is no such way with errors.
        """
        if batch_size < 1:
            raise UsageError(f"batch_size is {batch_size}.", "Give at least 1.")
        if errors not in ("raise", "return"):
            raise UsageError(f"errors is {errors!r}.", "Give 'raise' or 'return'.")
        results: list[QualityScores | ImageError] = []
        remaining = iter(images)
        while batch := [self._try(image) for image in islice(remaining, batch_size)]:
            for position, view in enumerate(batch, start=len(results)):
                if isinstance(view, ImageError) and errors == "raise":
                    raise ImageError(view.reason, f"image {position}: {view.detail}")
            readable = [views for views in batch if not isinstance(views, ImageError)]
            scores = iter(self.predict_views(readable) if readable else [])
            results += [views if isinstance(views, ImageError) else next(scores) for views in batch]
        return results

    def predict_views(self, images: Sequence[Sequence[Pixels]]) -> list[QualityScores]:
        """Score images that were read already, by their views; see `score_views`."""
        return self.as_scores(self.score_views(images))

    def score_views(self, images: Sequence[Sequence[Pixels]]) -> npt.NDArray[np.float32]:
        """Score images by their views (`views.cut`), which this model's recipe aggregates.

        Args:
            images: Of each image its views, uint8 (height, width, 3), the whole one first.

        Returns:
            float32 (N, 4) in [0, 1] (0 absent, 1 severe), in the order of `records.HEADS`.

        Raises:
            CheckpointError: A score is not a finite number.
        """
        return views_module.score_images(self.score_pixels, images, self.views)

    def score_pixels(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Score views of one shape, each by itself; on an accelerator in one forward pass.

        Args:
            pixels: uint8 (N, H, W, 3) RGB, as `views.cut` makes them; squares of ``image_size_px`` where
                the image is squeezed to one.

        Returns:
            float32 (N, 4) in [0, 1] (0 absent, 1 severe), in the order of `records.HEADS`.

        Raises:
            ImageError: ``bad_array``: another shape or dtype.
            CheckpointError: A score is not a finite number.
        """
        size = self.image_size_px
        shape = (size, size, 3) if self.views.squeezed else (*pixels.shape[1:3], 3)
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != shape:
            sides = f"{size}, {size}" if self.views.squeezed else "height, width"
            raise ImageError(
                "bad_array", f"dtype {pixels.dtype}, shape {pixels.shape}; expected uint8 (N, {sides}, 3)"
            )
        scores = self._engine.scores(pixels)
        if not np.isfinite(scores).all():
            raise CheckpointError(
                f"The model {self.path} gives scores that are not finite numbers.",
                "Use another checkpoint, or train the model again.",
            )
        return scores

    def as_scores(self, scores: npt.NDArray[np.float32]) -> list[QualityScores]:
        """Scores of `score_views` as records, with the overall score and this model's flags."""
        rows = [dict(zip(HEADS, map(float, row), strict=True)) for row in scores]
        return [
            QualityScores(**row, overall=overall_score(row), flags=flagged_heads(row, self.thresholds))
            for row in rows
        ]

    def _try(self, image: ImageInput) -> list[Pixels] | ImageError:
        try:
            return self._read(image)
        except ImageError as error:
            return error

    def _read(self, image: ImageInput) -> list[Pixels]:
        """The views of an image."""
        if isinstance(image, Image.Image):
            pixels = decoding.from_image(image)
        elif isinstance(image, np.ndarray):
            pixels = decoding.from_array(image)
        elif isinstance(image, bytes | str | Path):
            data = image if isinstance(image, bytes) else decoding.read_bytes(_path_of(image), self.limits)
            pixels = decoding.decode(data, self.limits, shortest_px=self.views.decoded_px)
        elif "torch" in sys.modules and isinstance(image, sys.modules["torch"].Tensor):
            pixels = decoding.from_array(_channels_last(image.detach().cpu().numpy()))
        else:
            raise UsageError(
                f"An image cannot be a {type(image).__name__}.",
                "Give a PIL image, an array of pixels, a tensor, the bytes of a file, or a path.",
            )
        return views_module.cut(pixels, self.image_size_px, self.views).all


def _path_of(image: str | Path) -> Path:
    return store_path(str(image)) if is_store_address(str(image)) else user_path(image)


def open_model(
    reference: str | Path | FoundModel, root: Path, registry: RegistryParams | None = None
) -> tuple[ModelRef, Path, StoredModel]:
    """The model that a name means (`Scorer`): which it is, its folder or file, and its content.

    Raises:
        CheckpointError, ModelNotFoundError, RegistryError: As of `Scorer`.
    """
    found = reference if isinstance(reference, FoundModel) else find_model(reference, root, registry)
    if found.decided:
        logger.info(found.decided)
    stored = read_model(found.path)
    ref = replace(
        found.ref,
        version=found.ref.version or stored.facts.version,
        run_id=found.ref.run_id or stored.facts.run_id,
        sha256=stored.sha256,
    )
    return ref, found.path, stored


def _channels_last(planes: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(3, height, width) as (height, width, 3), (1, height, width) as (height, width)."""
    if planes.ndim == 3 and planes.shape[0] in (1, 3):
        return planes[0] if planes.shape[0] == 1 else np.ascontiguousarray(planes.transpose(1, 2, 0))
    raise ImageError("bad_array", f"a tensor of shape {planes.shape}; expected (3, height, width)")


MultiHeadQualityInference = Scorer
"""The name that the original design gave it."""
