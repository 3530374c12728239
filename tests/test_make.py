"""The Makefile: where it installs, when it installs again, and what it removes."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
WHO = {
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@b",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@b",
}
NO_REPOSITORY = {"GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"}

# Stands for Python: makes an environment whose Python notes down what it was asked to do.
PYTHON = """#!/bin/sh
mkdir -p "$3/bin" && touch "$3/pyvenv.cfg"
cat > "$3/bin/python" <<'END'
#!/bin/sh
echo "$*" >> asked
test ! -e fails
END
chmod +x "$3/bin/python"
"""


def environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in NO_REPOSITORY}
    kept["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), kept["PATH"]])
    return {**kept, **WHO, **more}


def git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), "-c", "protocol.file.allow=always", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment()).stdout


def make(folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "-f", str(PROJECT / "Makefile"), *words]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=environment(**more), check=False
    )


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a refusal; make adds a line that names the target."""
    assert done.returncode == 2
    line, make_says = done.stderr.splitlines()
    assert make_says.startswith("make")
    return line


def as_repository(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "-q")
    (folder / "params.yaml").write_text("train: {}\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "First")
    return folder


def clone(folder: Path) -> Path:
    return as_repository(folder / "clone")


def worktree(folder: Path) -> Path:
    git(as_repository(folder / "main"), "worktree", "add", "-q", str(folder / "worktree"))
    return folder / "worktree"


def folder_of_another_repository(folder: Path) -> Path:
    inner = as_repository(folder / "monorepo") / "teams" / "quality"
    inner.mkdir(parents=True)
    return inner


def submodule(folder: Path) -> Path:
    outer = as_repository(folder / "outer")
    git(outer, "submodule", "add", "-q", str(as_repository(folder / "library")), "vendor/quality")
    return outer / "vendor" / "quality"


@pytest.mark.parametrize("place", [clone, worktree, folder_of_another_repository, submodule])
def test_the_installation_takes_any_folder_that_git_knows(
    place: Callable[[Path], Path], tmp_path: Path
) -> None:
    done = make(place(tmp_path), "-s", "git-check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_outside_git_the_installation_says_in_one_line_to_run_git_init(tmp_path: Path) -> None:
    line = error_of(make(tmp_path, "git-check"))
    assert line == f"Error: {tmp_path} is in no git repository; DVC needs one: git init"


def test_the_repository_of_a_hook_that_calls_make_is_not_taken_for_the_projects(tmp_path: Path) -> None:
    elsewhere = as_repository(tmp_path / "elsewhere")
    (tmp_path / "here").mkdir()
    line = error_of(make(tmp_path / "here", "git-check", GIT_DIR=str(elsewhere / ".git")))
    assert line.endswith("git init")


def test_what_else_git_objects_to_is_said_in_its_words(tmp_path: Path) -> None:
    project = as_repository(tmp_path / "of-somebody-else")
    done = make(project, "git-check", GIT_TEST_ASSUME_DIFFERENT_OWNER="1")
    assert done.returncode == 2
    assert "git init" not in done.stderr
    assert "safe.directory" in done.stderr


def test_without_git_the_installation_says_so(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name in ("sh", "cat", "make"):
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    line = error_of(make(tmp_path, "git-check", PATH=str(tmp_path / "bin")))
    assert line.startswith("Error: DVC needs git and a git repository:")
    assert "git" in line.rpartition(":")[0]


@pytest.fixture
def installing(tmp_path: Path) -> Path:
    """A project whose Python is a stand-in, so that an installation takes no time."""
    project = as_repository(tmp_path / "my projects" / "quality")
    for name in ("requirements.lock", "requirements-dev.lock", "pyproject.toml"):
        (project / name).touch()
        os.utime(project / name, (1, 1))
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    return project


def install(project: Path) -> subprocess.CompletedProcess[str]:
    return make(project, "install", f"PYTHON={project.parents[1] / 'python'}")


def asked_of(project: Path) -> list[str]:
    """What the environment's Python was asked since last time."""
    asked = project / "asked"
    lines = asked.read_text().splitlines() if asked.exists() else []
    asked.unlink(missing_ok=True)
    return lines


def test_the_installation_takes_both_lock_files_with_their_hashes_and_is_not_repeated(
    installing: Path,
) -> None:
    assert install(installing).returncode == 0
    locked = asked_of(installing)[0]
    assert locked.endswith("--no-deps --require-hashes -r requirements.lock -r requirements-dev.lock")
    assert install(installing).returncode == 0
    assert asked_of(installing) == []


def test_an_interrupted_installation_resumes(installing: Path) -> None:
    (installing / "fails").touch()
    assert install(installing).returncode == 2
    (installing / ".venv" / "downloaded").touch()
    (installing / "fails").unlink()
    asked_of(installing)
    assert install(installing).returncode == 0
    assert asked_of(installing)
    assert (installing / ".venv" / "downloaded").exists()


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock", "pyproject.toml"])
def test_a_changed_lock_file_is_installed_into_the_same_environment(installing: Path, name: str) -> None:
    install(installing)
    asked_of(installing)
    (installing / ".venv" / "downloaded").touch()
    os.utime(installing / name)
    os.utime(installing / ".venv" / ".installed", (2, 2))
    assert install(installing).returncode == 0
    assert asked_of(installing)
    assert (installing / ".venv" / "downloaded").exists()


@pytest.mark.parametrize("change", [Path.rename, lambda old, new: shutil.copytree(old, new)])
def test_in_a_moved_or_copied_folder_the_environment_is_made_again(
    installing: Path, change: Callable[[Path, Path], object]
) -> None:
    install(installing)
    asked_of(installing)
    (installing / ".venv" / "of-the-old-place").touch()
    elsewhere = installing.with_name("elsewhere")
    change(installing, elsewhere)
    done = install(elsewhere)
    assert done.returncode == 0
    assert "made in another folder" in done.stdout
    assert asked_of(elsewhere)
    assert not (elsewhere / ".venv" / "of-the-old-place").exists()
    install(elsewhere)
    assert asked_of(elsewhere) == []


MADE = (
    *(
        "data/images/table.parquet",
        "data/training/images.npy",
        "data/.unfinished-1/x",
        "models/candidate/model.json",
    ),
    *("reports/evaluation/metrics.json", "reports/gate/verdict.json", "samples/1.png"),
    *("scores/2026-11-27T123324Z/job.json", "scores/2026-11-27T123324Z/data/part-00000.parquet"),
    *("dvc_plots/index.html", ".pytest_cache/x", "quality_model/__pycache__/x.pyc"),
)
KEPT = (
    *("mlflow.db", "mlartifacts/1/artifacts/model", "state/ledger.jsonl", "state/records/1/verdict.json"),
    *(".dvc/cache/files/md5/aa/bb", ".venv/bin/python"),
)
OWN = (
    *("data/mine/1.jpg", "models/other/model.json", "notes.txt", "scores/mine/job.json"),
    *(
        "scores/mine/data/part-00000.parquet",
        "scores/2026/job.json",
        "scores/2026-11-27T123324Z-mine/job.json",
    ),
)


COMMITTED = (".gitignore", ".dvc/.gitignore", ".dvc/config", "params.yaml", "quality_model/__init__.py")


@pytest.fixture
def used(tmp_path: Path) -> Path:
    """A used project in a repository that ignores all data, with files that were added by hand."""
    (repository := as_repository(tmp_path) / ".gitignore").write_text("data/\nmodels/\nscores/\n")
    project = repository.parent / "project"
    for name in COMMITTED:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PROJECT / name, project / name)
    for name in (*MADE, *KEPT, *OWN):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("x")
    (project / "samples" / "committed.png").write_text("x")
    git(project, "add", "-f", *COMMITTED, "samples/committed.png")
    git(project, "commit", "-qm", "A project")
    return project


def test_clean_removes_what_a_run_makes_and_no_decision_no_committed_file_and_nothing_of_ones_own(
    used: Path,
) -> None:
    assert make(used, "clean").returncode == 0
    assert [name for name in MADE if (used / name).exists()] == []
    assert [name for name in (*KEPT, *OWN) if not (used / name).exists()] == []
    assert git(used, "status", "--porcelain", ".") == "?? project/notes.txt\n"


def test_clean_all_asks_and_names_what_would_be_lost(used: Path) -> None:
    line = error_of(make(used, "clean-all"))
    assert "mlflow.db" in line
    assert "make clean-all CONFIRM=yes" in line
    assert all((used / name).exists() for name in (*MADE, *KEPT))


def test_clean_all_removes_the_registry_too_once_it_is_confirmed(used: Path) -> None:
    assert make(used, "clean-all", "CONFIRM=yes").returncode == 0
    assert not any((used / name).exists() for name in ("mlflow.db", "mlartifacts", "state", ".dvc/cache"))
    assert all((used / name).exists() for name in OWN)
    assert (used / ".dvc" / "config").exists()


@pytest.mark.parametrize(
    ("target", "variable"), [("mlflow-ui", "MLFLOW_PORT"), ("prefect-ui", "PREFECT_PORT")]
)
def test_a_port_that_somebody_uses_is_refused_in_one_line(tmp_path: Path, target: str, variable: str) -> None:
    venv = Path(sys.prefix)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = make(
            tmp_path, target, f"{variable}={port}", f"VENV={venv}", "-o", f"{venv}/.installed",
            PYTHONPATH=str(PROJECT),
        )  # fmt: skip
    line = error_of(done)
    assert line == (
        f"Error: Port {port} cannot be used: Address already in use. "
        f"Choose another one: make {target} {variable}=N"
    )


def test_a_port_that_is_none_is_refused(tmp_path: Path) -> None:
    venv = Path(sys.prefix)
    done = make(
        tmp_path, "mlflow-ui", "MLFLOW_PORT=mine", f"VENV={venv}", "-o", f"{venv}/.installed",
        PYTHONPATH=str(PROJECT),
    )  # fmt: skip
    assert error_of(done).startswith("Error: 'mine' is not a port.")
