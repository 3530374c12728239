"""DVC in a worktree, a submodule, and a folder of another repository."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks import dvc_process
from tests.flows.conftest import PROJECT, environment
from tests.test_make import as_repository, clone, folder_of_another_repository, git, submodule, worktree

PIPELINE = """
stages:
  measure:
    cmd: python -c "import pathlib; pathlib.Path('reports').mkdir(exist_ok=True);
      pathlib.Path('reports/metrics.json').write_text('{}')"
    params: [train]
    metrics: [reports/metrics.json]
"""


def without_a_commit(folder: Path) -> Path:
    folder = folder / "new"
    folder.mkdir()
    git(folder, "init", "-q")
    return folder


def folder_of_a_repository_that_uses_dvc(folder: Path) -> Path:
    outer = as_repository(folder / "outer")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=outer, check=True, env=environment(outer))
    git(outer, "commit", "-qm", "DVC")
    (outer / "quality").mkdir()
    return outer / "quality"


PLACES = [
    *(clone, worktree, submodule, folder_of_another_repository),
    *(folder_of_a_repository_that_uses_dvc, without_a_commit),
]


@pytest.fixture(params=PLACES, ids=lambda place: place.__name__)
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A small pipeline with the committed settings of DVC and git."""
    place: Callable[[Path], Path] = request.param
    folder = place(tmp_path)
    (folder / ".dvc").mkdir()
    for name in (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore"):
        shutil.copyfile(PROJECT / name, folder / name)
    (folder / "params.yaml").write_text("train: {epochs: 1}\n")
    (folder / "dvc.yaml").write_text(PIPELINE)
    git(folder, "add", ".")
    if place is not without_a_commit:
        git(folder, "commit", "-qm", "A project")
    return folder


def test_a_run_changes_the_lock_alone_and_a_second_one_changes_nothing(project: Path) -> None:
    env = environment(project) | {"PYTHONPATH": str(PROJECT)}
    committed = git(project, "status", "--porcelain", ".")
    for _ in range(2):
        dvc_process.repro(project, environment=env, log=print)
        assert dvc_process.is_up_to_date(project, environment=env, log=print)
        changed = git(project, "status", "--porcelain", ".").replace(committed, "").splitlines()
        assert [line.split("/")[-1].removeprefix("?? ") for line in changed] == ["dvc.lock"]
