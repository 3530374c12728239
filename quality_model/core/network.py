"""The network as arithmetic over named weights: what a trained model computes, for every engine.

`forward` states once which layers follow each other. An engine gives it its operations: those here are
the definition, in NumPy; `core.engines` writes ncnn's layers, `core.torch_engine` calls PyTorch.
`networks.model` has the same network for training. Names and shapes of weights are those of the original
design, so that its checkpoints load.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from quality_model.params import ArchitectureName
from quality_model.records import HEADS

Floats = npt.NDArray[np.float32]
Weights = Mapping[str, Floats]
"""A state dict as NumPy arrays: parameters, batch norm's running statistics, ``degradation_weights``."""

FoldedWeights = Mapping[str, tuple[Floats, Floats]]
"""By layer name, weight and bias. Convolutions do the work of the batch norm behind them."""

Activation = Literal["none", "relu", "sigmoid"]


@dataclass(frozen=True, slots=True)
class Architecture:
    """What distinguishes one variant of the network from another.

    Attributes:
        patch_px: Side of the squares of pixels that are stacked into channels before the first
            level (space to depth); 1 for none.
        widths: Channels of the four levels; each ends in a pool that halves the side.
    """

    patch_px: int
    widths: tuple[int, ...]


ARCHITECTURES: Final[dict[ArchitectureName, Architecture]] = {
    "standard": Architecture(patch_px=1, widths=(32, 64, 128, 256)),
    "compact": Architecture(patch_px=2, widths=(32, 64, 128, 192)),
}

ATTENTION_REDUCTION: Final = 4
HEAD_WIDTHS: Final = (256, 128)
NORM_EPSILON: Final = 1e-5
"""Batch norm adds it to the variance; PyTorch's default."""

T = TypeVar("T")


class Operations(Protocol[T]):
    """What an engine computes with, on its own kind of activations T; weights are named, not given."""

    def space_to_depth(self, x: T, patch_px: int) -> T: ...
    def convolution(self, x: T, name: str, *, relu: bool) -> T: ...
    def add_relu(self, x: T, y: T) -> T: ...
    def max_pool(self, x: T) -> T: ...
    def mean(self, x: T) -> T: ...
    def linear(self, x: T, name: str, activation: Activation) -> T: ...
    def multiply(self, x: T, y: T) -> T: ...
    def concatenate(self, parts: Sequence[T]) -> T: ...


def forward(name: ArchitectureName, x: T, ops: Operations[T]) -> T:
    """The four scores, in the order of `records.HEADS`, of what ``ops`` takes for images.

    Images are RGB in [0, 1]. Their side is a multiple of ``patch_px``.
    """
    architecture = ARCHITECTURES[name]
    at = 0
    if architecture.patch_px > 1:
        x, at = ops.space_to_depth(x, architecture.patch_px), 1
    for _ in architecture.widths:  # (C, H, W) -> (width, H/2, W/2)
        x = ops.convolution(x, f"backbone.{at}.conv", relu=True)
        y = ops.convolution(x, f"backbone.{at + 1}.conv1", relu=True)
        y = ops.convolution(y, f"backbone.{at + 1}.conv2", relu=False)
        x = ops.max_pool(ops.add_relu(y, x))
        at += 3
    pooled = ops.mean(x)  # (C,)
    attention = ops.linear(pooled, "channel_attention.0", "relu")
    attended = ops.multiply(pooled, ops.linear(attention, "channel_attention.2", "sigmoid"))
    scores = []
    for head in HEADS:
        y = ops.linear(attended, f"head_{head}.0", "relu")
        y = ops.linear(y, f"head_{head}.3", "relu")
        scores.append(ops.linear(y, f"head_{head}.6", "sigmoid"))
    return ops.concatenate(scores)


def weight_shapes(name: ArchitectureName) -> dict[str, tuple[int, ...]]:
    """Names and shapes of every weight of an architecture's state dict."""
    patch_px, widths = ARCHITECTURES[name].patch_px, ARCHITECTURES[name].widths
    shapes: dict[str, tuple[int, ...]] = {"degradation_weights": (len(HEADS),)}

    def convolution(conv: str, channels_in: int, channels_out: int) -> None:
        shapes.update({f"{conv}.weight": (channels_out, channels_in, 3, 3), f"{conv}.bias": (channels_out,)})
        norm = _norm_of(conv)
        for kind in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{kind}"] = (channels_out,)
        shapes[f"{norm}.num_batches_tracked"] = ()

    def perceptron(prefix: str, positions: Sequence[int], *features: int) -> None:
        for at, (before, after) in zip(positions, pairwise(features), strict=True):
            shapes.update({f"{prefix}.{at}.weight": (after, before), f"{prefix}.{at}.bias": (after,)})

    channels, at = 3 * patch_px**2, int(patch_px > 1)
    for width in widths:
        convolution(f"backbone.{at}.conv", channels, width)
        convolution(f"backbone.{at + 1}.conv1", width, width)
        convolution(f"backbone.{at + 1}.conv2", width, width)
        channels, at = width, at + 3
    perceptron("channel_attention", (0, 2), channels, channels // ATTENTION_REDUCTION, channels)
    for head in HEADS:
        perceptron(f"head_{head}", (0, 3, 6), channels, *HEAD_WIDTHS, 1)
    return shapes


def fold(weights: Weights) -> FoldedWeights:
    """Batch norm folded into the convolutions before it: the same function, fewer passes over memory."""
    folded = {}
    for name in (key.removesuffix(".weight") for key in weights if key.endswith(".weight")):
        norm = _norm_of(name)
        weight, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
        if bias is None or ".bn" in name:
            continue
        if norm != name:
            scale, shift, mean, inverse_std = _norm(weights, norm)
            weight = weight * (scale * inverse_std)[:, None, None, None]
            bias = (bias - mean) * inverse_std * scale + shift
        folded[name] = (weight, bias)
    return folded


def reference_scores(
    weights: Weights, name: ArchitectureName, pixels: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float32]:
    """What the network gives by its definition, in float32 and without folding: engines must agree with it.

    It is slow, and meant for a few small images.

    Args:
        weights: As of `weight_shapes`.
        name: Their architecture.
        pixels: uint8 (N, S, S, 3) RGB.

    Returns:
        float32 (N, 4), in the order of `records.HEADS`; NaN where weights overflow.
    """
    ops = _NumpyOperations(weights)
    side_px = pixels.shape[1] // ARCHITECTURES[name].patch_px * ARCHITECTURES[name].patch_px
    planes = pixels.transpose(0, 3, 1, 2)[..., :side_px, :side_px].astype(np.float32) / np.float32(255.0)
    with np.errstate(all="ignore"):
        return np.stack([forward(name, image, ops) for image in planes])


class _NumpyOperations:
    """On one image: float32 (C, H, W), or (C,) after the mean."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def space_to_depth(self, x: Floats, patch_px: int) -> Floats:
        channels, height, width = x.shape
        split = x.reshape(channels, height // patch_px, patch_px, width // patch_px, patch_px)
        return split.transpose(0, 2, 4, 1, 3).reshape(-1, height // patch_px, width // patch_px)

    def convolution(self, x: Floats, name: str, *, relu: bool) -> Floats:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        columns = windows.transpose(0, 3, 4, 1, 2).reshape(-1, x.shape[1] * x.shape[2])
        y = (weight.reshape(len(weight), -1) @ columns + bias[:, None]).reshape(-1, *x.shape[1:])
        scale, shift, mean, inverse_std = (
            part[:, None, None] for part in _norm(self._weights, _norm_of(name))
        )
        y = (y - mean) * inverse_std * scale + shift
        return _activated(y, "relu" if relu else "none")

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

    def linear(self, x: Floats, name: str, activation: Activation) -> Floats:
        y: Floats = self._weights[f"{name}.weight"] @ x + self._weights[f"{name}.bias"]
        return _activated(y, activation)

    def multiply(self, x: Floats, y: Floats) -> Floats:
        return x * y

    def concatenate(self, parts: Sequence[Floats]) -> Floats:
        return np.concatenate(parts)


def _activated(x: Floats, activation: Activation) -> Floats:
    if activation == "none":
        return x
    y = np.maximum(x, 0) if activation == "relu" else 1 / (1 + np.exp(-x))
    return y.astype(np.float32, copy=False)


def _norm_of(conv: str) -> str:
    """The name of the batch norm behind a convolution: ``bn`` of ``conv``, ``bn1`` of ``conv1``."""
    return conv.replace("conv", "bn")


def _norm(weights: Weights, norm: str) -> tuple[Floats, Floats, Floats, Floats]:
    """Scale, shift, mean, and 1 over the standard deviation."""
    inverse_std = np.float32(1) / np.sqrt(weights[f"{norm}.running_var"] + np.float32(NORM_EPSILON))
    return weights[f"{norm}.weight"], weights[f"{norm}.bias"], weights[f"{norm}.running_mean"], inverse_std
