"""The network run by PyTorch, in float32 or bfloat16; how PyTorch computes; and what only PyTorch can read.

The only module of `core` that imports PyTorch. It is imported for training, where an accelerator scores,
where its engine is asked for, and for a file of weights that only PyTorch reads. What the caller leaves open
(``auto``) a rule decides by what the device can do, not a clock: the same machine always computes the same
bits.
"""

import io
import logging
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from quality_model.core.network import (
    VARIANCE_FLOOR,
    Activation,
    Convolution,
    FoldedWeights,
    forward,
    trimmed,
)
from quality_model.errors import DeviceUnavailableError
from quality_model.params import ArchitectureName, EngineName
from quality_model.records import HEADS

Precision = Literal["float32", "bfloat16"]
MemoryFormat = Literal["contiguous", "channels_last"]

_BFLOAT16_FLAGS: Final = ("amx_bf16", "avx512_bf16", "avx10_1")
"""Instructions of x86 with which bfloat16 trains faster than float32; without them it is emulated."""

_NESTED_KEYS: Final = ("model_state_dict", "state_dict")

log = logging.getLogger(__name__)


def available_devices() -> list[str]:
    """Names of the kinds of device on this machine, the preferred one first."""
    accelerators = {"cuda": torch.cuda, "mps": torch.backends.mps}
    return [*(name for name, backend in accelerators.items() if backend.is_available()), "cpu"]


def choose_device(name: str) -> torch.device:
    """Return the device called ``auto`` (the best one here), ``cpu``, ``cuda`` or ``mps``.

    Raises:
        DeviceUnavailableError: It is not on this machine; the message names what is.
    """
    here = available_devices()
    if name == "auto":
        return torch.device(here[0])
    if name not in here:
        without_cuda = name == "cuda" and not torch.version.cuda
        raise DeviceUnavailableError(
            f"Device {name!r} is not available; here: {', '.join(here)}.",
            f"Use {here[0]} or auto{'; this torch is built without CUDA' if without_cuda else ''}.",
        )
    return torch.device(name)


def cuda_has_bfloat16() -> bool:
    """Whether the CUDA device computes in bfloat16 by its own instructions."""
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


@contextmanager
def exact_float32() -> Iterator[None]:
    """Compute in float32 proper: by default PyTorch's convolutions round to TF32 (10 bits) on CUDA.

    Figures that are compared with each other, or with a threshold, are made in here. The host's settings are
    restored.
    """
    backends: Any = torch.backends  # whose types miss cudnn.conv
    places = (backends.cudnn.conv, backends.cuda.matmul)
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = "ieee"
        yield
    finally:
        for place, precision in zip(places, before, strict=True):
            place.fp32_precision = precision


def choose_precision(name: str, device: torch.device) -> Precision:
    """Return the dtype of forward and backward passes; weights stay float32.

    ``auto`` is bfloat16 where the device has instructions for it (CUDA, and CPUs with AMX or AVX-512
    BF16), else float32.

    Args:
        name: ``auto``, ``float32`` or ``bfloat16``.
        device: Where the passes run.

    Raises:
        DeviceUnavailableError: bfloat16 was asked for on a CUDA device without it.
    """
    has_instructions = {"cuda": cuda_has_bfloat16, "cpu": cpu_has_bfloat16}.get(device.type, lambda: False)
    if name == "auto":
        return "bfloat16" if has_instructions() else "float32"
    if name == "bfloat16" and device.type == "cuda" and not has_instructions():
        raise DeviceUnavailableError("This CUDA device has no bfloat16.", "Use float32 or auto.")
    return "bfloat16" if name == "bfloat16" else "float32"


def cpu_has_bfloat16(capabilities: Mapping[str, Any] | None = None) -> bool:
    """Whether the processor computes in bfloat16 by its own instructions.

    Args:
        capabilities: Flags as `torch.cpu.get_capabilities` gives them; by default this processor's.
    """
    flags = torch.cpu.get_capabilities() if capabilities is None else capabilities
    return any(flags.get(flag) for flag in _BFLOAT16_FLAGS)


def choose_memory_format(
    device: torch.device, precision: Precision, *, cpu_capability: str | None = None
) -> MemoryFormat:
    """Return the memory format of activations in training: channels_last where it gains.

    That is where bfloat16 runs on tensor cores or matrix instructions, and on processors with
    AVX-512 (a third more images/s in float32 on a Xeon). With AVX2 the two differ by less than a
    measurement on a busy machine can show (0.85 to 1.08 between 64 and 224 px).

    Args:
        device: Where the passes run.
        precision: Their dtype.
        cpu_capability: As `torch.backends.cpu.get_cpu_capability` gives it; by default this processor's.
    """
    if device.type == "mps":
        return "contiguous"
    if precision == "bfloat16":
        return "channels_last"
    capability = cpu_capability or torch.backends.cpu.get_cpu_capability()
    return "channels_last" if device.type == "cpu" and capability.startswith("AVX512") else "contiguous"


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """A context in which eligible operations run in ``precision``; float32 changes nothing."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def can_compile(device: torch.device) -> bool:
    """Try `torch.compile` on a small function; where it fails, say so in the log.

    It needs a C++ compiler at run time, and Triton on a CUDA device.
    """
    try:
        torch.compile(lambda x: 2.0 * x)(torch.ones(8, device=device))
    except Exception as error:  # noqa: BLE001  (whatever a compiler's absence raises)
        cause = str(error).strip().split("\n")[0] or type(error).__name__
        log.warning("torch.compile does not work here, so the network runs as it is: %s", cause)
        return False
    return True


def free_bytes(device: torch.device) -> int:
    """Free memory of a CUDA device; 0 for any other, whose memory is not its own."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else 0


def wait_for(device: torch.device) -> None:
    """Return when everything queued on ``device`` is done, so that a clock reads true."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def read_pickle(data: bytes) -> dict[str, npt.NDArray[Any]]:
    """Read a state dict that PyTorch saved, bare or under ``model_state_dict`` or ``state_dict``.

    The restricted unpickler knows tensors and plain values only: no code of the file runs.

    Returns:
        The tensors: floats as float32, others as they are.

    Raises:
        ValueError: It is damaged, needs code to load, or holds no state dict; the message says which.
    """
    try:
        if zipfile.is_zipfile(io.BytesIO(data)):  # PyTorch itself ignores wrong checksums
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(f"the checksum of {damaged} is wrong")
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001  (unpickling hostile bytes raises nearly anything)
        first_line = str(error).strip().split("\n")[0] or type(error).__name__
        raise ValueError(f"it does not load as tensors and plain values: {first_line[:200]}") from None
    for key in _NESTED_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    ):
        raise ValueError("it holds no state dict of tensors")
    return {
        name: (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        for name, tensor in content.items()
    }


class TorchOperations:
    """Those of `core.network.Operations` that have no weights, on batches: (N, C, H, W) and (N, C).

    Activations are overwritten in place where no gradient needs them.
    """

    def scale(self, x: Tensor, factor: float, offset: float) -> Tensor:
        return x * factor + offset

    def space_to_depth(self, x: Tensor, patch_px: int) -> Tensor:
        return F.pixel_unshuffle(x, patch_px)

    def add_relu(self, x: Tensor, y: Tensor) -> Tensor:
        return F.relu(x.add_(y), inplace=True)

    def max_pool(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2)

    def mean(self, x: Tensor) -> Tensor:
        return x.float().mean(dim=(2, 3))

    def deviation(self, x: Tensor) -> Tensor:
        return (x.float().var(dim=(2, 3), unbiased=False) + VARIANCE_FLOOR).sqrt()

    def maximum(self, x: Tensor) -> Tensor:
        return x.amax(dim=(2, 3)).float()

    def multiply(self, x: Tensor, y: Tensor) -> Tensor:
        return x * y

    def concatenate(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts), dim=1)


def activated(x: Tensor, activation: Activation) -> Tensor:
    """What an activation makes of a result that nothing else needs; a sigmoid is computed in float32."""
    if activation == "relu":
        return F.relu(x, inplace=True)
    return torch.sigmoid(x.float()) if activation == "sigmoid" else x


class TorchEngine(TorchOperations):
    """A network on a device of PyTorch.

    Args:
        weights: See `network.fold`.
        architecture: Theirs.
        device: Where it runs: ``cpu``, ``cuda`` or ``mps``.
        precision: dtype of the convolutions; attention and heads are float32 always.
    """

    def __init__(
        self, weights: FoldedWeights, architecture: ArchitectureName, device: str, precision: Precision
    ) -> None:
        self._architecture: ArchitectureName = architecture
        self._device = torch.device(device)
        self.name: EngineName = "torch-float32" if precision == "float32" else "torch-bfloat16"
        self.is_portable = device == "cpu"
        self._dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        # channels_last pays on every CPU (a quarter more images/s with AVX2) and on tensor cores.
        gains = device == "cpu" or (device == "cuda" and precision == "bfloat16")
        self._memory_format = torch.channels_last if gains else torch.contiguous_format
        self._weights = {name: self._layer(*layer) for name, layer in weights.items()}

    def scores(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """See `engines.Engine.scores`."""
        if len(pixels) == 0:
            return np.empty((0, len(HEADS)), dtype=np.float32)
        if not self.is_portable:
            return self._forward(pixels)
        with _one_thread():  # one by one: larger batches leave the caches and gain nothing
            return np.concatenate([self._forward(pixels[n : n + 1]) for n in range(len(pixels))])

    def _layer(self, weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32]) -> tuple[Tensor, Tensor]:
        w, b = torch.from_numpy(weight).to(self._device), torch.from_numpy(bias).to(self._device)
        if w.ndim < 4:
            return w, b
        return w.to(self._dtype, memory_format=self._memory_format), b.to(self._dtype)

    def _forward(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        batch = torch.from_numpy(np.ascontiguousarray(trimmed(self._architecture, pixels)))
        with torch.inference_mode(), exact_float32():
            x = batch.to(self._device, non_blocking=True).permute(0, 3, 1, 2).float().div(255.0)
            x = x.contiguous(memory_format=self._memory_format).to(self._dtype)
            output, _ = forward(self._architecture, x, self)
        scores: npt.NDArray[np.float32] = output.cpu().numpy()
        return scores

    # -- what `core.network.Operations` asks besides

    def convolution(self, x: Tensor, conv: Convolution) -> Tensor:
        y = F.conv2d(x, *self._weights[conv.name], stride=conv.stride, padding=conv.side // 2)
        return activated(y, conv.activation)

    def linear(self, x: Tensor, name: str, features: int, activation: Activation) -> Tensor:
        return activated(F.linear(x, *self._weights[name]), activation)

    def drop(self, x: Tensor) -> Tensor:
        return x


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
