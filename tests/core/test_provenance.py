"""Which code and which project a run names, wherever the package is."""

import os
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from quality_model.core.provenance import code_facts


def git(folder: Path, *arguments: str) -> str:
    who = {f"GIT_{role}_{what}": "a@b" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    command = ["git", "-C", str(folder), "-c", "protocol.file.allow=always", *arguments]
    done = subprocess.run(command, check=True, env={**os.environ, **who}, capture_output=True, text=True)
    return done.stdout.strip()


def repository(folder: Path, *files: str) -> str:
    """Make a repository with these files in it; returns its commit."""
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "-q")
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("1")
    git(folder, "add", "--", *files)
    git(folder, "commit", "-qm", name)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture(autouse=True)
def outside_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))


def commits(project: Path, package: Path) -> tuple[str | None, str | None]:
    code = code_facts(project, package)
    assert code.package_version == version("quality-model")
    assert code.code_sha256 and len(code.code_sha256) == 64
    return code.git_commit, code.project_commit


def test_outside_git_version_and_hash_name_the_code(tmp_path: Path) -> None:
    assert commits(tmp_path, tmp_path) == (None, None)
    assert code_facts(tmp_path, tmp_path).git_dirty is None


def test_the_commit_of_a_project_is_not_that_of_the_code(tmp_path: Path) -> None:
    code = repository(tmp_path / "code", "quality_model/__init__.py")
    project = repository(tmp_path / "project", "params.yaml")
    assert commits(tmp_path / "project", tmp_path / "code" / "quality_model") == (code, project)


@pytest.mark.parametrize("ignored", [True, False])
def test_an_environment_inside_a_checkout_is_no_part_of_it(tmp_path: Path, ignored: bool) -> None:
    project = repository(tmp_path / "project", "params.yaml")
    if ignored:
        (tmp_path / "project" / ".gitignore").write_text(".venv/")
    package = tmp_path / "project" / ".venv" / "lib" / "site-packages" / "quality_model"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    assert commits(tmp_path / "project", package) == (None, project)


def test_a_worktree_names_its_own_commit(tmp_path: Path) -> None:
    first = repository(tmp_path / "code", "quality_model/__init__.py")
    git(tmp_path / "code", "worktree", "add", "-q", "-b", "other", str(tmp_path / "tree"))
    git(tmp_path / "tree", "commit", "-q", "--allow-empty", "-m", "on")
    second = git(tmp_path / "tree", "rev-parse", "HEAD")
    assert commits(tmp_path / "tree", tmp_path / "tree" / "quality_model") == (second, second)
    assert commits(tmp_path / "tree", tmp_path / "code" / "quality_model") == (first, second)


def test_a_submodule_names_its_own_commit_and_not_that_of_the_repository_around_it(tmp_path: Path) -> None:
    code = repository(tmp_path / "code", "quality_model/__init__.py")
    repository(tmp_path / "around", "readme")
    git(tmp_path / "around", "submodule", "--quiet", "add", str(tmp_path / "code"), "code")
    git(tmp_path / "around", "commit", "-qm", "with it")
    around = git(tmp_path / "around", "rev-parse", "HEAD")
    assert commits(tmp_path / "around", tmp_path / "around" / "code" / "quality_model") == (code, around)


def test_a_hook_of_another_repository_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = repository(tmp_path / "code", "quality_model/__init__.py")
    repository(tmp_path / "hooked", "quality_model/__init__.py", "more")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "hooked" / ".git"))
    assert commits(tmp_path / "code", tmp_path / "code" / "quality_model") == (code, code)


def test_without_git_the_version_names_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository(tmp_path / "code", "quality_model/__init__.py")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commits(tmp_path / "code", tmp_path / "code" / "quality_model") == (None, None)


def test_changed_code_is_dirty_and_a_project_is_when_more_than_its_lock_file_changed(tmp_path: Path) -> None:
    repository(tmp_path, "quality_model/__init__.py", "params.yaml", "dvc.lock", "reports/metrics.json")
    package = tmp_path / "quality_model"

    def dirty() -> tuple[str | None, str | None]:
        code = code_facts(tmp_path, package)
        return code.git_dirty, code.project_dirty

    assert dirty() == ("false", "false")
    for name in ("dvc.lock", "reports/metrics.json"):
        (tmp_path / name).write_text("2")
    assert dirty() == ("false", "false")
    (tmp_path / "params.yaml").write_text("2")
    assert dirty() == ("false", "true")
    (package / "__init__.py").write_text("2")
    assert dirty() == ("true", "true")
    shutil.rmtree(tmp_path / ".git")
    assert dirty() == (None, None)
