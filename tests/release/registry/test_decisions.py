"""What is decided is recorded once, on this machine, and MLflow shows it whenever it answers."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from quality_model.cli import cli
from quality_model.core import storage
from quality_model.core.decoding import Pixels
from quality_model.data.dataset import TrainingSet, seen_in_training
from quality_model.errors import CorruptError, GateRefusedError
from quality_model.params import EvaluateParams, GateParams, Params, PerHead, RegistryParams
from quality_model.paths import ProjectPaths
from quality_model.records import HEADS, ModelRef
from quality_model.release.candidate import judge_candidate, past_decision, register_candidate
from quality_model.release.champion import promote_candidate
from quality_model.release.decisions import (
    Decision,
    finished_records,
    read_decisions,
    try_project,
    write_record,
)
from quality_model.release.decisions import project as show
from quality_model.release.registry import Registry
from tests.evaluate.conftest import write_training_set
from tests.pages_read import addresses, foreign
from tests.release.registry.conftest import promote, write_model

Judge = Callable[..., Decision]


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
    max_luck=0.1,
    approval="none",
    approval_within_s=60.0,
    real=None,
)
STRICT = LENIENT.model_copy(update={"max_mse": per_head(0.0)})


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory, photo: Pixels) -> TrainingSet:
    return write_training_set(tmp_path_factory.mktemp("decisions") / "training", photo)


@pytest.fixture
def evaluate(params: Params) -> EvaluateParams:
    changes = {"bootstrap_samples": 50, "sweep_images": 1, "baseline_samples": 20, "device": "cpu"}
    return params.evaluate.model_copy(update=changes)


@pytest.fixture
def model(project: Path, samples: TrainingSet) -> Path:
    """The folder of a candidate that says what it was trained on and has thresholds."""
    facts = {
        "data_sha256": samples.data_sha256,
        "thresholds": dict.fromkeys(HEADS, 0.9),
        "seen_groups": sorted(seen_in_training(samples)),
        "git_commit": "b" * 40,
    }
    return write_model(project / "models" / "candidate", 7, facts)


@pytest.fixture
def judge(
    project: Path,
    params: Params,
    section: RegistryParams,
    evaluate: EvaluateParams,
    samples: TrainingSet,
    model: Path,
) -> Judge:
    """Let the gate decide on the candidate."""

    def judge(gate: GateParams = LENIENT) -> Decision:
        return judge_candidate(
            evaluate,
            gate,
            section,
            root=project,
            training_set=samples.folder,
            model=model,
            report=ProjectPaths(project).gate_report,
            loss_weights=per_head(1.0),
            images=None,
            limits=params.limits,
        )

    return judge


@pytest.fixture
def decided(
    project: Path, section: RegistryParams, evaluate: EvaluateParams, model: Path, samples: TrainingSet
) -> Callable[..., str | None]:
    """Why there is nothing to decide about the candidate; None if there is."""

    def decided(gate: GateParams, measures: EvaluateParams = evaluate) -> str | None:
        return past_decision(measures, gate, section, root=project, model=model, training_set=samples.folder)

    return decided


# -- the gate's decision


def test_a_refusal_is_one_record_and_stands_until_something_changes(
    project: Path,
    section: RegistryParams,
    registry: Registry,
    evaluate: EvaluateParams,
    samples: TrainingSet,
    model: Path,
    judge: Judge,
    decided: Callable[..., str | None],
    tmp_path: Path,
) -> None:
    promote(project, section, "1")
    decision = judge(STRICT)
    _, record = finished_records(project)
    assert read_decisions(project, section)[-1] == decision
    assert (decision.action, decision.model.version, decision.reason) == ("refused", None, "")
    assert decision.champion == ModelRef(
        "quality-model",
        "1",
        registry.find("1").run_id,
        storage.file_sha256(registry.resolve("1").path / "model.safetensors"),
    )
    assert decision.model_sha256 == storage.sealed_sha256(model)
    assert decision.data_sha256 == samples.data_sha256
    assert decision.model.sha256 == storage.file_sha256(model / "model.safetensors")
    assert decision.refusals == tuple(row.reason for row in decision.rows if not row.passed) != ()
    for report in (record, ProjectPaths(project).gate_report):
        assert "## Gate: refused" in (report / "verdict.md").read_text()
        assert json.loads((report / "evidence.json").read_text())
        assert not foreign(page := (report / "beside_champion.html").read_text())
        assert "Candidate beside champion 1" in page and len(addresses(page)) > len(HEADS) * 10
    logged = f"decisions/{record.name}/beside_champion.html"
    copied = registry.client.download_artifacts(decision.model.run_id, logged, str(tmp_path))
    assert Path(copied).read_text() == page
    index = (ProjectPaths(project).reports / "index.html").read_text()
    assert "The gate refused the candidate" in index and "gate/beside_champion.html" in addresses(index)
    assert json.loads((ProjectPaths(project).gate_report / "verdict.json").read_text())["action"] == "refused"

    assert judge(STRICT) == decision  # the same question is answered by the record
    assert len(finished_records(project)) == 2
    assert "when the gate refused: " in (decided(STRICT) or "")
    assert decided(STRICT, evaluate.model_copy(update={"batch_size": 3})) is not None
    assert decided(LENIENT) is None
    assert decided(STRICT, evaluate.model_copy(update={"confidence": 0.5})) is None
    promote(project, section, "2")
    assert decided(STRICT) is None


def test_a_candidate_that_passes_is_registered_with_its_card_and_promoted(
    project: Path,
    section: RegistryParams,
    registry: Registry,
    client: MlflowClient,
    model: Path,
    judge: Judge,
    decided: Callable[..., str | None],
    tmp_path: Path,
) -> None:
    passed = judge()
    assert (passed.action, passed.passed, passed.refusals) == ("passed", True, ())
    assert decided(LENIENT) is None
    report = ProjectPaths(project).gate_report
    for _ in range(2):  # a retried task makes neither a second version nor a second record
        registered = register_candidate(section, root=project, model=model, decision=passed, report=report)
    assert len(finished_records(project)) == 2
    assert (registered.action, registered.model.version, registered.rows) == ("registered", "4", passed.rows)
    version = registry.find("candidate")
    assert (version.version, version.tags["verdict"], version.run_id) == (
        "4",
        "passed",
        registered.model.run_id,
    )
    card = (report / "MODEL_CARD.md").read_text()
    for words in ("quality-model version 4", "0.900", passed.verdict.summary(), str(version.run_id)):
        assert words in card
    shown = client.get_model_version("quality-model", "4").description
    assert card.startswith(shown.partition("\n\n(The rest is in")[0]) and len(shown) <= 5000
    kept = client.download_artifacts(version.run_id, "MODEL_CARD.md", str(tmp_path))
    assert Path(kept).read_text() == card

    assert promote_candidate(section, root=project, decision=registered)
    last = read_decisions(project, section)[-1]
    assert (last.action, last.model, last.rows) == ("promoted", registered.model, passed.rows)
    assert "is the champion already, version 4" in (decided(STRICT) or "")
    promote(project, section, "1")
    assert "when version 4 was promoted" in (decided(LENIENT) or "")
    # A new database counts from 1 again, while the records of the old one are still there.
    client.delete_model_version("quality-model", "4")
    assert decided(LENIENT) is None


def test_what_the_gate_refused_or_did_not_see_is_not_registered(
    project: Path, section: RegistryParams, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = decision("refused", "2026-01-01", model_sha256=storage.sealed_sha256(model))
    with pytest.raises(GateRefusedError, match="refused this candidate"):
        register_candidate(section, root=project, model=model, decision=about, report=project)
    other = replace(about, action="passed", model_sha256="0" * 64)
    with pytest.raises(GateRefusedError, match="has not decided on"):
        register_candidate(section, root=project, model=model, decision=other, report=project)
    monkeypatch.chdir(project)
    undecided = CliRunner().invoke(cli, ["register", "--model", str(model)])
    assert isinstance(undecided.exception, GateRefusedError)


# -- records, and what MLflow shows of them


def decision(action: Any, day: str, **more: Any) -> Decision:
    given = {"model": ModelRef("quality-model", None, None, "w"), "model_sha256": "m", "gate_sha256": "g"}
    return Decision(action, f"{day}T00:00:00.000+00:00", **{**given, **more})


def about_version(registry: Registry, number: str, action: Any, day: str, **more: Any) -> Decision:
    version = registry.find(number)
    ref = ModelRef("quality-model", number, version.run_id, "w")
    return decision(action, day, model=ref, model_sha256=version.model_sha256, **more)


def test_a_decision_made_while_the_server_is_down_is_shown_later_to_other_machines(
    project: Path, section: RegistryParams, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = decision("refused", "2026-01-01", refusals=("noise: mse 0.2 is above 0.1",))
    record = write_record(project, made, evidence='{"seen": 1}')
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        try_project(Registry(project, section), record)
        assert "quality-model publish" in caplog.text
        assert read_decisions(project, section) == [made]
    show(record, Registry(project, section))
    shutil.rmtree(project / "state" / "records")  # as another machine sees it
    assert read_decisions(project, section) == [made]


def test_a_decision_is_lines_in_its_tag_which_an_earlier_release_wrote_as_json(
    project: Path, section: RegistryParams, registry: Registry
) -> None:
    reasons = ("noise: mse 0.2\n# is above 0.1", "yes")
    made = decision("refused", "2026-01-01", refusals=reasons, data_sha256="1e5")
    record = write_record(project, made)
    show(record, Registry(project, section))
    (name, text), *_ = registry.tags().items()
    assert name == f"decision.{record.name}"
    assert text.startswith("action: refused\ntime: '2026-01-01T00:00:00.000+00:00'\n")
    as_json = (record / "decision.json").read_text()
    shutil.rmtree(project / "state" / "records")  # as another machine sees it
    for stored in (text, as_json):
        registry.client.set_registered_model_tag("quality-model", name, stored)
        assert read_decisions(project, section) == [made]
    for stored in ("nonsense", "a: ["):
        registry.client.set_registered_model_tag("quality-model", name, stored)
        with pytest.raises(CorruptError, match=f"{name} is not a decision"):
            read_decisions(project, section)


def test_projecting_again_and_in_any_order_leaves_what_the_last_decision_says(
    project: Path, section: RegistryParams, registry: Registry, client: MlflowClient, tmp_path: Path
) -> None:
    long_card = "".join(f"line {number:04d}\n" for number in range(900))
    records = [
        write_record(project, about_version(registry, "2", "refused", "2026-01-01"), card="# Old card\n"),
        write_record(project, about_version(registry, "2", "passed", "2026-01-02"), card=long_card),
    ]
    run_id = registry.find("2").run_id
    seen = []
    for record in (*records, *reversed(records)):
        assert show(record, Registry(project, section)) == run_id
        version = client.get_model_version("quality-model", "2")
        run = client.get_run(run_id)
        seen.append((version.tags, version.description, run.data.tags, dict(registry.tags())))
    assert seen[1] == seen[2] == seen[3]
    tags, description, run_tags, _ = seen[-1]
    assert (tags["verdict"], run_tags["verdict"]) == ("passed", "passed")
    assert len(description) <= 5000 and "MODEL_CARD.md" in description.splitlines()[-1]
    assert set(description.splitlines()[:-2]) < set(long_card.splitlines())
    for name, text in (
        ("MODEL_CARD.md", long_card),
        (f"decisions/{records[0].name}/MODEL_CARD.md", "# Old card\n"),
    ):
        assert Path(client.download_artifacts(run_id, name, str(tmp_path))).read_text() == text


def test_a_decision_about_a_model_of_another_database_leaves_the_one_here_alone(
    project: Path, section: RegistryParams, registry: Registry, client: MlflowClient
) -> None:
    ref = ModelRef("quality-model", "2", "0" * 32, "w")
    record = write_record(project, decision("passed", "2026-01-01", model=ref), card="# Of another model\n")
    assert show(record, Registry(project, section)) == ""
    version = client.get_model_version("quality-model", "2")
    assert "verdict" not in version.tags and not version.description
    assert len(read_decisions(project, section)) == 1


def test_a_record_that_was_not_finished_was_not_decided_and_one_that_was_altered_is_an_error(
    project: Path, section: RegistryParams
) -> None:
    first, second = (write_record(project, decision("refused", f"2026-01-0{day}")) for day in (1, 2))
    (first / storage.MARKER_NAME).unlink()
    assert list(finished_records(project)) == [second]
    text = (second / "decision.json").read_text()
    (second / "decision.json").write_text(text.replace("refused", "passed"))
    with pytest.raises(CorruptError, match=r"decision\.json"):
        read_decisions(project, section)


def test_the_history_shows_each_decision_in_short(
    project: Path, section: RegistryParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons = ("noise: r2 0.1 is below 0.97", "blurriness: mse is missing", "third")
    facts = {"data_sha256": "0123456789ab" * 5, "git_commit": "fedcba9876" * 4}
    write_record(project, decision("refused", "2026-01-01", refusals=reasons, **facts))
    ref = ModelRef("quality-model", "7", None, "w")
    write_record(project, decision("rolled back", "2026-01-02", model=ref, reason="worse in use"))
    monkeypatch.chdir(project)
    shown = CliRunner().invoke(cli, ["history"], catch_exceptions=False).output.splitlines()
    assert shown == [
        "2026-01-01T00:00:00.000+00:00  refused: version -, data 01234567, commit fedcba98"
        " (noise: r2 0.1 is below 0.97; and 2 more)",
        "2026-01-02T00:00:00.000+00:00  rolled back: version 7, data -, commit - (worse in use)",
    ]
