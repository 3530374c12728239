"""What an evaluation leaves, what the gate reuses of it, and what is measured for the gate."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from quality_model.core import storage
from quality_model.core.decoding import Pixels
from quality_model.data.dataset import SEEN_GROUPS, TrainingSet, group_digest
from quality_model.errors import UsageError
from quality_model.evaluate.evidence import Evaluated, Evidence
from quality_model.evaluate.measure import measuring
from quality_model.evaluate.step import (
    compare_scores,
    evaluate_candidate,
    gather_evidence,
    known_evaluation,
    require_size,
)
from quality_model.networks.model import LoadedModel, MultiHeadQualityAssessmentModel, save_model
from quality_model.params import EvaluateParams, Params, PerHead, RealParams
from quality_model.records import HEADS
from tests.evaluate.conftest import SIZE_PX, ReadsLabels, answering
from tests.real_sets import write_sets
from tests.release.gate.evidence import changed, tree

Gather = Callable[..., Evidence]


@pytest.fixture(scope="module")
def section(params: Params) -> EvaluateParams:
    changes = {"bootstrap_samples": 50, "sweep_images": 1, "baseline_samples": 10, "device": "cpu"}
    return params.evaluate.model_copy(update=changes)


@pytest.fixture
def gather(section: EvaluateParams, params: Params, training_set: TrainingSet, tmp_path: Path) -> Gather:
    """The evidence about a model whose scores are the labels plus 0.25, with the report of an evaluation."""

    def gather(champion: LoadedModel | None, real: RealParams | None = None) -> Evidence:
        return gather_evidence(
            section,
            training_set,
            answering(0.25),
            champion,
            loss_weights=PerHead(**dict.fromkeys(HEADS, 1.0)),
            evaluation=tmp_path,
            images=None,
            limits=params.limits,
            real=real,
            root=tmp_path / "project",
        )[0]

    return gather


def test_an_evaluation_leaves_measures_and_figures_and_excludes_what_the_model_has_seen(
    section: EvaluateParams, params: Params, training_set: TrainingSet, tmp_path: Path
) -> None:
    model = MultiHeadQualityAssessmentModel().eval()
    facts = {SEEN_GROUPS: [group_digest("", "g03")], "thresholds": dict.fromkeys(HEADS, 0.5)}
    save_model(tmp_path / "model", model, image_size_px=SIZE_PX, facts=facts)
    history = [{"epoch": 1, "train_loss": 0.1, "validation_loss": 0.2}]
    storage.write_json(tmp_path / "training" / "history.json", history)
    found = evaluate_candidate(
        section,
        training_set=training_set.folder,
        model=tmp_path / "model",
        history=tmp_path / "training",
        output=tmp_path / "report",
        loss_weights=params.train.loss_weights,
        images=None,
        limits=params.limits,
    ).measured
    assert (found.excluded_groups, found.num_groups) == (("g03",), 4)
    sha256 = storage.sealed_sha256(tmp_path / "model")
    known = known_evaluation(section, tmp_path / "report", training_set.data_sha256, sha256, ["g03"])
    assert known == found
    drawn = {path.stem: path for path in (tmp_path / "report" / "figures").iterdir()}
    assert set(drawn) == {
        "predicted_against_true", "learning_curves", "severity_sweeps", "cross_talk",
        *(f"worst_{head}" for head in HEADS),
    }  # fmt: skip
    for path in drawn.values():
        with Image.open(path) as image:
            assert np.asarray(image.convert("L")).std() > 5


def test_a_model_of_another_size_is_not_measured(training_set: TrainingSet) -> None:
    with pytest.raises(UsageError, match="works at 64 px, the training dataset has 32 px"):
        require_size(LoadedModel(ReadsLabels(), 64, "f" * 64), training_set)  # type: ignore[arg-type]


def test_what_the_evaluation_measured_of_the_same_model_is_not_measured_again(
    gather: Gather, tmp_path: Path
) -> None:
    first = gather(None).candidate
    report = first.model_copy(update={"loss": 0.123})
    report.write(tmp_path / "evaluation.json")
    again = gather(None)
    assert again.candidate == report
    assert (again.champion, again.silent_models) == (None, ())
    assert gather(answering(0.0)).candidate == report


def test_the_champion_is_scored_for_the_gate_and_groups_that_it_has_seen_count_in_no_figure(
    gather: Gather, training_set: TrainingSet
) -> None:
    for seen, num_groups in (((), 5), (("g03", "g07"), 3)):
        found = gather(answering(0.0, seen=seen))
        assert found.champion is not None
        assert found.candidate.excluded_groups == seen
        assert found.candidate.num_counted_groups == found.candidate.num_groups == num_groups
        assert found.champion.data_sha256 == found.candidate.data_sha256 == training_set.data_sha256
        test = training_set.labels[training_set.counted("test", seen)].astype(np.float64)
        for position, head in enumerate(HEADS):
            pair = found.champion.heads[head]
            assert pair.mse == pytest.approx(0.0, abs=1e-6)
            expected = np.square(np.minimum(0.25, 1.0 - test[:, position])).mean()
            assert pair.difference.value == pytest.approx(expected, abs=1e-6)
            assert pair.difference.low is not None and pair.difference.low > 0.0
            assert pair.difference.num_groups == num_groups


def test_where_the_champion_may_have_seen_every_test_group_none_counts(gather: Gather) -> None:
    says_it = gather(answering(0.0, seen=("g03", "g07", "g11", "g15", "g19")))
    says_nothing = gather(LoadedModel(answering(0.0).model, SIZE_PX, "f" * 64))
    for found, silent in ((says_it, ()), (says_nothing, ("champion",))):
        assert (found.candidate.num_counted_groups, found.candidate.num_groups) == (0, 5)
        assert found.silent_models == silent


@pytest.mark.parametrize(
    ("changes", "is_reused"),
    [
        ({}, True),
        ({"model_sha256": "d" * 64}, False),
        ({"model_sha256": None}, False),
        ({"data_sha256": "other"}, False),
        ({"split": "validation"}, False),
        ({"excluded_groups": []}, False),
        ({"excluded_groups": ["coffee", "rocket"]}, False),
        ({"measuring.sweep_images": 7}, False),
        ({"measuring.seed": 7}, False),
        ({"measuring.measures_version": 0}, False),
        ({"format_version": 0}, False),
        ({"heads.noise": ...}, False),
    ],
)
def test_an_evaluation_is_reused_only_if_it_is_complete_and_was_made_of_the_same_in_the_same_way(
    section: EvaluateParams, tmp_path: Path, changes: dict[str, Any], is_reused: bool
) -> None:
    same = {"model_sha256": "c" * 64, "excluded_groups": ["coffee"], "measuring": measuring(section)}
    earlier = changed(changed(tree()["candidate"], same), changes)
    assert known_evaluation(section, tmp_path, "5e1f", "c" * 64, ["coffee"]) is None
    storage.write_json(tmp_path / "evaluation.json", earlier)
    known = known_evaluation(section, tmp_path, "5e1f", "c" * 64, ["coffee"])
    assert known == (Evaluated.from_json(earlier) if is_reused else None)
    (tmp_path / "evaluation.json").write_text("{")
    assert known_evaluation(section, tmp_path, "5e1f", "c" * 64, ["coffee"]) is None


def test_two_models_are_compared_on_the_same_samples_by_group(section: EvaluateParams) -> None:
    labels = np.linspace(0, 1, 40)

    def table(scores: Pixels | np.ndarray, num_groups: int) -> pd.DataFrame:
        columns = {f"{head}_label": labels for head in HEADS} | {f"{head}_score": scores for head in HEADS}
        ids = [f"s{row}" for row in range(len(scores))]
        return pd.DataFrame({"sample_id": ids, "group": np.arange(40) * num_groups // 40, **columns})

    for num_groups, ends in ((5, 0.03), (1, None)):
        compared = compare_scores(section, table(labels + 0.2, num_groups), table(labels + 0.1, num_groups))
        for head in HEADS:
            difference = compared[head].difference
            assert compared[head].mse == pytest.approx(0.01)
            assert (difference.value, difference.num_groups) == (pytest.approx(0.03), num_groups)
            assert (difference.low, difference.high) == (ends and pytest.approx(ends),) * 2


def test_the_candidate_is_measured_on_real_defects_below_the_project_folder_if_that_is_asked_for(
    gather: Gather, photo: Pixels, tmp_path: Path
) -> None:
    asked = RealParams(folder="../real", min_auc={"noise": 0.9})
    away = gather(None, asked).real
    assert away is not None and away.problem is not None and "is not there" in away.problem
    (tmp_path / "project").mkdir()
    write_sets(tmp_path / "real", photo)
    found = gather(None, asked).real
    assert found is not None and found.problem is None
    assert [(head, one.num_bad) for head, one in found.heads.items()] == [("noise", 9)]
    assert gather(None).real is None
