"""The machine that the figures are measured on."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

from quality_model.core.system import num_cores
from quality_model.core.torch_engine import cpu_has_bfloat16

_PACKAGES = ("torch", "numpy", "opencv-python-headless", "pillow", "ncnn", "pyarrow")


def describe() -> dict[str, str]:
    """Processor, cores, precision and versions, as text."""
    return {
        "processor": _processor(),
        "cores": str(num_cores()),
        "bfloat16": "yes" if cpu_has_bfloat16() else "no",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
