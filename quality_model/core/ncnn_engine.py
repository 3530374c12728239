"""The network run by ncnn, whose Winograd convolutions need fewer multiplications.

For 3 x 3 convolutions F(4 x 4, 3 x 3) needs 36 multiplications where the definition has 144
(Lavin and Gray, arXiv 1509.09308). It stays in float32: scores differ by rounding alone.
"""

import struct
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from quality_model.core.network import Activation, FoldedWeights, forward
from quality_model.params import ArchitectureName, EngineName
from quality_model.records import HEADS

_INPUT: Final = "pixels"
_OUTPUT: Final = "scores"
"""Names of a network's first and last blob."""

_MAGIC: Final = 7767517
_FLOAT32: Final = struct.pack("<i", 0)
"""Precedes weights that are kept as they are."""

_ACTIVATIONS: Final[dict[Activation, int]] = {"none": 0, "relu": 1, "sigmoid": 4}
"""Numbers of what a layer applies to its own output."""


@dataclass(frozen=True, slots=True)
class NcnnNetwork:
    """Layers and weights; takes float32 (3, S, S) RGB in [0, 1], gives the four scores."""

    layers: str
    weights: bytes

    @classmethod
    def of(cls, weights: FoldedWeights, architecture: ArchitectureName) -> "NcnnNetwork":
        """Write a network in ncnn's form: a text that lists layers, and the weights one after the other."""
        writer = _Writer(weights)
        forward(architecture, _INPUT, writer)
        return cls(writer.text(), bytes(writer.written))


class NcnnEngine:
    """A network in ncnn's form, on one thread of the CPU; pickles as that form.

    Args:
        network: Its layers and weights.
    """

    name: Final[EngineName] = "ncnn-float32"
    is_portable: Final = True

    def __init__(self, network: NcnnNetwork) -> None:
        self._network = network
        self._net = _load(network)

    def __reduce__(self) -> tuple[type["NcnnEngine"], tuple[NcnnNetwork]]:
        return type(self), (self._network,)

    def scores(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """See `engines.Engine.scores`.

        Raises:
            MemoryError: There is no memory for a forward pass.
        """
        import ncnn

        scores = np.empty((len(pixels), len(HEADS)), dtype=np.float32)
        for number, image in enumerate(pixels):
            planes = np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32) / np.float32(255.0)
            extractor = self._net.create_extractor()
            extractor.input(_INPUT, ncnn.Mat(planes))
            status, output = extractor.extract(_OUTPUT)
            if status != 0:
                raise MemoryError(f"ncnn gave status {status}: no memory for a forward pass")
            scores[number] = np.array(output).reshape(len(HEADS))
        return scores


def _load(network: NcnnNetwork) -> Any:
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = 1
    # Float32 throughout, and F(4, 3) alone: F(6, 3) is slower here and rounds more.
    net.opt.use_winograd63_convolution = False
    for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage"):
        setattr(net.opt, f"use_{option}", False)
    with tempfile.TemporaryDirectory() as folder:  # ncnn's Python has no reading from memory
        weights = Path(folder) / "weights.bin"
        weights.write_bytes(network.weights)
        if net.load_param_mem(network.layers) != 0 or net.load_model(str(weights)) != 0:
            raise ValueError("ncnn does not take the network")
    return net


@dataclass(frozen=True, slots=True)
class _Layer:
    kind: str
    inputs: tuple[str, ...]
    output: str
    parameters: str


class _Writer:
    """Operations on the names of blobs: each adds a layer.

    Numbers of layer parameters are those of ncnn's operator reference (docs/developer-guide/operators.md
    in its repository).
    """

    def __init__(self, weights: FoldedWeights) -> None:
        self._weights = weights
        self._layers: list[_Layer] = []
        self.written = bytearray()

    def space_to_depth(self, x: str, patch_px: int) -> str:
        return self._add("Reorg", [x], f"0={patch_px} 1=0")

    def convolution(self, x: str, name: str, *, relu: bool) -> str:
        weight = self._keep(name)
        activation = _ACTIVATIONS["relu" if relu else "none"]
        return self._add(
            "Convolution", [x], f"0={len(weight)} 1=3 3=1 4=1 5=1 6={weight.size} 9={activation}"
        )

    def add_relu(self, x: str, y: str) -> str:
        return self._add("ReLU", [self._add("BinaryOp", [x, y], "0=0")])

    def max_pool(self, x: str) -> str:
        return self._add("Pooling", [x], "0=0 1=2 2=2 5=1")

    def mean(self, x: str) -> str:
        return self._add("Pooling", [x], "0=1 4=1")

    def linear(self, x: str, name: str, activation: Activation) -> str:
        weight = self._keep(name)
        return self._add(
            "InnerProduct", [x], f"0={len(weight)} 1=1 2={weight.size} 9={_ACTIVATIONS[activation]}"
        )

    def multiply(self, x: str, y: str) -> str:
        return self._add("BinaryOp", [x, y], "0=2")

    def concatenate(self, parts: Sequence[str]) -> str:
        return self._add("Concat", parts, "0=0", output=_OUTPUT)

    def text(self) -> str:
        """The list of layers. ncnn demands that a blob is used once: one that is used twice is split."""
        uses = Counter(blob for layer in self._layers for blob in layer.inputs)
        lines, num_blobs, given = [f"Input {_INPUT} 0 1 {_INPUT}"], 1, Counter[str]()
        for number, layer in enumerate(self._layers):
            inputs = []
            for blob in layer.inputs:
                inputs.append(f"{blob}_{given[blob]}" if uses[blob] > 1 else blob)
                given[blob] += 1
            name = f"{layer.kind.lower()}_{number}"
            blobs = " ".join([*inputs, layer.output])
            lines.append(f"{layer.kind} {name} {len(inputs)} 1 {blobs} {layer.parameters}".rstrip())
            num_blobs += 1
            if (count := uses[layer.output]) > 1:
                copies = " ".join(f"{layer.output}_{n}" for n in range(count))
                lines.append(f"Split split_{number} 1 {count} {layer.output} {copies}")
                num_blobs += count
        return "\n".join([str(_MAGIC), f"{len(lines)} {num_blobs}", *lines, ""])

    def _add(self, kind: str, inputs: Sequence[str], parameters: str = "", *, output: str = "") -> str:
        layer = _Layer(kind, tuple(inputs), output or f"b{len(self._layers)}", parameters)
        self._layers.append(layer)
        return layer.output

    def _keep(self, name: str) -> npt.NDArray[np.float32]:
        weight, bias = self._weights[name]
        self.written += _FLOAT32 + weight.astype("<f4").tobytes() + bias.astype("<f4").tobytes()
        return weight
