"""`make run` as a new user runs it, at the size of the bundled model, in a project that takes a minute."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from tests.flows.conftest import PROJECT, Run, outcomes, small_project

SMALL = {
    "source": {"num_images": 20},
    "generate": {"samples_per_image": 1, "workers": 1},
    "train": {"epochs": 1, "samples_per_epoch": 8, "crops_px": [32], "max_validation_samples": 4},
    "evaluate": {"bootstrap_samples": 20, "sweep_images": 1, "baseline_samples": 4},
    "score": {"workers": 1},
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, run: Run) -> tuple[Path, str]:
    """The project after its first run, and what that printed."""
    project = small_project(tmp_path_factory.mktemp("first-run") / "project", SMALL)
    return project, run(project, sys.executable, "-m", "flows.first_run").stdout


def test_the_bundled_model_stays_champion_if_the_evidence_is_too_little_and_the_run_succeeds(
    ended: tuple[Path, str], run: Run
) -> None:
    project, printed = ended
    assert "Retraining: Version 1 stays champion: " in printed
    assert outcomes(project) == [("baseline", "1"), ("refused", None)]
    verdict = json.loads((project / "reports" / "gate" / "verdict.json").read_text())
    (row,) = (row for row in verdict["rows"] if row["rule"] == "unseen_groups")
    assert row["reason"].endswith("5 are needed")  # the bundled model was trained on none of them
    assert verdict["champion"]["version"] == "1"
    changed = run(project, "git", "status", "--porcelain").stdout.split()[1::2]
    assert set(changed) <= {"dvc.lock"}


def test_the_committed_retraining_starts_from_the_champions_weights_at_its_size_and_records_that(
    ended: tuple[Path, str],
) -> None:
    project, _ = ended
    committed = yaml.safe_load((PROJECT / "params.yaml").read_text())
    assert committed["generate"]["image_size"] == 224
    assert committed["train"]["start_from"] == "champion"
    facts = json.loads((project / "models" / "candidate" / "model.json").read_text())["facts"]
    bundled = json.loads((PROJECT / "quality_model/pretrained/small/_complete.json").read_text())
    assert facts["settings"]["train.start_from"] == f"champion@{bundled['files'][0]['sha256'][:12]}"
    assert len(facts["seen_groups"]) >= 58


def test_the_last_table_shows_the_images_with_faults_first_each_highest_on_the_head_of_its_fault(
    ended: tuple[Path, str],
) -> None:
    lines = ended[1].splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("image "))
    rows = {line.split()[0]: line.split()[1:] for line in lines[start + 1 : start + 15]}
    worst = {key: max(float(cell.rstrip("*")) for cell in cells[:4]) for key, cells in rows.items()}
    assert [*rows][-6:] == sorted([*rows][-6:], key=lambda key: -worst[key])
    assert set([*rows][:8]) == {key for key in rows if "-" in key}
    for fault, head in (("cast", 0), ("blurred", 1), ("watermark", 2), ("noise", 3)):
        for key, cells in rows.items():
            if fault in key:
                scores = [float(cell.rstrip("*")) for cell in cells[:4]]
                assert scores.index(max(scores)) == head, key
    flagged = {key for key, cells in rows.items() if any(cell.endswith("*") for cell in cells[:4])}
    assert len(flagged) >= 5
    assert flagged <= {key for key in rows if "-" in key}
