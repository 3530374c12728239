"""A small project of its own, with this code, in which commands run as a user's would."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from quality_model.core.system import NO_TELEMETRY

ROOT: Final = Path(__file__).resolve().parent.parent
PARTS: Final = (
    *("quality_model", "flows", "tasks", "dvc.yaml", "params.yaml", "prefect.yaml", "packages.yaml"),
    *(".dvcignore", ".gitignore"),
)


def environment(project: Path) -> dict[str, str]:
    """What a shell with the project's environment active would have, with all state in the project."""
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_"))},
        **NO_TELEMETRY,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(project),
        "PREFECT_HOME": str(project / "state" / "prefect"),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
        "DVC_SITE_CACHE_DIR": str(project / "state" / "dvc"),
    }


def make_project(folder: Path, changes: Mapping[str, Mapping[str, Any]]) -> Path:
    """A git and DVC project with this code and, in its params.yaml, these changes by section."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in PARTS:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, folder / name)
    change_params(folder, **changes)
    (folder / "state" / "prefect").mkdir(parents=True)
    for command in (
        ["git", "init", "-q"],
        ["git", "config", "user.name", "Small"],
        ["git", "config", "user.email", "small@example.com"],
        ["dvc", "init", "-q"],
        ["git", "add", "-A"],
        ["git", "commit", "-qm", "A project"],
    ):
        subprocess.run(command, cwd=folder, env=environment(folder), check=True, capture_output=True)
    return folder


def change_params(project: Path, **sections: Mapping[str, Any]) -> None:
    """Set values of sections in the project's params.yaml."""
    path = project / "params.yaml"
    params = yaml.safe_load(path.read_text())
    for section, values in sections.items():
        params[section] |= values
    path.write_text(yaml.safe_dump(params, sort_keys=False))
