"""Where a result comes from: the code that made it, and the project around it."""

import hashlib
import os
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from quality_model.core.model_facts import ModelFacts
from quality_model.errors import ParameterError
from quality_model.params_file import parse_yaml

_PACKAGE: Final = Path(__file__).resolve().parents[1]
_TIMEOUT_S: Final = 10.0
_GIT_HOOK_VARIABLES: Final = ("GIT_COMMON_DIR", "GIT_DIR", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_WORK_TREE")
"""Set by git in its hooks: with them every question is about the repository of the hook."""


def code_sha256(parts: Iterable[str], packages: Iterable[str]) -> str:
    """Hash parts of this library and the versions of the packages they use; 64 hex digits.

    Args:
        parts: Modules and folders, relative to ``quality_model``, such as ``core/pixels.py`` or ``degrade``.
        packages: Names of installed distributions. A local version (what follows a +) does not count.
    """
    places = [_PACKAGE / part for part in parts]
    files = [f for place in places for f in (sorted(place.rglob("*.py")) if place.is_dir() else [place])]
    known = [f"{name} {version(name).partition('+')[0]}".encode() for name in packages]
    return hashlib.sha256(b"\n".join([*known, *(f.read_bytes() for f in files)])).hexdigest()


def code_facts(root: Path, package: Path = _PACKAGE) -> ModelFacts:
    """The facts about the code in ``package`` and the project folder ``root``; None where not known.

    ``package_version`` and ``code_sha256`` identify the package wherever it is installed. ``git_commit``
    and ``git_dirty`` ("true" or "false") are those of the checkout that tracks the package. An environment
    inside the checkout of something else is not part of that checkout. ``project_commit`` and
    ``project_dirty`` are those of the project folder; dvc.lock and reports do not count as a change,
    because the pipeline rewrites them.
    """
    is_tracked = _git(package, "ls-files", "--error-unmatch", "--", "__init__.py") is not None
    commit, dirty = _state(package) if is_tracked else (None, None)
    project_commit, project_dirty = _state(root, ":(exclude)dvc.lock", ":(exclude)reports")
    return ModelFacts(
        package_version=_installed_version(),
        code_sha256=code_sha256(["."], []),
        git_commit=commit,
        git_dirty=dirty,
        project_commit=project_commit,
        project_dirty=project_dirty,
    )


def dvc_data_hash(root: Path, folder: Path) -> str | None:
    """The hash by which the project's dvc.lock knows a folder.

    None outside a stage that DVC runs: only there the lock is known to be about this folder.
    """
    if "DVC_STAGE" not in os.environ:
        return None
    try:
        lock = parse_yaml((root / "dvc.lock").read_text(encoding="utf-8"))
        wanted = folder.resolve().relative_to(root.resolve()).as_posix()
        outs = [out for stage in lock["stages"].values() for out in stage.get("outs", [])]
        return next((str(out["md5"]) for out in outs if out["path"] == wanted), None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ParameterError):
        return None


def _state(folder: Path, *excluded: str) -> tuple[str | None, str | None]:
    """The commit checked out in a folder, and whether tracked files below it differ from that."""
    commit = _git(folder, "rev-parse", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ".", *excluded)
    if commit is None or changed is None:
        return None, None
    return commit, str(bool(changed)).lower()


def _installed_version() -> str | None:
    try:
        return version("quality-model")
    except PackageNotFoundError:  # imported from a folder, and not installed
        return None


def _git(folder: Path, *arguments: str) -> str | None:
    environment = {key: value for key, value in os.environ.items() if key not in _GIT_HOOK_VARIABLES}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT_S,
            env={**environment, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
