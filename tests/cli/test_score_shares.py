"""`score --part` and `--merge` as users call them, and the examples for clusters (see tests/score too)."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from quality_model.cli import cli, run
from quality_model.core.decoding import Pixels

PROJECT = Path(__file__).resolve().parents[2]
SLURM = PROJECT / "deploy" / "slurm-array.sh"
JOBS: list[dict[str, Any]] = [
    *yaml.safe_load_all((PROJECT / "deploy" / "kubernetes-indexed-job.yaml").read_text())
]
CONTAINERS = [job["spec"]["template"]["spec"]["containers"][0] for job in JOBS]
QUICK = ["--model", "bundled", "--workers", "1", "--set", "score.shard_size=2"]


@pytest.fixture
def d(tmp_path: Path, photo: Pixels, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder ``d`` of five images, in the current directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    for number in range(5):
        Image.fromarray(photo[:64, 64 * number : 64 * number + 64]).save(tmp_path / "d" / f"{number}.jpg")
    return tmp_path / "d"


def score(*arguments: str) -> int:
    return run(["score", "d", "--output", "out", *arguments, *QUICK])


def test_what_a_share_and_a_merge_say(d, capsys):
    assert score("--part", "1/4") == 0
    said = capsys.readouterr().out
    assert "2 inputs: 2 scored" in said
    assert "--part 1/4 is done.\nWhen all are, complete out by the same command with --merge" in said
    assert score("--part", "1/4") == 0
    assert "--part 1/4 is done, and was before.\n" in capsys.readouterr().out
    assert score("--part", "4/4") == 0
    assert capsys.readouterr().out == "--part 4/4 has nothing to do: the job has fewer parts.\n"
    assert score("--merge") == 10
    assert "missing are --part 2-3 of 4." in capsys.readouterr().err
    assert score("--part", "2/4") == score("--part", "3/4") == score("--merge", "--gallery") == 0
    said = capsys.readouterr().out
    assert "5 inputs: 5 scored" in said and said.endswith("Scores: out\nGallery: out/report/gallery.html\n")
    assert score("--part", "1/4") == 0
    assert "--merge" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--part", "1/2", "--merge"], "--part does not go with --merge"),
        (["--part", "1/2", "--overwrite"], "--part does not go with --overwrite"),
        (["--part", "1/2", "--estimate"], "--part does not go with --estimate"),
        (["--part", "1/2", "--gallery"], "--part does not go with --gallery"),
        (["--merge", "--verify"], "--merge does not go with --verify"),
        (["--part", "3/2"], "--part '3/2' is no share of a job"),
        (["--part", ""], "--part '' is no share of a job"),
    ],
)
def test_options_that_make_no_sense_together_are_refused_before_anything_is_written(
    d, capsys, options, message
):
    assert score(*options) == 2
    assert message in capsys.readouterr().err
    assert not Path("out").exists()


def test_errors_of_inputs_are_judged_by_the_merge(d, capsys):
    for image in d.iterdir():
        image.write_bytes(b"no image")
    assert score("--part", "1/1") == 0
    assert score("--merge") == 4
    assert "None of the 5 inputs could be scored" in capsys.readouterr().err


def test_the_script_for_slurm_makes_the_shares_of_its_tasks_at_once(d, tmp_path):
    subprocess.run(["bash", "-n", SLURM], check=True)
    command = tmp_path / "bin" / "quality-model"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m quality_model "$@"\n')
    command.chmod(0o755)
    known = os.environ | {
        "PATH": f"{command.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(PROJECT),
        "SLURM_ARRAY_TASK_COUNT": "2",
    }
    tasks = [
        subprocess.Popen(["bash", SLURM, "d", "out", *QUICK], env=known | {"SLURM_ARRAY_TASK_ID": number})
        for number in ("1", "0")
    ]
    assert [task.wait(timeout=120) for task in tasks] == [0, 0]
    assert score("--merge") == 0


def test_the_jobs_for_kubernetes_agree_with_each_other_and_name_their_shares(tmp_path):
    shares, merge = JOBS
    assert {job["kind"] for job in JOBS} == {"Job"} and shares["spec"]["completionMode"] == "Indexed"
    assert merge["spec"]["suspend"] is True
    (parts,) = CONTAINERS[0]["env"]
    assert int(parts["value"]) == shares["spec"]["completions"] == shares["spec"]["parallelism"]
    text = CONTAINERS[0]["args"][0].replace("exec quality-model", "echo")
    known = {"JOB_COMPLETION_INDEX": "15", parts["name"]: parts["value"]}
    done = subprocess.run(
        [*CONTAINERS[0]["command"], text], env=known, capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("--part 16/16\n")
    assert CONTAINERS[1]["args"][0] == re.sub(r"--part .*", "--merge", CONTAINERS[0]["args"][0])
    page = (PROJECT / "docs" / "cluster.md").read_text()
    assert {job["metadata"]["name"] for job in JOBS} == set(re.findall(r"job/([\w-]+)", page))


def test_the_examples_for_clusters_name_options_that_exist():
    page = (PROJECT / "docs" / "cluster.md").read_text()
    blocks = [*re.findall(r"```sh\n(.*?)```", page, re.DOTALL), SLURM.read_text()]
    text = "\n".join([*blocks, *(container["args"][0] for container in CONTAINERS)])
    lines = re.findall(r"quality-model score ([^#\n]*)", text)
    assert len(lines) >= 15
    options = {name for param in cli.commands["score"].params for name in param.opts}
    for line in lines:
        assert set(re.findall(r"--[a-z-]+", line)) <= options, line
    assert not {name for name in re.findall(r"deploy/[\w.-]+", page) if not (PROJECT / name).exists()}
