"""The network as the design describes it, module by module; loads the library's weights."""

import torch
from torch import Tensor, nn

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
