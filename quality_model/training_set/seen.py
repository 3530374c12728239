"""Which groups of images a model has seen, so that none of them counts as evidence about it.

A group is known by a digest of its source's name and its own, which names no folder of a user.
A model keeps the digests of the groups that it was trained on or whose validation chose its
epoch, those of the weights it began with included (`checkpoints.LoadedModel.facts`).
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from quality_model.sources.expression import JOINT

if TYPE_CHECKING:
    from quality_model.training_set.store import TrainingSet

SEEN_GROUPS: Final = "seen_groups"
"""Key of a model's facts: sorted digests (see `group_digest`)."""

_DIGITS: Final = 12


def group_digest(source: str, group: str) -> str:
    """The first 12 hexadecimal digits of SHA-256 over ``source/group``.

    Groups of joined sources begin with their source's name already.
    """
    name = group if JOINT in source else f"{source}/{group}"
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]


def seen_in_training(training_set: "TrainingSet") -> frozenset[str]:
    """Digests of the groups of the train and validation splits."""
    manifest = training_set.manifest
    groups = manifest["group"][manifest["split"] != "test"].unique()
    return frozenset(group_digest(training_set.source, group) for group in groups)


def seen_by(facts: Mapping[str, Any], training_set: "TrainingSet") -> frozenset[str] | None:
    """Digests of the groups that a model has seen, by its facts; None if they do not say.

    A model that keeps no digests, but was trained on this very training dataset from random
    weights, has seen its train and validation splits.
    """
    kept = facts.get(SEEN_GROUPS)
    if isinstance(kept, list):
        return frozenset(map(str, kept))
    settings = facts.get("settings")
    began_at_random = isinstance(settings, Mapping) and settings.get("train.start_from") in (None, "scratch")
    if began_at_random and facts.get("data_sha256") == training_set.data_sha256:
        return seen_in_training(training_set)
    return None


def seen_test_groups(models: Iterable[Mapping[str, Any]], training_set: "TrainingSet") -> tuple[str, ...]:
    """The groups of the test split that at least one of some models has seen, sorted.

    Args:
        models: The facts of each. One that does not say what it saw may have seen everything.
        training_set: Holds the test split.
    """
    manifest = training_set.manifest
    groups = sorted(manifest["group"][manifest["split"] == "test"].unique())
    seen: set[str] = set()
    for facts in models:
        known = seen_by(facts, training_set)
        if known is None:
            return tuple(groups)
        seen |= known
    return tuple(group for group in groups if group_digest(training_set.source, group) in seen)
