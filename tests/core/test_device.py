import platform
import subprocess
import sys

import pytest
import torch

from quality_model.core import device as device_module
from quality_model.core.device import (
    autocast,
    available_devices,
    choose_device,
    choose_memory_format,
    choose_precision,
    cpu_has_bfloat16,
    fastest,
    free_bytes,
)
from quality_model.errors import DeviceUnavailableError, UsageError

CPU = torch.device("cpu")


class Clock:
    """A clock that only its candidates move."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.runs: list[str] = []

    def __call__(self) -> float:
        return self.now_s

    def candidate(self, name: str, seconds: float):
        def run() -> None:
            self.now_s += seconds
            self.runs.append(name)

        return run


def test_the_cpu_is_always_there() -> None:
    assert available_devices()[-1] == "cpu"
    assert choose_device("cpu") == CPU


def test_a_cpu_has_no_memory_of_its_own_to_keep_data_in() -> None:
    assert free_bytes(CPU) == 0


def test_auto_takes_the_first_device_that_is_there() -> None:
    assert choose_device("auto").type == available_devices()[0]


def test_a_device_that_is_not_there_is_refused_and_those_that_are_there_are_named() -> None:
    absent = next(name for name in ("mps", "cuda") if name not in available_devices())
    with pytest.raises(DeviceUnavailableError) as caught:
        choose_device(absent)
    assert absent in str(caught.value)
    assert all(name in str(caught.value) for name in available_devices())


@pytest.mark.parametrize("name", ["gpu", "", "cuda:0", "CPU"])
def test_a_name_of_no_device_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match="auto, cpu, cuda or mps"):
        choose_device(name)


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_a_named_precision_is_taken_on_the_cpu(name: str) -> None:
    assert choose_precision(name, CPU) == name


def test_a_name_of_no_precision_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="float16"):
        choose_precision("float16", CPU)


@pytest.mark.parametrize(
    ("flags", "has"),
    [
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"architecture": "arm64", "bf16": True}, True),
        ({}, False),
    ],
)
def test_only_a_processor_with_the_instructions_has_bfloat16(flags: dict[str, object], has: bool) -> None:
    assert cpu_has_bfloat16(flags) is has


@pytest.mark.parametrize(
    ("has_instructions", "is_faster", "expected"),
    [(True, True, "bfloat16"), (True, False, "float32"), (False, True, "float32")],
)
def test_auto_precision_on_a_cpu_needs_the_instructions_and_a_gain(
    monkeypatch: pytest.MonkeyPatch, has_instructions: bool, is_faster: bool, expected: str
) -> None:
    monkeypatch.setattr(device_module, "cpu_has_bfloat16", lambda: has_instructions)
    assert choose_precision("auto", CPU, is_faster=lambda device: is_faster) == expected


def test_auto_precision_is_float32_on_mps() -> None:
    assert choose_precision("auto", torch.device("mps"), is_faster=lambda device: True) == "float32"


@pytest.mark.parametrize(
    ("device", "precision", "capability", "expected"),
    [
        ("cpu", "float32", "AVX2", "contiguous"),
        ("cpu", "float32", "AVX512", "channels_last"),
        ("cpu", "float32", "DEFAULT", "contiguous"),
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


def test_the_self_check_of_bfloat16_leaves_the_random_stream_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "cpu_has_bfloat16", lambda: True)
    before = torch.get_rng_state()
    assert choose_precision("auto", CPU) in ("float32", "bfloat16")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_clearly_faster_choice_wins() -> None:
    clock = Clock()
    candidates = {"plain": clock.candidate("plain", 1.0), "other": clock.candidate("other", 0.5)}
    assert fastest(candidates, CPU, budget_s=100.0, clock=clock) == "other"


def test_a_near_tie_goes_to_the_plain_choice() -> None:
    clock = Clock()
    candidates = {"plain": clock.candidate("plain", 1.0), "other": clock.candidate("other", 0.9)}
    assert fastest(candidates, CPU, budget_s=100.0, clock=clock) == "plain"


def test_a_slow_self_check_stops_after_one_round() -> None:
    clock = Clock()
    candidates = {"plain": clock.candidate("plain", 9.0), "other": clock.candidate("other", 8.0)}
    fastest(candidates, CPU, budget_s=1.0, clock=clock)
    assert clock.runs == ["plain", "other"] * 2  # to warm up, and for the time


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
