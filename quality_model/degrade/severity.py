"""What a severity means: one formula per head, the same for every kind, and the measures of colours.

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
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from quality_model.core.pixels import Pixels
from quality_model.records import Head

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
