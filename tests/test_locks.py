"""The lock files: runtime packages in one, development tools in the other."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).resolve().parents[1]
FILES = ("requirements.lock", "requirements-dev.lock", "packages.yaml")
DECLARED: dict[str, Any] = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]


def names_in(lock: Path) -> set[str]:
    return set(re.findall(r"^([a-z0-9._-]+)==", lock.read_text(), re.MULTILINE))


def names_of(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(entry).name) for entry in requirements}


RUNTIME, TOOLS = (names_in(PROJECT / name) for name in FILES[:2])


def test_runtime_packages_are_in_the_first_file_and_tools_in_the_second_and_none_in_both() -> None:
    assert not RUNTIME & TOOLS
    assert names_of(DECLARED["dependencies"]) <= RUNTIME
    assert {"ruff", "mypy", "pytest", "hypothesis", "pre-commit", "import-linter"} <= TOOLS
    assert names_of(DECLARED["optional-dependencies"]["dev"]) <= RUNTIME | TOOLS


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    (tmp_path / ".ci").mkdir()
    for name in (*FILES, "pyproject.toml", ".ci/locks.py"):
        shutil.copyfile(PROJECT / name, tmp_path / name)
    return tmp_path


def split(project: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ".ci/locks.py", *FILES[:2]]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)


def test_the_lock_files_are_the_split_of_their_resolution_and_a_new_linter_changes_its_own_alone(
    copy: Path,
) -> None:
    assert split(copy).returncode == 0
    for name in FILES:
        assert (copy / name).read_bytes() == (PROJECT / name).read_bytes(), name
    tools = copy / "requirements-dev.lock"
    tools.write_text(re.sub(r"^ruff==\S+", "ruff==99.0.0", tools.read_text(), flags=re.MULTILINE))
    assert split(copy).returncode == 0
    assert "ruff==99.0.0" in tools.read_text()
    for name in ("requirements.lock", "packages.yaml"):
        assert (copy / name).read_bytes() == (PROJECT / name).read_bytes(), name


def test_a_dependency_that_is_not_resolved_yet_is_named(copy: Path) -> None:
    declared = copy / "pyproject.toml"
    declared.write_text(declared.read_text().replace('"click>=8.1"', '"click>=8.1", "Unheard.Of>=1"'))
    done = split(copy)
    assert done.returncode != 0
    assert done.stderr.strip() == "Not in the resolution: unheard-of. Run `make lock`."
