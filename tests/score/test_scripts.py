"""Scripts of users that start worker processes: with a main guard, without one, and from standard input."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent, indent

import pytest

from quality_model.networks.model import MultiHeadQualityAssessmentModel, save_model

PROJECT = Path(__file__).resolve().parents[2]

HEAD = f"""
from pathlib import Path
from quality_model.params_file import load_params
PARAMS = load_params(Path({str(PROJECT / "params.yaml")!r}))
LIMITS = PARAMS.limits
"""
SCORE = """
from quality_model.score.job import score
section = PARAMS.score.model_copy(update={"model": "model", "workers": 2, "engine": "ENGINE"})
"""
SCORE_JOB = """
print("begun", flush=True)
summary = score(section, LIMITS, root=Path(), inputs=Path("images"), output=Path("scores"))
print("scored", summary.scored, flush=True)
"""
GENERATE = """
from quality_model.data.generate import generate
changed = {"workers": 2, "image_size": 32, "samples_per_image": 3, "profile": "seed"}
section = PARAMS.generate.model_copy(update=changed)
"""
GENERATE_JOB = """
print("begun", flush=True)
made = generate(section, LIMITS, Path("table"), Path("training"))
print("made", made.samples, flush=True)
"""
JOBS = {"score": (HEAD + SCORE, SCORE_JOB), "generate": (HEAD + GENERATE, GENERATE_JOB)}


def script_of(job: str, *, engine: str = "ncnn-float32", guarded: bool = False) -> str:
    above, body = JOBS[job]
    body = f'if __name__ == "__main__":\n{indent(body, "    ")}' if guarded else body
    return above.replace("ENGINE", engine) + body


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory, crops: list[bytes]) -> Path:
    """A folder with a model, images, and a table of clean images."""
    from quality_model.data.download import download
    from quality_model.params_file import load_params

    place = tmp_path_factory.mktemp("material")
    (place / "images").mkdir()
    for number, data in enumerate(crops):
        (place / "images" / f"{number:02d}.jpg").write_bytes(data)
    save_model(place / "model", MultiHeadQualityAssessmentModel(), image_size_px=32, facts={})
    params = load_params(PROJECT / "params.yaml")
    source = params.source.model_copy(update={"dataset": str(place / "images"), "num_images": 40})
    download(source, params.limits, place / "table")
    return place


@pytest.fixture
def place(material: Path, tmp_path: Path) -> Path:
    """An empty folder with links to the material."""
    for path in material.iterdir():
        (tmp_path / path.name).symlink_to(path)
    return tmp_path


def run(
    place: Path, *arguments: str, script: str = "", within: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*within, sys.executable, *arguments],
        cwd=place,
        env={"PYTHONPATH": str(PROJECT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        input=script,
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.parametrize("job", JOBS)
def test_a_script_without_a_main_guard_ends_once_with_an_error_that_says_so(place, job):
    (place / "mine.py").write_text(script_of(job))
    done = run(place, "mine.py")
    assert done.returncode == 1  # an error that this script does not catch is shown by Python
    assert done.stderr.count("Traceback") == 1
    assert 'mine.py has no `if __name__ == "__main__":`' in done.stderr
    assert "UsageError" in done.stderr
    assert "memory" not in done.stderr
    assert "scored" not in done.stdout and "made" not in done.stdout


def test_a_script_with_a_main_guard_scores(place):
    (place / "mine.py").write_text(script_of("score", guarded=True))
    done = run(place, "mine.py")
    assert (done.returncode, done.stdout.split()) == (0, ["begun", "scored", "40"]), done.stderr


@pytest.mark.parametrize("job", JOBS)
def test_a_script_from_standard_input_works(place, job):
    done = run(place, "-", script=script_of(job))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.split()[0] == "begun"


def test_a_command_of_python_scores_with_pytorch_and_needs_no_shared_memory(place):
    mount = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"'
    within = ["unshare", "-rm", "sh", "-c", mount, "-"]
    if subprocess.run([*within, "true"], capture_output=True).returncode != 0:
        within = []  # no mount namespaces here
    done = run(place, "-c", script_of("score", engine="torch-float32"), within=within)
    assert (done.returncode, done.stdout.split()) == (0, ["begun", "scored", "40"]), done.stderr
    assert "Traceback" not in done.stderr


def test_a_daemon_process_gets_the_error_that_it_may_start_no_workers(place):
    script = script_of("score").replace(SCORE_JOB, "") + dedent(
        """
        from multiprocessing import Pool
        from quality_model.errors import UsageError

        def job():
            try:
                score(section, LIMITS, root=Path(), inputs=Path("images"), output=Path("scores"))
            except UsageError as error:
                return str(error)

        if __name__ == "__main__":
            with Pool(1) as pool:
                print(pool.apply(job))
        """
    )
    (place / "mine.py").write_text(script)
    done = run(place, "mine.py")
    assert done.returncode == 0, done.stderr
    assert "daemon process" in done.stdout and "Traceback" not in done.stderr
