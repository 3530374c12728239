"""Every command of the README and of the pages runs, with smaller numbers where its own would take hours."""

import shlex
import shutil
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from quality_model.core.decoding import Pixels
from quality_model.params_file import load_params
from tests.flows.conftest import PROJECT, Run, command, replace_champion_by_a_poor_one
from tests.readme import BLOCKS, SHELL

SMALLER = {
    "score my-images --output scores/mine": "score my-images --output scores/mine --model bundled",
    "--epochs 50": "--epochs 1",
    "--epochs 10": "--epochs 1 --set train.samples_per_epoch=32",
    "--samples-per-image 5": "--samples-per-image 3",
}
INSTALLATION = ("make install", "pip install .")
ELSEWHERE = {
    "make run": "the fixture `trained` runs the flow behind it",
    "make test": "is running",
    **dict.fromkeys(("make mlflow-ui", "make prefect-ui", "make service"), "tests/flows/test_servers.py"),
    'make alerts BLOCKS="slack-webhook/team slack-webhook/mail custom-webhook/ours"': "test_alerts.py",
}


def commands_of(program: str) -> list[str]:
    return [command for command in SHELL if command.startswith(f"{program} ")]


def test_no_command_of_the_pages_is_left_out() -> None:
    covered = {*commands_of("quality-model"), *commands_of("dvc"), *ELSEWHERE, *INSTALLATION}
    assert set(SHELL) == covered


@pytest.fixture(scope="module")
def workplace(trained: Path, tmp_path_factory: pytest.TempPathFactory, photo: Pixels) -> Path:
    """A copy of the trained project with a user's own images in it."""
    project = Path(shutil.copytree(trained, tmp_path_factory.mktemp("readme") / "project", symlinks=True))
    replace_champion_by_a_poor_one(project)
    (project / "labels.csv").write_text("key,head,label\n")
    random = np.random.default_rng(0)
    for number in range(40):
        folder = project / "my-images" / f"album-{number % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        top, left = 40 * (number // 8), 45 * (number % 8)
        crop = photo[top : top + 96, left : left + 96]
        label = "bad" if number % 2 else "good"
        noise = random.normal(0.0, 40.0, crop.shape) if label == "bad" else 0.0
        Image.fromarray(np.clip(crop + noise, 0, 255).astype(np.uint8)).save(folder / f"{number}.png")
        labelled = project / "my-labels" / label / f"{number}.png"
        labelled.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(folder / f"{number}.png", labelled)
        with (project / "labels.csv").open("a") as labels:
            labels.write(f"album-{number % 10}/{number}.png,noise,{label}\n")
    Image.fromarray(photo).save(project / "photo.jpg")
    Image.fromarray(photo).save(project / "other.png")
    return project


def test_the_commands_for_own_images_run_in_their_order(workplace: Path) -> None:
    lines = commands_of("quality-model")
    assert len(lines) >= 8
    for line in lines:
        for large, small in SMALLER.items():
            line = line.replace(large, small)
        command(workplace, *shlex.split(line)[1:])


def test_the_filter_copies_the_better_nine_tenths_of_a_scored_folder(workplace: Path, run: Run) -> None:
    recipe = next(block for language, block in BLOCKS if language == "python" and "filter_result" in block)
    command(workplace, *["score", "my-images", "--output", "scores/mine", "--overwrite"])
    copying = next(line for line in commands_of("quality-model filter") if "--copy kept" in line)
    command(workplace, *shlex.split(copying.replace("--copy kept", "--copy better"))[1:])
    scores = pd.read_parquet(workplace / "scores" / "mine" / "data").set_index("key")["worst_score"]
    copies = workplace / "better"
    kept = {path.relative_to(copies).as_posix() for path in copies.rglob("*.png")}
    assert len(kept) == round(0.9 * len(scores))
    assert scores[list(kept)].max() <= scores.drop(list(kept)).min()
    run(workplace, sys.executable, "-c", recipe)
    assert set((workplace / "kept.txt").read_text().splitlines()) == kept


def test_the_python_example_prints_scores(workplace: Path, run: Run) -> None:
    example = next(block for language, block in BLOCKS if language == "python" and "Scorer" in block)
    assert "'overall':" in run(workplace, sys.executable, "-c", example).stdout


def test_the_full_configuration_is_a_valid_set_of_overrides_and_the_other_commands_of_dvc_run(
    workplace: Path, run: Run
) -> None:
    experiment, *others = commands_of("dvc")
    words = shlex.split(experiment)
    assert "Queued experiment" in run(workplace, *words, "--queue").stdout
    given = [word for before, word in pairwise(words) if before == "--set-param"]
    overrides = {key: yaml.safe_load(value) for key, _, value in (word.partition("=") for word in given)}
    params = load_params(PROJECT / "params.yaml", overrides)
    assert (params.generate.profile, params.train.epochs) == ("seed", 50)
    for line in others:
        run(workplace, *shlex.split(line))
