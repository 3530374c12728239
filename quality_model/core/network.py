"""The networks as arithmetic over named weights: what a trained model computes, for every engine.

`forward` states once which layers follow each other. Whoever computes gives it the operations: those here
are the definition, in NumPy; `core.engines` writes an engine's layers, `core.torch_engine` and
`networks.model`, for training, call PyTorch. Names and shapes of the weights of `standard` are those of
the original design, so that its checkpoints load.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from quality_model.params import ArchitectureName
from quality_model.records import HEADS, Head

Floats = npt.NDArray[np.float32]
Weights = Mapping[str, Floats]
"""A state dict as NumPy arrays: parameters, batch norm's running statistics, ``degradation_weights``."""

FoldedWeights = Mapping[str, tuple[Floats, Floats]]
"""By layer name, weight and bias. Convolutions do the work of the batch norm behind them."""

Activation = Literal["none", "relu", "sigmoid"]

NORM_EPSILON: Final = 1e-5
"""Of every batch norm; PyTorch's default."""

VARIANCE_FLOOR: Final = 1e-5
"""Added to a variance before its root is taken, whose slope is infinite at 0."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution with a square kernel, and what follows it.

    Attributes:
        name: Of its weights.
        channels: Of its output.
        side: Of the kernel.
        stride: Positions from one output to the next.
        norm: Whether a batch norm follows.
        bias: Whether it has a bias of its own.
        activation: What comes last.
    """

    name: str
    channels: int
    side: int = 3
    stride: int = 1
    norm: bool = True
    bias: bool = True
    activation: Activation = "relu"


class Operations(Protocol[T]):
    """What a network is made of. Feature maps are (C, H, W), vectors (C,); ``channels``: of the output."""

    def scale(self, x: T, factor: float, offset: float) -> T: ...
    def space_to_depth(self, x: T, patch_px: int) -> T: ...
    def convolution(self, x: T, conv: Convolution) -> T:
        """Padded by half its side with 0; then the batch norm, then the activation."""
        ...

    def add_relu(self, x: T, y: T) -> T: ...
    def max_pool(self, x: T) -> T: ...
    def mean(self, x: T) -> T: ...
    def deviation(self, x: T) -> T:
        """The standard deviation of each channel over the image."""
        ...

    def maximum(self, x: T) -> T: ...
    def linear(self, x: T, name: str, features: int, activation: Activation) -> T: ...
    def drop(self, x: T) -> T: ...
    def multiply(self, x: T, y: T) -> T: ...
    def concatenate(self, parts: Sequence[T]) -> T: ...


def forward(name: ArchitectureName, x: T, ops: Operations[T]) -> tuple[T, T | None]:
    """What a network says about an image.

    Args:
        name: Which network.
        x: What ``ops`` takes for images: RGB in [0, 1], of sides that are multiples of the network's stride.
        ops: Computes.

    Returns:
        The four scores, in the order of `records.HEADS`, and the map of watermarks: the severity in
        each cell of 16 x 16 px, (1, H/16, W/16); None for a network without.
    """
    return ARCHITECTURES[name].layers(x, ops)


_STANDARD_WIDTHS: Final = (32, 64, 128, 256)
_STANDARD_HEADS: Final = (256, 128)
_ATTENTION_REDUCTION: Final = 4


def _standard(x: T, ops: Operations[T]) -> tuple[T, T | None]:
    """The original's: four levels of a residual block and a pool, channel attention, four heads."""
    for level, width in enumerate(_STANDARD_WIDTHS):  # (C, H, W) -> (width, H/2, W/2)
        at = 3 * level
        x = ops.convolution(x, Convolution(f"backbone.{at}.conv", width))
        y = ops.convolution(x, Convolution(f"backbone.{at + 1}.conv1", width))
        y = ops.convolution(y, Convolution(f"backbone.{at + 1}.conv2", width, activation="none"))
        x = ops.max_pool(ops.add_relu(y, x))
    pooled = ops.mean(x)  # (C,)
    channels = _STANDARD_WIDTHS[-1]
    squeezed = ops.linear(pooled, "channel_attention.0", channels // _ATTENTION_REDUCTION, "relu")
    attended = ops.multiply(pooled, ops.linear(squeezed, "channel_attention.2", channels, "sigmoid"))

    def head(name: Head) -> T:
        y = attended
        for place, features in zip((0, 3), _STANDARD_HEADS, strict=True):
            y = ops.drop(ops.linear(y, f"head_{name}.{place}", features, "relu"))
        return ops.linear(y, f"head_{name}.6", 1, "sigmoid")

    return ops.concatenate([head(name) for name in HEADS]), None


_SMALL_LEVELS: Final = ((32, 1), (48, 2), (112, 2), (192, 1))
"""Channels and residual blocks of each level, of which each halves the side."""

_SMALL_HEAD: Final = 96
_MAP_CHANNELS: Final = 64
_MAP_LEVEL: Final = 2


def _small(x: T, ops: Operations[T]) -> tuple[T, T | None]:
    """A residual network after space to depth: 0.25 G multiply-adds for an image of 224 px.

    Noise and blur show in differences of neighbours: space to depth keeps every pixel's value where an
    average would lose them. The mean of a channel over the image says how much of something there is, its
    deviation and maximum how unevenly: a watermark is in few places. Pixels are centred, so that the zeros
    around an image are grey to the network, not black.
    """

    def convolution(x: T, name: str, channels: int, stride: int = 1, activation: Activation = "relu") -> T:
        conv = Convolution(name, channels, stride=stride, bias=False, activation=activation)
        return ops.convolution(x, conv)

    x = ops.space_to_depth(ops.scale(x, 4.0, -2.0), 2)  # (12, H/2, W/2)
    features: list[T] = []
    for level, (channels, blocks) in enumerate(_SMALL_LEVELS):  # -> (channels, H/4, W/4), and so on
        x = convolution(x, f"level{level}.enter", channels, 2)
        for block in range(blocks):
            y = convolution(x, f"level{level}.{block}.conv1", channels)
            y = convolution(y, f"level{level}.{block}.conv2", channels, activation="none")
            x = ops.add_relu(y, x)
        features.append(x)
    y = convolution(features[_MAP_LEVEL], "map.enter", _MAP_CHANNELS)
    marks = ops.convolution(y, Convolution("map.leave", 1, side=1, norm=False, activation="sigmoid"))

    def pooled(x: T) -> T:
        return ops.concatenate([ops.mean(x), ops.deviation(x), ops.maximum(x)])

    seen = pooled(x)
    scores = []
    for head in HEADS:
        y = ops.concatenate([seen, pooled(marks)]) if head == "watermark" else seen
        y = ops.drop(ops.linear(y, f"head_{head}.0", _SMALL_HEAD, "relu"))
        scores.append(ops.linear(y, f"head_{head}.3", 1, "sigmoid"))
    return ops.concatenate(scores), marks


@dataclass(frozen=True, slots=True)
class Architecture:
    """A network.

    Attributes:
        layers: From an image and the operations on it to scores and map (see `forward`).
        stride_px: Of what the sides of an image must be multiples.
    """

    layers: Callable[..., tuple[Any, Any]]
    stride_px: int


ARCHITECTURES: Final[dict[ArchitectureName, Architecture]] = {
    "small": Architecture(_small, stride_px=16),
    "standard": Architecture(_standard, stride_px=1),
}


def trimmed(name: ArchitectureName, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Images, uint8 (N, H, W, 3), without what is over a multiple of the network's stride."""
    stride_px = ARCHITECTURES[name].stride_px
    height, width = (side // stride_px * stride_px for side in pixels.shape[1:3])
    return pixels[:, :height, :width]


def weight_shapes(name: ArchitectureName) -> dict[str, tuple[int, ...]]:
    """Names and shapes of every weight of an architecture's state dict."""
    recorder = _ShapeRecorder()
    forward(name, 3, recorder)
    return {"degradation_weights": (len(HEADS),), **recorder.shapes}


def fold(weights: Weights) -> FoldedWeights:
    """Batch norm folded into the convolutions before it: the same function, fewer passes over memory."""
    folded = {}
    for name in (key.removesuffix(".weight") for key in weights if key.endswith(".weight")):
        weight, norm = weights[f"{name}.weight"], norm_of(name)
        if weight.ndim == 1:
            continue  # a batch norm's own
        bias = weights.get(f"{name}.bias", np.zeros(len(weight), np.float32))
        if f"{norm}.running_mean" in weights:
            scale, shift, mean, inverse_std = _norm(weights, norm)
            weight = weight * (scale * inverse_std)[:, None, None, None]
            bias = (bias - mean) * inverse_std * scale + shift
        folded[name] = (weight, bias)
    return folded


def norm_of(conv: str) -> str:
    """The name of the batch norm behind a convolution: ``bn1`` of ``conv1``, ``enter_bn`` of ``enter``."""
    return conv.replace("conv", "bn") if "conv" in conv else f"{conv}_bn"


def reference_scores(
    weights: Weights, name: ArchitectureName, pixels: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float32]:
    """What the network gives by its definition, in float32 and without folding: engines must agree with it.

    It is slow, and meant for a few small images.

    Args:
        weights: As of `weight_shapes`.
        name: Their architecture.
        pixels: uint8 (N, H, W, 3) RGB.

    Returns:
        float32 (N, 4), in the order of `records.HEADS`; NaN where weights overflow.
    """
    ops = _NumpyOperations(weights)
    planes = trimmed(name, pixels).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255.0)
    with np.errstate(all="ignore"):
        return np.stack([forward(name, image, ops)[0] for image in planes])


class _ShapeRecorder:
    """On numbers of channels: notes the shapes of the weights that each operation needs."""

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}

    def scale(self, x: int, factor: float, offset: float) -> int:
        return x

    def space_to_depth(self, x: int, patch_px: int) -> int:
        return x * patch_px**2

    def convolution(self, x: int, conv: Convolution) -> int:
        self.shapes[f"{conv.name}.weight"] = (conv.channels, x, conv.side, conv.side)
        if conv.bias:
            self.shapes[f"{conv.name}.bias"] = (conv.channels,)
        if conv.norm:
            for kind in ("weight", "bias", "running_mean", "running_var"):
                self.shapes[f"{norm_of(conv.name)}.{kind}"] = (conv.channels,)
            self.shapes[f"{norm_of(conv.name)}.num_batches_tracked"] = ()
        return conv.channels

    def linear(self, x: int, name: str, features: int, activation: Activation) -> int:
        self.shapes |= {f"{name}.weight": (features, x), f"{name}.bias": (features,)}
        return features

    def concatenate(self, parts: Sequence[int]) -> int:
        return sum(parts)

    def add_relu(self, x: int, y: int) -> int:
        return x

    multiply = add_relu

    def max_pool(self, x: int) -> int:
        return x

    mean = deviation = maximum = drop = max_pool


class _NumpyOperations:
    """On one image: float32 (C, H, W), or (C,) after a pool."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def scale(self, x: Floats, factor: float, offset: float) -> Floats:
        return x * np.float32(factor) + np.float32(offset)

    def space_to_depth(self, x: Floats, patch_px: int) -> Floats:
        channels, height, width = x.shape
        split = x.reshape(channels, height // patch_px, patch_px, width // patch_px, patch_px)
        return split.transpose(0, 2, 4, 1, 3).reshape(-1, height // patch_px, width // patch_px)

    def convolution(self, x: Floats, conv: Convolution) -> Floats:
        weight, half = self._weights[f"{conv.name}.weight"], conv.side // 2
        padded = np.pad(x, ((0, 0), (half, half), (half, half)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (conv.side, conv.side), axis=(1, 2))
        windows = windows[:, :: conv.stride, :: conv.stride]
        columns = windows.transpose(0, 3, 4, 1, 2).reshape(-1, windows.shape[1] * windows.shape[2])
        y = (weight.reshape(conv.channels, -1) @ columns).reshape(conv.channels, *windows.shape[1:3])
        if conv.bias:
            y = y + self._weights[f"{conv.name}.bias"][:, None, None]
        if conv.norm:
            scale, shift, mean, inverse_std = (
                part[:, None, None] for part in _norm(self._weights, norm_of(conv.name))
            )
            y = (y - mean) * inverse_std * scale + shift
        return _activated(y, conv.activation)

    def add_relu(self, x: Floats, y: Floats) -> Floats:
        return _activated(x + y, "relu")

    def max_pool(self, x: Floats) -> Floats:
        channels, height, width = x.shape
        whole = x[:, : height // 2 * 2, : width // 2 * 2]
        pooled: Floats = whole.reshape(channels, height // 2, 2, width // 2, 2).max(axis=(2, 4))
        return pooled

    def mean(self, x: Floats) -> Floats:
        mean: Floats = x.mean(axis=(1, 2))
        return mean

    def deviation(self, x: Floats) -> Floats:
        deviation: Floats = np.sqrt(x.var(axis=(1, 2)) + np.float32(VARIANCE_FLOOR))
        return deviation

    def maximum(self, x: Floats) -> Floats:
        maximum: Floats = x.max(axis=(1, 2))
        return maximum

    def linear(self, x: Floats, name: str, features: int, activation: Activation) -> Floats:
        y: Floats = self._weights[f"{name}.weight"] @ x + self._weights[f"{name}.bias"]
        return _activated(y, activation)

    def drop(self, x: Floats) -> Floats:
        return x

    def multiply(self, x: Floats, y: Floats) -> Floats:
        return x * y

    def concatenate(self, parts: Sequence[Floats]) -> Floats:
        return np.concatenate(parts)


def _activated(x: Floats, activation: Activation) -> Floats:
    if activation == "none":
        return x
    y = np.maximum(x, 0) if activation == "relu" else 1 / (1 + np.exp(-x))
    return y.astype(np.float32, copy=False)


def _norm(weights: Weights, norm: str) -> tuple[Floats, Floats, Floats, Floats]:
    """Scale, shift, mean, and 1 over the standard deviation."""
    inverse_std = np.float32(1) / np.sqrt(weights[f"{norm}.running_var"] + np.float32(NORM_EPSILON))
    return weights[f"{norm}.weight"], weights[f"{norm}.bias"], weights[f"{norm}.running_mean"], inverse_std
