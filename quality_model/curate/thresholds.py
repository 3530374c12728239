"""Thresholds of one's own: what flags a share of the scored images, and the file that keeps thresholds.

An image is flagged where its score is *above* the threshold, everywhere in this project.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Final, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from quality_model.core import storage
from quality_model.curate.finished import FinishedResult
from quality_model.errors import QualityModelError, UsageError
from quality_model.records import HEADS, Head, ModelRef

_Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
_MOST_DIGITS: Final = 17


@dataclass(frozen=True, slots=True)
class RateThreshold:
    """What flags a share of the scored images by one head.

    Attributes:
        num_images: That have scores.
        threshold: A score above it is flagged.
        rate: The share that it flags: the target, or less where images have the same score.
        present, present_rate: The threshold that the result was made with, and the share it flags; None
            where it has none.
    """

    head: Head
    num_images: int
    threshold: float
    rate: float
    present: float | None
    present_rate: float | None


def thresholds_for_rate(
    result: FinishedResult, target: float, heads: Sequence[Head] = HEADS
) -> list[RateThreshold]:
    """Of each head the threshold that flags at most the share ``target`` of the scored images, in [0, 1).

    Raises:
        UsageError: No image has scores, or ``target`` is out of range.
    """
    table = result.rows(heads).drop_null()
    if not table.num_rows:
        raise UsageError(f"No image of {result.folder} has scores.", "Score images that can be read.")
    found = []
    for head in heads:
        scores = table[head].to_numpy().astype(np.float64)
        threshold, present = threshold_for_rate(scores, target), result.thresholds.get(head)
        rate = float((scores > threshold).mean())
        before = None if present is None else float((scores > present).mean())
        found.append(RateThreshold(head, len(scores), threshold, rate, present, before))
    return found


def threshold_for_rate(scores: npt.ArrayLike, target: float) -> float:
    """The threshold that flags as many of ``scores`` (n,) as it can without exceeding a share.

    Of n scores, k = floor(target n) may be above it (target as the decimal that it is written as), so it is
    the (k + 1)-th highest score, or a shorter decimal that flags the same ones. Equal scores are flagged
    together or not at all.

    Args:
        scores: In [0, 1], at least one.
        target: In [0, 1).

    Raises:
        UsageError: It is not.
    """
    if not 0.0 <= target < 1.0:
        raise UsageError(
            f"The share to flag is {target:g}.",
            "Give one from 0 to below 1, such as --target-flag-rate 0.05.",
        )
    values = np.sort(np.asarray(scores, dtype=np.float64))[::-1]
    low = values[int(Fraction(repr(float(target))) * len(values))]
    higher = values[values > low]
    return shortest_between(float(low), float(higher[-1]) if len(higher) else 1.0)


def shortest_between(low: float, high: float) -> float:
    """The decimal with the fewest digits in [low, high), near the middle; ``low`` if there is no shorter."""
    for digits in range(1, _MOST_DIGITS):
        if low <= (value := round((low + high) / 2.0, digits)) < high:
            return value
    return low


class MadeWith(BaseModel):
    """The model whose scores thresholds were chosen from.

    ``scale_version`` is that of the scores: with another one, the same number means another severity.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    version: str | None
    sha256: str
    scale_version: str

    @property
    def title(self) -> str:
        return f"{self.name} version {self.version}" if self.version else self.name


class OwnThresholds(BaseModel):
    """Thresholds of at least one head with their model, as the JSON file has them."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    thresholds: dict[Head, _Share] = Field(min_length=1)
    model: MadeWith

    @classmethod
    def of(cls, by_head: dict[Head, float], model: ModelRef, scale_version: str) -> Self:
        made_with = MadeWith(
            name=model.name, version=model.version, sha256=model.sha256, scale_version=scale_version
        )
        return cls(thresholds=by_head, model=made_with)

    def merged_into(self, path: Path) -> "OwnThresholds":
        """These, and those of other heads that the file has; these alone if there is no file.

        Raises:
            UsageError: The file has thresholds of another model, or is no file of thresholds.
        """
        if not path.exists():
            return self
        earlier = read_own_thresholds(path)
        theirs, ours = earlier.model, self.model
        if (theirs.sha256, theirs.scale_version) != (ours.sha256, ours.scale_version):
            raise UsageError(
                f"{path} has thresholds of {theirs.title} ({theirs.sha256[:12]}), and these are of"
                f" {ours.title} ({ours.sha256[:12]}).",
                "Write to another file.",
            )
        merged = earlier.thresholds | self.thresholds
        return OwnThresholds(thresholds={head: merged[head] for head in HEADS if head in merged}, model=ours)

    def write(self, path: Path) -> None:
        """Write the file, durably."""
        storage.write_json(path, self.model_dump())


_BY_HAND: Final = TypeAdapter(
    Annotated[dict[Head, _Share], Field(min_length=1)], config=ConfigDict(strict=True)
)
"""Heads and scores alone, as a person writes them."""


def read_thresholds(path: Path, *, scale_version: str | None = None) -> Mapping[Head, float]:
    """The thresholds of a file, per head, in [0, 1].

    `calibrate` or `thresholds` wrote it, or a person: a JSON object of heads and scores, ``{"noise": 0.1}``.

    Args:
        scale_version: Of the scores that they are to be used on; not compared with a file that names none.

    Raises:
        UsageError: There is no such file, it is another one, or it is of another scale of scores.
    """
    with _explained(path):
        content = storage.read_json(path)
        if not isinstance(content, dict) or "thresholds" not in content:
            return _BY_HAND.validate_python(content)
    found = read_own_thresholds(path)
    if scale_version not in (None, found.model.scale_version):
        raise UsageError(
            f"{path} has thresholds of scale version {found.model.scale_version}, and the scores are of"
            f" {scale_version}.",
            "Make thresholds from these scores, with `quality-model thresholds` or `calibrate`.",
        )
    return found.thresholds


def read_own_thresholds(path: Path) -> OwnThresholds:
    """The whole content of a file that `calibrate` or `thresholds` wrote.

    Raises:
        UsageError: There is no such file, or it is another one.
    """
    with _explained(path):
        return OwnThresholds.model_validate(storage.read_json(path))


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Say of a file that is no file of thresholds why, and what to do."""
    remedy = (
        'Make it with `quality-model thresholds` or `calibrate`, or write heads and scores: {"noise": 0.1}.'
    )
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise UsageError(f"{path} is no file of thresholds: {place}: {first['msg']}.", remedy) from None
    except QualityModelError as error:
        raise UsageError(error.problem, remedy) from None


def lines_to_use(by_head: Mapping[Head, float], written: Path | None, output: Path | None) -> list[str]:
    """How the thresholds are used: as flags, in params.yaml, and with `filter`."""
    flags = " ".join(f"--flag {head}={shown(value)}" for head, value in by_head.items())
    pairs = ", ".join(f"{head}: {shown(value)}" for head, value in by_head.items())
    lines = [f"score and predict:  {flags}", f"params.yaml:        score.thresholds: {{{pairs}}}"]
    if written is not None:
        chosen = "".join(f" --flagged {head}" for head in by_head if len(by_head) < len(HEADS))
        lines.append(
            f"a finished result:  quality-model filter {output or 'OUT'} --thresholds {written}{chosen}"
        )
    return lines


def shown(threshold: float) -> str:
    """The threshold as text that reads as the same number, without an exponent."""
    return np.format_float_positional(threshold, trim="-")
