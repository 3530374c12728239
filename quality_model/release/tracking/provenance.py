"""Which code and data made something: version and commit of the code, the project's commit, and the data."""

import os
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from quality_model.core.code_hash import code_sha256
from quality_model.errors import ParameterError
from quality_model.params_file import parse_yaml

UNKNOWN: Final = "unknown"
_TIMEOUT_S: Final = 10.0
_PACKAGE: Final = Path(__file__).resolve().parents[1]
_OF_ANOTHER_CALLER: Final = ("GIT_COMMON_DIR", "GIT_DIR", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_WORK_TREE")
"""Set by git in its hooks: with them every question is about the repository of the hook."""


def code_tags(root: Path, package: Path = _PACKAGE) -> dict[str, str]:
    """Tags of the code that runs and of the project that it runs in; ``unknown`` where there is none.

    ``package_version`` and ``code_sha256`` identify the package wherever it is installed. ``git_commit``
    and ``git_dirty`` are those of the checkout that tracks it, if one does: an environment inside the
    checkout of something else is no part of that. ``project_commit`` and ``project_dirty`` are those of
    ``root``; dvc.lock and reports do not count as a change, because the pipeline rewrites them.
    """
    is_tracked = _git(package, "ls-files", "--error-unmatch", "--", "__init__.py") is not None
    commit, dirty = _state(package) if is_tracked else (UNKNOWN, UNKNOWN)
    project_commit, project_dirty = _state(root, ":(exclude)dvc.lock", ":(exclude)reports")
    return {
        "package_version": _version(),
        "code_sha256": code_sha256(["."], []),
        "git_commit": commit,
        "git_dirty": dirty,
        "project_commit": project_commit,
        "project_dirty": project_dirty,
    }


def data_tags(root: Path, folder: Path) -> dict[str, str]:
    """Tag ``dvc_data_hash``: the hash by which the project's dvc.lock knows a folder.

    Nothing outside a stage that DVC runs, for only there is the lock known to be about this folder.
    """
    if "DVC_STAGE" not in os.environ:
        return {}
    try:
        lock = parse_yaml((root / "dvc.lock").read_text(encoding="utf-8"))
        wanted = folder.resolve().relative_to(root.resolve()).as_posix()
        for stage in lock["stages"].values():
            for out in stage.get("outs", []):
                if out["path"] == wanted:
                    return {"dvc_data_hash": str(out["md5"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ParameterError):
        pass
    return {}


def _state(folder: Path, *excluded: str) -> tuple[str, str]:
    """The commit checked out in a folder, and whether tracked files below it differ from that."""
    commit = _git(folder, "rev-parse", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ".", *excluded)
    if commit is None or changed is None:
        return UNKNOWN, UNKNOWN
    return commit, str(bool(changed)).lower()


def _version() -> str:
    try:
        return version("quality-model")
    except PackageNotFoundError:  # imported from a folder, and not installed
        return UNKNOWN


def _git(folder: Path, *arguments: str) -> str | None:
    environment = {key: value for key, value in os.environ.items() if key not in _OF_ANOTHER_CALLER}
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
