"""Noise on the device; each kind has the distribution of its namesake in `degradations.noise`."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import cv2
import numpy as np
import torch
from torch import Tensor

from quality_model.degrade.calibrated_plan import Facts, Noise
from quality_model.degrade.point_spread import Kernel
from quality_model.train.on_device.blurs import convolve

_GRAIN_REACH_PX: Final = 5
"""As far as OpenCV goes for a sigma of 1 px or less."""


def add(levels: Tensor, plans: Sequence[Noise], generator: torch.Generator) -> Tensor:
    """Each image with the noise of its plan."""
    means = levels.mean(dim=(1, 2, 3)).tolist()
    mean_squares = levels.square().mean(dim=(1, 2, 3)).tolist()
    amounts = [plan.amount(*moments) for plan, *moments in zip(plans, means, mean_squares, strict=True)]
    noisy = levels.clone()
    for kind in dict.fromkeys(plan.kind for plan in plans):
        rows = [row for row, plan in enumerate(plans) if plan.kind == kind]
        noisy[rows] = _of_kind(kind, levels[rows], [amounts[row] for row in rows], generator)
    return noisy


def _of_kind(kind: str, levels: Tensor, amounts: Sequence[Facts], generator: torch.Generator) -> Tensor:
    def each(name: str) -> Tensor:
        values = [float(amount[name]) for amount in amounts]
        return torch.tensor(values, device=levels.device)[:, None, None, None]

    match kind:
        case "salt_and_pepper":
            return _salt_and_pepper(levels, each("share"), generator)
        case "poisson":
            white = each("peak") / 255.0
            return (torch.poisson(levels * white, generator=generator) / white).round().clamp(max=255)
        case "speckle":
            factor = 1.0 + each("relative_std") * _normal(levels, 3, generator)
            return (levels * factor).round().clamp(0, 255)
    field = _normal(levels, 3 if kind == "gaussian" else 1, generator)
    grains_px = [float(amount["grain_sigma_px"]) for amount in amounts]
    rows = [row for row, grain_px in enumerate(grains_px) if grain_px > 0]
    if rows:
        smooth = convolve(field[rows], [_grain(grains_px[row]) for row in rows], border="reflect")
        field[rows] = smooth / smooth.std(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6)
    return (levels + (field * each("std")).round()).clamp(0, 255)


def _salt_and_pepper(levels: Tensor, share: Tensor, generator: torch.Generator) -> Tensor:
    n, _, height, width = levels.shape
    drawn = torch.rand(n, 1, height, width, generator=generator, device=levels.device)
    salted = levels.masked_fill(drawn < share / 2.0, 255.0)
    return salted.masked_fill(drawn >= 1.0 - share / 2.0, 0.0)


def _normal(levels: Tensor, channels: int, generator: torch.Generator) -> Tensor:
    n, _, height, width = levels.shape
    return torch.randn(n, channels, height, width, generator=generator, device=levels.device)


@lru_cache(maxsize=256)
def _grain(sigma_px: float) -> Kernel:
    """What OpenCV's gaussian makes of a single point."""
    point = np.zeros((2 * _GRAIN_REACH_PX + 1,) * 2, dtype=np.float32)
    point[_GRAIN_REACH_PX, _GRAIN_REACH_PX] = 1.0
    return np.asarray(cv2.GaussianBlur(point, (0, 0), sigma_px, borderType=cv2.BORDER_CONSTANT))
