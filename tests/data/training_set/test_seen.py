"""Which test groups count as evidence: those that no model has seen."""

from pathlib import Path

import pytest

from quality_model.core.decoding import Pixels
from quality_model.data.training_set.seen import (
    SEEN_GROUPS,
    group_digest,
    seen_by,
    seen_in_training,
    seen_test_groups,
)
from quality_model.data.training_set.store import TrainingSet
from tests.evaluate.conftest import write_training_set

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


def with_images(samples: TrainingSet, **columns: list[str]) -> TrainingSet:
    """The same with the columns that tell images apart: each group is an image of its own, by default."""
    found = TrainingSet(samples.folder, samples.marker, samples.images, samples.labels)
    manifest = samples.manifest.assign(image_id=samples.manifest["group"], image_sha256="sha of ")
    manifest["image_sha256"] += manifest["group"]
    found.__dict__["manifest"] = manifest.assign(**columns)
    return found


def test_an_image_is_known_by_its_bytes_wherever_it_is_and_whatever_its_group_is_called(
    samples: TrainingSet,
) -> None:
    facts = {SEEN_GROUPS: sorted(seen_in_training(with_images(samples)))}
    moved = with_images(samples, image_sha256=["sha of g00"] * 6 + ["other"] * 114)
    manifest = moved.manifest
    manifest.loc[manifest["group"] == "g03", "image_sha256"] = (
        "sha of g00"  # a train image, under another name
    )
    assert seen_test_groups([facts], moved) == ("g03",)


def test_another_image_in_the_place_of_a_seen_one_was_not_seen(samples: TrainingSet) -> None:
    """As where a collection without folders is shuffled by another seed: the place is no name."""
    facts = {SEEN_GROUPS: sorted(seen_in_training(with_images(samples)))}
    shuffled = with_images(samples)
    manifest = shuffled.manifest
    manifest["split"] = manifest["split"].map({"train": "test", "test": "train", "validation": "validation"})
    manifest["image_sha256"] = "new " + manifest["group"]
    assert seen_test_groups([facts], shuffled) == ()


def test_other_crops_of_a_group_that_was_seen_were_seen(samples: TrainingSet) -> None:
    crops = [f"{group}/{row % 6}" for row, group in enumerate(samples.manifest["group"])]
    before = with_images(samples, image_id=crops, image_sha256=[f"first {crop}" for crop in crops])
    facts = {SEEN_GROUPS: sorted(seen_in_training(before))}
    later = with_images(samples, image_id=crops, image_sha256=[f"second {crop}" for crop in crops])
    manifest = later.manifest
    manifest.loc[manifest["group"] == "g00", "split"] = "test"
    assert seen_test_groups([facts], later) == ("g00",)


def test_without_the_groups_that_are_excluded_the_others_count_and_all_if_none_is_left(
    samples: TrainingSet,
) -> None:
    rows = samples.indices("test")
    groups = samples.manifest["group"].to_numpy()
    kept = samples.counted("test", ["g03", "g07"])
    assert set(groups[kept]) == {"g11", "g15", "g19"}
    assert samples.counted("test", ALL_TEST_GROUPS).tolist() == rows.tolist()
