"""Which code made something: the git commit, and whether the files still are that commit's."""

import os
import subprocess
from pathlib import Path
from typing import Final

UNKNOWN: Final = "unknown"
_TIMEOUT_S: Final = 10.0


def code_tags(root: Path) -> dict[str, str]:
    """Tags ``git_commit`` and ``git_dirty`` of the project at ``root``; ``unknown`` outside git.

    dvc.lock does not count as a change, for the pipeline itself rewrites it.
    """
    commit = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)dvc.lock")
    return {
        "git_commit": commit or UNKNOWN,
        "git_dirty": UNKNOWN if commit is None or changed is None else str(bool(changed)).lower(),
    }


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
