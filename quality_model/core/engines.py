"""The ways to run a trained network on images, and the choice among them.

A rule chooses, not a clock: the same machine always computes the same bits. On a CPU ncnn scores; on an
accelerator PyTorch does, in bfloat16 where the device has it. Whatever is chosen must agree with the
network's definition.
"""

import ctypes
import logging
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from quality_model.core.network import (
    VARIANCE_FLOOR,
    Activation,
    Convolution,
    FoldedWeights,
    fold,
    forward,
    reference_scores,
    trimmed,
)
from quality_model.errors import CheckpointError, DeviceUnavailableError, UsageError, install_command
from quality_model.params import ArchitectureName, EngineName
from quality_model.records import HEADS

if TYPE_CHECKING:
    from quality_model.core.model_files import StoredModel

LARGEST_DIFFERENCE: Final = 0.01
"""Per score, between an engine and the network's definition in float32."""

_CHECK_SIDE_PX: Final = 96
_CHECK_MODULUS_PX: Final = 32

log = logging.getLogger(__name__)


class Engine(Protocol):
    """A network that is ready to score.

    Attributes:
        name: Library and dtype.
        is_portable: Whether it can be pickled into a worker process, one core each; engines on
            an accelerator cannot.
    """

    @property
    def name(self) -> EngineName: ...

    @property
    def is_portable(self) -> bool: ...

    def scores(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Score images.

        On a CPU each is scored by itself on one thread, so that its scores depend neither on
        its neighbours nor on the number of cores.

        Args:
            pixels: uint8 (N, H, W, 3) RGB.

        Returns:
            float32 (N, 4), 0 absent to 1 severe, in the order of `records.HEADS`.
        """
        ...


def choose_device(name: str) -> str:
    """The kind of device that ``auto``, ``cpu``, ``cuda`` or ``mps`` means: one of the last three.

    PyTorch, which takes seconds to import, is asked only where there may be an accelerator.

    Raises:
        DeviceUnavailableError: It is not on this machine, or PyTorch is not installed.
        UsageError: There is no device of that name.
    """
    has_torch = find_spec("torch") is not None
    if name == "cpu" or (name == "auto" and not (has_torch and _may_have_accelerator())):
        return "cpu"
    if not has_torch and name in ("cuda", "mps"):
        raise DeviceUnavailableError(
            f"Device {name!r} needs PyTorch, which is not installed.",
            f"Install it ({install_command('train')}), or use cpu.",
        )
    if name not in ("auto", "cuda", "mps"):
        raise UsageError(f"There is no device {name!r}.", "Use auto, cpu, cuda or mps.")
    from quality_model.core.torch_engine import choose_device

    return choose_device(name).type


def choose_engine(model: "StoredModel", device: str, asked: EngineName | None = None) -> Engine:
    """Prepare a model for scoring.

    Each engine scores three check images and must give what `network.reference_scores` gives, within
    `LARGEST_DIFFERENCE`. The reference is computed here from the weights, by the definition of the
    network in NumPy: it needs neither PyTorch nor scores stored with the model, so it holds for
    every model folder and finds a fault of the folding, of the writer, or of the library.

    Args:
        model: As it was read; it is not changed.
        device: ``cpu``, ``cuda`` or ``mps``.
        asked: Use this one if it agrees; by default the rule decides.

    Raises:
        CheckpointError: Scores of the check images are not finite, or no engine agrees.
        UsageError: The one that was asked for needs PyTorch, which is not installed.
    """
    side_px = model.image_size_px
    # The remainder decides where pools cut a border off.
    images = check_images(min(side_px, _CHECK_SIDE_PX + side_px % _CHECK_MODULUS_PX))
    expected = reference_scores(model.weights, model.architecture, images)
    if not np.isfinite(expected).all():  # ncnn would hide it: its ReLU makes 0 of NaN
        raise CheckpointError(
            "The model gives scores that are not finite numbers.",
            "Use another checkpoint, or train the model again.",
        )
    for name in _candidates(device, asked):
        engine = _make(name, model, device)
        difference = float(np.abs(engine.scores(images) - expected).max())
        if difference <= LARGEST_DIFFERENCE:
            log.debug("Scoring by %s", name)
            return engine
        log.warning("%s differs by up to %.3f from the network in float32: not used.", name, difference)
    raise CheckpointError(
        "No engine gives this model's scores on this machine.", "Name another one with score.engine."
    )


def check_images(size_px: int) -> npt.NDArray[np.uint8]:
    """Images that excite a network in different ways: a gradient, noise, and edges; (3, S, S, 3)."""
    ramp = np.linspace(0.0, 255.0, size_px)
    gradient = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], 255.0 - ramp[:, None]), axis=-1)
    noise = np.random.default_rng(0).integers(0, 256, (size_px, size_px, 3))
    edges = np.where((np.indices((size_px, size_px)).sum(axis=0) // 8 % 2 == 0)[..., None], 230, [60, 30, 20])
    return np.stack([gradient, noise, edges]).astype(np.uint8)


def _candidates(device: str, asked: EngineName | None) -> list[EngineName]:
    """Engines to try, the first one first."""
    if asked is None and device == "cpu":
        first: list[EngineName] = ["ncnn-float32"]
    elif asked is None and device == "cuda":
        from quality_model.core.torch_engine import cuda_has_bfloat16

        first = ["torch-bfloat16"] if cuda_has_bfloat16() else []
    else:
        first = [] if asked is None else [asked]
    if find_spec("torch") is None:
        if asked is not None and asked != "ncnn-float32":
            raise UsageError(
                f"Engine {asked} needs PyTorch, which is not installed.",
                f"Install it ({install_command('train')}), or use score.engine: auto.",
            )
        return first
    return list(dict.fromkeys([*first, "torch-float32"]))


def _make(name: EngineName, model: "StoredModel", device: str) -> Engine:
    weights = fold(model.weights)
    if name == "ncnn-float32":
        return NcnnEngine(model.architecture, *ncnn_network(weights, model.architecture))
    from quality_model.core.torch_engine import TorchEngine

    return TorchEngine(
        weights, model.architecture, device, "bfloat16" if name == "torch-bfloat16" else "float32"
    )


def _may_have_accelerator() -> bool:
    """Whether a driver of NVIDIA or AMD, or a system with one built in, is here; PyTorch decides then."""
    if sys.platform != "linux" or Path("/dev/kfd").exists():
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


_INPUT: Final = "pixels"
_OUTPUT: Final = "scores"
"""Names of a network's first and last blob."""

_MAGIC: Final = 7767517
_FLOAT32: Final = struct.pack("<i", 0)
"""Precedes weights that are kept as they are."""

_ACTIVATIONS: Final[dict[Activation, int]] = {"none": 0, "relu": 1, "sigmoid": 4}
"""Numbers of what a layer applies to its own output."""

_BINARY: Final = {"add": 0, "subtract": 1, "multiply": 2}
"""Numbers of operations on two blobs, or on a blob and a number."""


class NcnnEngine:
    """The network run by ncnn, on one thread of the CPU; pickles as its arguments.

    ncnn's Winograd convolutions need fewer multiplications: F(4 x 4, 3 x 3) 36 where the definition has 144
    (Lavin and Gray, arXiv 1509.09308). It stays in float32: scores differ by rounding alone.

    Args:
        architecture: The network's name.
        layers: See `ncnn_network`.
        weights: See there.
    """

    name: Final[EngineName] = "ncnn-float32"
    is_portable: Final = True

    def __init__(self, architecture: ArchitectureName, layers: str, weights: bytes) -> None:
        import ncnn

        self._form = architecture, layers, weights
        net = ncnn.Net()
        net.opt.num_threads = 1
        # Float32 throughout, and F(4, 3) alone: F(6, 3) is slower here and rounds more.
        net.opt.use_winograd63_convolution = False
        for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage"):
            setattr(net.opt, f"use_{option}", False)
        with tempfile.TemporaryDirectory() as folder:  # ncnn's Python has no reading from memory
            path = Path(folder) / "weights.bin"
            path.write_bytes(weights)
            if net.load_param_mem(layers) != 0 or net.load_model(str(path)) != 0:
                raise ValueError("ncnn does not take the network")
        self._net = net

    def __reduce__(self) -> tuple[type["NcnnEngine"], tuple[ArchitectureName, str, bytes]]:
        return type(self), self._form

    def scores(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """See `engines.Engine.scores`.

        Raises:
            MemoryError: There is no memory for a forward pass.
        """
        import ncnn

        scores = np.empty((len(pixels), len(HEADS)), dtype=np.float32)
        for number, image in enumerate(trimmed(self._form[0], pixels)):
            planes = np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32) / np.float32(255.0)
            extractor = self._net.create_extractor()
            extractor.input(_INPUT, ncnn.Mat(planes).clone())  # a layer may write in place
            status, output = extractor.extract(_OUTPUT)
            if status != 0:
                raise MemoryError(f"ncnn gave status {status}: no memory for a forward pass")
            scores[number] = np.array(output).reshape(len(HEADS))
        return scores


def ncnn_network(weights: FoldedWeights, architecture: ArchitectureName) -> tuple[str, bytes]:
    """Write a network in ncnn's form: a text that lists layers, and the weights one after the other.

    It takes float32 (3, H, W) RGB in [0, 1], and gives the four scores.
    """
    writer = _NcnnWriter(weights)
    scores, _ = forward(architecture, _INPUT, writer)
    return writer.text(scores), bytes(writer.written)


class _Layer(NamedTuple):
    kind: str
    inputs: Sequence[str]
    output: str
    parameters: str


class _NcnnWriter:
    """Operations on the names of blobs: each adds a layer.

    Numbers of layer parameters are those of ncnn's operator reference (docs/developer-guide/operators.md
    in its repository).
    """

    def __init__(self, weights: FoldedWeights) -> None:
        self._weights = weights
        self._layers: list[_Layer] = []
        self.written = bytearray()

    def scale(self, x: str, factor: float, offset: float) -> str:
        return self._with_number("add", self._with_number("multiply", x, factor), offset)

    def space_to_depth(self, x: str, patch_px: int) -> str:
        return self._add("Reorg", [x], f"0={patch_px} 1=0")

    def convolution(self, x: str, conv: Convolution) -> str:
        weight = self._keep(conv.name)
        shape = f"0={conv.channels} 1={conv.side} 3={conv.stride} 4={conv.side // 2} 5=1 6={weight.size}"
        return self._add("Convolution", [x], f"{shape} 9={_ACTIVATIONS[conv.activation]}")

    def add_relu(self, x: str, y: str) -> str:
        return self._add("ReLU", [self._combined("add", x, y)])

    def max_pool(self, x: str) -> str:
        return self._add("Pooling", [x], "0=0 1=2 2=2 5=1")

    def mean(self, x: str) -> str:
        return self._add("Pooling", [x], "0=1 4=1")

    def deviation(self, x: str) -> str:
        mean, mean_square = self.mean(x), self.mean(self.multiply(x, x))
        variance = self._combined("subtract", mean_square, self.multiply(mean, mean))
        floored = self._with_number("add", self._add("ReLU", [variance]), VARIANCE_FLOOR)
        return self._add("UnaryOp", [floored], "0=5")

    def maximum(self, x: str) -> str:
        return self._add("Pooling", [x], "0=0 4=1")

    def linear(self, x: str, name: str, features: int, activation: Activation) -> str:
        weight = self._keep(name)
        return self._add(
            "InnerProduct", [x], f"0={features} 1=1 2={weight.size} 9={_ACTIVATIONS[activation]}"
        )

    def drop(self, x: str) -> str:
        return x

    def multiply(self, x: str, y: str) -> str:
        return self._combined("multiply", x, y)

    def concatenate(self, parts: Sequence[str]) -> str:
        return self._add("Concat", parts, "0=0")

    def text(self, scores: str) -> str:
        """The list of layers. ncnn demands that a blob is used once: one that is used twice is split."""
        uses = Counter(blob for layer in self._layers for blob in layer.inputs)
        lines, num_blobs, given = [f"Input {_INPUT} 0 1 {_INPUT}"], 1, Counter[str]()
        for number, layer in enumerate(self._layers):
            inputs = []
            for blob in layer.inputs:
                inputs.append(f"{blob}_{given[blob]}" if uses[blob] > 1 else blob)
                given[blob] += 1
            name = f"{layer.kind.lower()}_{number}"
            output = _OUTPUT if layer.output == scores else layer.output
            blobs = " ".join([*inputs, output])
            lines.append(f"{layer.kind} {name} {len(inputs)} 1 {blobs} {layer.parameters}".rstrip())
            num_blobs += 1
            if (count := uses[layer.output]) > 1:
                copies = " ".join(f"{layer.output}_{n}" for n in range(count))
                lines.append(f"Split split_{number} 1 {count} {layer.output} {copies}")
                num_blobs += count
        return "\n".join([str(_MAGIC), f"{len(lines)} {num_blobs}", *lines, ""])

    def _combined(self, operation: str, x: str, y: str) -> str:
        return self._add("BinaryOp", [x, y], f"0={_BINARY[operation]}")

    def _with_number(self, operation: str, x: str, number: float) -> str:
        return self._add("BinaryOp", [x], f"0={_BINARY[operation]} 1=1 2={number}")

    def _add(self, kind: str, inputs: Sequence[str], parameters: str = "") -> str:
        layer = _Layer(kind, inputs, f"b{len(self._layers)}", parameters)
        self._layers.append(layer)
        return layer.output

    def _keep(self, name: str) -> npt.NDArray[np.float32]:
        weight, bias = self._weights[name]
        self.written += _FLOAT32 + weight.astype("<f4").tobytes() + bias.astype("<f4").tobytes()
        return weight
