"""How training computes: in which precision and memory format, compiled or not.

What the caller leaves open (``auto``) a rule decides by what the device can do, not a clock: the same
machine always computes the same bits.
"""

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, Literal

import torch
from torch import Tensor

from quality_model.core.torch_engine import Precision, cuda_has_bfloat16
from quality_model.errors import DeviceUnavailableError, UsageError

MemoryFormat = Literal["contiguous", "channels_last"]

_BFLOAT16_FLAGS: Final = ("amx_bf16", "avx512_bf16", "avx10_1")
"""Instructions of x86 with which bfloat16 trains faster than float32; without them it is emulated."""

log = logging.getLogger(__name__)


def choose_precision(name: str, device: torch.device) -> Precision:
    """Return the dtype of forward and backward passes; weights stay float32.

    ``auto`` is bfloat16 where the device has instructions for it (CUDA, and CPUs with AMX or AVX-512
    BF16), else float32.

    Args:
        name: ``auto``, ``float32`` or ``bfloat16``.
        device: Where the passes run.

    Raises:
        DeviceUnavailableError: bfloat16 was asked for on a CUDA device without it.
        UsageError: There is no precision of that name.
    """
    if name not in ("auto", "float32", "bfloat16"):
        raise UsageError(f"There is no precision {name!r}.", "Use auto, float32 or bfloat16.")
    if name == "float32":
        return "float32"
    if device.type == "cuda" and not cuda_has_bfloat16():
        if name == "bfloat16":
            raise DeviceUnavailableError("This CUDA device has no bfloat16.", "Use float32 or auto.")
        return "float32"
    if name == "bfloat16" or device.type == "cuda" or (device.type == "cpu" and cpu_has_bfloat16()):
        return "bfloat16"
    return "float32"


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
        torch.compile(_doubled)(torch.ones(8, device=device))
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


def _doubled(x: Tensor) -> Tensor:
    return 2.0 * x
