"""Convolution and resampling on the device."""

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from quality_model.degrade.point_spread import Kernel


def convolve(fields: Tensor, kernels: Sequence[Kernel], *, border: str = "replicate") -> Tensor:
    """Convolve each field with its own kernel (see `point_spread.blur`), by way of the frequencies.

    One transform serves kernels of all sizes, and costs the same for a large blur as for a small one.

    Args:
        fields: float (n, C, S, S).
        kernels: As many as fields; odd sides.
        border: How the field goes on: ``replicate`` or ``reflect``.

    Returns:
        float (n, C, S, S), not rounded.
    """
    reach = max(len(kernel) for kernel in kernels) // 2
    stacked = np.stack([np.pad(kernel, reach - len(kernel) // 2) for kernel in kernels])
    padded = _extended(fields, reach, border)
    size = padded.shape[-2:]
    # Correlation, as OpenCV has it: the kernel is not turned.
    transfer = torch.fft.rfft2(torch.from_numpy(stacked).to(fields.device), s=size).conj()
    blurred: Tensor = torch.fft.irfft2(torch.fft.rfft2(padded) * transfer[:, None], s=size)
    return blurred[..., : fields.shape[-2], : fields.shape[-1]].contiguous()


def resample(levels: Tensor, sides_px: Sequence[int], down: Sequence[int], up: Sequence[int]) -> Tensor:
    """Resize each image to a side of its own and back.

    Args:
        levels: Images.
        sides_px: The side in between, of each.
        down: OpenCV's interpolation on the way there, of each; ``up``: on the way back.
    """
    side_px = levels.shape[-1]
    there = _stacked([(side_px, small, way) for small, way in zip(sides_px, down, strict=True)], levels)
    back = _stacked([(small, side_px, way) for small, way in zip(sides_px, up, strict=True)], levels)
    small = (there @ levels @ there.transpose(-1, -2)).round().clamp(0, 255)
    return (back @ small @ back.transpose(-1, -2)).round().clamp(0, 255)


def _extended(fields: Tensor, reach: int, border: str) -> Tensor:
    """``reach`` more on every side, in steps if it is more than a reflection can give."""
    while reach > 0:
        step = min(reach, fields.shape[-1] - 1)
        fields = F.pad(fields, (step, step, step, step), mode=border)
        reach -= step
    return fields


def _stacked(ways: Sequence[tuple[int, int, int]], levels: Tensor) -> Tensor:
    """Matrices of `_weights`, with zeros up to the size of the images, (n, 1, S, S)."""
    matrices = torch.zeros(len(ways), 1, levels.shape[-1], levels.shape[-1], device=levels.device)
    for matrix, (before, after, interpolation) in zip(matrices, ways, strict=True):
        matrix[0, :after, :before] = torch.from_numpy(_weights(before, after, interpolation))
    return matrices


@lru_cache(maxsize=256)
def _weights(before: int, after: int, interpolation: int) -> Kernel:
    """What each of ``before`` values counts for each of ``after`` ones: OpenCV's answer to unit vectors."""
    identity = np.eye(before, dtype=np.float32)
    return np.asarray(cv2.resize(identity, (before, after), interpolation=interpolation))
