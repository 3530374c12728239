"""What a label profile is: the one interface between degradations and the training set."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from quality_model.degradations.randomness import SampleRandomness
from quality_model.images import Pixels
from quality_model.records import HEADS, Head


@dataclass(frozen=True, slots=True)
class AppliedDegradation:
    """One degradation of one sample.

    ``parameters`` are JSON values; ``position`` counts from 0 in the order of application;
    ``label`` is the severity in [0, 1] that the final picture is labelled with.
    """

    head: Head
    kind: str
    parameters: Mapping[str, str | int | float]
    position: int
    label: float


@dataclass(frozen=True, slots=True)
class DegradedSample:
    """A sample: pixels, uint8 (side, side, 3) RGB, and what was done to them, in order."""

    image: Pixels
    applied: tuple[AppliedDegradation, ...]

    @property
    def labels(self) -> tuple[float, ...]:
        """Severity per head in the order of `HEADS`, each in [0, 1]; 0 where nothing was applied."""
        found = {degradation.head: degradation.label for degradation in self.applied}
        return tuple(found.get(head, 0.0) for head in HEADS)


class Profile(Protocol):
    """A way to degrade pictures and to label the result."""

    @property
    def name(self) -> str:
        """What params.yaml calls it."""
        ...

    @property
    def kinds(self) -> Mapping[Head, tuple[str, ...]]:
        """Every kind that `degrade` makes."""
        ...

    @property
    def label_ranges(self) -> Mapping[Head, tuple[float, float]]:
        """Lowest and highest label of a head that was degraded."""
        ...

    @property
    def untouched_share(self) -> float:
        """Expected share of `degrade`'s samples to which nothing is applied."""
        ...

    def keep(self, clean: Pixels, randomness: SampleRandomness) -> DegradedSample:
        """The sample that stands for the clean picture, uint8 (side, side, 3), itself."""
        ...

    def degrade(self, clean: Pixels, randomness: SampleRandomness) -> DegradedSample:
        """A degraded sample of the clean picture, uint8 (side, side, 3), which stays as it is."""
        ...
