"""The interface of a label profile: how clean images are degraded and what the labels mean."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from quality_model.core.pixels import Pixels
from quality_model.degrade.randomness import SampleRandomness
from quality_model.degrade.severity import SeverityScale
from quality_model.records import HEADS, Head

Facts = dict[str, str | int | float]
"""Parameters by name, as JSON values."""


@dataclass(frozen=True, slots=True)
class AppliedDegradation:
    """One degradation of one sample.

    ``parameters`` are JSON values; ``position`` counts from 0 in the order of application;
    ``label`` is the severity in [0, 1] that the final image is labelled with.
    """

    head: Head
    kind: str
    parameters: Mapping[str, str | int | float]
    position: int
    label: float


@dataclass(frozen=True, slots=True)
class DegradedSample:
    """A sample: pixels, uint8 (side, side, 3) RGB, and the degradations applied to them, in order.

    ``delivery`` lists, as JSON values, what changed the pixels and no label: variation of the scene,
    frames, recompression, sharpening, slight rescaling. ``watermark_map`` is the watermark's severity in
    each cell of 16 x 16 px, float32 (side / 16, side / 16); None without a watermark, or where the profile
    does not know it.
    """

    image: Pixels
    applied: tuple[AppliedDegradation, ...]
    delivery: Mapping[str, str | int | float] = field(default_factory=dict)
    watermark_map: npt.NDArray[np.float32] | None = None

    @property
    def labels(self) -> tuple[float, ...]:
        """Severity per head in the order of `HEADS`, each in [0, 1]; 0 where nothing was applied."""
        found = {degradation.head: degradation.label for degradation in self.applied}
        return tuple(found.get(head, 0.0) for head in HEADS)


class LookAlike(NamedTuple):
    """What looks like a degradation and is none: pixels, uint8 (side, side, 3), and its kind."""

    pixels: Pixels
    kind: str


class Profile(ABC):
    """A way to degrade images and to label the result."""

    name: ClassVar[str]
    """Its name in params.yaml."""

    kinds: ClassVar[Mapping[Head, tuple[str, ...]]]
    """Every kind that `degrade` makes."""

    shares: ClassVar[Mapping[str, int]] = {}
    """How many times as often as another kind of its head a kind is drawn, if not as often."""

    source_kinds: ClassVar[Mapping[Head, tuple[str, ...]]] = {}
    """Kinds that a clean image may already have (``softness_px`` of `keep`)."""

    label_ranges: ClassVar[Mapping[Head, tuple[float, float]]]
    """Lowest and highest label of a head that was degraded."""

    scales: ClassVar[Mapping[Head, SeverityScale]] = {}
    """The measure that each head's label is a function of; empty where labels are no such function."""

    order: ClassVar[tuple[Head, ...] | None] = None
    """The order in which degradations are always applied; None if it is random."""

    untouched_share: ClassVar[float] = 1.0 / (len(HEADS) + 1)
    """Expected share of `degrade`'s samples to which nothing is applied."""

    measures_softness: ClassVar[bool] = False
    """Whether images that are already soft are labelled as blurred."""

    has_tiles: ClassVar[bool] = False
    """Whether samples show tiles of images too, not only whole ones (`core.views`)."""

    @abstractmethod
    def keep(self, clean: Pixels, *, softness_px: float = 0.0) -> DegradedSample:
        """The sample that is the clean image itself, uint8 (side, side, 3).

        ``softness_px`` is the sigma, in pixels of a 224 px image, of the blur that it already has.
        """

    def look_alike(self, clean: Pixels, randomness: SampleRandomness) -> LookAlike | None:
        """A variation of a clean image, uint8 (side, side, 3), and its kind.

        None where the profile has no such variations.
        """
        return None

    @abstractmethod
    def degrade(
        self,
        clean: Pixels,
        randomness: SampleRandomness,
        *,
        softness_px: float = 0.0,
        scale: float | None = None,
    ) -> DegradedSample:
        """A degraded sample of the clean image, uint8 (side, side, 3), which is not changed.

        ``scale`` is the number of its pixels per pixel of a 224 px image: by default side / 224;
        for a crop, the scale of the image that it was cut from.
        """
