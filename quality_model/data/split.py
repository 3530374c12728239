"""The split into train, validation and test by groups, subsets of it, and which groups a model has seen.

A model keeps digests of the images that it was trained on or selected by, including those of the weights
it started from. A test group among them is no evidence about the model. A digest does not reveal a user's
folder. There are two kinds. An image is identified by its encoded bytes, wherever it is. A group of several
images is also identified by the names of its source and of itself, because other crops of a photograph have
other bytes.
"""

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from quality_model.core.provenance import ModelFacts
from quality_model.errors import SourceError
from quality_model.records import JOINT, Split

if TYPE_CHECKING:
    import pandas as pd

    from quality_model.data.dataset import TrainingSet

SEEN_GROUPS: Final = "seen_groups"
"""Key of a model's facts: sorted digests."""

_DIGITS: Final = 12


def split_by_group(
    groups: Iterable[str], *, validation_share: float, test_share: float, seed: int
) -> dict[str, Split]:
    """Assign every group to one split.

    Groups are ranked by a hash of seed and name; the first become the test split, the next
    validation. So the assignment does not depend on the order of the groups, and adding or removing
    a group moves few others. Shares count groups, not images. They are rounded to whole groups; a
    split with a share above 0 gets at least one group, and so does train.

    Args:
        groups: Names, in any order, with repetitions.
        validation_share: Share of the groups for validation, 0 to 1.
        test_share: Share of the groups for the test, 0 to 1.
        seed: Decides the ranks.

    Returns:
        The split of each group.

    Raises:
        SourceError: There are fewer groups than splits.
    """
    ranked = sorted(set(groups), key=lambda group: rank(seed, "split", group))
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


def rank(seed: int, purpose: str, name: str) -> bytes:
    """Sorts names in an order that seed and purpose decide, whatever other names there are."""
    return hashlib.sha256(f"{seed}\0{purpose}\0{name}".encode("utf-8", "surrogatepass")).digest()


def stratified_subset(indices: npt.NDArray[np.int64], count: int, seed: int) -> npt.NDArray[np.int64]:
    """At most ``count`` of ``indices`` (n,), in their order.

    One is drawn from each of ``count`` equal ranges. Every n-th would not do: the samples
    of an image follow each other, so it could be the same variant of each image.
    """
    if len(indices) <= count:
        return indices
    edges = np.arange(count + 1) * len(indices) // count
    return indices[np.random.default_rng(seed).integers(edges[:-1], edges[1:])]


def group_digest(source: str, group: str) -> str:
    """The first 12 hexadecimal digits of SHA-256 over ``source/group``.

    Groups of joined sources already begin with their source's name.
    """
    name = group if JOINT in source else f"{source}/{group}"
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]


def seen_in_training(training_set: "TrainingSet") -> frozenset[str]:
    """Digests of the train and validation splits."""
    manifest = training_set.manifest
    return frozenset().union(*_digests(training_set, manifest[manifest["split"] != "test"]).values())


def seen_by(facts: ModelFacts, training_set: "TrainingSet") -> frozenset[str] | None:
    """Digests of what a model has seen, by its facts; None if that is unknown.

    A model without digests that was trained on this same training dataset from random
    weights has seen its train and validation splits.
    """
    if facts.seen_groups is not None:
        return frozenset(facts.seen_groups)
    settings = facts.settings
    began_at_random = settings is not None and settings.get("train.start_from") in (None, "scratch")
    if began_at_random and facts.data_sha256 == training_set.data_sha256:
        return seen_in_training(training_set)
    return None


def seen_test_groups(models: Iterable[ModelFacts], training_set: "TrainingSet") -> tuple[str, ...]:
    """The groups of the test split that at least one of the models has seen, sorted.

    Args:
        models: The facts of each. A model with unknown digests may have seen everything.
        training_set: Contains the test split.
    """
    manifest = training_set.manifest
    test = _digests(training_set, manifest[manifest["split"] == "test"])
    seen: set[str] = set()
    for facts in models:
        known = seen_by(facts, training_set)
        if known is None:
            return tuple(sorted(test))
        seen |= known
    return tuple(sorted(group for group, digests in test.items() if not digests.isdisjoint(seen)))


def _digests(training_set: "TrainingSet", rows: "pd.DataFrame") -> dict[str, set[str]]:
    """The digests of each group among some rows of the manifest.

    A group of one image is named after its place in a folder or a shuffle, which another image
    may have next time: its bytes identify it better. Older datasets do not record them.
    """
    by_image = "image_sha256" in rows
    found: dict[str, set[str]] = {}
    for group, images in rows.groupby("group", sort=False):
        own = {str(sha256)[:_DIGITS] for sha256 in images["image_sha256"].unique()} if by_image else set()
        alone = by_image and len(own) == 1 and bool((images["image_id"] == group).all())
        found[str(group)] = own if alone else {*own, group_digest(training_set.source, str(group))}
    return found
