"""What the gate decides, and what the ledger and the history tell of every decision."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quality_model.core import storage
from quality_model.core.decoding import Pixels
from quality_model.data.dataset import TrainingSet
from quality_model.data.split import seen_in_training
from quality_model.errors import StorageError
from quality_model.evaluate import measures
from quality_model.evaluate.measures import measuring
from quality_model.networks.checkpoints import save_model
from quality_model.networks.model import MultiHeadQualityAssessmentModel
from quality_model.params import EvaluateParams, GateParams, Params, PerHead, RegistryParams
from quality_model.paths import RUN_NAME, ProjectPaths
from quality_model.records import HEADS
from quality_model.release import decisions as decisions_on_record
from quality_model.release import standing
from quality_model.release import steps as release
from quality_model.release.gate import Verdict
from quality_model.release.registry import Registry, decision_line, read_decisions, record_decision
from tests.evaluate.conftest import SIZE_PX, write_training_set

BASELINES = {head: {"classical": {"mse": 0.05, "r2": 0.25, "spearman": 0.5}} for head in HEADS}

Judge = Callable[..., Verdict]
Settled = Callable[..., standing.Settled | None]


def per_head(value: float) -> PerHead:
    return PerHead(**dict.fromkeys(HEADS, value))


LENIENT = GateParams(
    min_test_groups=1,
    with_confidence=False,
    max_mse=per_head(1.0),
    min_r2=per_head(-1e6),
    min_r2_over_baseline=per_head(-1e6),
    min_sweep_spearman=per_head(-1.0),
    max_cross_talk=per_head(1.0),
    max_clean_flags=per_head(1.0),
    max_mse_increase=per_head(1.0),
)


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory, photo: Pixels) -> TrainingSet:
    return write_training_set(tmp_path_factory.mktemp("decisions") / "training", photo)


@pytest.fixture
def evaluate(params: Params) -> EvaluateParams:
    changes = {"bootstrap_samples": 50, "sweep_images": 1, "device": "cpu"}
    return params.evaluate.model_copy(update=changes)


@pytest.fixture
def judge(project: Path, section: RegistryParams, evaluate: EvaluateParams, samples: TrainingSet) -> Judge:
    """Let the gate decide on a model folder in a project whose evaluation has measured the baselines."""
    storage.write_json(
        ProjectPaths(project).evaluation_report / "evaluation.json",
        {
            "split": "test",
            "data_sha256": samples.data_sha256,
            "measuring": measuring(evaluate),
            "excluded_groups": [],
            "baselines": BASELINES,
        },
    )

    def judge(model: Path, gate: GateParams = LENIENT) -> Verdict:
        return release.judge_candidate(
            evaluate,
            gate,
            section,
            root=project,
            training_set=samples.folder,
            model=model,
            report=ProjectPaths(project).gate_report,
            loss_weights=per_head(1.0),
        )

    return judge


@pytest.fixture
def second(project: Path, three_versions: Path, registry: Registry) -> Path:
    """The folder of version 2's model, with the run that made it; it has no thresholds."""
    folder = Path(shutil.copytree(three_versions / "models" / "2", project / "models" / "second"))
    storage.write_json(folder / RUN_NAME, {"run_key": registry.find("2").run_id, "run_id": None})
    return folder


@pytest.fixture
def complete(project: Path, samples: TrainingSet) -> Path:
    """The folder of a model that says what it was trained on and has thresholds, of no run."""
    facts = {
        "data_sha256": samples.data_sha256,
        "thresholds": dict.fromkeys(HEADS, 0.9),
        "seen_groups": sorted(seen_in_training(samples)),
    }
    folder = project / "models" / "complete"
    save_model(folder, MultiHeadQualityAssessmentModel(), image_size_px=SIZE_PX, facts=facts)
    return folder


@pytest.fixture
def settled(
    project: Path, section: RegistryParams, evaluate: EvaluateParams, complete: Path, samples: TrainingSet
) -> Settled:
    """The decision on the complete model that stands, by these parameters; None if there is one to make."""

    def settled(gate: GateParams, measuring: EvaluateParams = evaluate) -> standing.Settled | None:
        return standing.find_settled(
            measuring, gate, section, root=project, model=complete, training_set=samples.folder
        )

    return settled


def test_a_refusal_is_recorded_with_every_row_the_measures_and_where_the_model_came_from(
    project: Path, registry: Registry, judge: Judge, second: Path, samples: TrainingSet
) -> None:
    registry.promote("1", "first")
    verdict = judge(second)
    (decision,) = read_decisions(project)
    assert (decision["outcome"], decision["version"], decision["compared_with"]) == ("refused", None, "1")
    assert decision["run_id"] == registry.find("2").run_id
    assert (decision["data_sha256"], decision["params_sha256"]) == (samples.data_sha256, "8" * 64)
    assert decision["git_commit"] == registry.find("2").tags["git_commit"]
    assert decision["reasons"] == list(verdict.refusals)
    assert sum("threshold for flags is missing" in reason for reason in decision["reasons"]) == len(HEADS)
    assert [row["reason"] for row in decision["evidence"]["rows"]] == [row.reason for row in verdict.rows]
    measures = decision["evidence"]["measures"]
    for side in ("candidate", "champion"):
        assert all(set(measures[side][head]) == {"mse", "r2"} for head in HEADS)
    for head in HEADS:
        difference = measures["candidate"][head]["mse"] - measures["champion"][head]["mse"]
        assert measures["paired"][head]["difference"] == pytest.approx(difference)
        assert measures["paired"][head]["num_groups"] == 5


def test_the_gate_takes_the_baselines_that_the_evaluation_measured_on_the_same_data(
    project: Path, judge: Judge, complete: Path
) -> None:
    verdict = judge(complete)
    assert verdict.passed
    assert verdict.rows[0].reason == "no champion yet: the thresholds alone decide"
    evidence = json.loads((ProjectPaths(project).gate_report / "evidence.json").read_text())
    assert evidence["baselines"] == BASELINES
    (row,) = (row for row in verdict.rows if (row.head, row.rule) == ("noise", "baseline_skill"))
    assert row.value == pytest.approx(evidence["heads"]["noise"]["r2_beside_baselines"] - 0.25)


def test_a_pass_is_recorded_like_a_refusal_and_settles_nothing_before_it_is_promoted(
    project: Path, judge: Judge, complete: Path, settled: Settled
) -> None:
    verdict = judge(complete)
    (decision,) = read_decisions(project)
    assert (decision["outcome"], decision["version"], decision["reasons"]) == ("passed", None, [])
    assert [row["reason"] for row in decision["evidence"]["rows"]] == [row.reason for row in verdict.rows]
    assert settled(LENIENT) is None


def test_a_compact_model_is_judged_against_a_champion_of_the_standard_architecture(
    project: Path, registry: Registry, judge: Judge, samples: TrainingSet
) -> None:
    facts = {
        "data_sha256": samples.data_sha256,
        "thresholds": dict.fromkeys(HEADS, 0.9),
        "seen_groups": sorted(seen_in_training(samples)),
    }
    folder = project / "models" / "compact"
    save_model(
        folder,
        MultiHeadQualityAssessmentModel(architecture="compact"),
        image_size_px=SIZE_PX,
        facts=facts,
    )
    registry.promote("1", "first")
    verdict = judge(folder)
    assert {row.rule for row in verdict.rows if not row.passed} <= {"improvement"}
    assert storage.read_json(ProjectPaths(project).gate_report / "verdict.json")["compared_with"] == "1"


def test_a_refused_model_is_decided_on_again_only_if_something_changed(
    evaluate: EvaluateParams,
    judge: Judge,
    complete: Path,
    settled: Settled,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    strict = LENIENT.model_copy(update={"max_mse": per_head(0.0)})
    judge(complete, strict)

    stands = settled(strict)
    assert stands is not None and "when the gate refused: color_cast: mse" in stands.reason
    assert settled(LENIENT) is None
    assert settled(strict, evaluate.model_copy(update={"confidence": 0.5})) is None
    assert settled(strict, evaluate.model_copy(update={"batch_size": 3})) is not None
    monkeypatch.setattr(measures, "MEASURES_VERSION", 0)
    assert settled(strict) is None


def test_a_no_op_tells_of_the_decision_that_stands_and_not_of_the_champion_or_a_later_one(
    project: Path,
    section: RegistryParams,
    registry: Registry,
    judge: Judge,
    complete: Path,
    settled: Settled,
) -> None:
    registry.promote("1", "first")
    strict, stricter = (LENIENT.model_copy(update={"max_mse": per_head(most)}) for most in (0.001, 0.0))
    judge(complete, strict)
    judge(complete, stricter)
    stands = settled(strict)
    assert stands is not None
    standing.record_no_op(section, root=project, settled=stands)
    refused, later, no_op = read_decisions(project)
    assert (no_op["outcome"], no_op["reasons"]) == ("no-op", [stands.reason])
    assert (no_op["version"], no_op["compared_with"]) == (None, "1")
    for key in ("run_id", "evidence", "data_sha256", "model_sha256", "gate_sha256"):
        assert no_op[key] == refused[key]
    assert later["gate_sha256"] != no_op["gate_sha256"]


@pytest.fixture
def promote(
    project: Path, section: RegistryParams, evaluate: EvaluateParams, registry: Registry
) -> Callable[[str], str]:
    """Promote a version by hand that has just passed the gate; it is given such a verdict."""

    def promote(version: str) -> str:
        champion = registry.champion()
        verdict = {
            "passed": True,
            "gate_sha256": standing.gate_sha256(LENIENT, evaluate),
            "compared_with": champion.version if champion else None,
            "rows": [{"head": "noise", "passed": True}],
            "measures": {"candidate": {}},
        }
        registry.attach_verdict(verdict, run_id=registry.find(version).run_id or "", version=version)
        return release.promote_by_hand(
            evaluate, LENIENT, section, root=project, reference=version, reason="looked at it"
        )

    return promote


def test_a_promotion_and_a_rollback_are_recorded_with_the_evidence_that_let_the_version_in(
    project: Path, section: RegistryParams, registry: Registry, promote: Callable[[str], str]
) -> None:
    for version in ("1", "3"):
        promote(version)
    release.roll_back(section, root=project, reason="worse in use")
    decisions = read_decisions(project)
    assert [(d["outcome"], d["version"]) for d in decisions] == [
        ("promoted", "1"),
        ("promoted", "3"),
        ("rolled back", "1"),
    ]
    known = {"rows": [{"head": "noise", "passed": True}], "measures": {"candidate": {}}}
    assert [decision["evidence"] for decision in decisions] == [known, known, known]
    for decision in decisions:
        found = registry.find(decision["version"])
        assert decision["run_id"] == found.run_id
        for key in ("data_sha256", "params_sha256", "git_commit", "model_sha256"):
            assert decision[key] == found.tags[key]
    lines = list(release.history_lines(section, root=project))
    assert len(lines) == 6
    commit = registry.find("1").tags["git_commit"][:8]
    assert lines[-1].endswith(
        f"decision rolled back: version 1, data 11111111, commit {commit} (worse in use)"
    )
    assert sum("champion rolled back: version 3 -> 1 (worse in use)" in line for line in lines) == 1


@pytest.mark.parametrize("outcome", ["promoted", "rolled back"])
def test_a_change_of_champion_that_was_not_recorded_is_recorded_by_the_same_command_and_not_made_again(
    project: Path,
    section: RegistryParams,
    registry: Registry,
    promote: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    outcome: str,
) -> None:
    for version in ("1", "2", "3"):
        registry.promote(version, "better")

    def change() -> str:
        if outcome == "promoted":
            return promote("2")
        return release.roll_back(section, root=project, reason="worse in use")

    def full(*arguments: object) -> None:
        raise StorageError("No space is left.")

    with monkeypatch.context() as patch:
        patch.setattr(decisions_on_record, "record_decision", full)
        with pytest.raises(StorageError):
            change()
    assert read_decisions(project) == []
    assert change() == "2"
    assert [(d["outcome"], d["version"]) for d in read_decisions(project)] == [(outcome, "2")]
    assert [event.to_version for event in registry.history()] == ["1", "2", "3", "2"]


def test_a_decision_in_short_shows_outcome_version_data_commit_and_the_first_reason(tmp_path: Path) -> None:
    facts: dict[str, Any] = {
        "data_sha256": "0123456789ab" * 5,
        "git_commit": "fedcba9876" * 4,
        "reasons": ["noise: r2 0.1 is below 0.97", "blurriness: mse is missing", "third"],
    }
    decision = record_decision(tmp_path, "refused", facts)
    assert decision_line(decision) == (
        "refused: version -, data 01234567, commit fedcba98 (noise: r2 0.1 is below 0.97; and 2 more)"
    )
    assert decision["evidence"] is None
    assert decision_line(record_decision(tmp_path, "promoted", {"version": "7"})) == (
        "promoted: version 7, data -, commit -"
    )
