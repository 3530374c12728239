"""The whole way in a small project: DVC's commands, the retraining flow, the champion and its scores."""

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

from benchmarks.project import environment
from quality_model.core.decoding import Pixels
from quality_model.core.storage import require_sealed
from quality_model.params import load_params
from quality_model.records import HEADS
from quality_model.release.decisions import Decision, read_decisions
from tasks import dvc_process, pipeline
from tests.flows.conftest import PROJECT, Run, replace_champion_by_a_poor_one

STAGES = list(yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"])


def quality_model(run: Run, project: Path, *arguments: str, check: bool = True):
    return run(project, sys.executable, "-m", "quality_model", *arguments, check=check)


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """A project in the state after the first retraining, to be changed by the test."""
    return Path(shutil.copytree(trained, tmp_path / "project", symlinks=True))


def decisions(project: Path) -> list[Decision]:
    return read_decisions(project, load_params(project / "params.yaml").registry)


def test_the_first_retraining_makes_every_artifact_and_a_champion(trained: Path) -> None:
    for folder in ("data/images", "data/training", "models/candidate"):
        require_sealed(trained / folder, verify=True)
    for image in ("predicted_against_true", "worst_noise", "learning_curves"):
        assert (trained / "reports" / "evaluation" / "images" / f"{image}.png").stat().st_size > 10_000
    found = [(decision.action, decision.model.version) for decision in decisions(trained)]
    assert found == [("passed", None), ("registered", "1"), ("promoted", "1")]


def test_the_first_run_ends_by_saying_what_was_made_and_where_to_look(trained: Path) -> None:
    told = (trained / "state" / "told.txt").read_text()
    closing = told[told.index("Retraining: Version 1 is now champion: it is the first one.") :]
    assert "Scoring: 14 of 14 images in examples/ by quality-model version 1" in closing
    (scores,) = (trained / "scores").iterdir()
    assert f"scores/{scores.name}" in closing
    for place in ("models/candidate", "reports/evaluation/figures", "reports/gate", "examples"):
        assert place in closing
        assert (trained / place).is_dir()
    assert "make mlflow-ui" in closing
    assert "make prefect-ui" in closing


def test_the_verdict_is_in_the_log_of_the_flow(trained: Path) -> None:
    told = (trained / "state" / "told.txt").read_text()
    assert "watermark" in told
    assert "max_mse" in told
    assert "The gate lets the candidate pass" in told


def test_images_that_were_added_are_taken_in_and_a_comparison_that_fails_refuses_no_candidate(
    copied: Path, run: Run, photo: Pixels
) -> None:
    folder = copied / "mine"
    for number in range(30):
        album = folder / f"album-{number % 10}"  # 15 % of ten are two for the test, and one would refuse
        album.mkdir(parents=True, exist_ok=True)
        top, left = 30 * (number // 8), 45 * (number % 8)
        crop = Image.fromarray(photo[top : top + 96, left : left + 96])
        crop.save(album / f"{number}.png")
    params = yaml.safe_load((copied / "params.yaml").read_text())
    params["source"] |= {"dataset": "./mine", "num_images": 100}
    params["validation"]["min_images"] = 31
    params["train"]["epochs"] = 1
    (copied / "params.yaml").write_text(yaml.safe_dump(params))
    refused = run(copied, sys.executable, "-m", "flows.retrain", check=False)
    assert refused.returncode != 0
    assert "expect_table_row_count" in refused.stdout + refused.stderr
    assert "Retry 1/1" not in refused.stdout + refused.stderr  # nothing would be other 10 s later
    Image.fromarray(photo[200:300, 100:200]).save(folder / "album-0" / "new.png")
    replace_champion_by_a_poor_one(copied)
    (copied / "pages").mkdir()
    (copied / "pages" / "1.jpg").write_text("<html>")
    done = run(copied, sys.executable, "-c", "from flows.retrain import retrain; retrain(compare_on='pages')")
    assert "None of the 1 inputs could be scored" in done.stdout + done.stderr
    assert require_sealed(copied / "data" / "images")["rows"] == 31
    found = [(decision.action, decision.model.version) for decision in decisions(copied)]
    assert found[2:] == [
        ("promoted", "1"),
        ("promoted", "2"),
        ("passed", None),
        ("registered", "3"),
        ("promoted", "3"),
    ]


def test_another_image_size_than_the_champions_is_refused_before_work_is_wasted(
    copied: Path, run: Run
) -> None:
    params = yaml.safe_load((copied / "params.yaml").read_text())
    params["generate"]["image_size"] = 40
    (copied / "params.yaml").write_text(yaml.safe_dump(params))
    done = run(copied, sys.executable, "-m", "flows.retrain", check=False)
    assert done.returncode != 0
    assert "The champion works at 32 px; generate.image_size is 40" in done.stdout + done.stderr
    assert "Stage generate" not in done.stdout + done.stderr


def test_the_history_tells_of_the_candidate_and_the_champion(trained: Path, run: Run) -> None:
    told = quality_model(run, trained, "history").stdout
    assert "registered: version 1, data " in told
    assert "promoted: version 1, data " in told


def test_a_second_repro_does_nothing(copied: Path, run: Run) -> None:
    told = run(copied, "dvc", "repro").stdout
    assert told.count("didn't change, skipping") == len(STAGES)
    assert "Running stage" not in told


def test_a_second_retraining_decides_nothing_and_says_why(copied: Path, run: Run) -> None:
    before = (copied / "dvc.lock").read_bytes()
    known = decisions(copied)
    done = run(copied, sys.executable, "-m", "flows.retrain")
    assert "the candidate is the champion already, version 1" in done.stdout + done.stderr
    assert decisions(copied) == known
    assert (copied / "dvc.lock").read_bytes() == before


def test_one_question_to_dvc_tells_whether_any_stage_is_stale(copied: Path) -> None:
    def is_up_to_date() -> bool:
        return dvc_process.is_up_to_date(copied, environment=environment(copied), log=print)

    assert is_up_to_date()
    (copied / "models" / "candidate" / "model.json").unlink()
    assert not is_up_to_date()


def test_a_pipeline_that_dvc_cannot_read_is_told_in_dvcs_words(copied: Path) -> None:
    (copied / "dvc.yaml").write_text("stages: []\n")
    with pytest.raises(DvcException, match=r"dvc\.yaml"):
        pipeline.stage_order.fn(copied)


def test_a_candidate_that_the_gate_refuses_gets_no_alias_and_the_champion_stays(
    copied: Path, run: Run
) -> None:
    params = yaml.safe_load((copied / "params.yaml").read_text())
    params["gate"]["min_r2"]["noise"] = 0.999
    params["train"]["seed"] = 7  # another candidate: about the champion itself there is nothing to decide
    (copied / "params.yaml").write_text(yaml.safe_dump(params))
    run(copied, sys.executable, "-m", "flows.retrain")
    last = decisions(copied)[-1]
    assert last.action == "refused"
    assert any("noise" in reason for reason in last.refusals)
    assert len(last.rows) == 3 + 7 * 4
    assert len(last.git_commit or "") == 40
    assert last.model.run_id
    told = quality_model(run, copied, "history").stdout
    assert told.count("promoted: version") == 1
    gate = quality_model(run, copied, "gate", check=False)
    assert gate.returncode == 3
    assert "skill" in gate.stdout
    assert quality_model(run, copied, "register", check=False).returncode == 3


def test_metrics_and_plots_can_be_shown_and_compared(copied: Path, run: Run) -> None:
    metrics = run(copied, "dvc", "metrics", "show").stdout
    assert "reports/evaluation/metrics.json" in metrics
    assert "watermark.r2" in metrics
    run(copied, "dvc", "metrics", "diff")
    run(copied, "dvc", "plots", "show", "--out", "state/plots")
    page = (copied / "state" / "plots" / "index.html").read_text()
    assert "validation_loss" in page


def test_an_experiment_with_another_parameter_runs_what_hangs_on_it(copied: Path, run: Run) -> None:
    told = run(copied, "dvc", "exp", "run", "--set-param", "evaluate.bootstrap_samples=60").stdout
    assert "Running stage 'evaluate'" in told
    assert "Running stage 'train'" not in told


def test_artifacts_travel_through_a_local_remote(copied: Path, run: Run, tmp_path: Path) -> None:
    run(copied, "dvc", "remote", "add", "--default", "shelf", str(tmp_path / "shelf"))
    run(copied, "dvc", "push")
    expected = require_sealed(copied / "data" / "training")["sha256"]
    for path in ("data", "models", ".dvc/cache"):
        shutil.rmtree(copied / path)
    run(copied, "dvc", "pull")
    assert require_sealed(copied / "data" / "training", verify=True)["sha256"] == expected
    assert "Running stage" not in run(copied, "dvc", "repro").stdout


def test_data_that_break_their_contract_stop_the_pipeline_before_training(copied: Path, run: Run) -> None:
    params = yaml.safe_load((copied / "params.yaml").read_text())
    params["validation"]["min_images"] = 1000
    (copied / "params.yaml").write_text(yaml.safe_dump(params))
    done = run(copied, "dvc", "repro", check=False)
    assert done.returncode != 0
    told = done.stdout + done.stderr
    assert "Running stage 'train'" not in told
    assert "expect_table_row_count" in told
    assert "1000" in told


def run_of_candidate(project: Path) -> str:
    """The run of the candidate's training, by the tag that says which training it was."""
    facts = json.loads((project / "models" / "candidate" / "model.json").read_text())["facts"]
    query = "select run_uuid from tags where key = 'quality_model.training' and value = ?"
    with sqlite3.connect(project / "mlflow.db") as database:
        ((run_id,),) = database.execute(query, (facts["training_fingerprint"],)).fetchall()
    return str(run_id)


def test_the_champion_scores_a_folder_says_in_every_row_which_it_was_and_predicts_the_same(
    copied: Path, run: Run
) -> None:
    quality_model(run, copied, "export-samples", "--count", "6")
    (copied / "samples" / "broken.png").write_text("<html>")
    quality_model(run, copied, "score", "samples", "--output", "scores/mine")
    rows = pd.read_parquet(copied / "scores" / "mine" / "data")
    assert len(rows) == 7
    assert rows["error_code"].notna().sum() == 1
    assert set(rows["model_version"]) == {"1"}
    assert set(rows["model_run_id"]) == {run_of_candidate(copied)}

    scored = rows[rows["error_code"].isna()].set_index("key")
    images = [f"samples/{key}" for key in scored.index]
    lines = quality_model(run, copied, "predict", "--json", *images).stdout.splitlines()
    for line, key in zip(lines, scored.index, strict=True):
        told = json.loads(line)
        assert told["path"] == f"samples/{key}"
        for head in (*HEADS, "overall"):
            assert told[head] == pytest.approx(scored.loc[key, head], abs=0.01)


def test_predict_prints_a_table_and_says_which_images_it_could_not_read(trained: Path, run: Run) -> None:
    image = next((trained / "examples").glob("*.jpg")).relative_to(trained)
    done = quality_model(run, trained, "predict", str(image), "nowhere.jpg", check=False)
    header, row, missing = done.stdout.splitlines()
    assert header.split() == ["color_cast", "blurriness", "watermark", "noise", "overall", "flags"]
    assert row.startswith(str(image))
    assert all(0 <= float(cell) <= 1 for cell in row.removeprefix(str(image)).split()[:5])
    assert "missing" in missing
    assert done.returncode == 4


def test_scores_go_to_a_folder_named_after_the_inputs_if_none_is_named(copied: Path, run: Run) -> None:
    told = quality_model(run, copied, "score", "examples").stdout
    assert "Scores: scores/examples" in told
    require_sealed(copied / "scores" / "examples", verify=True, marker_name="job.json")


def test_a_second_export_replaces_the_samples_of_the_first_and_nothing_else(copied: Path, run: Run) -> None:
    quality_model(run, copied, "export-samples", "--count", "5")
    (copied / "samples" / "mine.png").write_bytes(b"x")
    quality_model(run, copied, "export-samples", "--split", "train", "--count", "3")
    assert len(list((copied / "samples").glob("*.png"))) == 4


def test_publishing_again_finds_the_run_that_there_is(copied: Path, run: Run) -> None:
    assert f"run {run_of_candidate(copied)}" in quality_model(run, copied, "publish").stdout


def test_the_run_is_tagged_with_the_hash_by_which_dvc_knows_its_data(trained: Path) -> None:
    lock = yaml.safe_load((trained / "dvc.lock").read_text())
    run_id = run_of_candidate(trained)
    with sqlite3.connect(trained / "mlflow.db") as database:
        tags = dict(database.execute("select key, value from tags where run_uuid = ?", (run_id,)))
    assert tags["dvc_data_hash"] == lock["stages"]["generate"]["outs"][0]["md5"]
    assert tags["data_sha256"] == require_sealed(trained / "data" / "training")["sha256"]
    assert len(tags["git_commit"]) == 40
    assert tags["git_dirty"] == "false"


def test_the_rollback_of_a_first_champion_leads_to_the_bundled_model_and_no_further(
    copied: Path, run: Run
) -> None:
    assert "version 2 again" in quality_model(run, copied, "rollback").stdout
    decision = decisions(copied)[-1]
    assert (decision.action, decision.model.version) == ("rolled back", "2")
    assert quality_model(run, copied, "rollback", check=False).returncode == 9


def test_the_committed_lock_is_current() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "repro", "--dry", "--allow-missing"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Running stage" not in done.stdout, done.stdout
