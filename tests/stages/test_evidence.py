"""What the gate reads: what is measured for it, and what is taken over from the evaluation."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from quality_model.core import storage
from quality_model.core.decoding import Pixels
from quality_model.data.dataset import TrainingSet
from quality_model.data.split import SEEN_GROUPS, group_digest
from quality_model.evaluate.evidence import (
    Evidence,
    compare_scores,
    gather_evidence,
    known_baselines,
    known_evaluation,
)
from quality_model.evaluate.measures import measuring
from quality_model.networks.checkpoints import LoadedModel
from quality_model.params import EvaluateParams, Params, PerHead
from quality_model.records import HEADS
from quality_model.release.gate import decide
from tests.evaluate.conftest import SIZE_PX, ReadsLabels, write_training_set

BASELINES = {head: {"classical": {"mse": 0.05, "r2": 0.25, "spearman": 0.5}} for head in HEADS}

Gather = Callable[[LoadedModel | None], Evidence]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory, photo: Pixels) -> TrainingSet:
    return write_training_set(tmp_path_factory.mktemp("evidence") / "training", photo)


@pytest.fixture(scope="module")
def section(params: Params) -> EvaluateParams:
    changes = {"bootstrap_samples": 50, "ladder_images": 1, "baseline_samples": 10, "device": "cpu"}
    return params.evaluate.model_copy(update=changes)


def answering(offset: float, *seen: str) -> LoadedModel:
    """A model whose scores are the labels plus an offset, at most 1, that has seen some groups."""
    model: Any = ReadsLabels(offset)
    facts = {"thresholds": dict.fromkeys(HEADS, 0.5), SEEN_GROUPS: [group_digest("", name) for name in seen]}
    return LoadedModel(model, SIZE_PX, "f" * 64, facts)


@pytest.fixture
def gather(section: EvaluateParams, samples: TrainingSet, tmp_path: Path) -> Gather:
    """The evidence about a model whose scores are the labels plus 0.25, with the report of an evaluation."""

    def gather(champion: LoadedModel | None) -> Evidence:
        return gather_evidence(
            section,
            samples,
            answering(0.25),
            champion,
            model_sha256="c" * 64,
            loss_weights=PerHead(**dict.fromkeys(HEADS, 1.0)),
            evaluation=tmp_path,
        )

    return gather


def test_what_the_evaluation_measured_of_the_same_model_is_not_measured_again(
    gather: Gather, tmp_path: Path
) -> None:
    first = gather(None)
    assert all(first.candidate["baselines"][head] for head in HEADS)
    report = {**first.candidate, "ladders": {"told": "by the evaluation"}}
    storage.write_json(tmp_path / "evaluation.json", report)
    again = gather(None)
    assert again.candidate == report
    assert (again.champion, again.paired) == (None, None)


def test_candidate_and_champion_are_scored_for_the_gate_whatever_the_evaluation_has_told(
    gather: Gather, section: EvaluateParams, samples: TrainingSet, tmp_path: Path
) -> None:
    told = {
        "split": "test",
        "data_sha256": samples.data_sha256,
        "model_sha256": "c" * 64,
        "measuring": measuring(section),
        "excluded_groups": [],
        "baselines": BASELINES,
        "heads": {head: {"mse": 0.9, "r2": -9.0} for head in HEADS},
    }
    storage.write_json(tmp_path / "evaluation.json", told)
    evidence = gather(answering(0.0))
    assert evidence.champion is not None
    assert evidence.paired is not None
    test = samples.labels[samples.indices("test")].astype(np.float64)
    for position, head in enumerate(HEADS):
        assert evidence.champion["heads"][head]["mse"] == pytest.approx(0.0, abs=1e-6)
        expected = np.square(np.minimum(0.25, 1.0 - test[:, position])).mean()
        assert evidence.paired[head]["difference"] == pytest.approx(expected, abs=1e-6)
        assert evidence.paired[head]["low"] > 0.0
    for key in ("split", "data_sha256"):
        assert evidence.champion[key] == evidence.candidate[key]


def test_groups_that_the_champion_has_seen_count_in_no_figure(gather: Gather, samples: TrainingSet) -> None:
    evidence = gather(answering(0.0, "g03", "g07"))
    assert evidence.candidate["excluded_groups"] == ["g03", "g07"]
    assert evidence.candidate["num_counted_groups"] == evidence.candidate["num_groups"] == 3
    assert evidence.paired is not None and evidence.champion is not None
    rows = samples.counted("test", ["g03", "g07"])
    test = samples.labels[rows].astype(np.float64)
    for position, head in enumerate(HEADS):
        expected = np.square(np.minimum(0.25, 1.0 - test[:, position])).mean()
        assert evidence.paired[head]["difference"] == pytest.approx(expected, abs=1e-6)
        assert evidence.paired[head]["num_groups"] == 3
        assert evidence.candidate["heads"][head]["num_groups"] == 3


def test_a_champion_that_does_not_say_what_it_has_seen_is_named_with_the_way_out(
    gather: Gather, params: Params
) -> None:
    champion = LoadedModel(answering(0.0).model, SIZE_PX, "f" * 64, {})
    evidence = gather(champion)
    assert (evidence.candidate["silent_models"], evidence.candidate["num_counted_groups"]) == (
        ["champion"],
        0,
    )
    (row,) = (row for row in decide(params.gate, *evidence).rows if row.rule == "unseen_groups")
    assert "the champion does not say what it was trained on" in row.reason
    assert "promote bundled" in row.reason


def test_where_the_champion_has_seen_every_test_group_none_counts_and_figures_are_for_looking_at(
    gather: Gather,
) -> None:
    evidence = gather(answering(0.0, "g03", "g07", "g11", "g15", "g19"))
    assert evidence.candidate["num_counted_groups"] == 0
    assert evidence.candidate["num_groups"] == 5


@pytest.mark.parametrize(
    ("changes", "evaluation_serves", "baselines_serve"),
    [
        ({}, True, True),
        ({"model_sha256": "d" * 64}, False, True),
        ({"model_sha256": None}, False, True),
        ({"data_sha256": "other"}, False, False),
        ({"split": "validation"}, False, False),
        ({"excluded_groups": []}, False, False),
        ({"excluded_groups": ["coffee", "rocket"]}, False, False),
        ({"baselines": {}}, False, False),
        ({"baselines": {**BASELINES, "noise": {}}}, False, False),
        ({"measuring": {"ladder_images": 7}}, False, True),
        ({"measuring": {"baseline_samples": 7}}, False, False),
        ({"measuring": {"seed": 7}}, False, False),
        ({"measuring": {"measures_version": 0}}, False, True),
        ({"measuring": {"baseline_version": 0}}, False, False),
    ],
)
def test_an_evaluation_serves_only_if_it_is_whole_and_was_made_of_the_same_in_the_same_way(
    section: EvaluateParams,
    tmp_path: Path,
    changes: dict[str, Any],
    evaluation_serves: bool,
    baselines_serve: bool,
) -> None:
    earlier = {
        "split": "test",
        "data_sha256": "5e1f",
        "model_sha256": "c" * 64,
        "excluded_groups": ["coffee"],
        "baselines": BASELINES,
        **changes,
        "measuring": {**measuring(section), **changes.get("measuring", {})},
    }
    storage.write_json(tmp_path / "evaluation.json", earlier)
    known = known_evaluation(section, tmp_path, "5e1f", "c" * 64, ["coffee"])
    assert known == (earlier if evaluation_serves else None)
    assert known_baselines(section, tmp_path, "5e1f", ["coffee"]) == (BASELINES if baselines_serve else None)


@pytest.mark.parametrize("text", [None, "{", "[]", json.dumps({"split": "test", "data_sha256": "5e1f"})])
def test_a_damaged_or_missing_evaluation_or_one_of_an_older_release_means_that_all_is_measured_again(
    section: EvaluateParams, tmp_path: Path, text: str | None
) -> None:
    if text is not None:
        (tmp_path / "evaluation.json").write_text(text)
    assert known_evaluation(section, tmp_path, "5e1f", "c" * 64) is None
    assert known_baselines(section, tmp_path, "5e1f") is None


def table(scores: np.ndarray, groups: np.ndarray) -> pd.DataFrame:
    labels = np.linspace(0, 1, len(scores))
    columns = {f"{head}_label": labels for head in HEADS} | {f"{head}_score": scores for head in HEADS}
    return pd.DataFrame({"sample_id": [f"s{row}" for row in range(len(scores))], "group": groups, **columns})


def test_two_models_are_compared_on_the_same_samples_by_group(section: EvaluateParams) -> None:
    labels, groups = np.linspace(0, 1, 40), np.arange(40) // 8
    compared = compare_scores(section, table(labels + 0.2, groups), table(labels + 0.1, groups))
    for head in HEADS:
        pair = compared[head]
        assert [pair[key] for key in ("difference", "low", "high")] == pytest.approx([0.03] * 3)
        assert pair["num_groups"] == 5


def test_one_group_gives_a_difference_without_an_interval(section: EvaluateParams) -> None:
    labels, groups = np.linspace(0, 1, 40), np.zeros(40)
    pair = compare_scores(section, table(labels + 0.2, groups), table(labels, groups))["noise"]
    assert pair == {"difference": pytest.approx(0.04), "low": None, "high": None, "num_groups": 1}
