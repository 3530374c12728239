"""Which test groups count as evidence: those that no model has seen."""

from pathlib import Path

import pytest

from quality_model.images import Pixels
from quality_model.training_set.seen import (
    SEEN_GROUPS,
    group_digest,
    seen_by,
    seen_in_training,
    seen_test_groups,
)
from quality_model.training_set.store import TrainingSet
from tests.evaluation.conftest import write_training_set

ALL_TEST_GROUPS = ("g03", "g07", "g11", "g15", "g19")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory, photo: Pixels) -> TrainingSet:
    """Twenty groups, five of them for the test, of the source `mine`."""
    folder: Path = tmp_path_factory.mktemp("seen") / "training"
    found = write_training_set(folder, photo)
    found.marker["source"] = "mine"
    return found


def saw(*groups: str, source: str = "mine") -> dict[str, list[str]]:
    return {SEEN_GROUPS: [group_digest(source, group) for group in groups]}


def test_groups_that_one_of_the_models_has_seen_are_found_and_others_are_not(samples: TrainingSet) -> None:
    assert seen_test_groups([saw("g03", "g00"), saw("g11")], samples) == ("g03", "g11")
    assert seen_test_groups([saw()], samples) == ()


def test_a_group_of_the_same_name_from_another_source_is_another_group(samples: TrainingSet) -> None:
    assert seen_test_groups([saw("g03", source="another")], samples) == ()


def test_a_group_is_known_in_joined_sources_too(samples: TrainingSet) -> None:
    assert group_digest("mine", "g03") == group_digest("mine + others", "mine/g03")


def test_a_model_that_does_not_say_what_it_has_seen_may_have_seen_everything(samples: TrainingSet) -> None:
    assert seen_test_groups([saw(), {}], samples) == ALL_TEST_GROUPS


def test_an_older_model_of_this_very_dataset_has_seen_its_train_and_validation_splits(
    samples: TrainingSet,
) -> None:
    facts = {"data_sha256": samples.data_sha256, "settings": {"train.start_from": None}}
    assert seen_by(facts, samples) == seen_in_training(samples)
    assert seen_test_groups([facts], samples) == ()
    began_elsewhere = {**facts, "settings": {"train.start_from": "weights@0123"}}
    assert seen_by(began_elsewhere, samples) is None


def test_without_the_groups_that_are_excluded_the_others_count_and_all_if_none_is_left(
    samples: TrainingSet,
) -> None:
    rows = samples.indices("test")
    groups = samples.manifest["group"].to_numpy()
    kept = samples.counted("test", ["g03", "g07"])
    assert set(groups[kept]) == {"g11", "g15", "g19"}
    assert samples.counted("test", ALL_TEST_GROUPS).tolist() == rows.tolist()
