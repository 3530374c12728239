"""Blurs with a point-spread function of any width, the sigma of each, and that of an image as it is.

The equivalent sigma of a kernel is the root of the mean of its variances along x and y: that
of the gaussian with the same spread. Resampling has no positive kernel; its equivalent
sigma is that of the gaussian whose transfer function falls to one half at the same
frequency (MTF50, as in ISO 12233).
"""

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from quality_model.core.pixels import Pixels
from quality_model.degrade.randomness import Stream

Kernel = npt.NDArray[np.float32]
"""float32 (taps, taps), 0 or more, adds up to 1."""

_SUBPIXELS: Final = 8
_NARROW_PX: Final = 0.5
_SHAKE_STEPS: Final = 96

INTERPOLATIONS: Final = {"linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC, "lanczos": cv2.INTER_LANCZOS4}
"""Ways to enlarge a low resolution again."""

RESAMPLED_SIGMAS: Final = {"linear": 0.512, "cubic": 0.439, "lanczos": 0.415}
"""Equivalent sigma per pixel of the low resolution, when areas are averaged and then enlarged:
0.1874 / f, where f solves sinc(f) K(f) = 1/2 for the interpolation's transfer function K."""

ENLARGED_SIGMA: Final = 0.374
"""The same for an image that is only enlarged (Lanczos), without averaging before."""

SHARPEST_SHARE: Final = 0.002
"""Share of the pixels, those with the strongest edges, that are measured."""

SOFT_SIGMA_PX: Final = 0.8
"""Sigma above which an image does not count as clean. Of 200 crops of photographs known
to be sharp the softest measured 0.40; blurred by a sigma of 1.0 their median measured 0.9."""

_TEXTURE: Final = 1.4
"""Measured on those crops: texture and neighbouring edges make the ratio this much too small."""


def equivalent_sigma(kernel: Kernel) -> float:
    """Root of the mean of the kernel's variances along x and y, in pixels."""
    weights = kernel.astype(np.float64) / kernel.sum(dtype=np.float64)
    variances = []
    for axis in np.indices(kernel.shape, dtype=np.float64):
        centre = (weights * axis).sum()
        variances.append(float((weights * (axis - centre) ** 2).sum()))
    return float(np.sqrt(sum(variances) / 2.0))


def blur(pixels: Pixels, kernel: Kernel) -> Pixels:
    """Convolve; the outermost pixels are repeated beyond the border; uint8 (height, width, 3)."""
    return np.asarray(cv2.filter2D(pixels, -1, kernel, borderType=cv2.BORDER_REPLICATE), dtype=np.uint8)


def gaussian_kernel(sigma_px: float) -> Kernel:
    """Out to four sigmas; sampled finely, so that small sigmas keep their variance."""
    reach = max(1, int(np.ceil(4.0 * sigma_px)))
    fine = (np.arange((2 * reach + 1) * _SUBPIXELS) + 0.5) / _SUBPIXELS - reach - 0.5
    taps = np.exp(-(fine**2) / (2.0 * sigma_px**2)).reshape(2 * reach + 1, _SUBPIXELS).mean(axis=1)
    taps /= taps.sum()
    return np.outer(taps, taps).astype(np.float32)


def box_kernel(side_px: float) -> Kernel:
    """A square of any width of 1 px or more; the outer taps take the fraction."""
    reach = max(1, int(np.ceil((side_px - 1.0) / 2.0)))
    taps = np.clip(side_px / 2.0 - np.abs(np.arange(-reach, reach + 1)) + 0.5, 0.0, 1.0)
    taps /= taps.sum()
    return np.outer(taps, taps).astype(np.float32)


def disc_kernel(radius_px: float) -> Kernel:
    """The circle of confusion of a lens out of focus, of half a pixel or more, with an antialiased rim."""
    reach = max(1, int(np.ceil(radius_px)))
    fine = (np.arange((2 * reach + 1) * _SUBPIXELS) + 0.5) / _SUBPIXELS - reach - 0.5
    inside = (fine[:, None] ** 2 + fine[None, :] ** 2 <= radius_px**2).astype(np.float64)
    side = 2 * reach + 1
    kernel = inside.reshape(side, _SUBPIXELS, side, _SUBPIXELS).mean(axis=(1, 3))
    return np.asarray(kernel / kernel.sum(), dtype=np.float32)


def motion_kernel(length_px: float, angle_deg: float) -> Kernel:
    """A straight path at constant speed."""
    along = np.linspace(-length_px / 2.0, length_px / 2.0, max(2, int(length_px * _SUBPIXELS)))
    return _rasterised(along * np.cos(np.radians(angle_deg)), -along * np.sin(np.radians(angle_deg)))


def shake_kernel(sigma_px: float, stream: Stream) -> Kernel:
    """A curved path at changing speed, as of a hand that moves while the shutter is open.

    The direction drifts, and so does the speed; the path is scaled to the equivalent sigma.
    """
    steps = _SHAKE_STEPS
    turning, pace = stream.uniform(0.0, 0.5), stream.uniform(0.0, 1.0)
    heading = stream.uniform(0.0, 2.0 * np.pi) + np.cumsum(turning * stream.normal(steps).astype(np.float64))
    speed = np.exp(pace * np.cumsum(stream.normal(steps)) / steps**0.5)
    path = np.stack([np.cumsum(speed * np.cos(heading)), np.cumsum(speed * np.sin(heading))])
    path -= path.mean(axis=1, keepdims=True)
    path *= sigma_px / max(float(np.sqrt(np.square(path).sum(axis=0).mean() / 2.0)), 1e-9)
    return _rasterised(path[0], path[1])


def _rasterised(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> Kernel:
    """Points around 0, each spread over the four nearest pixels."""
    reach = max(1, int(np.ceil(max(np.abs(x).max(), np.abs(y).max()))) + 1)
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    x, y = reach + x, reach + y
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    for dy in (0, 1):
        for dx in (0, 1):
            weight = np.abs(1 - dx - (x - left)) * np.abs(1 - dy - (y - top))
            np.add.at(kernel, (top + dy, left + dx), weight)
    return np.asarray(kernel / kernel.sum(), dtype=np.float32)


def narrowed(kernel: Kernel, sigma_px: float) -> Kernel:
    """The kernel, mixed with the identity if ``sigma_px`` is below half a pixel and the kernel is wider.

    Squares, discs and paths of whole taps cannot be that narrow; the variance of a mixture is the mean.
    """
    actual_px = equivalent_sigma(kernel)
    if sigma_px >= _NARROW_PX or actual_px <= sigma_px:
        return kernel
    share = np.float32((sigma_px / actual_px) ** 2)
    mixed: Kernel = share * kernel
    mixed[kernel.shape[0] // 2, kernel.shape[1] // 2] += np.float32(1.0) - share
    return mixed


def low_resolution(pixels: Pixels, factor: float, interpolation: str) -> Pixels:
    """Average areas down by about ``factor`` (1 or more), then enlarge again; uint8 (height, width, 3)."""
    height, width = pixels.shape[:2]
    small = (reduced_side(width, factor), reduced_side(height, factor))
    reduced = cv2.resize(pixels, small, interpolation=cv2.INTER_AREA)
    restored = cv2.resize(reduced, (width, height), interpolation=INTERPOLATIONS[interpolation])
    return np.asarray(restored, dtype=np.uint8)


def reduced_side(side_px: int, factor: float) -> int:
    """The side of the low resolution, 2 px at least."""
    return max(2, round(side_px / factor))


def resampled_sigma(side_px: int, factor: float, interpolation: str) -> float:
    """Equivalent sigma in pixels of `low_resolution` on an image of this side."""
    actual = max(1.0, side_px / reduced_side(side_px, factor))
    return RESAMPLED_SIGMAS[interpolation] * float(np.sqrt(actual**2 - 1.0))


def enlarged_sigma(factor: float) -> float:
    """Equivalent sigma, in its pixels, of an enlarged image; 0 for a factor of 1 or less."""
    return ENLARGED_SIGMA * float(np.sqrt(max(1.0, factor) ** 2 - 1.0))


def width_for_sigma(kind: str, sigma_px: float) -> float:
    """Width of a kernel of about this sigma: side of a box, radius of a disc, length of a path."""
    widths = {
        "box": (12.0 * sigma_px**2 + 1.0) ** 0.5,
        "disc": (4.0 * sigma_px**2 + 0.25) ** 0.5,
        "motion": 24.0**0.5 * sigma_px,
    }
    return float(widths[kind])


def source_softness(pixels: Pixels, *, enlarged_by: float) -> float:
    """Sigma, in pixels of the image, of its blur before any degradation.

    The blur of enlarging, or that of its edges if it is more; 0 for a sharp image.

    Args:
        pixels: uint8 (height, width, 3), as resized.
        enlarged_by: Factor of the resizing; 1 or less if it was shrunk.
    """
    measured = edge_sigma(pixels)
    return max(enlarged_sigma(enlarged_by), measured if measured > SOFT_SIGMA_PX else 0.0)


def edge_sigma(pixels: Pixels) -> float:
    """Sigma of the blur of the sharpest edges, in pixels; 0 without edges.

    A step edge blurred by a gaussian of standard deviation s has a first derivative that peaks
    at A / (s sqrt(2 pi)) and a second one at A / (s^2 sqrt(2 pi e)): their ratio is s sqrt(e).
    Both peaks are quantiles over the image. Derivatives are central differences, which add a
    variance of about a quarter of a pixel; it is subtracted.

    Args:
        pixels: uint8 (height, width, 3).
    """
    grey = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))
    # Derivatives of whole levels are counted, not sorted: first ones in halves of a level.
    first, second = np.zeros(511, np.int64), np.zeros(1021, np.int64)
    for rows in (grey, np.ascontiguousarray(grey.T)):
        first[:256] += np.bincount(cv2.absdiff(rows[2:], rows[:-2]).ravel(), minlength=256)
        border = cv2.absdiff(rows[[1, -1]], rows[[0, -2]])  # one-sided differences
        first[::2] += np.bincount(border.ravel(), minlength=256)
        bends = np.abs(np.diff(rows.astype(np.int16), n=2, axis=0))
        second += np.bincount(bends.ravel(), minlength=1021)
    slope, bend = 0.5 * _counted_quantile(first), _counted_quantile(second)
    if slope < 2.0 or bend <= 0.0:
        return 0.0
    return _TEXTURE * float(np.sqrt(max(0.0, (slope / bend) ** 2 / np.e - 0.25)))


def _counted_quantile(counts: npt.NDArray[np.int64]) -> float:
    """The quantile 1 - `SHARPEST_SHARE` of whole numbers, given how often each of them occurs.

    It is rounded as `numpy.quantile` rounds that of float32 values, so that labels stay what they were.
    """
    up_to = np.cumsum(counts)
    place = float(up_to[-1] - 1) * (1.0 - SHARPEST_SHARE)
    whole = int(place)
    part = place - whole
    below, above = (np.float32(np.searchsorted(up_to, at, side="right")) for at in (whole, whole + 1))
    if part < 0.5:
        return float(below + (above - below) * part)
    return float(above - (above - below) * (1.0 - part))
