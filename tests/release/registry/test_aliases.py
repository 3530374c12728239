"""Who is champion, how that changes, and what is remembered of it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from quality_model.errors import (
    ChampionChangedError,
    CorruptError,
    ModelNotFoundError,
    RegistryError,
    StorageError,
)
from quality_model.release.registry import Registry
from tests.faults.processes import forking

REPOSITORY = Path(__file__).parents[3]


def aliases(registry):
    return {alias: version.version for version in registry.versions() for alias in version.aliases}


def moves(registry):
    return [(e.alias, e.action, e.from_version, e.to_version) for e in registry.history()]


@pytest.fixture
def client(project):
    return MlflowClient(tracking_uri=f"sqlite:///{project}/mlflow.db")


def test_before_the_first_promotion_there_is_no_champion(registry):
    assert registry.champion() is None
    assert registry.history() == []
    assert [version.version for version in registry.versions()] == ["1", "2", "3"]


def test_a_candidate_becomes_champion_and_both_moves_are_remembered(registry):
    assert registry.set_candidate("1", "passed its gate")
    assert registry.promote("candidate", "best so far")
    assert aliases(registry) == {"candidate": "1", "champion": "1"}
    assert registry.champion().run_id == registry.find("1").run_id
    assert moves(registry) == [
        ("candidate", "set", None, "1"),
        ("champion", "promoted", None, "1"),
    ]
    assert [event.number for event in registry.history()] == [1, 2]
    assert [event.reason for event in registry.history()] == ["passed its gate", "best so far"]


def test_promoting_the_champion_again_changes_nothing(registry):
    assert registry.promote("2", "first")
    assert not registry.promote("2", "again")
    assert not registry.promote("champion", "again")
    assert registry.set_candidate("2", "first")
    assert not registry.set_candidate("2", "again")
    assert len(registry.history()) == 2


def test_a_version_that_does_not_exist_is_not_promoted_and_the_error_lists_those_that_do(registry):
    registry.promote("2", "good")
    with pytest.raises(ModelNotFoundError, match=r"versions 1, 2 \(champion\), 3"):
        registry.promote("9", "typo")
    assert aliases(registry) == {"champion": "2"}


def test_a_candidate_compared_with_a_champion_that_was_replaced_meanwhile_is_not_promoted(registry):
    assert registry.promote("1", "first", compared_with=None)
    assert registry.promote("2", "better", compared_with="1")
    with pytest.raises(ChampionChangedError, match="champion is version 2"):
        registry.promote("3", "better than 1", compared_with="1")
    with pytest.raises(ChampionChangedError):
        registry.promote("3", "there was none", compared_with=None)
    assert aliases(registry) == {"champion": "2"}


@pytest.mark.parametrize("damage", ["one bit", "cut short", "removed"])
def test_a_version_whose_files_are_not_those_registered_never_becomes_champion(
    registry, client, tmp_path, damage
):
    registry.promote("1", "good")
    weights = registry.resolve("2").path / "model.safetensors"
    original = weights.read_bytes()
    try:
        if damage == "one bit":
            weights.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
        elif damage == "cut short":
            weights.write_bytes(original[:-1])
        else:
            weights.unlink()
        with pytest.raises(StorageError):
            registry.promote("2", "looks good")
    finally:
        weights.write_bytes(original)
    assert aliases(registry) == {"champion": "1"}
    assert len(registry.history()) == 1


def test_files_swapped_for_those_of_another_model_are_noticed(registry):
    two, three = registry.resolve("2").path, registry.resolve("3").path
    kept = {path: path.read_bytes() for path in two.iterdir()}
    try:
        for path in two.iterdir():
            path.write_bytes((three / path.name).read_bytes())
        with pytest.raises(CorruptError, match="not those that were registered"):
            registry.promote("2", "looks good")
    finally:
        for path, data in kept.items():
            path.write_bytes(data)


def test_rollback_goes_back_one_champion_at_a_time(registry):
    for version in ("1", "2", "3"):
        registry.promote(version, "better")
    assert registry.rollback("3 is worse in practice").version == "2"
    assert registry.rollback("so is 2").version == "1"
    with pytest.raises(RegistryError, match="no earlier champion"):
        registry.rollback("and 1")
    assert aliases(registry) == {"champion": "1"}
    assert moves(registry)[3:] == [
        ("champion", "rolled back", "3", "2"),
        ("champion", "rolled back", "2", "1"),
    ]


def test_after_a_rollback_the_next_promotion_can_be_rolled_back_too(registry):
    for version in ("1", "2"):
        registry.promote(version, "better")
    registry.rollback("worse")
    registry.promote("3", "better")
    assert registry.rollback("worse").version == "1"


def test_without_any_champion_there_is_nothing_to_roll_back_to(registry):
    with pytest.raises(RegistryError, match="no earlier champion"):
        registry.rollback("oops")


def test_a_rollback_to_damaged_files_is_refused_and_the_champion_stays(registry):
    registry.promote("1", "first")
    registry.promote("2", "better")
    weights = registry.resolve("1").path / "model.safetensors"
    original = weights.read_bytes()
    try:
        weights.write_bytes(original[:-1])
        with pytest.raises(CorruptError):
            registry.rollback("worse")
    finally:
        weights.write_bytes(original)
    assert aliases(registry) == {"champion": "2"}


def test_an_alias_moved_by_hand_appears_in_the_history_at_the_next_change(registry, client, section):
    registry.promote("1", "first")
    client.set_registered_model_alias(section.model_name, "champion", "3")
    registry.promote("2", "better")
    assert moves(registry) == [
        ("champion", "promoted", None, "1"),
        ("champion", "found", "1", "3"),
        ("champion", "promoted", "3", "2"),
    ]


def test_a_promotion_killed_before_it_was_recorded_is_recorded_when_it_is_repeated(registry, client, section):
    registry.promote("1", "first")
    client.set_registered_model_alias(section.model_name, "champion", "2")
    assert not registry.promote("2", "better")
    assert moves(registry)[-1] == ("champion", "promoted", "1", "2")
    assert registry.history()[-1].reason == "better"


def test_a_rollback_killed_before_it_was_recorded_goes_no_further_when_it_is_repeated(
    registry, client, section
):
    for version in ("1", "2", "3"):
        registry.promote(version, "better")
    client.set_registered_model_alias(section.model_name, "champion", "2")
    assert registry.rollback("worse").version == "2"
    assert moves(registry)[-1] == ("champion", "rolled back", "3", "2")


def test_a_champion_deleted_in_the_web_ui_can_be_rolled_back_from(registry, client, section):
    registry.promote("1", "first")
    registry.promote("2", "better")
    client.delete_model_version(section.model_name, "2")
    assert registry.champion() is None
    assert registry.rollback("deleted by mistake").version == "1"


def test_other_tags_of_the_registered_model_do_not_disturb_the_history(registry, client, section):
    registry.promote("1", "first")
    client.set_registered_model_tag(section.model_name, "history.note", "not ours")
    client.set_registered_model_tag(section.model_name, "owner", "somebody")
    assert len(registry.history()) == 1


def promote_again_and_again(root: Path, section, version: str, start) -> None:
    registry = Registry(root, section)
    start.wait()
    for turn in range(2):
        registry.promote(version, f"turn {turn} of {os.getpid()}")


def test_processes_that_promote_at_once_leave_one_unbroken_history(project, section):
    context = forking()
    start = context.Barrier(4)
    racers = [
        context.Process(target=promote_again_and_again, args=(project, section, version, start))
        for version in ("1", "2", "3", "1")
    ]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(200)
    assert [racer.exitcode for racer in racers] == [0, 0, 0, 0]
    registry = Registry(project, section)
    events = registry.history()
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert [e.from_version for e in events] == [None, *[e.to_version for e in events[:-1]]]
    assert all(e.action == "promoted" for e in events)
    assert aliases(registry) == {"champion": events[-1].to_version}


HOLD = """
import sys, time
from pathlib import Path
from quality_model.core.storage import locked
with locked(Path(sys.argv[1]), timeout_s=1):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(project, section):
    lock = project / "state" / "locks" / f"registry-{section.model_name}.lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_whoever_waits_too_long_for_the_lock_is_told_and_nothing_changes(project, section, holder):
    impatient = Registry(project, section.model_copy(update={"lock_timeout_s": 0.2}))
    with pytest.raises(StorageError, match="Another process has held"):
        impatient.promote("1", "first")
    assert impatient.champion() is None


def test_a_process_killed_while_it_held_the_lock_blocks_nobody(project, section, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait(10)
    assert Registry(project, section.model_copy(update={"lock_timeout_s": 5.0})).promote("1", "first")
