"""The split: whole groups, by the seed alone; and which test groups a model has not seen."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quality_model.core.provenance import ModelFacts
from quality_model.data.dataset import (
    group_digest,
    seen_by,
    seen_groups,
    seen_in_training,
    split_by_group,
    stratified_subset,
)
from quality_model.errors import SourceError
from quality_model.records import SPLITS
from tests.evaluate.conftest import write_training_set

ALL_TEST_GROUPS = ("g03", "g07", "g11", "g15", "g19")


def names(count: int) -> list[str]:
    return [f"photo {number}" for number in range(count)]


def split(groups: list[str], validation: float = 0.15, test: float = 0.15, seed: int = 1) -> dict[str, str]:
    return split_by_group(groups, validation_share=validation, test_share=test, seed=seed)


def counts(splits: dict[str, str]) -> dict[str, int]:
    return {name: list(splits.values()).count(name) for name in SPLITS}


@given(
    num_groups=st.integers(3, 60),
    validation=st.floats(0.001, 0.95),
    test=st.floats(0.001, 0.95),
    seed=st.integers(0, 99),
)
def test_every_split_gets_a_group_and_the_order_of_the_groups_does_not_matter(
    num_groups: int, validation: float, test: float, seed: int
) -> None:
    groups = names(num_groups)
    found = split(groups, validation, test, seed)
    assert set(found) == set(groups)
    assert min(counts(found).values()) >= 1
    assert split(groups[::-1] * 2, validation, test, seed) == found


def test_the_shares_of_many_groups_are_those_asked_for() -> None:
    assert counts(split(names(1000), 0.15, 0.2)) == {"train": 650, "validation": 150, "test": 200}
    assert counts(split(names(1), 0.0, 0.0)) == {"train": 1, "validation": 0, "test": 0}
    assert split(names(30)) != split(names(30), seed=2)


def test_one_more_group_moves_few_others() -> None:
    before, after = split(names(100)), split([*names(100), "a new one"])
    assert sum(before[group] != after[group] for group in before) <= 3


@pytest.mark.parametrize("num_groups", [0, 2])
def test_too_few_groups_are_an_error(num_groups: int) -> None:
    with pytest.raises(SourceError, match=rf"{num_groups} group.*3 splits") as caught:
        split(names(num_groups))
    assert "sub-folders" in caught.value.remedy


@given(num_rows=st.integers(0, 300), count=st.integers(1, 40), seed=st.integers(0, 9))
def test_a_subset_has_one_row_of_each_equal_range(num_rows: int, count: int, seed: int) -> None:
    rows = np.arange(num_rows) * 3
    subset = stratified_subset(rows, count, seed)
    assert len(subset) == min(num_rows, count)
    if num_rows > count:
        assert list(subset // 3 * count // num_rows) == pytest.approx(list(range(count)), abs=1)
        assert np.array_equal(np.unique(subset), subset)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory, photo):
    """Twenty groups, five of them in the test split, of the source `mine`."""
    folder: Path = tmp_path_factory.mktemp("seen") / "training"
    found = write_training_set(folder, photo)
    found.source = "mine"
    return found


def saw(*groups: str, source: str = "mine") -> ModelFacts:
    return ModelFacts(seen_groups=[group_digest(source, group) for group in groups])


def test_only_test_groups_that_one_of_the_models_has_seen_are_found(samples) -> None:
    assert seen_groups([saw("g03", "g00"), saw("g11")], samples, "test") == ("g03", "g11")
    assert seen_groups([saw()], samples, "test") == ()
    assert seen_groups([saw("g03", source="another")], samples, "test") == ()
    assert group_digest("mine", "g03") == group_digest("mine + others", "mine/g03")


def test_a_model_without_digests_may_have_seen_everything(samples) -> None:
    assert seen_groups([saw(), ModelFacts()], samples, "test") == ALL_TEST_GROUPS


def test_an_older_model_of_the_same_dataset_has_seen_its_train_and_validation_splits(samples) -> None:
    facts = ModelFacts(data_sha256=samples.data_sha256, settings={"train.start_from": None})
    assert seen_by(facts, samples) == seen_in_training(samples)
    assert seen_groups([facts], samples, "test") == ()
    assert (
        seen_by(facts.model_copy(update={"settings": {"train.start_from": "weights@0123"}}), samples) is None
    )


def dataset_of(samples, **columns: object) -> SimpleNamespace:
    """The same groups with names and hashes of images: by default each group is one image."""
    group = samples.manifest["group"]
    manifest = samples.manifest.assign(image_id=group, image_sha256="sha of " + group)
    return SimpleNamespace(source="mine", manifest=manifest.assign(**columns))


def where(samples, group: str, value: str, column: pd.Series) -> pd.Series:
    return column.where(samples.manifest["group"] != group, value)


def test_an_image_is_known_by_its_bytes_wherever_it_is(samples) -> None:
    before = dataset_of(samples)
    facts = ModelFacts(seen_groups=sorted(seen_in_training(before)))
    moved = where(samples, "g03", "sha of g00", "new " + samples.manifest["group"])
    assert seen_groups([facts], dataset_of(samples, image_sha256=moved), "test") == ("g03",)

    swapped = samples.manifest["split"].map({"train": "test", "test": "train", "validation": "validation"})
    another = dataset_of(samples, split=swapped, image_sha256="new " + samples.manifest["group"])
    assert seen_groups([facts], another, "test") == ()  # other images in the place of seen ones


def test_other_crops_of_a_seen_group_were_seen(samples) -> None:
    crops = samples.manifest["group"] + "/" + (samples.manifest.index % 6).astype(str)
    before = dataset_of(samples, image_id=crops, image_sha256="first " + crops)
    facts = ModelFacts(seen_groups=sorted(seen_in_training(before)))
    later_split = where(samples, "g00", "test", samples.manifest["split"])
    later = dataset_of(samples, image_id=crops, image_sha256="second " + crops, split=later_split)
    assert seen_groups([facts], later, "test") == ("g00",)


def test_excluded_groups_do_not_count_unless_no_others_are_left(samples) -> None:
    groups = samples.manifest["group"].to_numpy()
    assert set(groups[samples.counted("test", ["g03", "g07"])]) == {"g11", "g15", "g19"}
    assert np.array_equal(samples.counted("test", ALL_TEST_GROUPS), samples.indices("test"))
