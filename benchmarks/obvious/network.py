"""The two networks, module by module; the design's own loads the library's weights."""

import torch
from torch import Tensor, nn

from quality_model.core.network import VARIANCE_FLOOR
from quality_model.records import HEADS


class ConvBlock(nn.Module):
    """3 x 3 convolution, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norm around an identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + x)


class Network(nn.Module):
    """Four levels, channel attention, four heads: float (N, 3, H, W) in [0, 1] to scores (N, 4)."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        levels: list[nn.Module] = []
        channels = 3
        for width in (32, 64, 128, 256):
            levels += [ConvBlock(channels, width), ResidualBlock(width), nn.MaxPool2d(2)]
            channels = width
        self.backbone = nn.Sequential(*levels)
        self.channel_attention = nn.Sequential(
            nn.Linear(channels, channels // 4), nn.ReLU(), nn.Linear(channels // 4, channels), nn.Sigmoid()
        )
        for head in HEADS:
            layers = [nn.Linear(channels, 256), nn.ReLU(), nn.Dropout(dropout)]
            layers += [nn.Linear(256, 128), nn.ReLU(), nn.Dropout(dropout), nn.Linear(128, 1)]
            self.add_module(f"head_{head}", nn.Sequential(*layers))

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.backbone(x).mean(dim=(2, 3))
        attended = pooled * self.channel_attention(pooled)
        return torch.cat([torch.sigmoid(getattr(self, f"head_{head}")(attended)) for head in HEADS], dim=1)

    def load(self, weights: dict[str, Tensor]) -> None:
        """Take the weights of the library's standard model."""
        self.load_state_dict({name: tensor for name, tensor in weights.items() if name in self.state_dict()})


class SmallNetwork(nn.Module):
    """The library's small network: float (N, 3, H, W) in [0, 1] to scores (N, 4) and a map."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        channels = 12
        for width, blocks in ((32, 1), (48, 2), (112, 2), (192, 1)):
            enter = nn.Sequential(*_normed(channels, width, stride=2), nn.ReLU())
            self.levels.append(nn.Sequential(enter, *(SmallBlock(width) for _ in range(blocks))))
            channels = width
        self.map = nn.Sequential(*_normed(112, 64), nn.ReLU(), nn.Conv2d(64, 1, 1), nn.Sigmoid())
        self.heads = nn.ModuleDict()
        for head in HEADS:
            features = 3 * channels + (3 if head == "watermark" else 0)
            layers = [nn.Linear(features, 96), nn.ReLU(), nn.Dropout(dropout), nn.Linear(96, 1), nn.Sigmoid()]
            self.heads[head] = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = nn.functional.pixel_unshuffle(4.0 * x - 2.0, 2)
        for number, level in enumerate(self.levels):
            x = level(x)
            if number == 2:
                marks = self.map(x)
        seen, marked = _pooled(x), _pooled(marks)
        scores = [
            self.heads[head](torch.cat([seen, marked], dim=1) if head == "watermark" else seen)
            for head in HEADS
        ]
        return torch.cat(scores, dim=1), marks[:, 0]


class SmallBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norm around an identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_normed(channels, channels), nn.ReLU(), *_normed(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layers(x) + x)


def _normed(in_channels: int, out_channels: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
    return conv, nn.BatchNorm2d(out_channels)


def _pooled(x: Tensor) -> Tensor:
    deviation = (x.var(dim=(2, 3), correction=0) + VARIANCE_FLOOR).sqrt()
    return torch.cat([x.mean(dim=(2, 3)), deviation, x.amax(dim=(2, 3))], dim=1)
