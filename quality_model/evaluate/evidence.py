"""The evidence about a model: what an evaluation measures, and what the gate decides by.

Every type refuses a value that is missing, not a finite number or impossible, when it is built and when it
is read from a file. So a rule of the gate compares numbers and checks nothing twice. The one thing that
may be absent is a number that is not defined, such as the correlation of constant scores: it is None, and
None refuses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from quality_model.core import storage
from quality_model.core.provenance import OwnLabelFacts
from quality_model.errors import CorruptError
from quality_model.records import HEADS, Head, Split

FORMAT_VERSION: Final = 1
"""Version of the layout of evaluation.json and evidence.json; raised when a field changes."""

Count = Annotated[int, Field(ge=0)]
Digest = Annotated[str, Field(min_length=1)]
By = Literal["value", "low", "high"]
"""The number of an estimate that is compared."""


class _Facts(BaseModel):
    """Frozen values of exact types; unknown fields, NaN and infinity are refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class _Stored(_Facts):
    """Facts that are kept as a JSON file with a format version."""

    format_version: Literal[1]

    def to_json(self) -> dict[str, Any]:
        """JSON-able values, for `from_json`."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """Read what `to_json` gave.

        Raises:
            CorruptError: A field is missing, unknown, of another type or impossible, as in another format.
        """
        try:
            return cls.model_validate_json(json.dumps(values))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "all of it"
            raise CorruptError(
                f"This evidence about a model cannot be used: {place}: {first['msg']}.",
                "Measure the model again.",
            ) from error

    def write(self, path: Path) -> None:
        """Write the JSON file."""
        storage.write_json(path, self.to_json())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a JSON file, see `from_json`.

        Raises:
            CorruptError: See `from_json`; or the file is not JSON.
            StorageError: The file cannot be read.
        """
        return cls.from_json(storage.read_json(path))


class Estimate(_Facts):
    """A measured number with its bootstrap interval over groups.

    Attributes:
        value: None where it is not defined.
        low, high: Ends of the interval; None where there is none, as with fewer than two groups.
        num_groups: Groups that it was measured on.
    """

    value: float | None
    low: float | None
    high: float | None
    num_groups: Count

    @model_validator(mode="after")
    def _has_two_ends_in_order(self) -> Self:
        if (self.low is None) != (self.high is None):
            raise ValueError("an interval has two ends")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError("the interval ends before it begins")
        return self


def _within(least: float, most: float) -> AfterValidator:
    """Refuse an estimate outside of what is possible for its measure."""

    def check(estimate: Estimate) -> Estimate:
        for number in (estimate.value, estimate.low, estimate.high):
            if number is not None and not least <= number <= most:
                raise ValueError(f"{number:.6g} is impossible")
        return estimate

    return AfterValidator(check)


_NO_LIMIT: Final = float("inf")

Error = Annotated[Estimate, _within(0.0, _NO_LIMIT)]
Explained = Annotated[Estimate, _within(-_NO_LIMIT, 1.0)]
Signed = Annotated[Estimate, _within(-1.0, 1.0)]
"""A correlation, or a difference of severities or of their squared errors."""

Portion = Annotated[Estimate, _within(0.0, 1.0)]


class Measures(_Facts):
    """How well scores agree with labels, see `metrics`; both are severities in [0, 1].

    ``mse``, ``rmse``, ``mae``: 0 or more, 0 best. ``r2``: at most 1, 1 best, 0 for the mean of the measured
    labels. ``pearson``, ``spearman``: -1 to 1, 1 best. ``constant_mse``: the MSE of always answering the mean
    of the training labels.
    """

    mse: Error
    rmse: Error
    mae: Error
    r2: Explained
    pearson: Signed
    spearman: Signed
    constant_mse: Error


class SmallSlice(_Facts):
    """A part of the split with too few samples to measure a head on."""

    num_samples: Count


class Slice(SmallSlice):
    """One head on a part of the split; the means are None without samples."""

    mean_label: float | None
    mean_score: float | None
    measures: Measures


class Baseline(_Facts):
    """One classical measure on the baseline samples; ``lead`` is the model's R2 less the baseline's there."""

    mse: float | None
    r2: float | None
    spearman: float | None
    lead: Estimate


class FlaggedShare(_Facts):
    """The share of some clean images that a head flags, by `metrics.Bootstrap.share`."""

    num_images: Count
    flagged_share: Portion


class CleanFlags(FlaggedShare):
    """Of all clean images, and of slices with enough of them, by name.

    ``threshold`` is the model's for the head, None if it has none.
    """

    threshold: float | None
    slices: dict[str, FlaggedShare] = {}


class Coverage(_Facts):
    """Of degraded images, the share whose label is in the interval around a head's score.

    ``confidence`` is the share that is promised, ``mean_width`` the mean length of the intervals.
    """

    confidence: float
    num_images: Count
    covered_share: Portion
    mean_width: float


class Sweep(_Facts):
    """How a head's score follows a severity sweep: clean images, degraded by other software in steps.

    Attributes:
        head: That should follow.
        unit: Of the levels.
        levels: Rising, the first is 0, the clean image.
        mean_scores, low_scores, high_scores: Mean and quartiles by level; empty without images.
        spearman: Of level and score over all images and levels.
        monotone_share: Share of images on which the score falls nowhere and rises from end to end.
        num_images: Images.
    """

    head: Head
    unit: str
    levels: tuple[float, ...]
    mean_scores: tuple[float, ...]
    low_scores: tuple[float, ...]
    high_scores: tuple[float, ...]
    spearman: Signed
    monotone_share: float | None
    num_images: Count


class HeadEvidence(_Facts):
    """All that was measured of one head.

    Attributes:
        all: On all samples of the split.
        kinds: On the samples that have one kind of its degradation, by kind.
        absent: On the samples without its degradation.
        clean: On the untouched images; ``mean_score`` is what the head answers where nothing is to find.
        slices: By severity, brightness, detail and source, then by name.
        r2_beside_baselines: R2 on the samples on which baselines are measured.
        baselines: By name; empty where none were measured.
        clean_flags: How many clean images it flags.
        coverage: Of its intervals; None if the model has none.
        rise: How far its mean score rises from clean to severest, on the sweep on which it rises least.
        cross_talk: How far its score moves per image while another degradation becomes severe, on the worst
            sweep of that one; by that other head.
    """

    all: Slice
    kinds: dict[str, Slice]
    absent: Slice
    clean: Slice
    slices: dict[str, dict[str, Slice | SmallSlice]]
    r2_beside_baselines: float | None
    baselines: dict[str, Baseline]
    clean_flags: CleanFlags
    coverage: Coverage | None = None
    rise: Signed
    cross_talk: dict[Head, Portion]


def _every_head(found: dict[Head, Any]) -> dict[Head, Any]:
    if set(found) != set(HEADS):
        raise ValueError(f"heads are {', '.join(found) or 'missing'}, not {', '.join(HEADS)}")
    return {head: found[head] for head in HEADS}


class Evaluated(_Stored):
    """How one model did on one split.

    Attributes:
        split: Which.
        data_sha256: Of the training dataset.
        model_sha256: Of the model's folder; None if it has none.
        measuring: What decides about the figures besides model and data (see `measure.measuring`).
        num_samples, num_groups: Of the split, as far as they were measured.
        num_counted_groups: Groups that count as evidence; 0 where a model has seen all of them, and the
            figures are for information only.
        excluded_groups: Groups that count in no figure, because a model has seen them in training.
        flags_of: What clean flags and coverage are of: whole ``images`` with all views of the model,
            look-alikes among the clean ones, as thresholds and intervals are set; or ``samples`` of the
            dataset, each one squeezed view.
        loss: Mean over heads of loss weight times MSE.
        heads: By head.
        sweeps: By name.
    """

    split: Split
    data_sha256: Digest
    model_sha256: Digest | None
    measuring: dict[str, int | float]
    num_samples: Count
    num_groups: Count
    num_counted_groups: Count
    excluded_groups: tuple[str, ...]
    flags_of: Literal["images", "samples"] = "samples"
    loss: float
    heads: Annotated[dict[Head, HeadEvidence], AfterValidator(_every_head)]
    sweeps: dict[str, Sweep]

    def worst_sweep(self, head: Head, by: By = "value") -> tuple[str, Estimate] | None:
        """Name and rank correlation of the sweep that the head follows least; None if it has none."""
        return decisive(
            {name: one.spearman for name, one in self.sweeps.items() if one.head == head}, min, by
        )

    def largest_cross_talk(self, head: Head, by: By = "value") -> tuple[str, Estimate] | None:
        """The other degradation that moves the head most, and how far; None if one was not measured."""
        found = self.heads[head].cross_talk
        return decisive(found, max, by) if set(found) == set(HEADS) - {head} else None

    def smallest_lead(self, head: Head, by: By = "value") -> tuple[str, Estimate] | None:
        """The baseline over which the head's lead is smallest, and that lead; None if there is none."""
        return decisive({name: one.lead for name, one in self.heads[head].baselines.items()}, min, by)

    def summary(self) -> dict[str, Any]:
        """The numbers that a person compares: the loss, and for each head its measures,
        ``worst_sweep_spearman``, ``largest_cross_talk``, ``clean_flag_share`` and ``interval_coverage``.
        """
        summary: dict[str, Any] = {"loss": self.loss}
        for head, found in self.heads.items():
            sweep, cross_talk = self.worst_sweep(head), self.largest_cross_talk(head)
            summary[head] = {
                **{name: estimate.value for name, estimate in found.all.measures},
                "worst_sweep_spearman": sweep and sweep[1].value,
                "largest_cross_talk": cross_talk and cross_talk[1].value,
                "clean_flag_share": found.clean_flags.flagged_share.value,
                "interval_coverage": found.coverage and found.coverage.covered_share.value,
            }
        return summary


class AgainstChampion(_Facts):
    """One head of the champion on the same samples.

    ``difference`` is the candidate's MSE less this one, ``p_better`` the chance of one at least as far below
    0 if the candidate were no better (`metrics.p_below_zero`); None where that is not defined.
    """

    mse: float | None
    r2: float | None
    difference: Signed
    p_better: Annotated[float, Field(ge=0.0, le=1.0)] | None


class Champion(_Facts):
    """The champion, scored again on the candidate's samples."""

    split: Split
    data_sha256: Digest
    heads: Annotated[dict[Head, AgainstChampion], AfterValidator(_every_head)]


class RealDefects(_Facts):
    """How well a head's scores separate images with real defects from clean ones."""

    num_bad: Count
    num_clean: Count
    auc: Portion


class RealEvidence(_Facts):
    """The candidate on a folder of images with real defects; ``problem`` says why there are no figures."""

    problem: str | None
    heads: dict[Head, RealDefects]


class Evidence(_Stored):
    """What the gate decides by.

    Attributes:
        candidate: Its evaluation.
        champion: None if there is none.
        real: Of the candidate; None if it was not asked for.
        own_labels: Of the candidate, by head; empty where it was not fine-tuned on a person's labels.
        silent_models: ``candidate`` and ``champion``, if they do not say what they have seen in training.
        earlier_candidates: Other candidates that the gate has judged on some of these test images before.
    """

    candidate: Evaluated
    champion: Champion | None
    real: RealEvidence | None = None
    own_labels: dict[Head, OwnLabelFacts] = {}
    silent_models: tuple[str, ...]
    earlier_candidates: Count


def decisive(
    found: Mapping[Any, Estimate], choose: Callable[[Iterable[float]], float], by: By = "value"
) -> tuple[str, Estimate] | None:
    """Name and estimate of the one of several that counts, by its value or an end; None if there are none.

    One without that number comes first: it might be the one.
    """
    numbers = {name: getattr(estimate, by) for name, estimate in found.items()}
    if not numbers:
        return None
    extreme = None if None in numbers.values() else choose(numbers.values())
    return next((str(name), found[name]) for name, number in numbers.items() if number == extreme)
