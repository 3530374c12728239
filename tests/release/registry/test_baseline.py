"""The bundled model as the first champion, and the way back to it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from quality_model import MultiHeadQualityInference, pretrained
from quality_model.core import storage
from quality_model.core.decoding import Pixels
from quality_model.errors import GateRefusedError, ModelNotFoundError, RegistryError
from quality_model.networks.checkpoints import save_model
from quality_model.networks.model import MultiHeadQualityAssessmentModel
from quality_model.params import EvaluateParams, Params, RegistryParams
from quality_model.release import decisions, standing
from quality_model.release import steps as release
from quality_model.release.baseline import ensure_baseline
from quality_model.release.registry import Registry, read_decisions


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package bundles a model of 32 px with a card."""
    folder = tmp_path / "standard"
    torch.manual_seed(0)
    facts = {"version": "s1", "data_sha256": "e" * 64, "git_commit": "c" * 40, "seen_groups": []}
    save_model(folder, MultiHeadQualityAssessmentModel(), image_size_px=32, facts=facts)
    (folder / "MODEL_CARD.md").write_text("# Model card: the bundled one\n")
    monkeypatch.setitem(pretrained.FOLDERS, pretrained.NAME, folder)
    return folder


@pytest.fixture
def promote(project: Path, section: RegistryParams, params: Params) -> Callable[[str], str]:
    """`quality-model promote` with the committed parameters."""

    def promote(reference: str) -> str:
        return release.promote_by_hand(
            params.evaluate, params.gate, section, root=project, reference=reference, reason="by hand"
        )

    return promote


def champion_of(project: Path, section: RegistryParams) -> str | None:
    found = Registry(project, section).champion()
    return found.version if found else None


def test_the_bundled_model_becomes_the_first_champion_once_and_claims_no_pass_of_the_gate(
    project: Path, section: RegistryParams, registry: Registry, bundled: Path
) -> None:
    for _ in range(2):
        ensure_baseline(section, root=project, image_size_px=32)
    (decision,) = read_decisions(project)
    assert (decision["outcome"], decision["version"]) == ("baseline", "4")
    assert (decision["data_sha256"], decision["git_commit"]) == ("e" * 64, "c" * 40)
    assert decision["model_sha256"] == storage.sealed_sha256(bundled)
    assert decision["evidence"] == {"model_card": storage.file_sha256(bundled / "MODEL_CARD.md")}
    version = registry.find("champion")
    assert version.tags["verdict"] == "baseline"
    assert "verdict_json" not in version.tags
    assert [(event.action, event.to_version) for event in registry.history()] == [("baseline", "4")]
    model = MultiHeadQualityInference("champion", "cpu", root=project)
    assert model.source.sha256 == storage.file_sha256(bundled / "model.safetensors")


def test_a_champion_that_is_there_stays(
    project: Path, section: RegistryParams, registry: Registry, bundled: Path
) -> None:
    registry.promote("2", "chosen in the web UI")
    ensure_baseline(section, root=project, image_size_px=32)
    assert champion_of(project, section) == "2"
    assert read_decisions(project) == []
    assert len(registry.versions()) == 3


def test_a_project_of_another_image_size_has_no_baseline(
    project: Path, section: RegistryParams, bundled: Path
) -> None:
    ensure_baseline(section, root=project, image_size_px=64)
    assert champion_of(project, section) is None


def test_a_baseline_that_was_set_and_not_recorded_is_recorded_by_the_next_run(
    project: Path, section: RegistryParams, bundled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(decisions, "record_decision", killed)
        ensure_baseline(section, root=project, image_size_px=32)
    assert champion_of(project, section) == "4"
    ensure_baseline(section, root=project, image_size_px=32)
    assert [decision["outcome"] for decision in read_decisions(project)] == ["baseline"]


@pytest.mark.parametrize("name", ["bundled", "pretrained"])
def test_promoting_the_bundled_model_always_leads_back_to_it(
    project: Path,
    section: RegistryParams,
    registry: Registry,
    bundled: Path,
    promote: Callable[[str], str],
    name: str,
) -> None:
    registry.promote("3", "moved in the web UI")
    assert promote(name) == "4"
    assert champion_of(project, section) == "4"
    assert promote("4") == "4"  # by its number, too
    assert [(d["outcome"], d["version"]) for d in read_decisions(project)] == [("promoted", "4")]


def test_a_bundled_version_whose_files_are_gone_is_registered_anew_by_a_way_back(
    project: Path, section: RegistryParams, bundled: Path, promote: Callable[[str], str]
) -> None:
    ensure_baseline(section, root=project, image_size_px=32)
    shutil.rmtree(Registry(project, section).resolve("4").path)
    assert promote("bundled") == "5"
    assert champion_of(project, section) == "5"
    model = MultiHeadQualityInference("champion", "cpu", root=project)
    assert model.source.sha256 == storage.file_sha256(bundled / "model.safetensors")


def test_a_bundled_version_that_was_registered_and_not_described_is_described_later(
    project: Path, section: RegistryParams, bundled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Registry, "attach_card", killed)
        ensure_baseline(section, root=project, image_size_px=32)
    ensure_baseline(section, root=project, image_size_px=32)
    assert Registry(project, section).find("champion").tags["verdict"] == "baseline"
    assert len(Registry(project, section).versions()) == 4


def test_a_rollback_without_an_earlier_champion_leads_back_to_the_bundled_model_and_ends_there(
    project: Path, section: RegistryParams, registry: Registry, bundled: Path
) -> None:
    registry.promote("3", "the first one")
    assert release.roll_back(section, root=project, reason="worse in use") == "4"
    assert champion_of(project, section) == "4"
    with pytest.raises(RegistryError, match="The champion is the bundled model, version 4"):
        release.roll_back(section, root=project, reason="and that")
    assert champion_of(project, section) == "4"


def test_a_rollback_goes_through_the_earlier_champions_to_the_baseline(
    project: Path, section: RegistryParams, registry: Registry, bundled: Path
) -> None:
    ensure_baseline(section, root=project, image_size_px=32)
    for version in ("1", "2"):
        registry.promote(version, "better")
    assert [release.roll_back(section, root=project, reason="worse") for _ in range(2)] == ["1", "4"]


def test_a_version_that_never_passed_the_gate_is_not_promoted_and_the_refusal_says_what_to_do(
    project: Path, section: RegistryParams, promote: Callable[[str], str]
) -> None:
    with pytest.raises(GateRefusedError, match="has not let version 2 pass") as refused:
        promote("2")
    assert "quality-model gate --model 2" in refused.value.remedy
    assert champion_of(project, section) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"passed": False}, "has not let version 2 pass"),
        ({"gate_sha256": "lenient"}, "by other thresholds"),
        ({"compared_with": None}, "compared with none; the champion is version 1"),
        ({"compared_with": "3"}, "compared with version 3; the champion is version 1"),
    ],
)
def test_a_verdict_that_does_not_hold_any_more_promotes_nothing(
    project: Path,
    section: RegistryParams,
    registry: Registry,
    params: Params,
    promote: Callable[[str], str],
    change: dict[str, object],
    reason: str,
) -> None:
    registry.promote("1", "first")
    gate: str = standing.gate_sha256(params.gate, params.evaluate)
    verdict = {"passed": True, "gate_sha256": gate, "compared_with": "1", **change}
    registry.attach_verdict(verdict, run_id=registry.find("2").run_id or "", version="2")
    with pytest.raises(GateRefusedError, match=reason):
        promote("2")
    assert champion_of(project, section) == "1"
    registry.attach_verdict(
        {**verdict, "passed": True, "gate_sha256": gate, "compared_with": "1"},
        run_id=registry.find("2").run_id or "",
        version="2",
    )
    assert promote("2") == "2"


def test_without_bundled_weights_there_is_no_way_back_and_the_error_says_so(
    project: Path, promote: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(pretrained.FOLDERS, pretrained.NAME, tmp_path / "nothing")
    with pytest.raises(ModelNotFoundError, match="no bundled weights"):
        promote("bundled")


def test_a_promotion_of_another_model_under_the_same_number_settles_nothing(
    project: Path, section: RegistryParams, registry: Registry, params: Params, tmp_path: Path
) -> None:
    """A new database counts from 1 again, while the ledger keeps the decisions about the old version 1."""
    from quality_model.release.registry import record_decision
    from tests.evaluate.conftest import write_training_set

    evaluate: EvaluateParams = params.evaluate
    samples = write_training_set(tmp_path / "set", _noise())
    model = tmp_path / "model"
    save_model(model, MultiHeadQualityAssessmentModel(), image_size_px=32, facts={})

    def settled() -> bool:
        found = standing.find_settled(
            evaluate, params.gate, section, root=project, model=model, training_set=samples.folder
        )
        return found is not None

    facts = {
        "version": "1",
        "model_sha256": storage.sealed_sha256(model),
        "data_sha256": samples.data_sha256,
        "gate_sha256": standing.gate_sha256(params.gate, evaluate),
    }
    record_decision(project, "promoted", facts)
    assert registry.find("1").tags["model_sha256"] != facts["model_sha256"]
    assert not settled()
    registry.tag(registry.find("1"), "model_sha256", str(facts["model_sha256"]))
    assert settled()


def _noise() -> Pixels:
    return np.random.default_rng(1).integers(0, 256, (96, 96, 3)).astype(np.uint8)


def test_the_models_that_are_bundled_say_which_groups_they_have_seen() -> None:
    from quality_model.data.split import SEEN_GROUPS, group_digest

    for folder in pretrained.FOLDERS.values():
        facts = json.loads((folder / "model.json").read_text())["facts"]
        assert len(facts[SEEN_GROUPS]) == 58
        seen = {
            group
            for group in ("astronaut", "chelsea", "china", "coffee", "flower", "rocket", "retina")
            if group_digest("sample-photos", group) in facts[SEEN_GROUPS]
        }
        assert seen == {"chelsea", "coffee", "flower", "rocket", "retina"}
