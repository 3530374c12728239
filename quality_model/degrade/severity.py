"""What a label means: one formula of severity per head, the same for every kind; what a label profile is.

Each formula takes one physical measure of what was done to the image and maps it to [0, 1],
strictly rising up to where it reaches 1, with the same shape for every head:

    severity = log(1 + m / m0) / log(1 + m1 / m0), at most 1

It is nearly linear below ``m0`` and logarithmic above, as perceived differences grow with the
ratio of the stimuli (Fechner, Elemente der Psychophysik, 1860). ``m1`` is where an image
cannot get worse in any way that matters. The scales are choices of this project:

| head | measure m | m0 | m1 | 0.25 is at | 0.5 is at | 0.75 is at |
|---|---|---|---|---|---|---|
| blurriness | equivalent sigma of the point-spread function, px of the view | 0.5 | 8 | 0.52 | 1.6 | 3.7 |
| noise | RMS change of a channel of a pixel, grey levels of 255 | 5 | 60 | 4.5 | 13 | 29 |
| color_cast | length of the mean shift in CIELAB's a*b* plane | 10 | 40 | 5.0 | 12 | 23 |
| watermark | RMS colour difference (CIE 1976) over the image | 3 | 30 | 2.5 | 7.0 | 15 |

The watermark's measure is contrast times the root of the covered share: a watermark of colour
difference c on a share s of the image and none elsewhere has c * sqrt(s).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from quality_model.core.pixels import Pixels
from quality_model.degrade.randomness import SampleRandomness
from quality_model.records import HEADS, Head

Lab = npt.NDArray[np.float32]
"""float32 (height, width, 3): L* 0 to 100, a* and b* about -128 to 127."""


@dataclass(frozen=True, slots=True)
class SeverityScale:
    """Maps a measure to a severity in [0, 1] (see the module).

    ``measure`` names it as the manifest's parameters do, ``knee`` is m0 and ``worst`` m1.
    """

    measure: str
    knee: float
    worst: float

    def severity(self, measure: float) -> float:
        """Severity in [0, 1] of a measure of 0 or more; it rises with the measure and is 0 at 0."""
        return min(1.0, math.log1p(max(0.0, measure) / self.knee) / math.log1p(self.worst / self.knee))

    def measure_at(self, severity: float) -> float:
        """The measure that has this severity, for 0 to 1."""
        return self.knee * math.expm1(severity * math.log1p(self.worst / self.knee))


SCALES: Final[dict[Head, SeverityScale]] = {
    "color_cast": SeverityScale("shift_ab", knee=10.0, worst=40.0),
    "blurriness": SeverityScale("sigma_px", knee=0.5, worst=8.0),
    "watermark": SeverityScale("rms_difference", knee=3.0, worst=30.0),
    "noise": SeverityScale("rms_levels", knee=5.0, worst=60.0),
}


_UNIT_LEVELS: Final = np.arange(256, dtype=np.float32) / np.float32(255.0)


def to_lab(pixels: npt.NDArray[np.generic]) -> Lab:
    """sRGB, 0 to 255, (height, width, 3), to CIELAB. Computed in float32: OpenCV rounds uint8 to units."""
    if pixels.dtype == np.uint8:
        scaled = cv2.LUT(pixels.view(np.uint8), _UNIT_LEVELS)
    else:
        scaled = pixels.astype(np.float32) / np.float32(255.0)
    return np.asarray(cv2.cvtColor(scaled, cv2.COLOR_RGB2LAB))


def mean_shift_ab(before: Pixels, after: Pixels) -> float:
    """Length of the mean shift in the a*b* plane, on every third pixel of every third row."""
    shift = to_lab(after[::3, ::3])[..., 1:] - to_lab(before[::3, ::3])[..., 1:]
    return float(np.hypot(*shift.reshape(-1, 2).mean(axis=0, dtype=np.float64)))


def colour_differences(before: Lab, after: Pixels) -> npt.NDArray[np.float32]:
    """Squared colour differences CIE 1976, float32 (height, width); ``before`` is in CIELAB already."""
    difference = to_lab(after)
    difference -= before
    lightness, a, b = np.moveaxis(np.square(difference, out=difference), 2, 0)
    # The same sum as sum(axis=2), which is slow along so short an axis.
    return np.asarray(lightness + a + b)


def rms_of(squares: npt.NDArray[np.float32]) -> float:
    """The root of the mean of squares."""
    return float(np.sqrt(squares.mean(dtype=np.float64)))


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
