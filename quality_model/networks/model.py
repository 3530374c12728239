"""The network for training: a shared residual backbone with channel attention, and four sigmoid heads.

The channel attention follows squeeze-and-excitation networks (Hu et al., arXiv 1709.01507).
Parameter names and shapes of the standard architecture are those of the original design, so
that its checkpoints load. The compact one, for scoring by the billion, first stacks squares of
2 x 2 pixels into channels (space to depth): a quarter of the positions and every pixel's value,
because noise and blur show in differences of neighbours.

Activations are overwritten in place where no gradient needs them: the same bits, a fifth
more images/s in training (224 px, two cores).
"""

import copy

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quality_model.core.model_files import DESIGN_DROPOUT
from quality_model.core.network import ARCHITECTURES, ATTENTION_REDUCTION, HEAD_WIDTHS
from quality_model.params import ArchitectureName
from quality_model.records import HEADS, OVERALL_WEIGHTS


class ConvBlock(nn.Module):
    """3 x 3 convolution, batch norm, ReLU: (N, in, H, W) -> (N, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norm around an identity: (N, C, H, W) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        y += x
        return F.relu(y, inplace=True)


class MultiHeadQualityAssessmentModel(nn.Module):
    """Scores four degradations of an image, each in [0, 1] (0 absent, 1 severe).

    Args:
        dropout: Share of head activations dropped in training; no parameters depend on it.
        architecture: One of `core.network.ARCHITECTURES`.
    """

    degradation_weights: Tensor

    def __init__(self, dropout: float = DESIGN_DROPOUT, architecture: ArchitectureName = "standard") -> None:
        super().__init__()
        self.dropout = dropout
        self.architecture: ArchitectureName = architecture
        self._patch_px = ARCHITECTURES[architecture].patch_px
        levels: list[nn.Module] = [] if self._patch_px == 1 else [nn.PixelUnshuffle(self._patch_px)]
        channels = 3 * self._patch_px**2
        for width in ARCHITECTURES[architecture].widths:
            levels += [ConvBlock(channels, width), ResidualBlock(width), nn.MaxPool2d(2)]
            channels = width
        self.backbone = nn.Sequential(*levels)
        squeezed = channels // ATTENTION_REDUCTION
        self.channel_attention = nn.Sequential(
            nn.Linear(channels, squeezed), nn.ReLU(), nn.Linear(squeezed, channels), nn.Sigmoid()
        )
        self.head_color_cast = _head(channels, dropout)
        self.head_blurriness = _head(channels, dropout)
        self.head_watermark = _head(channels, dropout)
        self.head_noise = _head(channels, dropout)
        self.register_buffer("degradation_weights", torch.tensor([OVERALL_WEIGHTS[head] for head in HEADS]))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Score a batch.

        Args:
            x: float (N, 3, H, W), RGB in [0, 1]; 224 x 224 by default. H and W of at least 16,
                32 for compact, which leaves the last row or column of an odd number out.

        Returns:
            Float tensors in [0, 1]: each head's score and ``overall`` (1 best), (N, 1);
            ``all_scores``, (N, 4), in the order of `records.HEADS`.
        """
        height, width = (side // self._patch_px * self._patch_px for side in x.shape[2:])
        features = self.backbone(x[..., :height, :width])  # (N, C, H/16, W/16); compact: H/32, W/32
        pooled = features.mean(dim=(2, 3))  # (N, C)
        attended = pooled * self.channel_attention(pooled)
        scores: dict[str, Tensor] = {
            head: torch.sigmoid(getattr(self, f"head_{head}")(attended)) for head in HEADS
        }
        all_scores = torch.cat([scores[head] for head in HEADS], dim=1)
        overall = 1.0 - (all_scores * self.degradation_weights).sum(dim=1, keepdim=True)
        return {**scores, "overall": overall, "all_scores": all_scores}


def to_model_input(pixels: npt.NDArray[np.uint8] | Tensor, device: torch.device) -> Tensor:
    """uint8 (N, S, S, 3) RGB -> float32 (N, 3, S, S) in [0, 1] on ``device``, channels last."""
    batch = pixels if isinstance(pixels, Tensor) else torch.from_numpy(np.ascontiguousarray(pixels))
    return batch.to(device, non_blocking=True).permute(0, 3, 1, 2).float().div(255.0)


def weighted_mse(scores: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over heads of weight x mean squared error, as the original design has it.

    Args:
        scores: float (N, heads) in [0, 1], of any float dtype; computed on in float32.
        labels: float32 (N, heads) in [0, 1].
        weights: float32 (heads,), one weight per head.

    Returns:
        The loss, float32 (), and each head's unweighted MSE, float32 (heads,), both with
        their gradient.
    """
    per_head = (scores.float() - labels).square().mean(dim=0)
    return (weights * per_head).mean(), per_head


def multiply_adds(model: MultiHeadQualityAssessmentModel, side_px: int) -> int:
    """Multiplications with an addition that one image of this side takes, in convolutions and heads."""
    from torch.utils.flop_counter import FlopCounterMode

    shapes_alone = copy.deepcopy(model).to("meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shapes_alone(torch.empty(1, 3, side_px, side_px, device="meta"))
    return int(counter.get_total_flops()) // 2  # it counts both


def _head(channels: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(channels, HEAD_WIDTHS[0]),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(HEAD_WIDTHS[0], HEAD_WIDTHS[1]),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(HEAD_WIDTHS[1], 1),
    )
