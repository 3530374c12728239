"""A version that a person promotes: what allows it, and what refuses it."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from quality_model import pretrained
from quality_model.errors import GateRefusedError, ModelNotFoundError
from quality_model.params import Params, RegistryParams
from quality_model.records import ModelRef
from quality_model.release.champion import promote_by_hand
from quality_model.release.decisions import Decision, now, write_record
from quality_model.release.decisions import project as show
from quality_model.release.gate import gate_sha256
from quality_model.release.registry import Registry
from tests.release.registry.conftest import promote
from tests.release.registry.test_champion import champion_of, moves


def by_hand(project: Path, params: Params, reference: str) -> str:
    """`quality-model promote` with the committed parameters."""
    return promote_by_hand(
        params.evaluate, params.gate, params.registry, root=project, reference=reference, reason="by hand"
    )


def test_promoting_the_bundled_model_leads_back_to_it_even_if_its_files_are_gone(
    project: Path, section: RegistryParams, params: Params, bundled: Path
) -> None:
    promote(project, section, "3")
    assert by_hand(project, params, "bundled") == "4"
    assert by_hand(project, params, "4") == "4"  # by its number, too
    assert moves(project, section)[1:] == [("promoted", "3", "4")]
    shutil.rmtree(Registry(project, section).resolve("4").path)
    assert by_hand(project, params, "pretrained") == "5"
    assert champion_of(project, section) == "5"


def test_without_bundled_weights_there_is_no_way_back_and_the_error_says_so(
    project: Path, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(pretrained.FOLDERS, pretrained.NAME, tmp_path / "nothing")
    with pytest.raises(ModelNotFoundError, match="no bundled weights"):
        by_hand(project, params, "bundled")


# -- the verdict that a promotion by hand needs


def test_a_version_that_never_passed_the_gate_is_not_promoted_and_the_refusal_says_what_to_do(
    project: Path, section: RegistryParams, params: Params
) -> None:
    with pytest.raises(GateRefusedError, match="has not let version 2 pass") as refused:
        by_hand(project, params, "2")
    assert "quality-model gate --model 2" in refused.value.remedy
    assert champion_of(project, section) is None


def test_a_verdict_that_no_longer_holds_promotes_nothing_and_one_of_another_machine_promotes(
    project: Path, section: RegistryParams, registry: Registry, params: Params
) -> None:
    promote(project, section, "1")
    one, two = registry.find("1"), registry.find("2")
    valid: dict[str, Any] = {
        "action": "passed",
        "model": ModelRef("quality-model", None, two.run_id, ""),
        "model_sha256": two.model_sha256,
        "gate_sha256": gate_sha256(params.gate, params.evaluate, Path()),
        "champion": ModelRef("quality-model", "1", one.run_id, ""),
        "champion_sha256": one.model_sha256,
    }
    for change, reason in (
        ({"action": "refused"}, "has not let version 2 pass"),
        ({"gate_sha256": "lenient"}, "by other thresholds"),
        ({"champion": None, "champion_sha256": None}, "compared with none; the champion is version 1"),
        ({"champion_sha256": "0" * 64}, "the champion is version 1"),
    ):
        write_record(project, Decision(**{**valid, **change}, time=now()))
        with pytest.raises(GateRefusedError, match=reason):
            by_hand(project, params, "2")
    assert champion_of(project, section) == "1"
    record = write_record(project, Decision(**valid, time=now()))
    show(record, registry)
    shutil.rmtree(project / "state" / "records")
    assert by_hand(project, params, "2") == "2"
