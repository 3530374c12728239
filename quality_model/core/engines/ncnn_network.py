"""A folded network in ncnn's form: a text that lists layers, and the weights one after the other.

The numbers of layer parameters are those of ncnn's operator reference
(docs/developer-guide/operators.md in its repository).
"""

import struct
from typing import Final

import numpy as np
from torch import Tensor, nn

from quality_model.core.engines.ncnn_engine import INPUT, OUTPUT, NcnnNetwork
from quality_model.networks.model import ConvBlock, MultiHeadQualityAssessmentModel, ResidualBlock
from quality_model.records import HEADS

_MAGIC: Final = 7767517
_FLOAT32: Final = struct.pack("<i", 0)
"""Stands before weights that are kept as they are."""

_NONE, _RELU, _SIGMOID = 0, 1, 4
"""Activations that a layer applies to its own output."""


def to_ncnn(folded: MultiHeadQualityAssessmentModel) -> NcnnNetwork:
    """Describe a model whose batch norm is folded (see `folding.folded`), on the CPU."""
    writer = _Writer()
    blob = INPUT
    for block in folded.backbone:
        blob = _block(writer, block, blob)
    pooled, to_weigh = writer.twice(writer.add("Pooling", [blob], "0=1 4=1"))
    attention = _perceptron(writer, folded.channel_attention, pooled)
    attended = writer.add("BinaryOp", [to_weigh, attention], "0=2")
    scores = [
        _perceptron(writer, getattr(folded, f"head_{head}"), part)
        for head, part in zip(HEADS, writer.split(attended, len(HEADS)), strict=True)
    ]
    writer.add("Concat", scores, "0=0", output=OUTPUT)
    return NcnnNetwork(writer.text(), bytes(writer.weights))


def _block(writer: "_Writer", block: nn.Module, blob: str) -> str:
    match block:
        case ConvBlock():
            return writer.convolution(blob, block.conv, _RELU)
        case ResidualBlock():
            kept, blob = writer.twice(blob)
            blob = writer.convolution(blob, block.conv1, _RELU)
            blob = writer.convolution(blob, block.conv2, _NONE)
            return writer.add("ReLU", [writer.add("BinaryOp", [blob, kept], "0=0")])
        case nn.MaxPool2d():
            return writer.add("Pooling", [blob], f"0=0 1={block.kernel_size} 2={block.stride} 5=1")
        case nn.PixelUnshuffle():
            return writer.add("Reorg", [blob], f"0={block.downscale_factor} 1=0")
    raise TypeError(f"no ncnn layer for {type(block).__name__}")


def _perceptron(writer: "_Writer", layers: nn.Sequential, blob: str) -> str:
    """Linear layers with ReLU between them and a sigmoid at the end."""
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    for layer in linear[:-1]:
        blob = writer.linear(blob, layer, _RELU)
    return writer.linear(blob, linear[-1], _SIGMOID)


class _Writer:
    """Collects lines and weights; every blob is used once, as ncnn demands."""

    def __init__(self) -> None:
        self._lines = [f"Input {INPUT} 0 1 {INPUT}"]
        self._num_blobs = 1
        self.weights = bytearray()

    def text(self) -> str:
        return "\n".join([str(_MAGIC), f"{len(self._lines)} {self._num_blobs}", *self._lines, ""])

    def add(self, kind: str, inputs: list[str], parameters: str = "", *, output: str = "") -> str:
        (made,) = self._layer(kind, inputs, [output or f"b{self._num_blobs}"], parameters)
        return made

    def twice(self, blob: str) -> tuple[str, str]:
        first, second = self.split(blob, 2)
        return first, second

    def split(self, blob: str, count: int) -> list[str]:
        first = self._num_blobs
        return self._layer("Split", [blob], [f"b{first + number}" for number in range(count)], "")

    def convolution(self, blob: str, conv: nn.Conv2d, activation: int) -> str:
        kernel, stride, padding = conv.kernel_size[0], conv.stride[0], conv.padding[0]
        parameters = f"0={conv.out_channels} 1={kernel} 3={stride} 4={padding} 5=1 6={conv.weight.numel()}"
        assert conv.bias is not None
        self._keep(conv.weight, conv.bias)
        return self.add("Convolution", [blob], f"{parameters} 9={activation}")

    def linear(self, blob: str, linear: nn.Linear, activation: int) -> str:
        parameters = f"0={linear.out_features} 1=1 2={linear.weight.numel()} 9={activation}"
        self._keep(linear.weight, linear.bias)
        return self.add("InnerProduct", [blob], parameters)

    def _layer(self, kind: str, inputs: list[str], outputs: list[str], parameters: str) -> list[str]:
        name = f"{kind.lower()}_{len(self._lines)}"
        self._lines.append(
            f"{kind} {name} {len(inputs)} {len(outputs)} {' '.join(inputs + outputs)} {parameters}".rstrip()
        )
        self._num_blobs += len(outputs)
        return outputs

    def _keep(self, weight: Tensor, bias: Tensor) -> None:
        self.weights += _FLOAT32 + _bytes(weight) + _bytes(bias)


def _bytes(tensor: Tensor) -> bytes:
    return np.ascontiguousarray(tensor.detach().numpy(), dtype="<f4").tobytes()
