"""The wheel in an empty environment: what it contains, what it brings along, and that it scores."""

import json
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from quality_model import Scorer
from quality_model.core.decoding import Pixels
from quality_model.records import HEADS

PROJECT = Path(__file__).resolve().parents[1]
LARGEST_MB = 400
PACKAGES = {
    *("click", "filelock", "ncnn", "numpy", "pillow", "pyarrow", "pydantic", "ruamel.yaml", "safetensors"),
    *("annotated-types", "pydantic-core", "typing-extensions", "typing-inspection"),  # of pydantic
    *("portalocker", "requests", "tqdm", "certifi", "charset-normalizer", "idna", "urllib3"),  # of ncnn
    "quality-model",
}  # fmt: skip
NO_INDEX = re.compile(
    r"No matching distribution found|Could not find a version|connection (error|broken)", re.I
)
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("quality_model", "flows", "tasks", "tests", "benchmarks"):
        shutil.copytree(PROJECT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(PROJECT / name, source / name)
    done = pip("wheel", "--no-deps", "--no-build-isolation", "-w", str(out), str(source))
    assert done.returncode == 0, done.stderr
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and its dependencies, in the versions of the lock file."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    pins = re.findall(
        r"^[a-z0-9][^\\\n]*==[^\\\n]+", (PROJECT / "requirements.lock").read_text(), re.MULTILINE
    )
    (folder / "constraints.txt").write_text("\n".join(pins))
    constraints = ["-c", str(folder / "constraints.txt")]
    done = pip("--python", str(folder / "bin" / "python"), "install", *constraints, str(wheel))
    if done.returncode != 0 and NO_INDEX.search(done.stderr) and not os.environ.get("CI"):
        pytest.skip(f"no package index to install from: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return folder


def quality_model(environment: Path, folder: Path, *arguments: str) -> str:
    command = [str(environment / "bin" / "quality-model"), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_contains_the_library_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" not in name}
    assert tops == {"quality_model"}


def test_the_installation_brings_what_scoring_needs_and_stays_within_its_size(environment: Path) -> None:
    listed = pip("--python", str(environment / "bin" / "python"), "list", "--format", "json")
    names = {entry["name"].replace("_", "-") for entry in json.loads(listed.stdout)}
    assert names == PACKAGES
    files = [path for path in environment.rglob("*") if path.is_file() and not path.is_symlink()]
    assert sum(path.stat().st_size for path in files) <= LARGEST_MB * 1e6


@pytest.mark.parametrize("in_project", [False, True], ids=["without a project", "in a project"])
def test_the_installed_program_gives_the_scores_of_this_checkout(
    environment: Path, photo: Pixels, tmp_path: Path, in_project: bool
) -> None:
    if in_project:
        shutil.copyfile(PROJECT / "params.yaml", tmp_path / "params.yaml")
    (tmp_path / "images").mkdir()
    Image.fromarray(photo).save(tmp_path / "images" / "a.png")
    printed = quality_model(environment, tmp_path, "predict", "images/a.png", "--json")
    (row,) = json.loads(printed)["images"]
    quality_model(environment, tmp_path, "score", "images", "--output", "scores/mine")
    (scored,) = pq.read_table(tmp_path / "scores" / "mine" / "data").to_pylist()
    expected = Scorer("bundled", "cpu").predict(photo)
    for head in HEADS:
        assert row[head] == scored[head] == getattr(expected, head)
