"""Training and evaluation as steps: what they leave for the gate and for the user's eyes."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from quality_model.core import storage
from quality_model.core.device import choose_device
from quality_model.data.dataset import TrainingSet
from quality_model.data.split import SEEN_GROUPS, group_digest
from quality_model.evaluate import predict_scores
from quality_model.evaluate.clean_flags import flagged_shares
from quality_model.evaluate.evaluation_step import evaluate_candidate, summary_table
from quality_model.evaluate.evidence import known_evaluation
from quality_model.networks.checkpoints import load_model, save_model
from quality_model.networks.model import MultiHeadQualityAssessmentModel
from quality_model.params import Params, flatten, values_sha256
from quality_model.records import HEADS
from quality_model.release.registry import run_origin
from quality_model.train.training_step import train_candidate


@pytest.fixture
def tiny(params: Params) -> Params:
    """One epoch on the CPU and few images; the rest as committed."""
    train = {
        "epochs": 1,
        "device": "cpu",
        "precision": "float32",
        "samples": "stored",
        "clean_flag_share": 0.2,
    }
    evaluate = {"ladder_images": 1, "bootstrap_samples": 20, "baseline_samples": 10, "device": "cpu"}
    return params.model_copy(
        update={
            "train": params.train.model_copy(update=train),
            "evaluate": params.evaluate.model_copy(update=evaluate),
        }
    )


def commit_everything(project: Path) -> str:
    """Make the project a repository of one commit, and return its hash."""
    git = ["git", "-C", str(project), "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "params.yaml"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *arguments], check=True)
    return subprocess.run(
        [*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_trained_model_carries_thresholds_and_its_evaluation_counts_flags_with_them_and_draws_the_evidence(
    tiny: Params, training_set: TrainingSet, project: Path
) -> None:
    model, report = project / "model", project / "evaluation"
    commit = commit_everything(project)
    train_candidate(
        tiny.train,
        tiny.registry,
        root=project,
        training_set=training_set.folder,
        output=model,
        report=project / "training",
        checkpoints=project / "checkpoints",
        settings=flatten(tiny),
    )
    loaded = load_model(model, choose_device("cpu"))
    run = storage.read_json(model / "run.json")
    assert (run["project_commit"], run["project_dirty"]) == (commit, "false")
    assert run["git_commit"] != commit and run["package_version"]
    assert run_origin(project, run["run_id"])["params_sha256"] == values_sha256(loaded.facts["settings"])
    assert loaded.thresholds is not None
    rows = training_set.indices("validation")
    clean = rows[training_set.manifest["is_clean"].to_numpy()[rows]]
    scores = predict_scores(loaded.model, training_set, clean, batch_size=8, device=choose_device("cpu"))
    shares = flagged_shares(scores, loaded.thresholds)
    assert all(share is not None and share <= 0.2 for share in shares.values())
    assert loaded.facts["thresholds_clean_samples"] == len(clean)

    evaluation = evaluate_candidate(
        tiny.evaluate,
        tiny.registry,
        root=project,
        training_set=training_set.folder,
        model=model,
        history=project / "training",
        output=report,
        loss_weights=tiny.train.loss_weights,
    )
    head, *rows_of_heads = summary_table(evaluation).splitlines()
    assert [row.split()[0] for row in rows_of_heads] == list(HEADS)
    assert len({len(row) for row in (head, *rows_of_heads)}) == 1
    metrics = json.loads((report / "evaluation.json").read_text())
    assert {head: metrics["clean_flags"][head]["threshold"] for head in HEADS} == loaded.thresholds
    assert all(metrics["baselines"][head] for head in HEADS)
    model_sha256 = storage.require_sealed(model)["sha256"]
    assert known_evaluation(tiny.evaluate, report, training_set.data_sha256, model_sha256) == metrics
    drawn = {path.stem: path for path in (report / "images").iterdir()}
    assert set(drawn) == {
        "predicted_against_true", "learning_curves", "ladders", "cross_talk",
        *(f"worst_{head}" for head in HEADS),
    }  # fmt: skip
    for path in drawn.values():
        with Image.open(path) as image:
            assert np.asarray(image.convert("L")).std() > 5


def test_baselines_on_different_groups_are_different_runs_though_as_many_are_excluded(
    tiny: Params, training_set: TrainingSet, project: Path
) -> None:
    for seen in ("g03", "g07"):
        model = MultiHeadQualityAssessmentModel().eval()
        size_px = training_set.images.shape[1]
        save_model(
            project / seen, model, image_size_px=size_px, facts={SEEN_GROUPS: [group_digest("", seen)]}
        )
        evaluation = evaluate_candidate(
            tiny.evaluate,
            tiny.registry,
            root=project,
            training_set=training_set.folder,
            model=project / seen,
            history=None,
            output=project / f"evaluation-{seen}",
            loss_weights=tiny.train.loss_weights,
        )
        assert evaluation.metrics["excluded_groups"] == [seen]
    client = MlflowClient(tracking_uri=f"sqlite:///{project}/mlflow.db")
    experiment = client.get_experiment_by_name(tiny.registry.experiment)
    runs = client.search_runs([experiment.experiment_id], "tags.kind = 'baseline'")
    num_baselines = sum(map(len, evaluation.metrics["baselines"].values()))
    assert len(runs) == 2 * num_baselines
    assert len({run.data.params["baseline.excluded_groups"] for run in runs}) == 2
