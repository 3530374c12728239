"""Four jobs on small data, what each leaves undisturbed, and fresh copies of what each needs."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import torch
import yaml
from PIL import Image

from quality_model.core.decoding import Pixels
from quality_model.core.storage import MARKER_NAME
from quality_model.networks.model import MultiHeadQualityAssessmentModel, save_model
from tests.release.registry.conftest import three_versions as three_versions

from .processes import STEPS, Ended, Fault, recorded, run_command, tree

PROJECT: Final = Path(__file__).resolve().parents[2]
ORIGINAL_PHOTOS: Final = 14

SMALL: Final = {
    "source": {"dataset": "./photos", "num_images": ORIGINAL_PHOTOS},
    "generate": {"profile": "seed", "samples_per_image": 2, "image_size": 32, "workers": 1},
    "train": {
        "architecture": "small",
        "start_from": "scratch",
        "samples": "stored",
        "epochs": 2,
        "batch_size": 8,
        "device": "cpu",
        "precision": "float32",
    },
    "score": {"model": "model", "shard_size": 5, "workers": 1, "device": "cpu", "engine": "torch-float32"},
}

COMMANDS: Final = {
    "download": ["download"],
    "generate": ["generate"],
    "generate-hf": ["generate-hf"],
    "train": ["train"],
    "score": ["score", "photos", "--output", "scores"],
}
RESULTS: Final = {
    "download": ["data/images"],
    "generate": ["data/training"],
    "generate-hf": ["data/training", "data/images"],
    "train": ["models/candidate", "reports/training"],
    "score": ["scores"],
}
KILLED: Final = ("download", "generate", "train", "score")
"""The jobs that are killed at every kind of moment."""

JOB: Final = "scores/job.json"


@dataclass(frozen=True)
class Job:
    """A command, and the bytes that it leaves when nothing disturbs it.

    ``before`` and ``after`` are project folders, not to be changed: where it can begin, and where it
    has ended. ``steps`` are those of `quality_model.core.storage` that it passes, in order;
    ``elapsed_s`` is what it takes.
    """

    name: str
    before: Path
    after: Path
    result: dict[str, bytes]
    steps: tuple[str, ...]
    elapsed_s: float

    def project(self, place: Path) -> Path:
        """A project folder of its own in which the command can begin."""
        return Path(shutil.copytree(self.before, place / "project"))

    def run(self, project: Path, fault: Fault | None = None, *, killed_after_s: float | None = None) -> Ended:
        return run_command(project, COMMANDS[self.name], fault, killed_after_s=killed_after_s)

    def result_in(self, project: Path) -> dict[str, bytes]:
        return result_in(self.name, project)

    def assert_completes(self, project: Path, after: str) -> None:
        """The command, run in peace ``after`` something, leaves the bytes of an undisturbed run."""
        ended = self.run(project)
        assert ended.code == 0, f"after {after}:\n{ended.output}"
        found = self.result_in(project)
        assert found.keys() == self.result.keys(), after
        assert [path for path in found if found[path] != self.result[path]] == [], after

    def is_sealed(self, project: Path) -> bool:
        marker = "job.json" if self.name == "score" else MARKER_NAME
        return (project / RESULTS[self.name][0] / marker).exists()

    def count(self, step: str) -> int:
        """How often the undisturbed command reached a step."""
        return self.steps.count(step)


def result_in(name: str, project: Path) -> dict[str, bytes]:
    """What the job of a name left in a project."""
    found = tree(*(project / folder for folder in RESULTS[name]))
    if JOB in found:  # it says where its inputs are, which is elsewhere in each project
        job = json.loads(found[JOB])
        del job["inputs"]["absolute_root"]
        found[JOB] = json.dumps(job).encode()
    return found


def make_project(folder: Path, photo: Pixels, database: Path) -> Path:
    """A project folder with small parameters, photographs, a model, and nothing made yet."""
    folder.mkdir(parents=True)
    params = yaml.safe_load((PROJECT / "params.yaml").read_text())
    for section, values in SMALL.items():
        params[section] |= values
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    shutil.copyfile(database, folder / "mlflow.db")
    (folder / "photos").mkdir()
    for number in range(ORIGINAL_PHOTOS):
        crop = photo[8 * number : 8 * number + 72, 9 * number : 9 * number + 96]
        Image.fromarray(crop).save(folder / "photos" / f"{number:02d}.png")
    torch.manual_seed(3)
    save_model(folder / "model", MultiHeadQualityAssessmentModel(), image_size_px=32, facts={})
    return folder


@pytest.fixture(params=KILLED)
def job(request: pytest.FixtureRequest, jobs: Callable[[str], Job]) -> Job:
    """Each of the jobs that are killed at every kind of moment."""
    return jobs(request.param)


@pytest.fixture
def registered(project: Path, three_versions: Path) -> Path:
    """A project folder of its own whose registry holds the versions 1, 2 and 3, and no alias."""
    shutil.copyfile(three_versions / "mlflow.db", project / "mlflow.db")
    (project / "mlartifacts").symlink_to(three_versions / "mlartifacts")
    return project


@pytest.fixture(scope="session")
def jobs(
    tmp_path_factory: pytest.TempPathFactory, photo: Pixels, mlflow_database: Path
) -> Callable[[str], Job]:
    """The job of a name; it and those it needs run undisturbed once."""
    base = tmp_path_factory.mktemp("jobs")
    make_project(base / "new" / "project", photo, mlflow_database)
    known: dict[str, Job] = {}
    needs = {"generate": "download", "train": "generate"}

    def job(name: str) -> Job:
        if name not in known:
            before = job(needs[name]).after if name in needs else base / "new" / "project"
            after = Path(shutil.copytree(before, base / name / "project"))
            started = time.monotonic()
            ended = run_command(after, COMMANDS[name], recorded(base / f"{name}.txt"))
            elapsed_s = time.monotonic() - started
            assert ended.code == 0, ended.output
            lines = (base / f"{name}.txt").read_text().splitlines()
            steps = tuple(line.partition(" ")[0] for line in lines)
            assert set(steps) == set(STEPS)
            known[name] = Job(name, before, after, result_in(name, after), steps, elapsed_s)
        return known[name]

    return job
