"""Severity sweeps: clean images degraded in rising steps, by other software than the training data.

A model can learn the fingerprints of its generator instead of the degradation. So these come from
Pillow's filters, SciPy and scikit-image, in kinds and at levels that the generator does not have.
Nothing is shared with `quality_model.degrade`.

Each degradation takes an image, uint8 (S, S, 3) RGB, a level and a seed, and returns the degraded image,
uint8 (S, S, 3). The seed chooses what is not the level (pattern of the noise, direction of the cast,
place of the watermark), so the levels of one image differ in strength alone. Lengths are pixels at
224 px and scale with the side.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from quality_model.core.decoding import Pixels
from quality_model.records import REFERENCE_SIDE_PX, Head

Floats = npt.NDArray[np.float64]
T = TypeVar("T")
Degrade = Callable[[Pixels, float, int], Pixels]
"""Image, uint8 (S, S, 3) RGB, level above 0 and seed, to the degraded image, uint8 (S, S, 3)."""

_LUMA: Final = np.array([0.299, 0.587, 0.114])
"""ITU-R BT.601."""

_SUPERSAMPLING: Final = 2
"""Watermarks are drawn this much larger and shrunk, because Pillow draws rings without antialiasing."""

_LAYERS_KEPT: Final = 32
"""A watermark is drawn once for all levels; at 224 px each layer takes 1.6 MB."""

_HEXAGON_TURN_DEG: Final = 15.0
_KERNEL_SUPERSAMPLING: Final = 9

_GRAIN_SIGMA_PX: Final = 0.8
_READ_NOISE_SHARE: Final = 0.25
"""Share of a sensor's noise variance at white that is present in the dark too."""

_DAYLIGHT_KELVIN: Final = 6504.0
_MIRED: Final = 1e6
"""Micro reciprocal degrees: 1e6 / kelvin, in which equal steps look about equal."""

_BRADFORD: Final = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
"""XYZ to cone responses (ICC.1:2022, annex E)."""

_FILTERS: Final = ((236, 138, 0), (172, 122, 51), (0, 109, 255), (25, 201, 25), (227, 24, 163))
"""Colours of photo filters as image editors name them: warming (85), sepia, cooling (80), green, magenta."""

_PHRASES: Final = ("Kestrel Foto", "A. Marlow", "lumen images", "NORDVIK STUDIO", "proof 0417")
_INITIALS: Final = ("KF", "AM", "NV", "Q7")
_ANGLES_DEG: Final = (17.0, -28.0)
_GRID_ANGLE_DEG: Final = 11.0
_INKS: Final = ((250, 250, 245), (255, 214, 64), (24, 34, 96), (190, 30, 45))


def pillow_gaussian(pixels: Pixels, level: float, _seed: int) -> Pixels:
    """Pillow's GaussianBlur, which is three box blurs; ``level`` is its sigma in pixels."""
    blurred = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(level * _scale(pixels)))
    return np.array(blurred)


def hexagonal_aperture(pixels: Pixels, level: float, _seed: int) -> Pixels:
    """Out of focus through six blades, in linear light; ``level`` is the hexagon's outer radius in pixels."""
    from scipy.signal import fftconvolve

    kernel = _hexagon(level * _scale(pixels))
    edge = kernel.shape[0] // 2
    light = np.pad(_to_linear(pixels), ((edge, edge), (edge, edge), (0, 0)), mode="symmetric")
    return _from_linear(fftconvolve(light, kernel[:, :, None], mode="valid", axes=(0, 1)))


def low_resolution(pixels: Pixels, level: float, _seed: int) -> Pixels:
    """Shrunk by a triangle filter and enlarged again by cubic interpolation.

    ``level`` is the factor at 224 px; at another side, the factor that leaves details of the same share of
    the image.
    """
    side = pixels.shape[0]
    small = max(2, round(side / (1.0 + (level - 1.0) * _scale(pixels))))
    image = Image.fromarray(pixels).resize((small, small), Image.Resampling.BILINEAR)
    return np.array(image.resize((side, side), Image.Resampling.BICUBIC))


def white_noise(pixels: Pixels, level: float, seed: int) -> Pixels:
    """scikit-image's white noise in each channel; ``level`` is its standard deviation in grey levels."""
    return _random_noise(pixels, mode="gaussian", rng=seed, var=(level / 255.0) ** 2)


def film_grain(pixels: Pixels, level: float, seed: int) -> Pixels:
    """Grain: correlated, the same in all channels, strongest in the middle tones.

    ``level`` is its standard deviation in grey levels at middle grey.
    """
    from scipy.ndimage import gaussian_filter

    white = np.random.default_rng(seed).standard_normal(pixels.shape[:2])
    grain = gaussian_filter(white, _GRAIN_SIGMA_PX * _scale(pixels), mode="wrap")
    grain /= grain.std()
    light = pixels @ _LUMA / 255.0
    strength = 2.0 * np.sqrt(np.clip(light * (1.0 - light), 0.0, 1.0))
    return _to_uint8(pixels / 255.0 + (level / 255.0 * grain * strength)[:, :, None])


def sensor_noise(pixels: Pixels, level: float, seed: int) -> Pixels:
    """scikit-image's noise of local variance, growing with brightness as a sensor's does.

    ``level`` is the standard deviation in grey levels at white.
    """
    variances = _READ_NOISE_SHARE + (1.0 - _READ_NOISE_SHARE) * pixels / 255.0
    return _random_noise(pixels, mode="localvar", rng=seed, local_vars=variances * (level / 255.0) ** 2)


def white_balance(pixels: Pixels, level: float, seed: int) -> Pixels:
    """A wrong white balance: linear light adapted from daylight's white to that of another lamp.

    ``level`` is the error in mired, warm or cool by the seed, through Bradford's
    transform of the whole image (one 3 x 3 matrix).
    """
    from skimage.color import rgb2xyz, xyz2rgb

    towards = 1.0 if np.random.default_rng(seed).random() < 0.5 else -1.0
    white = _lamp_white(_DAYLIGHT_KELVIN)
    other = _lamp_white(_MIRED / (_MIRED / _DAYLIGHT_KELVIN + towards * level))
    gains = np.diag((_BRADFORD @ other) / (_BRADFORD @ white))
    adapt = np.linalg.inv(_BRADFORD) @ gains @ _BRADFORD
    return _to_uint8(xyz2rgb(rgb2xyz(pixels) @ adapt.T))


def lab_shift(pixels: Pixels, level: float, seed: int) -> Pixels:
    """Every pixel shifted alike in CIELAB's a*b* plane by ``level``, in a direction that the seed gives."""
    from skimage.color import lab2rgb, rgb2lab

    angle = np.random.default_rng(seed).uniform(0.0, 2.0 * np.pi)
    shift = level * np.array([0.0, np.cos(angle), np.sin(angle)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # colours that no screen shows are clipped, as they should be
        return _to_uint8(lab2rgb(rgb2lab(pixels) + shift))


def photo_filter(pixels: Pixels, level: float, seed: int) -> Pixels:
    """A coloured filter before the lens, the exposure corrected; ``level`` is its density, 0 to 1."""
    colour = np.array(_pick(np.random.default_rng(seed), _FILTERS)) / 255.0
    before = pixels / 255.0
    after = before * (1.0 - level + level * colour)
    return _to_uint8(after * ((before @ _LUMA).mean() / max(float((after @ _LUMA).mean()), 1e-6)))


def _watermark(draw: Callable[[int, np.random.Generator], Image.Image]) -> Degrade:
    """A degradation that lays over a layer, drawn once for all levels; the level is its opacity.

    Args:
        draw: From a side in pixels and the seed's random numbers, a layer of that side in RGBA.
    """

    @lru_cache(maxsize=_LAYERS_KEPT)
    def layer(side_px: int, seed: int) -> Floats:
        drawn = draw(side_px * _SUPERSAMPLING, np.random.default_rng(seed))
        return np.array(drawn.resize((side_px, side_px), Image.Resampling.LANCZOS)) / 255.0

    @wraps(draw)
    def degrade(pixels: Pixels, level: float, seed: int) -> Pixels:
        rgba = layer(pixels.shape[0], seed)
        weight = rgba[:, :, 3:] * level
        return _to_uint8(pixels / 255.0 * (1.0 - weight) + rgba[:, :, :3] * weight)

    return degrade


@_watermark
def turned_text(side: int, rng: np.random.Generator) -> Image.Image:
    """One phrase across the image, white with a dark outline."""
    phrase, angle = _pick(rng, _PHRASES), _pick(rng, _ANGLES_DEG)
    layer = Image.new("RGBA", (side, side))
    ImageDraw.Draw(layer).text(
        (side / 2, side / 2), phrase, font=_font_of_width(phrase, 0.74 * side), anchor="mm",
        fill=(255, 255, 255, 255), stroke_width=max(1, round(side * 0.006)), stroke_fill=(20, 20, 20, 255),
    )  # fmt: skip
    return layer.rotate(angle, Image.Resampling.BICUBIC)


@_watermark
def text_grid(side: int, rng: np.random.Generator) -> Image.Image:
    """A phrase repeated in turned rows over the whole image."""
    phrase, ink = _pick(rng, _PHRASES), _pick(rng, _INKS)
    wide = side * 3 // 2  # the corners stay covered when it is turned
    width, step_y = 0.31 * side, 0.155 * side
    font = _font_of_width(phrase, width)
    layer = Image.new("RGBA", (wide, wide), (*ink, 0))
    draw = ImageDraw.Draw(layer)
    for row in range(int(wide / step_y) + 1):
        for column in range(-1, int(wide / width) + 1):
            left = (column + 0.5 * (row % 2)) * 1.28 * width
            draw.text((left, row * step_y), phrase, font=font, fill=(*ink, 255))
    edge = (wide - side) // 2
    turned = layer.rotate(_GRID_ANGLE_DEG, Image.Resampling.BICUBIC, fillcolor=(*ink, 0))
    return turned.crop((edge, edge, edge + side, edge + side))


@_watermark
def logo(side: int, rng: np.random.Generator) -> Image.Image:
    """A ring with initials, somewhere within the image."""
    initials, ink = _pick(rng, _INITIALS), _pick(rng, _INKS)
    radius = 0.19 * side
    x, y = rng.uniform(radius + 0.03 * side, side - radius - 0.03 * side, size=2)
    layer = Image.new("RGBA", (side, side), (*ink, 0))
    draw = ImageDraw.Draw(layer)
    ring = (x - radius, y - radius, x + radius, y + radius)
    draw.ellipse(ring, outline=(*ink, 255), width=max(1, round(0.024 * side)))
    draw.text((x, y), initials, font=_font_of_width(initials, 1.1 * radius), anchor="mm", fill=(*ink, 255))
    return layer


@dataclass(frozen=True, slots=True)
class SeveritySweep:
    """One way to degrade, at rising levels.

    ``levels`` begin with 0, the clean image. ``degrade`` takes pixels, a level above 0 and a seed; its name
    is the sweep's. ``unit`` is that of a level.
    """

    head: Head
    unit: str
    levels: tuple[float, ...]
    degrade: Degrade

    @property
    def name(self) -> str:
        return self.degrade.__name__


SWEEPS: Final = (
    SeveritySweep("color_cast", "error, mired", (0, 13, 29, 51, 77, 107), white_balance),
    SeveritySweep("color_cast", "shift in a*b*", (0, 5, 9, 15, 23, 33), lab_shift),
    SeveritySweep("color_cast", "density", (0, 0.07, 0.15, 0.25, 0.37, 0.51), photo_filter),
    SeveritySweep("blurriness", "sigma, px", (0, 0.9, 1.5, 2.5, 4.1, 6.7), pillow_gaussian),
    SeveritySweep("blurriness", "radius, px", (0, 2.1, 3.7, 5.9, 8.6, 12.3), hexagonal_aperture),
    SeveritySweep("blurriness", "times smaller", (0, 1.7, 2.6, 3.9, 5.9, 9.1), low_resolution),
    SeveritySweep("watermark", "opacity", (0, 0.12, 0.22, 0.37, 0.58, 0.83), turned_text),
    SeveritySweep("watermark", "opacity", (0, 0.09, 0.18, 0.31, 0.5, 0.74), text_grid),
    SeveritySweep("watermark", "opacity", (0, 0.14, 0.27, 0.44, 0.66, 0.92), logo),
    SeveritySweep("noise", "sigma, grey levels", (0, 4.3, 9.1, 17.3, 28.9, 46.1), white_noise),
    SeveritySweep("noise", "sigma, grey levels", (0, 4.7, 9.3, 16.9, 27.7, 43.3), film_grain),
    SeveritySweep("noise", "sigma, grey levels", (0, 5.9, 11.3, 20.3, 33.7, 53.9), sensor_noise),
)
"""Three for each head."""


def _random_noise(pixels: Pixels, **options: Any) -> Pixels:
    from skimage import util

    make: Any = util.random_noise  # without types
    return _to_uint8(make(pixels, **options))


def _pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.integers(len(choices)))]


def _scale(pixels: Pixels) -> float:
    return float(pixels.shape[0] / REFERENCE_SIDE_PX)


def _to_uint8(values: Floats) -> Pixels:
    """Values in [0, 1], clipped, to uint8."""
    return np.asarray(np.clip(np.rint(np.asarray(values) * 255.0), 0.0, 255.0), dtype=np.uint8)


def _to_linear(pixels: Pixels) -> Floats:
    """sRGB to linear light in [0, 1] (IEC 61966-2-1)."""
    levels = np.arange(256) / 255.0
    table = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    return np.asarray(table[pixels])


def _from_linear(light: Floats) -> Pixels:
    light = np.clip(light, 0.0, 1.0)
    return _to_uint8(np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1.0 / 2.4) - 0.055))


@lru_cache(maxsize=16)
def _hexagon(radius_px: float) -> Floats:
    """A hexagonal aperture's point-spread function, odd sides, adding up to 1."""
    half = int(np.ceil(radius_px))
    fine = (2 * half + 1) * _KERNEL_SUPERSAMPLING
    offsets = (np.arange(fine) + 0.5) / _KERNEL_SUPERSAMPLING - (half + 0.5)
    y, x = np.meshgrid(offsets, offsets, indexing="ij")
    inside = np.ones_like(x, dtype=bool)
    for blade in range(3):
        angle = np.deg2rad(_HEXAGON_TURN_DEG + 60.0 * blade)
        inside &= np.abs(x * np.cos(angle) + y * np.sin(angle)) <= radius_px * np.cos(np.pi / 6)
    cells = inside.reshape(2 * half + 1, _KERNEL_SUPERSAMPLING, 2 * half + 1, _KERNEL_SUPERSAMPLING)
    kernel = cells.mean(axis=(1, 3))
    return np.asarray(kernel / kernel.sum())


def _lamp_white(kelvin: float) -> Floats:
    """XYZ of a black body's white at Y = 1, 2222 to 25000 K.

    Cubic splines of Kim, Cho and others, US patent 7024034 (2002).
    """
    t = 1e3 / kelvin
    if kelvin < 4000.0:
        x = -0.2661239 * t**3 - 0.2343589 * t**2 + 0.8776956 * t + 0.179910
        y = -0.9549476 * x**3 - 1.37418593 * x**2 + 2.09137015 * x - 0.16748867
    else:
        x = -3.0258469 * t**3 + 2.1070379 * t**2 + 0.2226347 * t + 0.240390
        y = 3.0817580 * x**3 - 5.87338670 * x**2 + 3.75112997 * x - 0.37001483
    return np.array([x / y, 1.0, (1.0 - x - y) / y])


def _font_of_width(text: str, width_px: float) -> Any:
    """Aileron, which Pillow bundles, at the size that makes a text this wide."""
    measured = ImageFont.load_default(size=100).getbbox(text)
    return ImageFont.load_default(size=max(4.0, 100.0 * width_px / (measured[2] - measured[0])))
