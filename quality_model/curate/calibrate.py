"""How well a head tells a person's good images from the bad ones, by which threshold, and how sure that is.

Made for ten to forty images of each label. The interval of the area under the ROC curve is Newcombe's, which
has width at an area of 1 where those of DeLong, of the logit and of the bootstrap have none. The rates of the
threshold are of images that it was not chosen from. The scores of the labelled images are those of a finished
result, or made on the spot.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from quality_model.core.predict import Scorer
from quality_model.curate.finished import FinishedResult
from quality_model.curate.labels import Floats, Labels, Measured, area_under_curve, auc_interval
from quality_model.curate.thresholds import shortest_between
from quality_model.errors import UsageError
from quality_model.records import Head
from quality_model.score.inputs import NO_CHOICE, InputChoice
from quality_model.score.stream import iter_scores, wilson

FEWEST: Final = 5
"""Good or bad images below which nothing is said: even if all were in order, the area could be below .7."""

WORKS_FROM: Final = 0.8
"""A head works on these images if its area is at least this at 95 %: four pairs of five in order."""

KNOWN_TO: Final = 0.1
"""A threshold is known where the interval of neither rate is wider than plus and minus this."""

_RESAMPLES: Final = 2000
_MOST_FOLDS: Final = 200
_MOST_IMAGES: Final = 1000


@dataclass(frozen=True, slots=True)
class Share:
    """How many of some images; the interval of the share is Wilson's, at 95 %."""

    count: int
    total: int

    @property
    def share(self) -> float:
        return self.count / self.total

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.count, self.total)

    @property
    def half_width(self) -> float:
        low, high = self.interval
        return (high - low) / 2.0

    @property
    def images_needed(self) -> int:
        """The least number of images, at this share, whose interval is within `KNOWN_TO`; 1000: or more."""
        for total in range(self.total, _MOST_IMAGES):
            low, high = wilson(round(self.share * total), total)
            if high - low <= 2.0 * KNOWN_TO:
                return total
        return max(self.total, _MOST_IMAGES)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.count} of {self.total} ({low:.0%} to {high:.0%})"


@dataclass(frozen=True, slots=True)
class Rates:
    """What a threshold flags: of the bad images (found), and of the good ones (wrongly)."""

    found: Share
    wrongly: Share

    def __str__(self) -> str:
        return f"{self.found} of the bad ones, {self.wrongly} of the good ones"


@dataclass(frozen=True, slots=True)
class Calibration:
    """One head on labelled images.

    Attributes:
        auc: The share of (bad, good) pairs in order, a tie being half a pair.
        threshold: Of the highest balanced accuracy; None where none is better than chance.
        rates: Of such thresholds, on images that they were not chosen from; None without a threshold.
        present, present_rates: The threshold in use now, and what it flags; None where there is none.
    """

    head: Head
    num_good: int
    num_bad: int
    auc: Measured
    threshold: Measured | None
    rates: Rates | None
    present: float | None
    present_rates: Rates | None

    @property
    def works(self) -> bool | None:
        """Whether the head works on these images; None: too few to say."""
        if self.auc.low >= WORKS_FROM:
            return True
        return False if self.auc.high < WORKS_FROM else None

    @property
    def is_known(self) -> bool:
        """Whether there are enough images for the threshold."""
        return self.rates is not None and all(
            share.half_width <= KNOWN_TO for share in (self.rates.found, self.rates.wrongly)
        )

    @property
    def needed(self) -> tuple[int, int]:
        """About how many more good and bad images the threshold needs, if its rates stay as they are."""
        if self.rates is None:
            return 0, 0
        found, wrongly = self.rates.found, self.rates.wrongly
        return wrongly.images_needed - wrongly.total, found.images_needed - found.total

    @property
    def present_is_as_good(self) -> bool:
        """Whether each rate of the present threshold is within the interval of the best one's, or better."""
        if self.rates is None or self.present_rates is None:
            return False
        best, now = self.rates, self.present_rates
        return now.found.share >= best.found.interval[0] and now.wrongly.share <= best.wrongly.interval[1]

    def lines(self) -> list[str]:
        """The calibration for a console."""
        auc = self.auc
        lines = [
            f"{self.head}: {self.num_good} good and {self.num_bad} bad images; intervals are at 95 %",
            f"  area under the ROC curve  {auc.value:.3f} ({auc.low:.3f} to {auc.high:.3f})",
        ]
        if self.threshold is not None:
            cut = self.threshold
            lines.append(f"  best threshold            {cut.value:.4g} ({cut.low:.4g} to {cut.high:.4g})")
            lines.append(f"    flags, of images left out  {self.rates}")
        if self.present is not None:
            lines.append(f"  present threshold         {self.present:.4g}")
            lines.append(f"    flags                      {self.present_rates}")
            if self.present_is_as_good:
                lines.append("    Within the intervals: to keep the present one is as good.")
        return [*lines, f"  {self.verdict()}"]

    def verdict(self) -> str:
        """Whether so many images are enough to say, and how many more it takes."""
        total = self.num_good + self.num_bad
        if self.works is None:
            first = f"not enough to see whether the head works (area above or below {WORKS_FROM:g})"
        elif self.works:
            first = f"enough to see that the head works (area at least {self.auc.low:.2f})"
        else:
            first = f"enough to see that the head does not work here (area at most {self.auc.high:.2f})"
        if self.rates is None:
            return f"{total} images: {first}; no threshold is better than chance."
        if self.works is False:
            return f"{total} images: {first}: no threshold parts them well."
        if self.is_known:
            return f"{total} images: {first}, and for the threshold (its rates to ±{KNOWN_TO:.0%})."
        worst = max(self.rates.found.half_width, self.rates.wrongly.half_width)
        needed = zip(self.needed, ("good", "bad"), strict=True)
        more = " and ".join(f"{count} more {side}" for count, side in needed if count)
        return (
            f"{total} images: {first}, not enough for the threshold (its rates to ±{worst:.0%}, not"
            f" ±{KNOWN_TO:.0%}): label about {more} ones."
        )


def calibrate(
    head: Head, good: npt.ArrayLike, bad: npt.ArrayLike, *, present: float | None = None
) -> Calibration:
    """Measure a head on the scores of images that a person called good and bad.

    Args:
        good, bad: (n,) and (m,), in [0, 1], higher where worse.
        present: The threshold in use now.

    Raises:
        UsageError: There are fewer than `FEWEST` of one of them.
    """
    first, second = (np.sort(np.asarray(scores, dtype=np.float64)) for scores in (good, bad))
    if min(len(first), len(second)) < FEWEST:
        raise UsageError(
            f"{head}: {len(first)} good and {len(second)} bad images are too few to say anything.",
            f"Label at least {FEWEST} of each; 10 to 20 of each show whether the head works.",
        )
    threshold = best_threshold(first, second)
    return Calibration(
        head,
        len(first),
        len(second),
        auc_interval(area_under_curve(first, second), len(first), len(second)),
        threshold,
        None if threshold is None else held_out_rates(first, second),
        present,
        None if present is None else _rates(first > present, second > present),
    )


def best_gap(good: Floats, bad: Floats) -> tuple[float, float] | None:
    """Between which scores the threshold of the highest balanced accuracy is; None if none beats chance.

    Every threshold in [low, high) flags the same images. It has the highest Youden's J, which is sensitivity
    + specificity - 1 (Youden, Cancer 3, 1950); of equal ones the widest gap, of these the lowest. Where good
    and bad are separable, it is the gap between them.

    Args:
        good, bad: (n,) and (m,), in [0, 1], at least one of each.
    """
    values = np.unique(np.concatenate([good, bad]))
    passed = np.searchsorted(np.sort(good), values, side="right")
    found = len(bad) - np.searchsorted(np.sort(bad), values, side="right")
    right = passed * len(bad) + found * len(good)  # integers, so that equal ones are equal
    if right.max() <= len(good) * len(bad):
        return None
    best = np.flatnonzero(right == right.max())
    widest = best[np.argmax(values[best + 1] - values[best])]
    return float(values[widest]), float(values[widest + 1])


def best_threshold(good: Floats, bad: Floats) -> Measured | None:
    """The middle of `best_gap`, as a short decimal, with a 95 % interval; None if no threshold beats chance.

    The interval is from the 2.5 % quantile of the lower ends to the 97.5 % quantile of the upper ends of the
    best gaps of 2000 resamples of good and of bad images (Efron and Tibshirani, An Introduction to the
    Bootstrap, 1993, chapter 13; stratified). A resample in which nothing beats chance allows every
    threshold. In simulations with 10 and 20 images of each it covers 97 to 100 %; one of the middles of the
    gaps would be narrower and cover 88 to 95 %.
    """
    gap = best_gap(good, bad)
    if gap is None:
        return None
    generator = np.random.default_rng(0)
    ends = np.array(
        [
            best_gap(generator.choice(good, len(good)), generator.choice(bad, len(bad))) or (0.0, 1.0)
            for _ in range(_RESAMPLES)
        ]
    )
    low, high = float(np.quantile(ends[:, 0], 0.025)), float(np.quantile(ends[:, 1], 0.975))
    return Measured(_middle(gap), min(low, gap[0]), max(high, gap[1]))


def held_out_rates(good: Floats, bad: Floats) -> Rates:
    """What the best threshold flags of images that it was not chosen from.

    Each image is judged by the threshold of all others (Stone, J. R. Stat. Soc. B 36, 1974); of more than 200
    images one in 200 is left out at a time. The rates on the images that it was chosen from flatter it.
    """
    scores, is_bad = np.concatenate([good, bad]), np.repeat([False, True], [len(good), len(bad)])
    fold = np.arange(len(scores)) % _MOST_FOLDS
    flagged = np.zeros(len(scores), dtype=bool)
    for number in range(min(_MOST_FOLDS, len(scores))):
        kept = fold != number
        gap = best_gap(scores[kept & ~is_bad], scores[kept & is_bad])
        flagged[~kept] = gap is not None and scores[~kept] > _middle(gap)
    return _rates(flagged[~is_bad], flagged[is_bad])


def _rates(good_flagged: npt.NDArray[np.bool_], bad_flagged: npt.NDArray[np.bool_]) -> Rates:
    good, bad = (Share(int(flags.sum()), len(flags)) for flags in (good_flagged, bad_flagged))
    return Rates(found=bad, wrongly=good)


def _middle(gap: tuple[float, float]) -> float:
    """The shortest decimal in the middle third of a gap."""
    low, high = gap
    third = (high - low) / 3.0
    return shortest_between(low + third, high - third)


# -- the scores of labelled images


@dataclass(frozen=True, slots=True)
class LabelledScores:
    """The scores of labelled images by one head.

    Attributes:
        good, bad: float64 (n,) and (m,), in [0, 1].
        not_scored: Labelled images that have an error in place of scores, each with its error code.
    """

    head: Head
    good: Floats
    bad: Floats
    not_scored: tuple[str, ...]


def scores_in_result(result: FinishedResult, labels: Labels) -> list[LabelledScores]:
    """The scores that a result has of labelled images, for every head that has labels.

    Raises:
        UsageError: A labelled image is not in the result.
    """
    named = pa.array(sorted({key for of_head in labels.values() for key in of_head}), pa.string())
    everything = result.rows(["key", *labels, "error_code"])
    rows = everything.filter(pc.is_in(everything["key"], value_set=named))
    if others := sorted({*named.to_pylist()} - {*rows["key"].to_pylist()}):
        first = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise UsageError(
            f"{len(others)} of {len(named)} labelled images are not in {result.folder}: {first}.",
            f"Its keys are such as {everything['key'][0]}. Name the result that they were labelled in, or"
            " score the same collection again.",
        )
    by_key = {row["key"]: row for row in rows.to_pylist()}
    found = []
    for head, of_head in labels.items():
        scored: dict[bool, list[float]] = {False: [], True: []}
        failed = []
        for key, is_bad in of_head.items():
            if (score := by_key[key][head]) is None:
                failed.append(f"{key}: {by_key[key]['error_code']}")
            else:
                scored[is_bad].append(score)
        found.append(LabelledScores(head, np.array(scored[False]), np.array(scored[True]), tuple(failed)))
    return found


def scores_of_collections(
    good: str, bad: str, head: Head, scorer: Scorer, *, choice: InputChoice = NO_CHOICE, workers: int = 0
) -> LabelledScores:
    """Score a collection of good images and one of bad ones; each is what the command `score` takes.

    Raises:
        UsageError: Both are the same place, or an image is in both; and as of `iter_scores`.
    """
    if Path(good).resolve() == Path(bad).resolve():
        raise UsageError(f"The good and the bad images are both {good}.", "Name two collections.")
    scored: dict[str, list[float]] = {}
    failed: list[str] = []
    place_of: dict[str, tuple[str, str]] = {}
    for place in (good, bad):
        items = iter_scores(
            place,
            scorer,
            kind=choice.kind,
            image_column=choice.image_column,
            key_column=choice.key_column,
            workers=workers,
        )
        scored[place] = []
        for item in items:
            if item.scores is None:
                failed.append(f"{item.key}: {item.error.reason if item.error else 'not_scored'}")
                continue
            other, key = place_of.setdefault(item.sha256 or item.key, (place, item.key))
            if other != place:
                raise UsageError(
                    f"{item.key} in {bad} is the same image as {key} in {good}.", "Leave it in one of them."
                )
            scored[place].append(getattr(item.scores, head))
    return LabelledScores(head, np.array(scored[good]), np.array(scored[bad]), tuple(failed))
