"""A Python in which nothing is installed but what scoring needs."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from quality_model.errors import EXTRAS

PROJECT: Final = Path(__file__).resolve().parents[2]

ABSENT: Final = (*(module for modules in EXTRAS.values() for module in modules), "requests")
"""Modules that scoring does not import; ncnn brings requests, for its model zoo."""

_SITECUSTOMIZE: Final = f"""
import importlib.machinery
find = importlib.machinery.PathFinder.find_spec

def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in {ABSENT!r} else find(name, path, target)

importlib.machinery.PathFinder.find_spec = staticmethod(find_spec)
"""


def bare_python(
    scratch: Path, *arguments: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run Python, and the worker processes it starts, as if `ABSENT` were not installed.

    Args:
        scratch: Folder for a ``sitecustomize``.
        arguments: Of Python.
        cwd: The current folder.
        environment: Variables to set.
    """
    site = scratch / "bare"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(_SITECUSTOMIZE)
    known = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    paths = os.pathsep.join(map(str, (site, PROJECT)))
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**known, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
