"""DVC in a worktree, in a folder of another repository that uses DVC, and before the first commit."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks import dvc_process
from tests.flows.conftest import PROJECT, environment
from tests.test_make import as_repository, git, worktree

PIPELINE = """
stages:
  measure:
    cmd: python -c "import pathlib; pathlib.Path('reports').mkdir(exist_ok=True);
      pathlib.Path('reports/metrics.json').write_text('{}')"
    params: [train]
    metrics: [reports/metrics.json]
"""


def without_a_commit(folder: Path) -> Path:
    (folder / "new").mkdir()
    git(folder / "new", "init", "-q")
    return folder / "new"


def folder_of_a_repository_that_uses_dvc(folder: Path) -> Path:
    outer = as_repository(folder / "outer")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=outer, check=True, env=environment(outer))
    git(outer, "commit", "-qm", "DVC")
    (outer / "quality").mkdir()
    return outer / "quality"


@pytest.mark.parametrize("place", [worktree, folder_of_a_repository_that_uses_dvc, without_a_commit])
def test_a_run_changes_the_lock_alone_and_a_second_one_changes_nothing(
    tmp_path: Path, place: Callable[[Path], Path]
) -> None:
    project = place(tmp_path)
    (project / ".dvc").mkdir()
    for name in (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore"):  # as committed
        shutil.copyfile(PROJECT / name, project / name)
    (project / "params.yaml").write_text("train: {epochs: 1}\n")
    (project / "dvc.yaml").write_text(PIPELINE)
    git(project, "add", ".")
    if place is not without_a_commit:
        git(project, "commit", "-qm", "A project")
    env = environment(project) | {"PYTHONPATH": str(PROJECT)}
    committed = git(project, "status", "--porcelain", ".")
    for _ in range(2):
        dvc_process.repro(project, environment=env, log=print)
        assert dvc_process.is_up_to_date(project, environment=env, log=print)
        changed = git(project, "status", "--porcelain", ".").replace(committed, "").splitlines()
        assert [line.split("/")[-1].removeprefix("?? ") for line in changed] == ["dvc.lock"]
