"""The whole pipeline in a small project: DVC's commands, the retraining flow, the champion and its scores."""

import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from dvc.exceptions import DvcException
from PIL import Image

from benchmarks.project import change_params, environment
from quality_model.core.decoding import Pixels
from quality_model.core.storage import require_sealed
from quality_model.records import HEADS
from tasks import dvc_process, pipeline
from tests.flows.conftest import (
    PROJECT,
    Run,
    command,
    decisions,
    outcomes,
    replace_champion_by_a_poor_one,
    run_of_candidate,
    run_scenes,
)
from tests.pages_read import foreign
from tests.servers import make_command

STAGES = list(yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"])


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """A project in the state after the first retraining, to be changed by the test."""
    return Path(shutil.copytree(trained, tmp_path / "project", symlinks=True))


def test_the_first_run_makes_every_artifact_and_a_champion_and_says_where_they_are(trained: Path) -> None:
    for folder in ("data/images", "data/training", "models/candidate"):
        require_sealed(trained / folder, verify=True)
    for figure in ("predicted_against_true", "worst_noise", "learning_curves"):
        assert (trained / "reports" / "evaluation" / "figures" / f"{figure}.png").stat().st_size > 10_000
    assert outcomes(trained) == [("passed", None), ("registered", "1"), ("promoted", "1")]
    printed = (trained / "state" / "printed.txt").read_text()
    assert "The gate lets the candidate pass" in printed and "max_mse" in printed
    closing = printed[printed.index("Retraining: Version 1 is now champion: it is the first one.") :]
    assert "Scoring: 14 of 14 images in examples/ by quality-model version 1" in closing
    (scores,) = (trained / "scores").iterdir()
    for place in (f"scores/{scores.name}", "models/candidate", "reports/index.html", "reports/gate"):
        assert place in closing
        assert (trained / place).exists()
    assert "make mlflow-ui" in closing and "make prefect-ui" in closing


def test_every_page_that_the_first_run_wrote_is_of_this_project_alone(trained: Path) -> None:
    pages = {path.relative_to(trained) for path in trained.rglob("*.html")}
    pages.discard(Path("quality_model/curate/gallery.html"))  # a template, of a page with a script
    assert Path("reports/index.html") in pages
    assert not [page for page in pages if foreign((trained / page).read_text())]


def test_the_run_is_tagged_with_its_commit_and_the_hash_that_dvc_has_of_its_data(trained: Path) -> None:
    lock = yaml.safe_load((trained / "dvc.lock").read_text())
    run_id = run_of_candidate(trained)
    with sqlite3.connect(trained / "mlflow.db") as database:
        tags = dict(database.execute("select key, value from tags where run_uuid = ?", (run_id,)))
    assert tags["dvc_data_hash"] == lock["stages"]["generate"]["outs"][0]["md5"]
    assert tags["data_sha256"] == require_sealed(trained / "data" / "training")["sha256"]
    assert len(tags["git_commit"]) == 40
    assert tags["git_dirty"] == "false"


def test_later_retrainings_change_nothing_or_are_refused_with_their_reason(copied: Path) -> None:
    lock = (copied / "dvc.lock").read_bytes()
    printed = run_scenes(
        copied,
        {
            "unchanged": "retrain(); Path('lock').write_bytes(Path('dvc.lock').read_bytes())",
            "another size": "change_params(Path(), generate={'image_size': 40}); retrain()",
            # The champion itself was decided on already: the same candidate against another champion.
            "too poor": """
from tests.flows.conftest import replace_champion_by_a_poor_one
strict = {head: 0.999 if head == "noise" else -50.0 for head in HEADS}
change_params(Path(), generate={"image_size": 32}, gate={"min_r2": strict})
replace_champion_by_a_poor_one(Path())
retrain()
""",
        },
    )
    assert (copied / "lock").read_bytes() == lock
    assert "The champion works at 32 px; generate.image_size is 40" in printed["another size"]
    assert "Stage generate" not in printed["another size"]  # refused before work is wasted
    assert "failed with" not in printed["unchanged"] + printed["too poor"]

    assert "the candidate is the champion already, version 1" in printed["unchanged"]
    assert outcomes(copied)[3:] == [("promoted", "2"), ("refused", None)]
    refused = decisions(copied)[-1]
    assert any("noise" in reason for reason in refused.refusals)
    assert len(refused.rows) == 3 + 7 * 4
    assert len(refused.git_commit or "") == 40 and refused.model.run_id
    history = command(copied, "history")
    assert "registered: version 1, data " in history
    assert history.count("promoted: version 1, data ") == 1
    assert "skill" in command(copied, "gate", code=3)
    command(copied, "register", code=3)


def test_new_images_are_trained_on_and_neither_bad_data_nor_a_failed_comparison_changes_the_decision(
    copied: Path, photo: Pixels
) -> None:
    folder = copied / "mine"
    for number in range(31):
        album = folder / f"album-{number % 10}"  # 15 % of ten are two for the test, and one would refuse
        album.mkdir(parents=True, exist_ok=True)
        top, left = 30 * (number // 8), 45 * (number % 8)
        crop = Image.fromarray(photo[top : top + 96, left : left + 96])
        crop.save(album / f"{number}.png")
    new = folder / "album-0" / "30.png"
    new.rename(copied / "new.png")
    change_params(
        copied,
        source={"dataset": "./mine", "num_images": 100},
        validation={"min_images": 31},
        train={"epochs": 1},
    )
    (copied / "pages").mkdir()
    (copied / "pages" / "1.jpg").write_text("<html>")
    replace_champion_by_a_poor_one(copied)
    printed = run_scenes(
        copied,
        {
            "too few": "retrain()",
            "enough": "Path('new.png').rename('mine/album-0/30.png'); retrain(compare_on='pages')",
        },
    )
    assert "expect_table_row_count" in printed["too few"] and "failed with" in printed["too few"]
    assert "Stage generate" not in printed["too few"]
    assert "Retry 1/1" not in printed["too few"]  # 10 s later the data would be the same
    assert "None of the 1 inputs could be scored" in printed["enough"]
    assert require_sealed(copied / "data" / "images")["rows"] == 31
    first = [("passed", None), ("registered", "1"), ("promoted", "1"), ("promoted", "2")]
    assert outcomes(copied) == [*first, ("passed", None), ("registered", "3"), ("promoted", "3")]


def test_a_second_repro_does_nothing_until_an_output_is_missing(copied: Path, run: Run) -> None:
    printed = run(copied, "dvc", "repro").stdout
    assert printed.count("didn't change, skipping") == len(STAGES)
    assert "Running stage" not in printed
    (copied / "models" / "candidate" / "model.json").unlink()
    assert not dvc_process.is_up_to_date(copied, environment=environment(copied), log=print)


def test_a_pipeline_that_dvc_cannot_read_is_reported_in_dvcs_words(tmp_path: Path, run: Run) -> None:
    run(tmp_path, "dvc", "init", "-q", "--no-scm")
    (tmp_path / "dvc.yaml").write_text("stages: []\n")
    with pytest.raises(DvcException, match=r"dvc\.yaml"):
        pipeline.stage_order.fn(tmp_path)


def test_metrics_and_plots_are_shown_and_artifacts_travel_through_a_remote(
    copied: Path, run: Run, tmp_path: Path
) -> None:
    metrics = run(copied, "dvc", "metrics", "show").stdout
    assert "reports/evaluation/metrics.json" in metrics and "watermark.r2" in metrics
    run(copied, "dvc", "plots", "show", "--out", "state/plots")
    assert "validation_loss" in (copied / "state" / "plots" / "index.html").read_text()

    change_params(copied, train={"seed": 9})
    printed = run(copied, *make_command("experiments")).stdout
    titles = next(line for line in printed.splitlines() if line.startswith("| Experiment")).split("|")
    of_heads = {f"{head}.{name}" for head in HEADS for name in ("r2", "clean_flag_share")}
    of_training = {"best_epoch", "epochs_run", "train_loss", "validation_loss"}
    shown = {title.strip() for title in titles} - {"", "Experiment", "Created"}
    assert shown - of_training == {"loss", "train.seed", *of_heads}
    run(copied, "git", "checkout", "-q", "params.yaml")

    run(copied, "dvc", "remote", "add", "--default", "shelf", str(tmp_path / "shelf"))
    run(copied, "dvc", "push")
    expected = require_sealed(copied / "data" / "training")["sha256"]
    for path in ("data", "models", ".dvc/cache"):
        shutil.rmtree(copied / path)
    run(copied, "dvc", "pull")
    assert require_sealed(copied / "data" / "training", verify=True)["sha256"] == expected
    assert "Running stage" not in run(copied, "dvc", "repro").stdout


def test_the_champion_scores_a_folder_names_itself_in_every_row_and_predicts_the_same(copied: Path) -> None:
    command(copied, "export-samples", "--count", "6")
    (copied / "samples" / "broken.png").write_text("<html>")
    assert "Scores: scores/samples" in command(copied, "score", "samples")
    require_sealed(copied / "scores" / "samples", verify=True, marker_name="job.json")
    rows = pd.read_parquet(copied / "scores" / "samples" / "data")
    assert len(rows) == 7
    assert rows["error_code"].notna().sum() == 1
    assert set(rows["model_version"]) == {"1"}
    assert set(rows["model_run_id"]) == {run_of_candidate(copied)}

    scored = rows[rows["error_code"].isna()].set_index("key")
    images = [f"samples/{key}" for key in scored.index]
    printed = command(copied, "predict", "--json", *images)
    (document,) = [line for line in printed.splitlines() if line.startswith("{")]
    for predicted, key in zip(json.loads(document)["images"], scored.index, strict=True):
        assert predicted["path"] == f"samples/{key}"
        for head in (*HEADS, "overall"):
            assert predicted[head] == pytest.approx(scored.loc[key, head], abs=0.01)

    command(copied, "export-samples", "--split", "train", "--count", "3")
    assert len(list((copied / "samples").glob("*.png"))) == 4  # broken.png is not its own to replace


def test_the_committed_lock_is_current() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "repro", "--dry", "--allow-missing"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Running stage" not in done.stdout, done.stdout
