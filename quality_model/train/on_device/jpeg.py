"""JPEG and back on the device (ITU-T T.81, T.871): what recompression does to pixels, without the file.

Entropy coding loses nothing, so it is left out. Arithmetic is in floats where the CPU's library
has integers: a coefficient in the middle between two steps may fall to the other one.
"""

from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

Floats = npt.NDArray[np.float32]

_BLOCK: Final = 8
_YCC: Final = np.array(
    [
        [0.299, 0.587, 0.114],
        [-0.299 / 1.772, -0.587 / 1.772, 0.5],
        [0.5, -0.587 / 1.402, -0.114 / 1.402],
    ]
)
"""RGB to luma and the two colour differences (ITU-T T.871)."""


def recompress(levels: Tensor, qualities: Sequence[int], sampling: str) -> Tensor:
    """Through JPEG and back.

    Args:
        levels: Images.
        qualities: Of each.
        sampling: Of the colours: ``4:2:0`` halves their sides, ``4:4:4`` does not.
    """
    side_px = levels.shape[-1]
    halves = sampling == "4:2:0"
    tables = torch.from_numpy(np.stack([_tables(quality) for quality in qualities])).to(levels.device)
    ycc = _mixed(levels, _YCC).round()
    missing = -side_px % (2 * _BLOCK if halves else _BLOCK)
    ycc = F.pad(ycc, (0, missing, 0, missing), mode="replicate")
    luma, colour = ycc[:, :1], ycc[:, 1:]
    if halves:
        colour = _halved(colour)
    luma = _through_blocks(luma - 128.0, tables[:, :1])[..., :side_px, :side_px] + 128.0
    colour = _through_blocks(colour, tables[:, 1:])
    if halves:
        there = -(-side_px // 2)
        colour = F.interpolate(
            colour[..., :there, :there].round(), scale_factor=2.0, mode="bilinear", align_corners=False
        )
    colour = colour[..., :side_px, :side_px]
    both = torch.cat([luma.round().clamp(0, 255), colour.round().clamp(-128, 127)], dim=1)
    return _mixed(both, np.linalg.inv(_YCC)).round().clamp(0, 255)


def _mixed(channels: Tensor, matrix: npt.NDArray[np.float64]) -> Tensor:
    weights = torch.from_numpy(matrix.astype(np.float32)).to(channels.device)
    return torch.einsum("ij,njyx->niyx", weights, channels)


def _halved(colour: Tensor) -> Tensor:
    """Means of 2 x 2, whose rounding goes down and up in turn, as in the reference software."""
    sums = 4.0 * F.avg_pool2d(colour, 2)
    bias = 1.0 + torch.arange(sums.shape[-1], device=sums.device) % 2
    return ((sums + bias) / 4.0).floor()


def _through_blocks(channels: Tensor, tables: Tensor) -> Tensor:
    """Quantise the cosine transform of each block, and transform back.

    Args:
        channels: float (n, C, H, W), around 0; sides of whole blocks.
        tables: Steps, float (n, 1, 8, 8).
    """
    n, count, height, width = channels.shape
    cosines = torch.from_numpy(_cosines()).to(channels.device)
    blocks = channels.reshape(n, count, height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK).transpose(3, 4)
    steps = tables[:, :, None, None]
    wanted = cosines @ blocks @ cosines.T / steps
    kept = (wanted.abs() + 0.5).floor() * wanted.sign()  # halves go away from zero
    restored = cosines.T @ (kept * steps) @ cosines
    return restored.transpose(3, 4).reshape(channels.shape)


@lru_cache(maxsize=1)
def _cosines() -> Floats:
    """The orthonormal cosine transform of 8 values, (8, 8)."""
    frequency, place = np.indices((_BLOCK, _BLOCK))
    waves = np.cos(np.pi * (2 * place + 1) * frequency / (2 * _BLOCK)) * (2.0 / _BLOCK) ** 0.5
    waves[0] /= 2.0**0.5
    return np.asarray(waves, dtype=np.float32)


@lru_cache(maxsize=128)
def _tables(quality: int) -> Floats:
    """Steps for luma and colour, (2, 8, 8), as the CPU's encoder writes them into its files."""
    done, data = cv2.imencode(
        ".jpg", np.zeros((_BLOCK, _BLOCK, 3), dtype=np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    assert done
    with Image.open(BytesIO(data.tobytes())) as image:
        found: dict[int, Sequence[int]] = image.quantization  # type: ignore[attr-defined]
    return np.array([found[0], found[1]], dtype=np.float32).reshape(2, _BLOCK, _BLOCK)
