"""The JSON document of scores that `predict --json` prints and a server answers (docs/results-format.md)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from quality_model.core.measures import measures_of
from quality_model.core.predict import Scorer
from quality_model.errors import ImageError
from quality_model.params import MeasureSet
from quality_model.records import HEADS, SCHEMA_VERSION, QualityScores
from quality_model.score.reading import Reading


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """One image: the same keys with scores and with an error.

    Attributes:
        path: What it is called; None if it has no name.
        reading: Its file.
        scores: Its scores, or why there are none.
        measures: Sets of measures that were asked for; those without a value are null.
    """

    path: str | None
    reading: Reading
    scores: QualityScores | ImageError
    measures: Sequence[MeasureSet] = ()

    @property
    def error(self) -> ImageError | None:
        """Why there are no scores."""
        return self.scores if isinstance(self.scores, ImageError) else None

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        known = ("sha256", "size_bytes", "width", "height", "format")
        measured = self.reading.measures or {}
        return {
            "path": self.path,
            **{key: getattr(self.reading, key) for key in known},
            **dict.fromkeys((*HEADS, "overall", "flags")),
            **({} if isinstance(self.scores, ImageError) else self.scores.to_dict()),
            **{each.name: measured.get(each.name) for each in measures_of(self.measures)},
            "error_code": self.error and self.error.reason,
            "error_detail": self.error and self.error.detail,
        }


@dataclass(frozen=True, slots=True)
class ScoreDocument:
    """What scored, and the rows of some images."""

    scorer: Scorer
    rows: Sequence[DocumentRow]

    def facts(self) -> dict[str, Any]:
        """The keys that say what scored, as JSON values."""
        of_model = {**asdict(self.scorer.source), "scale_version": self.scorer.scale_version}
        return {
            "schema_version": SCHEMA_VERSION,
            "model": of_model,
            "thresholds": self.scorer.thresholds,
        }

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**self.facts(), "images": [row.to_dict() for row in self.rows]}
