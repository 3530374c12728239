"""Colour on the device: tables, marks, and the measures that casts and marks are labelled by."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from quality_model.degrade import white_balance

_EPSILON = 216.0 / 24389.0
_KAPPA = 24389.0 / 27.0
"""Where CIELAB goes over from a line to a cube root, and the line's slope (CIE 15)."""

_MEASURED_EVERY = 3
"""As `white_balance.mean_shift_ab` does, on every third pixel of every third row."""


def recolour(levels: Tensor, tables: Tensor) -> Tensor:
    """Replace each level of each channel by its entry; ``tables`` uint8 (n, 256, 3)."""
    found = tables.permute(0, 2, 1).gather(2, levels.long().flatten(2))
    return found.reshape(levels.shape).float()


def stamp(levels: Tensor, colour: Tensor, coverage: Tensor, opacity: Tensor) -> Tensor:
    """Lay marks over images (see `marks.stamp`).

    Args:
        levels: Images.
        colour: uint8 (n, S, S, 3).
        coverage: uint8 (n, S, S).
        opacity: float (n,).
    """
    weight = coverage[:, None].float() * (opacity / 255.0)[:, None, None, None]
    return (levels + (colour.permute(0, 3, 1, 2).float() - levels) * weight).round()


def mean_shift_ab(before: Tensor, after: Tensor) -> Tensor:
    """Length of the mean shift in the a*b* plane, float (n,)."""
    thinned = (..., slice(None, None, _MEASURED_EVERY), slice(None, None, _MEASURED_EVERY))
    shift = to_lab(after[thinned])[:, 1:] - to_lab(before[thinned])[:, 1:]
    return shift.mean(dim=(2, 3)).square().sum(dim=1).sqrt()


def rms_difference(before: Tensor, after: Tensor) -> Tensor:
    """RMS over each image of the colour difference CIE 1976, float (n,)."""
    difference = to_lab(after) - to_lab(before)
    return difference.square().sum(dim=1).mean(dim=(1, 2)).sqrt()


def to_lab(levels: Tensor) -> Tensor:
    """sRGB levels to CIELAB (D65): L* 0 to 100, a* and b*, float32 (n, 3, S, S)."""
    linear, to_xyz = (torch.from_numpy(part).to(levels.device) for part in _constants())
    xyz = torch.einsum("ij,njyx->niyx", to_xyz, linear[levels.long()])
    f = torch.where(xyz > _EPSILON, xyz.clamp(min=_EPSILON).pow(1.0 / 3.0), (_KAPPA * xyz + 16.0) / 116.0)
    x, y, z = f.unbind(1)
    return torch.stack([116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)], dim=1)


@lru_cache(maxsize=1)
def _constants() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Linear light of each level, (256,), and the matrix to XYZ over that of white, (3, 3)."""
    linear = white_balance.decode(np.arange(256.0))
    xyz = np.linalg.inv(white_balance.LINEAR_FROM_XYZ)
    over_white = xyz / xyz.sum(axis=1, keepdims=True)
    return linear.astype(np.float32), over_white.astype(np.float32)
