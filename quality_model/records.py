"""The words and record types that every part of the system shares.

A score or label says how bad a degradation is: 0 is absent, 1 is severe. The overall
score is the other way round: 1 is an image without fault.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

Head = Literal["color_cast", "blurriness", "watermark", "noise"]

HEADS: Final[tuple[Head, ...]] = ("color_cast", "blurriness", "watermark", "noise")
"""The heads in the order of labels.npy's columns and of the model's ``all_scores``."""

SCORE_COLUMNS: Final = (*HEADS, "overall", "worst_score")
"""The columns of scores in a result and in the pipelines of others."""

OVERALL_WEIGHTS: Final[dict[Head, float]] = {
    "color_cast": 0.2,
    "blurriness": 0.3,
    "watermark": 0.25,
    "noise": 0.25,
}
"""overall = 1 - sum(weight x score); the weights of the original design, which add up to 1."""

REFERENCE_SIDE_PX: Final = 224
"""Lengths of degradations and measures are in pixels of an image of this side, and scale with the side."""

SHORT_NAMES: Final[dict[Head, str]] = {
    "color_cast": "CC",
    "blurriness": "Blur",
    "watermark": "WM",
    "noise": "Noise",
}

MEANINGS: Final[dict[str, str]] = {
    "color_cast": "0 neutral, 1 a strong cast",
    "blurriness": "0 sharp, 1 heavily blurred",
    "watermark": "0 no watermark, 1 a dominant one",
    "noise": "0 clean, 1 very noisy",
    "overall": "1 no fault, 0 every fault at its worst",
}

FLAG_COLUMNS: Final[dict[Head, str]] = {
    "color_cast": "is_color_cast",
    "blurriness": "is_blurry",
    "watermark": "is_watermarked",
    "noise": "is_noisy",
}
"""The columns of scores that say whether a head's score is above the model's threshold."""

IMAGE_COLUMNS: Final = (
    "image", "img", "photo", "picture", "jpg", "jpeg", "png", "webp", "image_bytes", "img_bytes", "content",
    "file", "bytes", "data", "images",
)  # fmt: skip
"""Names of columns that hold encoded images, most likely first."""

SCHEMA_VERSION: Final = 2
"""Version of the columns of scores and of the layout of a scoring result (docs/results-format.md)."""

SCALE_VERSION: Final = "1"
"""Version of what a score means: that of the severity formula and its constants.

A score predicts ``log(1 + m / m0) / log(1 + m1 / m0)``, at most 1, of one physical measure m per
head; `degrade.severity` has the measures and the constants m0 and m1. Scores of the same
version can be compared with each other and with the same thresholds, those of different ones cannot.
docs/gate.md says when it rises.
"""

FIRST_SCALE_VERSION: Final = "1"
"""That of models whose files do not say."""

RAW_SCALE: Final = "-raw"
"""Follows the version of scores that are left without their model's map to it (`core.scale`)."""

Split = Literal["train", "validation", "test"]
SPLITS: Final[tuple[Split, ...]] = ("train", "validation", "test")

JOINT: Final = " + "
"""Joins the sources of an expression like ``sample-photos*250 + ./images``."""

REPOSITORY: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
"""``owner/name`` of the Hugging Face hub."""

_COUNTED: Final = re.compile(r"(?P<name>.*\S)\*(?P<count>\d+)")
_SEPARATORS: Final = re.compile(r"[/\\]+")


def overall_score(scores: Mapping[Head, float]) -> float:
    """Combine the four scores, each in [0, 1], into the overall one in [0, 1], 1 best."""
    return 1.0 - sum(OVERALL_WEIGHTS[head] * scores[head] for head in HEADS)


def flagged_heads(scores: Mapping[Head, float], thresholds: Mapping[Head, float] | None) -> tuple[Head, ...]:
    """The heads whose score is above the model's threshold, in the order of `HEADS`.

    A head without a threshold flags nothing, and neither does a model without any.
    """
    limits = thresholds or {}
    return tuple(head for head in HEADS if head in limits and scores[head] > limits[head])


@dataclass(frozen=True, slots=True)
class ModelRef:
    """Which model: the one identity that scores, evidence and decisions name.

    Attributes:
        name: The registered model, the bundled model (``bundled``), or the path of the model's files.
        version: Its number in the registry; None outside a registry.
        run_id: The tracked run that trained it; None if there is none.
        sha256: Hash of its weights file.
    """

    name: str
    version: str | None
    run_id: str | None
    sha256: str

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.name} version {self.version}" if self.version else self.name


@dataclass(frozen=True, slots=True)
class QualityScores:
    """The scores of one image: four severities in [0, 1], and overall in [0, 1], 1 best.

    ``flags`` names the heads whose score is above the model's threshold; none if the model
    came without thresholds.
    """

    color_cast: float
    blurriness: float
    watermark: float
    noise: float
    overall: float
    flags: tuple[Head, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON values: five numbers, and the flags as a list."""
        return {**asdict(self), "flags": list(self.flags)}


@dataclass(frozen=True, slots=True)
class CleanImage:
    """A row of the images table: a clean image, or why there is none.

    ``data`` are the original encoded bytes; ``error_code`` is None exactly when they decode.
    ``group`` names what the image was cut from: crops of one photograph share it.
    ``origin`` says where the bytes came from (package and file, dataset at a commit and
    row, or a path relative to the folder).
    """

    image_id: str
    group: str
    origin: str
    sha256: str
    data: bytes
    width: int | None
    height: int | None
    error_code: str | None


def split_expression(dataset: str) -> list[tuple[str, int | None]]:
    """The sources that an expression joins, each with its number of images; None if it shares the rest."""
    found: list[tuple[str, int | None]] = []
    for part in dataset.split(JOINT):
        counted = _COUNTED.fullmatch(part.strip())
        found.append((counted["name"], int(counted["count"])) if counted else (part.strip(), None))
    return found


def last_name(path: str) -> str:
    """What a path of this machine, or of another kind of machine, ends with."""
    return _SEPARATORS.split(path.rstrip("/\\"))[-1]


def without_folders(dataset: str) -> str:
    """The expression without paths of this machine: of a folder's path, its last name alone."""
    parts = []
    for name, count in split_expression(dataset):
        shown = name if REPOSITORY.fullmatch(name) else last_name(name)
        parts.append(shown if count is None else f"{shown}*{count}")
    return JOINT.join(parts)
