"""The split: whole groups, by the seed alone, with something in every split."""

import pytest

from quality_model.data.training_set.split import split_by_group
from quality_model.errors import SourceError
from quality_model.records import SPLITS


def counts(splits: dict[str, str]) -> dict[str, int]:
    return {split: list(splits.values()).count(split) for split in SPLITS}


def names(count: int) -> list[str]:
    return [f"photo {number}" for number in range(count)]


@pytest.mark.parametrize("num_groups", [3, 4, 5, 7, 10, 100])
@pytest.mark.parametrize("shares", [(0.15, 0.15), (0.01, 0.01), (0.45, 0.45), (0.05, 0.9), (0.9, 0.05)])
def test_every_split_gets_a_group_when_there_are_three(num_groups: int, shares: tuple[float, float]) -> None:
    validation_share, test_share = shares

    found = counts(
        split_by_group(names(num_groups), validation_share=validation_share, test_share=test_share, seed=1)
    )

    assert min(found.values()) >= 1
    assert sum(found.values()) == num_groups


def test_the_shares_of_many_groups_are_those_asked_for() -> None:
    found = counts(split_by_group(names(1000), validation_share=0.15, test_share=0.2, seed=1))

    assert found == {"train": 650, "validation": 150, "test": 200}


def test_order_and_repetition_of_the_groups_do_not_matter() -> None:
    groups = names(20)
    once = split_by_group(groups, validation_share=0.2, test_share=0.2, seed=1)
    again = split_by_group(groups[::-1] * 3, validation_share=0.2, test_share=0.2, seed=1)

    assert once == again


def test_another_seed_gives_another_split() -> None:
    splits = [split_by_group(names(30), validation_share=0.3, test_share=0.3, seed=seed) for seed in (1, 2)]

    assert splits[0] != splits[1]


def test_one_more_group_moves_few_others() -> None:
    before = split_by_group(names(100), validation_share=0.15, test_share=0.15, seed=1)
    after = split_by_group([*names(100), "a new one"], validation_share=0.15, test_share=0.15, seed=1)

    assert sum(before[group] != after[group] for group in before) <= 3


@pytest.mark.parametrize("num_groups", [0, 1, 2])
def test_too_few_groups_are_a_clear_error(num_groups: int) -> None:
    with pytest.raises(SourceError, match=rf"{num_groups} group.*3 splits") as caught:
        split_by_group(names(num_groups), validation_share=0.15, test_share=0.15, seed=1)
    assert "sub-folders" in caught.value.remedy


def test_a_share_of_0_leaves_a_split_empty() -> None:
    found = counts(split_by_group(names(1), validation_share=0.0, test_share=0.0, seed=1))

    assert found == {"train": 1, "validation": 0, "test": 0}
