"""Who is champion, how that changes, and what is recorded of it."""

import json
import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from PIL import Image

from quality_model import MultiHeadQualityInference, pretrained
from quality_model.cli import cli
from quality_model.core import storage
from quality_model.errors import (
    ChampionChangedError,
    CorruptError,
    ModelNotFoundError,
    NoEarlierChampionError,
    RegistryError,
    StorageError,
)
from quality_model.params import RegistryParams
from quality_model.paths import CARD_NAME
from quality_model.release.champion import ensure_baseline, roll_back
from quality_model.release.decisions import finished_records, read_decisions
from quality_model.release.registry import Registry
from tests.release.registry.conftest import SIZE_PX, promote


def champion_of(project: Path, section: RegistryParams) -> str | None:
    found = Registry(project, section).champion()
    return found.version if found else None


def moves(project: Path, section: RegistryParams) -> list[tuple[str, str | None, str | None]]:
    """Action, champion before and after of each decision."""
    return [
        (decision.action, decision.champion and decision.champion.version, decision.model.version)
        for decision in read_decisions(project, section)
    ]


# -- promotion


def test_a_promoted_version_is_champion_once_and_the_record_names_the_one_before(
    project: Path, section: RegistryParams, registry: Registry
) -> None:
    assert registry.champion() is None
    assert promote(project, section, "1")
    assert promote(project, section, "2")
    assert champion_of(project, section) == "2"
    assert moves(project, section) == [("promoted", None, "1"), ("promoted", "1", "2")]
    last = read_decisions(project, section)[-1]
    assert last.model_sha256 == registry.find("2").model_sha256
    assert last.champion_sha256 == registry.find("1").model_sha256
    assert last.model.sha256 == storage.file_sha256(registry.resolve("2").path / "model.safetensors")
    assert (last.data_sha256, last.reason) == ("2" * 64, "better")
    for again in ("2", "champion"):
        assert not promote(project, section, again)
    assert len(finished_records(project)) == 2


def test_a_version_that_does_not_exist_is_not_promoted_and_the_error_lists_those_that_do(
    project: Path, section: RegistryParams
) -> None:
    promote(project, section, "2")
    with pytest.raises(ModelNotFoundError, match=r"versions 1, 2 \(champion\), 3"):
        promote(project, section, "9")
    assert champion_of(project, section) == "2"


def test_a_candidate_compared_with_a_champion_that_was_replaced_is_not_promoted(
    project: Path, section: RegistryParams, registry: Registry
) -> None:
    first = registry.find("1").model_sha256
    assert promote(project, section, "1", expected=None)
    assert promote(project, section, "2", expected=first)
    for expected in (first, None):
        with pytest.raises(ChampionChangedError, match="champion is version 2"):
            promote(project, section, "3", expected=expected)
    assert champion_of(project, section) == "2"


def test_a_version_whose_files_are_not_those_registered_never_becomes_champion(
    project: Path, section: RegistryParams, registry: Registry
) -> None:
    promote(project, section, "2")
    promote(project, section, "3")
    folder, other = registry.resolve("2").path, registry.resolve("3").path
    original = {path: path.read_bytes() for path in folder.iterdir()}
    weights = folder / "model.safetensors"
    damages: dict[str, Callable[[], object]] = {
        "one bit": lambda: weights.write_bytes(original[weights][:-1] + bytes([original[weights][-1] ^ 1])),
        "removed": weights.unlink,
        "another model's": lambda: shutil.copytree(other, folder, dirs_exist_ok=True),
    }

    def promote_two() -> None:
        promote(project, section, "2")

    def back_to_two() -> None:
        roll_back(section, root=project, reason="worse")

    for name, damage in damages.items():
        try:
            damage()
            for change in (promote_two, back_to_two):
                with pytest.raises(StorageError):
                    change()
        finally:
            for path, data in original.items():
                path.write_bytes(data)
        assert champion_of(project, section) == "3", name
    assert len(finished_records(project)) == 2


def test_a_damaged_champion_can_be_replaced(
    project: Path, section: RegistryParams, registry: Registry, client: MlflowClient
) -> None:
    promote(project, section, "1")
    client.set_model_version_tag("quality-model", "1", "model_sha256", "0" * 64)
    assert promote(project, section, "2")


def test_a_change_waits_for_another_process_only_so_long(project: Path, section: RegistryParams) -> None:
    impatient = section.model_copy(update={"lock_timeout_s": 0.2})
    lock = project / "state" / "locks" / f"registry-{section.model_name}.lock"
    with storage.locked(lock, timeout_s=1), pytest.raises(StorageError, match="Another process has held"):
        promote(project, impatient, "1")
    assert champion_of(project, section) is None


# -- the alias says who is champion


def test_an_alias_that_was_moved_in_mlflow_is_followed_by_predict_score_and_the_next_change(
    project: Path,
    section: RegistryParams,
    client: MlflowClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    promote(project, section, "1")
    monkeypatch.chdir(project)
    assert MultiHeadQualityInference("auto", "cpu").source.version == "1"
    client.set_registered_model_alias(section.model_name, "champion", "3")
    assert MultiHeadQualityInference("auto", "cpu").source.version == "3"
    (tmp_path / "images").mkdir()
    Image.new("RGB", (SIZE_PX, SIZE_PX), "grey").save(tmp_path / "images" / "grey.png")
    arguments = ["score", str(tmp_path / "images"), "--output", "scores", "--set", "score.workers=1"]
    CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert json.loads((project / "scores" / "job.json").read_text())["model"]["version"] == "3"
    assert promote(project, section, "2")
    assert moves(project, section) == [
        ("promoted", None, "1"),
        ("promoted", None, "3"),
        ("promoted", "3", "2"),
    ]
    assert "moved in MLflow" in read_decisions(project, section)[1].reason
    assert roll_back(section, root=project, reason="worse") == "3"


def test_the_bundled_model_scores_until_there_is_a_champion_and_never_stands_in_for_a_broken_one(
    project: Path,
    section: RegistryParams,
    client: MlflowClient,
    bundled: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def chosen(**more: RegistryParams) -> tuple[str, str | None]:
        source = MultiHeadQualityInference("auto", "cpu", root=project, **more).source
        return source.name, source.version

    assert chosen() == ("bundled", "s1")
    client.set_registered_model_alias(section.model_name, "champion", "2")
    with caplog.at_level(logging.INFO):
        assert chosen() == ("quality-model", "2")
    assert "The champion scores: version 2 of quality-model." in caplog.text
    other = section.model_copy(update={"model_name": "quality-model-224"})
    assert chosen(registry=other) == ("bundled", "s1")
    (project / "params.yaml").unlink()
    assert chosen() == ("bundled", "s1")  # nothing says whose champion is meant
    client.set_registered_model_alias(section.model_name, "champion", "1")
    client.set_model_version_tag(section.model_name, "1", "model_sha256", "0" * 64)
    with pytest.raises(CorruptError, match="not those that were registered"):
        chosen(registry=section)
    (project / "mlflow.db").write_bytes(b"not a database, whatever its name says" * 100)
    with pytest.raises(RegistryError):
        chosen(registry=section)


def test_a_champion_that_was_deleted_in_mlflow_can_be_rolled_back_from(
    project: Path, section: RegistryParams, client: MlflowClient
) -> None:
    promote(project, section, "1")
    promote(project, section, "2")
    client.delete_model_version(section.model_name, "2")
    assert champion_of(project, section) is None
    assert roll_back(section, root=project, reason="deleted by mistake") == "1"


# -- rollback


def test_a_rollback_goes_back_one_champion_at_a_time_to_the_bundled_model_and_ends_there(
    project: Path, section: RegistryParams, bundled: Path
) -> None:
    for version in ("1", "2"):
        promote(project, section, version)
    assert roll_back(section, root=project, reason="worse in use") == "1"
    promote(project, section, "3")  # what comes after a rollback can be rolled back, too
    assert [roll_back(section, root=project, reason="worse") for _ in range(2)] == ["1", "4"]
    with pytest.raises(NoEarlierChampionError, match="The champion is the bundled model, version 4"):
        roll_back(section, root=project, reason="and that")
    assert moves(project, section)[2:] == [
        ("rolled back", "2", "1"),
        ("promoted", "1", "3"),
        ("rolled back", "3", "1"),
        ("rolled back", "1", "4"),
    ]


class Killed(BaseException):
    """Stands for a process that ends at once."""


@pytest.fixture
def killed_when_the_alias_has_moved() -> Iterator[list[str]]:
    """The process of a test, while the list holds the event's name."""
    deadly = ["quality_model.release.registry.moved"]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in deadly:
            raise Killed

    sys.addaudithook(hook)  # for the life of the process
    yield deadly
    deadly.clear()


@pytest.mark.parametrize(("action", "reason"), [("promoted", "better"), ("rolled back", "worse")])
def test_a_change_that_was_killed_before_it_was_recorded_is_recorded_when_it_is_repeated(
    project: Path,
    section: RegistryParams,
    killed_when_the_alias_has_moved: list[str],
    action: str,
    reason: str,
) -> None:
    def change() -> bool | str:
        if action == "promoted":
            return promote(project, section, "2")
        return roll_back(section, root=project, reason="worse")

    event = killed_when_the_alias_has_moved.pop()
    for version in ("1", "2", "3"):
        promote(project, section, version)
    killed_when_the_alias_has_moved.append(event)
    with pytest.raises(Killed):
        change()
    killed_when_the_alias_has_moved.clear()
    assert champion_of(project, section) == "2"
    change()
    assert champion_of(project, section) == "2"
    (last,) = read_decisions(project, section)[3:]
    assert (last.action, last.model.version, last.reason) == (action, "2", reason)


def test_what_earlier_releases_recorded_is_shown_and_rolled_back_from(
    project: Path, section: RegistryParams, client: MlflowClient
) -> None:
    for number, (before, after) in enumerate([(None, "1"), ("1", "2")], start=1):
        move = {
            **{"number": number, "time": f"2026-01-0{number}T00:00:00.000+00:00", "alias": "champion"},
            **{"action": "promoted", "from_version": before, "to_version": after, "reason": "long ago"},
        }
        client.set_registered_model_tag("quality-model", f"history.{number:06d}.abcd", json.dumps(move))
    client.set_registered_model_tag("quality-model", "history.note", "of someone else")
    client.set_registered_model_alias("quality-model", "champion", "2")
    refused = {
        "time": "2026-01-03T00:00:00.000+00:00",
        "outcome": "refused",
        "reasons": ["noise: too little"],
    }
    storage.write_text(project / "state" / "ledger.jsonl", json.dumps(refused) + "\n")
    assert [(d.action, d.reason) for d in read_decisions(project, section)] == [
        ("promoted", "long ago"),
        ("promoted", "long ago"),
        ("refused", "noise: too little"),
    ]
    assert roll_back(section, root=project, reason="worse") == "1"


# -- the bundled model


def test_the_bundled_model_becomes_the_first_champion_once_and_claims_no_pass_of_the_gate(
    project: Path, section: RegistryParams, registry: Registry, client: MlflowClient, bundled: Path
) -> None:
    for _ in range(2):
        ensure_baseline(section, root=project, image_size_px=SIZE_PX)
    (decision,) = read_decisions(project, section)
    assert (decision.action, decision.model.version, decision.passed) == ("baseline", "4", False)
    assert (decision.data_sha256, decision.git_commit) == ("e" * 64, "c" * 40)
    assert decision.model_sha256 == storage.sealed_sha256(bundled)
    (record,) = finished_records(project)
    assert (record / CARD_NAME).read_bytes() == (bundled / CARD_NAME).read_bytes()
    assert registry.find("champion").tags["verdict"] == "baseline"
    assert client.get_model_version("quality-model", "4").description == (bundled / CARD_NAME).read_text()
    model = MultiHeadQualityInference("champion", "cpu", root=project)
    assert model.source.sha256 == storage.file_sha256(bundled / "model.safetensors")


def test_where_the_bundled_model_cannot_or_need_not_be_the_first_champion_it_is_not(
    project: Path,
    section: RegistryParams,
    client: MlflowClient,
    bundled: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    ensure_baseline(section, root=project, image_size_px=2 * SIZE_PX)
    assert champion_of(project, section) is None  # it works at another image size
    with monkeypatch.context() as patch:
        patch.setitem(pretrained.FOLDERS, pretrained.NAME, tmp_path / "nothing")
        ensure_baseline(section, root=project, image_size_px=SIZE_PX)
    assert champion_of(project, section) is None
    client.set_registered_model_alias("quality-model", "champion", "2")
    ensure_baseline(section, root=project, image_size_px=SIZE_PX)
    assert champion_of(project, section) == "2"
    assert len(Registry(project, section).versions()) == 3
