"""What a label profile is: the one interface between degradations and the training dataset."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from quality_model.core.decoding import Pixels
from quality_model.degrade.randomness import SampleRandomness
from quality_model.degrade.severity import SeverityScale
from quality_model.records import HEADS, Head


@dataclass(frozen=True, slots=True)
class AppliedDegradation:
    """One degradation of one sample.

    ``parameters`` are JSON values; ``position`` counts from 0 in the order of application;
    ``label`` is the severity in [0, 1] that the final image is labelled with.
    """

    head: Head
    kind: str
    parameters: Mapping[str, str | int | float]
    position: int
    label: float


@dataclass(frozen=True, slots=True)
class DegradedSample:
    """A sample: pixels, uint8 (side, side, 3) RGB, and what was done to them, in order.

    ``delivery`` is what happened to it besides, and changes no label (recompression, slight
    rescaling), as JSON values.
    """

    image: Pixels
    applied: tuple[AppliedDegradation, ...]
    delivery: Mapping[str, str | int | float] = field(default_factory=dict)

    @property
    def labels(self) -> tuple[float, ...]:
        """Severity per head in the order of `HEADS`, each in [0, 1]; 0 where nothing was applied."""
        found = {degradation.head: degradation.label for degradation in self.applied}
        return tuple(found.get(head, 0.0) for head in HEADS)


class Profile(Protocol):
    """A way to degrade images and to label the result."""

    @property
    def name(self) -> str:
        """What params.yaml calls it."""
        ...

    @property
    def kinds(self) -> Mapping[Head, tuple[str, ...]]:
        """Every kind that `degrade` makes."""
        ...

    @property
    def source_kinds(self) -> Mapping[Head, tuple[str, ...]]:
        """Kinds that an image may have brought along, see ``softness_px`` of `keep`."""
        ...

    @property
    def label_ranges(self) -> Mapping[Head, tuple[float, float]]:
        """Lowest and highest label of a head that was degraded."""
        ...

    @property
    def scales(self) -> Mapping[Head, SeverityScale]:
        """The measure that each head's label is a function of; none where the label is no such thing."""
        ...

    @property
    def order(self) -> tuple[Head, ...] | None:
        """The order in which degradations are always applied; None if it is random."""
        ...

    @property
    def untouched_share(self) -> float:
        """Expected share of `degrade`'s samples to which nothing is applied."""
        ...

    @property
    def measures_softness(self) -> bool:
        """Whether images that are soft already are labelled so."""
        ...

    def keep(
        self, clean: Pixels, randomness: SampleRandomness, *, softness_px: float = 0.0
    ) -> DegradedSample:
        """The sample that stands for the clean image, uint8 (side, side, 3), itself.

        ``softness_px`` is the sigma, in pixels of a 224 px image, of the blur that it has already.
        """
        ...

    def degrade(
        self,
        clean: Pixels,
        randomness: SampleRandomness,
        *,
        softness_px: float = 0.0,
        scale: float | None = None,
    ) -> DegradedSample:
        """A degraded sample of the clean image, uint8 (side, side, 3), which stays as it is.

        ``scale`` is the number of its pixels to one of a 224 px image: by default side / 224;
        for a crop, that of what it was cut from.
        """
        ...
