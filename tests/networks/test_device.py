"""Which device, precision and memory format training uses: by rule, so that a machine repeats its bits."""

import platform
import subprocess
import sys

import pytest
import torch

from quality_model.core.torch_engine import (
    autocast,
    available_devices,
    choose_device,
    choose_memory_format,
    choose_precision,
    cpu_has_bfloat16,
    free_bytes,
)
from quality_model.errors import DeviceUnavailableError

CPU = torch.device("cpu")


def test_auto_takes_the_first_device_that_is_there_and_the_cpu_always_is() -> None:
    assert choose_device("auto").type == available_devices()[0]
    assert available_devices()[-1] == "cpu"
    assert choose_device("cpu") == CPU
    assert free_bytes(CPU) == 0


def test_a_device_that_is_not_there_is_refused_and_those_that_are_there_are_named() -> None:
    absent = next(name for name in ("mps", "cuda") if name not in available_devices())
    with pytest.raises(DeviceUnavailableError) as caught:
        choose_device(absent)
    assert absent in str(caught.value)
    assert all(name in str(caught.value) for name in available_devices())


def test_a_named_precision_is_taken_and_auto_follows_the_instructions_of_the_device() -> None:
    assert choose_precision("float32", CPU) == "float32"
    assert choose_precision("bfloat16", CPU) == "bfloat16"
    assert choose_precision("auto", CPU) == ("bfloat16" if cpu_has_bfloat16() else "float32")
    assert choose_precision("auto", torch.device("mps")) == "float32"


@pytest.mark.parametrize(
    ("flags", "has"),
    [
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"architecture": "arm64", "bf16": True}, False),
        ({}, False),
    ],
)
def test_only_a_processor_with_matrix_or_vector_instructions_trains_in_bfloat16(
    flags: dict[str, object], has: bool
) -> None:
    assert cpu_has_bfloat16(flags) is has


@pytest.mark.parametrize(
    ("device", "precision", "capability", "expected"),
    [
        ("cpu", "float32", "AVX2", "contiguous"),
        ("cpu", "float32", "AVX512", "channels_last"),
        ("cpu", "bfloat16", "AVX512", "channels_last"),
        ("cuda", "bfloat16", "AVX2", "channels_last"),
        ("cuda", "float32", "AVX512", "contiguous"),
        ("mps", "float32", "DEFAULT", "contiguous"),
    ],
)
def test_channels_last_is_chosen_where_it_gains(
    device: str, precision, capability: str, expected: str
) -> None:
    assert choose_memory_format(torch.device(device), precision, cpu_capability=capability) == expected


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_autocast_computes_products_in_the_precision(precision, dtype: torch.dtype) -> None:
    x = torch.ones(2, 2)
    with autocast(CPU, precision):
        assert (x @ x).dtype == dtype


def test_freed_memory_is_kept_where_glibc_is_and_nothing_happens_elsewhere() -> None:
    code = """
import ctypes, sys
from quality_model.core.system import retain_heap
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 if sys.platform == "linux" else 0
took_hold = retain_heap()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
before = resident()
size = 200 * 2**20
block = libc.malloc(size)
ctypes.memset(block, 1, size)
libc.free(block)
print(took_hold, resident() - before > size // 2)
"""
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    on_glibc = platform.libc_ver()[0] == "glibc"
    assert output.split() == [str(on_glibc), str(on_glibc)]
