"""Which groups of images a model has seen, so that none of them counts as evidence about it.

A model keeps digests of what it was trained on, and of what its epoch was chosen by, those of the weights
it began with included (`checkpoints.LoadedModel.facts`). A digest names no folder of a user. There are two
kinds. An image is known by its encoded bytes, wherever it is. A group of several images is known by its
source's name and its own besides: other crops of a photograph have other bytes.
"""

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from quality_model.core.model_files import ModelFacts
from quality_model.data.sources.expression import JOINT

if TYPE_CHECKING:
    import pandas as pd

    from quality_model.data.training_set.store import TrainingSet

SEEN_GROUPS: Final = "seen_groups"
"""Key of a model's facts: sorted digests."""

_DIGITS: Final = 12


def group_digest(source: str, group: str) -> str:
    """The first 12 hexadecimal digits of SHA-256 over ``source/group``.

    Groups of joined sources begin with their source's name already.
    """
    name = group if JOINT in source else f"{source}/{group}"
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]


def seen_in_training(training_set: "TrainingSet") -> frozenset[str]:
    """Digests of the train and validation splits."""
    manifest = training_set.manifest
    return frozenset().union(*_digests(training_set, manifest[manifest["split"] != "test"]).values())


def seen_by(facts: ModelFacts, training_set: "TrainingSet") -> frozenset[str] | None:
    """Digests of what a model has seen, by its facts; None if they do not say.

    A model that keeps no digests, but was trained on this very training dataset from random
    weights, has seen its train and validation splits.
    """
    if facts.seen_groups is not None:
        return frozenset(facts.seen_groups)
    settings = facts.settings
    began_at_random = settings is not None and settings.get("train.start_from") in (None, "scratch")
    if began_at_random and facts.data_sha256 == training_set.data_sha256:
        return seen_in_training(training_set)
    return None


def seen_test_groups(models: Iterable[ModelFacts], training_set: "TrainingSet") -> tuple[str, ...]:
    """The groups of the test split that at least one of some models has seen, sorted.

    Args:
        models: The facts of each. One that does not say what it saw may have seen everything.
        training_set: Holds the test split.
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

    The name of a group of one image is that of its place in a folder or a shuffle, which another image
    may have next time: its bytes say more. Older datasets do not have them.
    """
    by_image = "image_sha256" in rows
    found: dict[str, set[str]] = {}
    for group, images in rows.groupby("group", sort=False):
        own = {str(sha256)[:_DIGITS] for sha256 in images["image_sha256"].unique()} if by_image else set()
        alone = by_image and len(own) == 1 and bool((images["image_id"] == group).all())
        found[str(group)] = own if alone else {*own, group_digest(training_set.source, str(group))}
    return found
