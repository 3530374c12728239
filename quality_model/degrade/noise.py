"""Noise: gaussian, luminance, salt and pepper, Poisson (shot noise) and speckle; and as cameras deliver it.

A camera's is made on the sensor, demosaiced, balanced, tone-mapped and partly denoised.
Photons and read-out disturb linear light at the sites of a colour filter array. Interpolation spreads what is
at one site over its neighbours, white balance and colour matrix amplify and mix channels, the tone curve
lifts what is in the shadows, and noise reduction takes more of the colour than of the brightness and leaves
blotches (Nakamura, Image Sensors and Signal Processing for Digital Still Cameras, 2006, chapters 3 and 8).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from quality_model.core.pixels import Pixels
from quality_model.degrade.randomness import Stream, poisson_quantiles
from quality_model.degrade.severity import Facts

Floats = npt.NDArray[np.float32]

_DARKEST: Final = 0.004
"""Linear light below which the tone curve's slope grows no more: real curves have a toe."""

_CROSS: Final = np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]], np.float32) / 4.0
_SQUARE: Final = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32) / 4.0
"""Bilinear interpolation of the green sites, and of the red or blue ones."""

_MATRIX: Final = np.array([[1.7, -0.5, -0.2], [-0.25, 1.55, -0.3], [0.05, -0.6, 1.55]], np.float32)
"""Sensor to sRGB, as calibrations of common cameras have it to a tenth; rows add up to 1."""

_LUMA: Final = np.array([[0.299, 0.587, 0.114]], np.float32)


def gaussian(
    pixels: Pixels, std: float, stream: Stream, *, coloured: bool = True, grain_sigma_px: float = 0.0
) -> Pixels:
    """Add normal noise, rounded and cut to 0 to 255; independent for each pixel, or in grains.

    Args:
        pixels: uint8 (height, width, 3).
        std: Standard deviation in grey levels, before rounding and cutting.
        stream: The noise is drawn from it.
        coloured: Each channel has its own noise; else all three share it.
        grain_sigma_px: Sigma of the gaussian that correlates neighbours, as after demosaicing or on
            film; 0 for none.

    Returns:
        uint8 (height, width, 3).
    """
    field = stream.normal(*pixels.shape[:2], 3 if coloured else 1)
    if grain_sigma_px > 0:
        smooth = cv2.GaussianBlur(field, (0, 0), grain_sigma_px, borderType=cv2.BORDER_REFLECT)
        field = (smooth.reshape(field.shape) / max(float(smooth.std()), 1e-6)).astype(np.float32)
    levels = np.asarray(np.rint(field * np.float32(std)), dtype=np.int16)
    added = np.broadcast_to(levels, pixels.shape)
    return np.asarray(cv2.add(pixels, added, dtype=cv2.CV_8U), dtype=np.uint8)


def speckle(pixels: Pixels, relative_std: float, stream: Stream) -> Pixels:
    """Multiply each channel of each pixel by a normal variate of mean 1; uint8 (height, width, 3)."""
    factor = 1.0 + np.float32(relative_std) * stream.normal(*pixels.shape)
    return np.clip(np.rint(pixels * factor), 0, 255).astype(np.uint8)


def salt_and_pepper(pixels: Pixels, share: float, stream: Stream) -> Pixels:
    """Turn each pixel white or black (all channels), each with a probability of ``share / 2``.

    Args:
        pixels: uint8 (height, width, 3).
        share: Expected share of the pixels that turn, 0 to 1, in steps of 2**-15.
        stream: The choice is drawn from it.

    Returns:
        uint8 (height, width, 3).
    """
    bits = stream.bits16(pixels.shape[0] * pixels.shape[1])
    half = round(share * 32768)
    result = pixels.copy()
    flat = result.reshape(-1, 3)
    flat[np.flatnonzero(bits < half)] = 255
    flat[np.flatnonzero(bits >= 65536 - half)] = 0
    return result


def poisson(pixels: Pixels, peak: int, stream: Stream) -> Pixels:
    """Count photons: each channel of each pixel becomes a Poisson count, shown as grey again.

    The standard deviation at grey level v is ``sqrt(255 * v / peak)``.

    Args:
        pixels: uint8 (height, width, 3).
        peak: Mean count of white, 1 to 4096; fewer is noisier.
        stream: The counts are drawn from it.

    Returns:
        uint8 (height, width, 3).
    """
    index = stream.bits16(pixels.size).reshape(pixels.shape) >> 4
    cell = pixels.astype(np.int32) << 12
    cell |= index
    return poisson_quantiles(peak).take(cell, mode="wrap")


@dataclass(frozen=True, slots=True)
class Camera:
    """How one camera at one sensitivity makes noise; drawn at random.

    Attributes:
        shot_share: Share of the variance at white that photons make; the rest is read-out.
        red_gain, blue_gain: White balance of the two.
        mixing: Share of the colour matrix.
        luma_sigma_px, chroma_sigma_px: Sigma of the gaussians that noise reduction smooths with.
        chroma_share: What it leaves of the colour noise.
        capture_scale: Pixels of the capture per pixel of the image: more than 1 if it was shrunk.
    """

    shot_share: float
    red_gain: float
    blue_gain: float
    mixing: float
    luma_sigma_px: float
    chroma_sigma_px: float
    chroma_share: float
    capture_scale: int

    @classmethod
    def draw(cls, stream: Stream) -> "Camera":
        """A camera, from any generation."""
        shot_share, red, blue = stream.uniform(0.3, 0.98), stream.uniform(1.0, 2.2), stream.uniform(1.0, 2.4)
        mixing, smoothed = stream.uniform(0.0, 1.0), stream.uniform(0.0, 1.0)
        luma_px, chroma_px = stream.uniform(0.3, 0.9), stream.log_uniform(0.5, 3.0)
        share = stream.uniform(0.15, 1.0)
        scale = 2 if stream.chance(0.15) else 1
        return cls(
            shot_share,
            red,
            blue,
            mixing,
            luma_px if smoothed < 0.6 else 0.0,
            chroma_px if smoothed < 0.8 else 0.0,
            share if smoothed < 0.8 else 1.0,
            scale,
        )

    def facts(self) -> Facts:
        """Parameters for the manifest."""
        return {name: getattr(self, name) for name in self.__slots__}

    def field(self, pixels: Pixels, stream: Stream) -> Floats:
        """Noise for an image, uint8 (h, w, 3): float32 (h, w, 3) in sRGB levels, of an RMS of 1."""
        height, width = pixels.shape[:2]
        scale = self.capture_scale
        seen = pixels
        if scale > 1:
            seen = np.asarray(cv2.resize(pixels, (width * scale, height * scale), interpolation=0))
        noise = self._developed(seen, stream)
        if scale > 1:
            noise = np.asarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_AREA))
        return noise / max(float(np.sqrt(np.square(noise).mean(dtype=np.float64))), 1e-9)

    def _developed(self, pixels: Pixels, stream: Stream) -> Floats:
        light, slope = (np.asarray(cv2.LUT(pixels, curve), np.float32) for curve in _curves())
        sites = self._sites(light, stream)
        planes = np.zeros_like(light)
        planes[::2, ::2, 0] = sites[::2, ::2] * self.red_gain
        planes[::2, 1::2, 1] = sites[::2, 1::2]
        planes[1::2, ::2, 1] = sites[1::2, ::2]
        planes[1::2, 1::2, 2] = sites[1::2, 1::2] * self.blue_gain
        for channel, kernel in enumerate((_SQUARE, _CROSS, _SQUARE)):
            planes[..., channel] = cv2.filter2D(planes[..., channel], -1, kernel)
        matrix = self.mixing * _MATRIX + (1.0 - self.mixing) * np.eye(3, dtype=np.float32)
        return self._denoised(np.asarray(cv2.transform(planes, matrix), np.float32) * slope)

    def _sites(self, light: Floats, stream: Stream) -> Floats:
        """Noise at the sites of the array, in linear light: float32 (h, w)."""
        seen = light[..., 1].copy()
        seen[::2, ::2], seen[1::2, 1::2] = light[::2, ::2, 0], light[1::2, 1::2, 2]
        variance = self.shot_share * seen + (1.0 - self.shot_share)
        return np.asarray(np.sqrt(variance) * stream.normal(*seen.shape), dtype=np.float32)

    def _denoised(self, noise: Floats) -> Floats:
        luma = np.asarray(cv2.transform(noise, _LUMA), np.float32)[..., None]
        colour = noise - luma
        if self.luma_sigma_px > 0:
            luma = _smooth(luma, self.luma_sigma_px)
        if self.chroma_sigma_px > 0:
            colour = _smooth(colour, self.chroma_sigma_px)
        return luma + self.chroma_share * colour


def _smooth(noise: Floats, sigma_px: float) -> Floats:
    """Smoothed without becoming weaker: how strong it is, is decided later."""
    before = float(noise.std())
    smooth = np.asarray(cv2.GaussianBlur(noise, (0, 0), sigma_px)).reshape(noise.shape)
    return np.asarray(smooth * (before / max(float(smooth.std()), 1e-9)), dtype=np.float32)


@lru_cache(maxsize=1)
def _curves() -> tuple[Floats, Floats]:
    """By sRGB level, float32 (256,): linear light, 0 to 1, and levels per unit of light (IEC 61966-2-1)."""
    value = np.arange(256) / 255.0
    light = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    seen = np.maximum(light, _DARKEST)
    slope = 255.0 * 1.055 / 2.4 * seen ** (1 / 2.4 - 1.0)
    return light.astype(np.float32), slope.astype(np.float32)
