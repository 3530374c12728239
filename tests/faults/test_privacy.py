"""What a run writes names no machine, user or secret; servers listen on this machine alone."""

import getpass
import json
import os
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import PROJECT, Job
from .processes import SECRETS, run_command

FOLDERS = ("data", "models", "reports", "scores", "mlartifacts")
DATABASE = "mlflow.db"
"""Names the project folder, where it keeps artifacts; it is no artifact and is not published."""


@pytest.fixture(scope="module")
def made(jobs: Callable[[str], Job]) -> dict[str, bytes]:
    """Every file that download, generate, train and score write, by path."""
    files = {}
    for project in (jobs("train").after, jobs("score").after):
        for path in project.rglob("*"):
            name = str(path.relative_to(project))
            if path.is_file() and (name.split("/")[0] in (*FOLDERS, "state") or name == DATABASE):
                files[f"{project.parent.name}/{name}"] = path.read_bytes()
    return files


def test_no_secret_of_the_environment_is_in_any_file_that_a_run_writes(made: dict[str, bytes]) -> None:
    assert len(made) > 20
    for secret in SECRETS.values():
        assert not [name for name, data in made.items() if secret.encode() in data]


def test_no_path_or_name_of_this_machine_is_in_any_artifact(
    made: dict[str, bytes], jobs: Callable[[str], Job]
) -> None:
    """Except a scoring result's job.json, which records where its inputs are."""
    artifacts = {
        name: data
        for name, data in made.items()
        if name.split("/")[1] in FOLDERS and not name.endswith("scores/job.json")
    }
    user = f"/{getpass.getuser()}/"
    words = {str(jobs("train").after.parents[1]), str(Path.home()), socket.gethostname(), user}
    for word in (word.encode() for word in words if len(word) > 4):
        assert not [name for name, data in artifacts.items() if word in data], word


def test_no_folder_of_a_user_is_in_what_a_training_writes(jobs: Callable[[str], Job], tmp_path: Path) -> None:
    project, home = jobs("train").project(tmp_path), tmp_path / "home" / "someone"
    shutil.copytree(project / "model", home / "first")
    values = [
        f"source.dataset=sample-photos*250 + {home}/pics",
        "train.architecture=standard",
        f"train.start_from={home}/first",
        f"score.model={home}/first",
    ]
    ended = run_command(project, ["train", *(word for value in values for word in ("--set", value))])
    assert ended.code == 0, ended.output
    left = [path for folder in FOLDERS for path in (project / folder).rglob("*") if path.is_file()]
    assert not [path for path in (*left, project / DATABASE) if os.fsencode(home) in path.read_bytes()]
    settings = json.loads((project / "models/candidate/model.json").read_text())["facts"]["settings"]
    assert settings["source.dataset"] == "sample-photos*250 + pics"
    assert re.fullmatch("first@[0-9a-f]{12}", settings["train.start_from"])


def test_every_server_that_the_project_starts_or_documents_listens_on_loopback() -> None:
    texts = [PROJECT / "Makefile", PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")]
    commands = [
        line
        for text in texts
        for line in text.read_text().splitlines()
        if re.search(r"^\s*(\w+=\S+ )*(mlflow server|prefect server start)\b", line)
    ]
    assert len(commands) >= 4
    assert not [line for line in commands if "--host 127.0.0.1" not in line]
