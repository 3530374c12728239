"""Noise: gaussian, luminance, salt and pepper, Poisson (shot noise) and speckle."""

import cv2
import numpy as np

from quality_model.core.decoding import Pixels
from quality_model.degrade.randomness import Stream, normal_quantiles, poisson_quantiles


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
    height, width = pixels.shape[:2]
    channels = 3 if coloured else 1
    field = normal_quantiles().take(stream.bits16(height * width * channels), mode="wrap")
    field = field.reshape(height, width, channels)
    if grain_sigma_px > 0:
        smooth = cv2.GaussianBlur(field, (0, 0), grain_sigma_px, borderType=cv2.BORDER_REFLECT)
        field = (smooth.reshape(field.shape) / max(float(smooth.std()), 1e-6)).astype(np.float32)
    levels = np.asarray(np.rint(field * np.float32(std)), dtype=np.int16)
    added = np.broadcast_to(levels, pixels.shape)
    return np.asarray(cv2.add(pixels, added, dtype=cv2.CV_8U), dtype=np.uint8)


def speckle(pixels: Pixels, relative_std: float, stream: Stream) -> Pixels:
    """Multiply each channel of each pixel by a normal variate of mean 1; uint8 (height, width, 3)."""
    bits = stream.bits16(pixels.size).reshape(pixels.shape)
    factor = 1.0 + np.float32(relative_std) * normal_quantiles().take(bits, mode="wrap")
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
