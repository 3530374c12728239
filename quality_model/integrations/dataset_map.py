"""Scores as columns of a Hugging Face dataset.

from datasets import load_dataset
from quality_model.integrations.dataset_map import ScoreColumns

scored = load_dataset("imagefolder", data_dir="photos")["train"].map(ScoreColumns(), batched=True)
kept = scored.filter(lambda worst: worst < 0.5, input_columns="worst_score")
"""

from dataclasses import dataclass
from typing import Any

from quality_model.core.predict import ImageInput
from quality_model.errors import ImageError
from quality_model.integrations import Limits, scores_of
from quality_model.records import SCORE_COLUMNS


@dataclass
class ScoreColumns(Limits):
    """A function for ``Dataset.map(batched=True)``: four heads, overall, worst_score, error_code.

    Attributes:
        image_column: Images that `datasets` decodes, or ``{"bytes", "path"}`` if it does not, or paths.
    """

    image_column: str = "image"

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        results = self.score([_image(value) for value in batch[self.image_column]])
        rows = [scores_of(result) for result in results]
        codes = [result.reason if isinstance(result, ImageError) else None for result in results]
        return {name: [row[name] for row in rows] for name in SCORE_COLUMNS} | {"error_code": codes}


def _image(value: Any) -> ImageInput:
    if isinstance(value, dict):
        value = value["bytes"] if value.get("bytes") is not None else value["path"]
    return b"" if value is None else value
