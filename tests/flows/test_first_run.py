"""`make run` as a newcomer meets it, at the size of the bundled model, in a project that takes a minute."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from quality_model.release.registry import read_decisions
from tests.flows.conftest import PROJECT, Run, small_project

SMALL = {
    "source": {"num_images": 20},
    "generate": {"samples_per_image": 1, "workers": 1},
    "train": {"epochs": 1, "samples_per_epoch": 8, "crops_px": [32], "max_validation_samples": 4},
    "evaluate": {"bootstrap_samples": 20, "sweep_images": 1, "baseline_samples": 4},
    "score": {"workers": 1},
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, run: Run) -> tuple[Path, list[str]]:
    """The project, and what was printed by its first run and by a second one."""
    project = small_project(tmp_path_factory.mktemp("first-run") / "project", SMALL)
    printed = [run(project, sys.executable, "-m", "flows.first_run").stdout for _ in range(2)]
    return project, printed


def test_the_bundled_model_stays_champion_where_the_evidence_is_too_little_and_the_run_ends_well(
    ended: tuple[Path, list[str]],
) -> None:
    project, (first, second) = ended
    assert "Retraining: Version 1 stays champion: too little evidence that the new model is better" in first
    assert "Nothing to decide" in second
    outcomes = [(decision["outcome"], decision["version"]) for decision in read_decisions(project)]
    assert outcomes == [("baseline", "1"), ("refused", None), ("no-op", None)]
    verdict = json.loads((project / "reports" / "gate" / "verdict.json").read_text())
    (row,) = (row for row in verdict["rows"] if row["rule"] == "unseen_groups")
    assert "hubble_deep_field" in row["reason"]  # the bundled model was trained on it
    assert verdict["compared_with"] == "1"


def test_the_retraining_starts_from_the_champions_weights_and_the_model_says_so(
    ended: tuple[Path, list[str]],
) -> None:
    project, _ = ended
    facts = json.loads((project / "models" / "candidate" / "model.json").read_text())["facts"]
    bundled = json.loads((PROJECT / "quality_model/pretrained/standard/_complete.json").read_text())
    assert facts["settings"]["train.start_from"] == f"champion@{bundled['files'][0]['sha256'][:12]}"
    assert len(facts["seen_groups"]) >= 58


@pytest.mark.parametrize("number", [0, 1])
def test_the_last_table_shows_the_images_with_faults_first_and_marks_their_heads(
    ended: tuple[Path, list[str]], number: int
) -> None:
    _, printed = ended
    lines = printed[number].splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("image "))
    columns = lines[start].split()[1:]
    rows = {line.split()[0]: line.split()[1:] for line in lines[start + 1 : start + 15]}
    assert [*rows][-6:] == sorted([*rows][-6:], key=lambda key: -max(_numbers(rows[key])[:4]))
    assert set([*rows][:8]) == {key for key in rows if "-" in key}
    for fault, head in (("cast", 0), ("blurred", 1), ("watermark", 2), ("noise", 3)):
        for key in (key for key in rows if fault in key):
            assert rows[key][head].endswith("*"), (key, columns[head])


def _numbers(cells: list[str]) -> list[float]:
    return [float(cell.rstrip("*")) for cell in cells]


def test_only_dvcs_lock_is_changed_afterwards(ended: tuple[Path, list[str]], run: Run) -> None:
    project, _ = ended
    changed = run(project, "git", "status", "--porcelain").stdout.split()[1::2]
    assert set(changed) <= {"dvc.lock"}


def test_the_committed_parameters_are_those_of_a_retraining_at_the_bundled_models_size() -> None:
    params = yaml.safe_load((PROJECT / "params.yaml").read_text())
    assert params["generate"]["image_size"] == 224
    assert params["train"]["start_from"] == "champion"
