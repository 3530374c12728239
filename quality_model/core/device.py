"""Which device computes, in which number format, and how its memory is kept.

A choice that the caller leaves open (``auto``) is made by what the device can do and, where
that does not settle it, by a self-check of a second or two.
"""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quality_model.errors import DeviceUnavailableError, UsageError

Precision = Literal["float32", "bfloat16"]
MemoryFormat = Literal["contiguous", "channels_last"]

log = logging.getLogger(__name__)

CLEAR_GAIN: Final = 1.15
"""How much faster a choice must be to displace the plain one: a near tie always falls the same way."""

_BFLOAT16_FLAGS: Final = ("amx_bf16", "avx512_bf16", "avx10_1", "bf16", "sve_bf16")
"""Instructions without which bfloat16 is emulated, and many times slower than float32."""

_MOST_ROUNDS: Final = 3
_CHECK_SHAPE: Final = (8, 32, 112, 112)
"""Activations of the bfloat16 self-check: 13 MB, as beyond the caches as those of training."""


def available_devices() -> list[str]:
    """Names of the kinds of device on this machine, the preferred one first."""
    names = []
    if torch.cuda.is_available():
        names.append("cuda")
    if torch.backends.mps.is_available():
        names.append("mps")
    return [*names, "cpu"]


def choose_device(name: str) -> torch.device:
    """Return the device called ``auto`` (the best one here), ``cpu``, ``cuda`` or ``mps``.

    Raises:
        DeviceUnavailableError: It is not on this machine; the message names what is.
        UsageError: There is no device of that name.
    """
    here = available_devices()
    if name == "auto":
        return torch.device(here[0])
    if name not in ("cpu", "cuda", "mps"):
        raise UsageError(f"There is no device {name!r}.", "Use auto, cpu, cuda or mps.")
    if name not in here:
        raise DeviceUnavailableError(
            f"Device {name!r} is not available; here: {', '.join(here)}.",
            f"Use {here[0]} or auto{_cuda_hint() if name == 'cuda' else ''}.",
        )
    return torch.device(name)


def choose_precision(
    name: str, device: torch.device, *, is_faster: Callable[[torch.device], bool] | None = None
) -> Precision:
    """Return the number format of forward and backward passes; weights stay float32.

    ``auto`` is bfloat16 on a CUDA device that has it, float32 on MPS, and on a CPU bfloat16
    where the processor has instructions for it and a self-check finds it clearly faster.

    Args:
        name: ``auto``, ``float32`` or ``bfloat16``.
        device: Where the passes run.
        is_faster: Says whether bfloat16 is clearly faster; by default a self-check times it.

    Raises:
        DeviceUnavailableError: bfloat16 was asked for on a CUDA device without it.
        UsageError: There is no format of that name.
    """
    if name not in ("auto", "float32", "bfloat16"):
        raise UsageError(f"There is no precision {name!r}.", "Use auto, float32 or bfloat16.")
    if name == "float32":
        return "float32"
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bfloat16"
        if name == "bfloat16":
            raise DeviceUnavailableError("This CUDA device has no bfloat16.", "Use float32 or auto.")
        return "float32"
    if name == "bfloat16":
        return "bfloat16"
    if device.type == "cpu" and cpu_has_bfloat16() and (is_faster or _bfloat16_is_faster)(device):
        return "bfloat16"
    return "float32"


def cpu_has_bfloat16(capabilities: Mapping[str, Any] | None = None) -> bool:
    """Say whether the processor computes in bfloat16 by its own instructions.

    Args:
        capabilities: Flags as `torch.cpu.get_capabilities` gives them; by default this processor's.
    """
    if capabilities is None:
        read = getattr(torch.cpu, "get_capabilities", None)
        capabilities = read() if read is not None else {}
    return any(capabilities.get(flag) for flag in _BFLOAT16_FLAGS)


def choose_memory_format(
    device: torch.device, precision: Precision, *, cpu_capability: str | None = None
) -> MemoryFormat:
    """Return how activations lie in memory: channels_last where it gains.

    That is where bfloat16 runs on tensor cores or matrix instructions, and on processors with
    AVX-512 (a third more images/s in float32 on a Xeon). With AVX2 the two differ by less than
    a self-check can tell on a busy machine (0.85 to 1.08 between 64 and 224 px), so a rule
    decides, not a clock: the same machine always computes the same bits.

    Args:
        device: Where the passes run.
        precision: Their number format.
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
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        log.warning("torch.compile does not work here, so the network runs as it is: %s", reason)
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


def fastest(
    candidates: Mapping[str, Callable[[], None]],
    device: torch.device,
    *,
    budget_s: float,
    clock: Callable[[], float] = time.perf_counter,
) -> str:
    """Time each candidate in turn, up to three times while the budget lasts; return the fastest's name.

    The first candidate is the plain choice: another one must beat it by `CLEAR_GAIN`. Each
    runs once to warm up and once for its time, whatever the budget.
    """
    for run in candidates.values():
        run()
        wait_for(device)
    best_s = dict.fromkeys(candidates, float("inf"))
    start = clock()
    for _ in range(_MOST_ROUNDS):
        for name, run in candidates.items():
            begin = clock()
            run()
            wait_for(device)
            best_s[name] = min(best_s[name], clock() - begin)
        if clock() - start > budget_s / 2:
            break
    plain, *others = candidates
    winner = min(others, key=best_s.__getitem__, default=plain)
    winner = winner if best_s[winner] * CLEAR_GAIN < best_s[plain] else plain
    log.debug("Self-check: %s; using %s", {name: f"{s:.4f} s" for name, s in best_s.items()}, winner)
    return winner


def _bfloat16_is_faster(device: torch.device) -> bool:
    """Time one convolution with its normalisation, forward and backward, in both formats."""
    channels = _CHECK_SHAPE[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels))
        layer.to(device)
        x = torch.rand(_CHECK_SHAPE, device=device)

    def step(precision: Precision) -> None:
        with autocast(device, precision):
            y: Tensor = F.relu(layer(x))
        torch.autograd.backward(y.float().square().mean())

    timed: dict[str, Callable[[], None]] = {
        "float32": lambda: step("float32"),
        "bfloat16": lambda: step("bfloat16"),
    }
    return fastest(timed, device, budget_s=0.5) == "bfloat16"


def _doubled(x: Tensor) -> Tensor:
    return 2.0 * x


def _cuda_hint() -> str:
    return "" if torch.version.cuda else "; this torch is built without CUDA"
