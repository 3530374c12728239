"""Which code and data made something: commit, uncommitted changes, and DVC's hash of the data."""

import os
import subprocess
from pathlib import Path
from typing import Final

from quality_model.errors import ParameterError
from quality_model.params import parse_yaml

UNKNOWN: Final = "unknown"
_TIMEOUT_S: Final = 10.0


def code_tags(root: Path) -> dict[str, str]:
    """Tags ``git_commit`` and ``git_dirty`` of the project at ``root``; ``unknown`` outside git.

    dvc.lock and reports do not count as a change, for the pipeline itself rewrites them.
    """
    commit = _git(root, "rev-parse", "HEAD")
    changed = _git(
        root,
        "status",
        "--porcelain",
        "--untracked-files=no",
        "--",
        ".",
        ":(exclude)dvc.lock",
        ":(exclude)reports",
    )
    return {
        "git_commit": commit or UNKNOWN,
        "git_dirty": UNKNOWN if commit is None or changed is None else str(bool(changed)).lower(),
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


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT_S,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
