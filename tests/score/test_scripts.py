"""Scripts of users that start worker processes: with a main guard, without one, and from standard input."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent, indent

import pytest

from quality_model.networks.checkpoints import save_model
from quality_model.networks.model import MultiHeadQualityAssessmentModel

PROJECT = Path(__file__).resolve().parents[2]

SCORE = """
print("begun", flush=True)
summary = score_collection(section, LIMITS, root=Path(), inputs=Path("images"), output=Path("scores"))
print("scored", summary.scored, flush=True)
"""
GENERATE = """
print("begun", flush=True)
made = generate(section, LIMITS, Path("table"), Path("training"))
print("made", made.samples, flush=True)
"""
ABOVE = {
    SCORE: """
        from quality_model.score.scoring_step import score_collection
        changed = {"model": "model", "workers": 2, "engine": "torch-float32"}
        section = PARAMS.score.model_copy(update=changed)
    """,
    GENERATE: """
        from quality_model.data.generate import generate
        changed = {"workers": 2, "image_size": 32, "samples_per_image": 3, "profile": "seed"}
        section = PARAMS.generate.model_copy(update=changed)
    """,
}
HEAD = f"""
from pathlib import Path
from quality_model.params import load_params
PARAMS = load_params(Path({str(PROJECT / "params.yaml")!r}))
LIMITS = PARAMS.limits
"""


@pytest.fixture
def place(tmp_path: Path, crops: list[bytes]) -> Path:
    """A folder with a model, images, and a table of clean images."""
    from quality_model.data.download import download
    from quality_model.params import load_params

    (tmp_path / "images").mkdir()
    for number, data in enumerate(crops):
        (tmp_path / "images" / f"{number:02d}.jpg").write_bytes(data)
    save_model(tmp_path / "model", MultiHeadQualityAssessmentModel(), image_size_px=32, facts={})
    params = load_params(PROJECT / "params.yaml")
    source = params.source.model_copy(update={"dataset": str(tmp_path / "images"), "num_images": 40})
    download(source, params.limits, tmp_path / "table")
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


def script_of(job: str, *, guarded: bool) -> str:
    body = f'if __name__ == "__main__":\n{indent(job, "    ")}' if guarded else job
    return HEAD + dedent(ABOVE[job]) + body


@pytest.mark.parametrize("job", [SCORE, GENERATE], ids=["score", "generate"])
def test_a_script_without_a_main_guard_is_told_so_once_and_nothing_else(place: Path, job: str) -> None:
    (place / "mine.py").write_text(script_of(job, guarded=False))
    done = run(place, "mine.py")
    assert done.returncode == 1  # an error that this script does not catch is shown by Python
    assert done.stderr.count("Traceback") == 1
    assert 'mine.py has no `if __name__ == "__main__":`' in done.stderr
    assert "UsageError" in done.stderr
    assert "memory" not in done.stderr
    assert "scored" not in done.stdout and "made" not in done.stdout


def test_a_script_with_a_main_guard_scores(place: Path) -> None:
    (place / "mine.py").write_text(script_of(SCORE, guarded=True))
    done = run(place, "mine.py")
    assert (done.returncode, done.stdout.split()) == (0, ["begun", "scored", "40"]), done.stderr


@pytest.mark.parametrize("job", [SCORE, GENERATE], ids=["score", "generate"])
def test_a_script_from_standard_input_works(place: Path, job: str) -> None:
    done = run(place, "-", script=script_of(job, guarded=False))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.split()[0] == "begun"


def test_a_command_of_python_works(place: Path) -> None:
    done = run(place, "-c", script_of(SCORE, guarded=False))
    assert (done.returncode, done.stdout.split()) == (0, ["begun", "scored", "40"]), done.stderr


def shared_memory(options: str) -> list[str]:
    """What a command is run within, so that its /dev/shm is another one."""
    within = ["unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o {options} tmpfs /dev/shm && exec "$@"', "-"]
    if subprocess.run([*within, "true"], capture_output=True).returncode != 0:
        pytest.skip("no mount namespaces here")
    return within


@pytest.mark.parametrize("options", ["ro", "size=64k"])
def test_scoring_with_pytorch_needs_no_shared_memory(place: Path, options: str) -> None:
    within = shared_memory(options)
    done = run(place, "-c", script_of(SCORE, guarded=False), within=within)
    assert (done.returncode, done.stdout.split()) == (0, ["begun", "scored", "40"]), done.stderr
    assert "Traceback" not in done.stderr


def test_generation_without_shared_memory_says_what_is_missing(place: Path) -> None:
    within = shared_memory("ro")
    done = run(place, "-c", script_of(GENERATE, guarded=False), within=within)
    assert "/dev/shm" in done.stderr and "generate.workers" in done.stderr


def test_a_daemon_process_is_told_that_it_may_start_no_workers(place: Path) -> None:
    script = HEAD + dedent(ABOVE[SCORE]) + dedent(
        """
        from multiprocessing import Pool
        from quality_model.errors import UsageError

        def job():
            try:
                score_collection(section, LIMITS, root=Path(), inputs=Path("images"), output=Path("scores"))
            except UsageError as error:
                return str(error)

        if __name__ == "__main__":
            with Pool(1) as pool:
                print(pool.apply(job))
        """
    )  # fmt: skip
    (place / "mine.py").write_text(script)
    done = run(place, "mine.py")
    assert done.returncode == 0, done.stderr
    assert "daemon process" in done.stdout and "Traceback" not in done.stderr
