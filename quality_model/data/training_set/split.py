"""The split into train, validation and test: whole groups, chosen by the seed alone."""

import hashlib
from collections.abc import Iterable

from quality_model.errors import SourceError
from quality_model.records import Split


def split_by_group(
    groups: Iterable[str], *, validation_share: float, test_share: float, seed: int
) -> dict[str, Split]:
    """Assign every group to one split.

    Groups are ranked by a hash of seed and name; the first go to the test, the next to
    validation. So the assignment does not depend on the order of the groups, and a group
    more or fewer moves few others. Shares count groups, not images: they are rounded to
    whole groups, a split with a share above 0 gets one group at least, and so does train.

    Args:
        groups: Names; repetitions do not matter.
        validation_share: Share of the groups for validation, 0 to 1.
        test_share: Share of the groups for the test, 0 to 1.
        seed: Another seed, another split.

    Returns:
        The split of each group.

    Raises:
        SourceError: There are fewer groups than splits.
    """
    ranked = sorted(set(groups), key=lambda group: _rank(seed, group))
    wanted = 1 + (validation_share > 0) + (test_share > 0)
    if len(ranked) < wanted:
        raise SourceError(
            f"The clean images come from {len(ranked)} group(s), but {wanted} splits need one each.",
            "Take more images, or a folder with more images or sub-folders; "
            "or set validation_share or test_share to 0.",
        )
    num_test = _whole_groups(test_share, len(ranked))
    num_validation = _whole_groups(validation_share, len(ranked))
    while num_test + num_validation >= len(ranked):
        if num_test >= num_validation:
            num_test -= 1
        else:
            num_validation -= 1
    held_out = num_test + num_validation
    return {
        group: "test" if rank < num_test else "validation" if rank < held_out else "train"
        for rank, group in enumerate(ranked)
    }


def _whole_groups(share: float, num_groups: int) -> int:
    return max(1, int(share * num_groups + 0.5)) if share > 0 else 0


def _rank(seed: int, group: str) -> bytes:
    return hashlib.sha256(f"{seed}\0split\0{group}".encode("utf-8", "surrogatepass")).digest()
