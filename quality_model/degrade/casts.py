"""Colour casts: channel gains in linear light, from a wrong white point; tints, water, haze, age and toning.

Most are tables for `recolour`, uint8 (256, 3): the new level of each level of each channel.

An image balanced for one illuminant and lit by another has each linear channel multiplied
by a gain. Along the daylight axis the gains follow the Planckian locus (Krystek, An algorithm
to calculate correlated colour temperature, 1985); across it (green to magenta) they leave it
at a right angle in the CIE 1960 uv plane.
"""

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from quality_model.core.pixels import Pixels
from quality_model.degrade.severity import to_lab

Floats = npt.NDArray[np.float64]
Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255 each."""

TINTS: Final[dict[str, Colour]] = {
    "red": (255, 200, 200),
    "green": (200, 255, 200),
    "blue": (200, 200, 255),
    "yellow": (255, 255, 200),
    "magenta": (255, 200, 255),
    "cyan": (200, 255, 255),
    "warm": (255, 220, 180),
    "cool": (180, 200, 255),
}

STEPS: Final = 33
"""Points of a path from no cast to the strongest one."""

STRONGEST_MIREDS: Final = 330.0
"""How far the light is from the 6,504 K of the balance, in reciprocal megakelvins: some 2,070 K."""

STRONGEST_DUV: Final = 0.06
"""How far a tint goes from the locus in the uv plane."""

STRONGEST_LOG_GAIN: Final = 0.9
_D65_MIREDS: Final = 1e6 / 6504.0

LINEAR_FROM_XYZ: Final = np.array(
    [
        [3.2404542, -1.5371385, -0.4985314],
        [-0.9692660, 1.8760108, 0.0415560],
        [0.0556434, -0.2040259, 1.0572252],
    ]
)
"""XYZ to linear sRGB (IEC 61966-2-1)."""

_LUMA: Final = np.array([0.299, 0.587, 0.114])
"""Of the encoded channels (ITU-R BT.601)."""

_LUMINANCE: Final = np.array([0.2126, 0.7152, 0.0722])
"""Of the linear channels (ITU-R BT.709)."""


def blend_table(tint: Colour, strength: float) -> Pixels:
    """Blends with a plain colour: ``level * (1 - strength) + tint * strength``, rounded to nearest."""
    mixed = np.arange(256.0)[:, None] * (1.0 - strength) + np.array(tint, dtype=np.float64) * strength
    return np.floor(mixed + 0.5).astype(np.uint8)


def recolour(pixels: Pixels, table: Pixels) -> Pixels:
    """Replace each level of each channel by its entry in ``table``, uint8 (256, 3)."""
    return np.asarray(cv2.LUT(pixels, table[None]), dtype=np.uint8)


def daylight_path(direction: str) -> Floats:
    """Gains from none to the strongest cast along the daylight axis, (STEPS, 3).

    ``warm``: balanced for daylight, lit by lamps; ``cool``: the other way round.
    """
    gains = _gains(_locus(_D65_MIREDS + np.linspace(0.0, STRONGEST_MIREDS, STEPS)))
    return gains if direction == "warm" else _balanced(1.0 / gains)


def tint_path(direction: str) -> Floats:
    """Gains across the daylight axis, (STEPS, 3); ``green`` or ``magenta``."""
    here, beside = _locus(np.array([_D65_MIREDS, _D65_MIREDS + 1.0]))
    along = (beside - here) / np.linalg.norm(beside - here)
    across = np.array([-along[1], along[0]]) * (1.0 if -along[1] < 0 else -1.0)  # towards green: u falls
    sign = 1.0 if direction == "green" else -1.0
    return _gains(here + sign * np.linspace(0.0, STRONGEST_DUV, STEPS)[:, None] * across)


def mixed_path(angle_deg: float) -> Floats:
    """Gains in any direction of the plane in which the logarithms of the gains add up to 0, (STEPS, 3)."""
    first, second = np.array([1.0, 0.0, -1.0]) / 2**0.5, np.array([1.0, -2.0, 1.0]) / 6**0.5
    direction = np.cos(np.radians(angle_deg)) * first + np.sin(np.radians(angle_deg)) * second
    return _balanced(np.exp(np.linspace(0.0, STRONGEST_LOG_GAIN, STEPS)[:, None] * direction))


def at_shift(path: Floats, shift_ab: float) -> Floats:
    """The gains, (3,), that move a mid grey by ``shift_ab`` in the a*b* plane, or the strongest."""
    moved = np.linalg.norm(to_lab(_encode(path * _decode(np.array(128.0)))[None])[0][:, 1:], axis=1)
    return np.array([np.interp(shift_ab, np.maximum.accumulate(moved), path[:, c]) for c in range(3)])


def gains_table(gains: Floats) -> Pixels:
    """The linear channels multiplied by the gains, cut at white: a table for `recolour`, uint8 (256, 3)."""
    return np.rint(_encode(_decode(np.arange(256.0))[:, None] * gains)).astype(np.uint8)


def veil_table(fading: Floats, veil: Floats) -> Pixels:
    """What a body of water or air between scene and camera does, a table for `recolour`, uint8 (256, 3).

    Each channel fades by ``exp(-fading)``, and ``veil``, levels of 255, is added in its place (Schechner and
    Karpel, Clear underwater vision, CVPR 2004).
    """
    kept = np.exp(-fading) * (1.0 - veil / 255.0)
    return np.asarray(np.clip(np.rint(np.arange(256.0)[:, None] * kept + veil), 0, 255), dtype=np.uint8)


def gamma_table(exponents: Floats, black: Floats, white: Floats) -> Pixels:
    """A tone curve for each channel, as faded dyes leave it: a table for `recolour`, uint8 (256, 3).

    Args:
        exponents: (3,), of the encoded value.
        black, white: (3,), levels of 255 that black and white become.
    """
    value = (np.arange(256.0)[:, None] / 255.0) ** exponents
    return np.asarray(np.clip(np.rint(black + (white - black) * value), 0, 255), dtype=np.uint8)


def toning_table(ink: Floats, strength: float) -> Pixels:
    """Toning of a black-and-white image: middle tones take on the colour ``ink``, (3,) in 0 to 255.

    Black and white stay, as in a toned print. A table for `recolour`, uint8 (256, 3).
    """
    value = np.arange(256.0)[:, None] / 255.0
    tint = (ink - ink @ _LUMA) * strength
    return np.asarray(np.clip(np.rint(255.0 * value + 4.0 * value * (1.0 - value) * tint), 0, 255), np.uint8)


def _locus(mireds: Floats) -> Floats:
    """CIE 1960 u, v of black bodies, (n, 2)."""
    t = 1e6 / mireds
    u = (0.860117757 + 1.54118254e-4 * t + 1.28641212e-7 * t**2) / (
        1.0 + 8.42420235e-4 * t + 7.08145163e-7 * t**2
    )
    v = (0.317398726 + 4.22806245e-5 * t + 4.20481691e-8 * t**2) / (
        1.0 - 2.89741816e-5 * t + 1.61456053e-7 * t**2
    )
    return np.stack([u, v], axis=1)


def _gains(uv: Floats) -> Floats:
    """Gains of the white points u, v against the first of them, (n, 3)."""
    u, v = uv.T
    denominator = 2.0 * u - 8.0 * v + 4.0
    x, y = 3.0 * u / denominator, 2.0 * v / denominator
    xyz = np.stack([x / y, np.ones_like(x), (1.0 - x - y) / y], axis=1)
    linear = np.maximum(xyz @ LINEAR_FROM_XYZ.T, 0.02)
    return _balanced(linear / linear[0])


def _balanced(gains: Floats) -> Floats:
    """The same ratios, with the luminance of greys left as it is."""
    return np.asarray(gains / (gains @ _LUMINANCE)[:, None])


def _decode(levels: Floats) -> Floats:
    """sRGB 0 to 255 to linear light 0 to 1 (IEC 61966-2-1)."""
    value = levels / 255.0
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _encode(linear: Floats) -> Floats:
    """Linear light to sRGB 0 to 255, cut to the range."""
    value = np.clip(linear, 0.0, 1.0)
    return np.asarray(255.0 * np.where(value <= 0.0031308, value * 12.92, 1.055 * value ** (1 / 2.4) - 0.055))
