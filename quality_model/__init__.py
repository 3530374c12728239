"""Scores how badly an image suffers from colour cast, blur, watermark and noise.

Importing this package imports nothing heavy and changes nothing; the names below
are resolved on first use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quality_model.core.predict import MultiHeadQualityInference as MultiHeadQualityInference
    from quality_model.core.predict import Scorer as Scorer
    from quality_model.errors import ImageError as ImageError
    from quality_model.networks.model import (
        MultiHeadQualityAssessmentModel as MultiHeadQualityAssessmentModel,
    )
    from quality_model.records import QualityScores as QualityScores
    from quality_model.score.stream import iter_scores as iter_scores

__version__ = "0.1.0"
__all__ = [
    "ImageError",
    "MultiHeadQualityAssessmentModel",
    "MultiHeadQualityInference",
    "QualityScores",
    "Scorer",
    "__version__",
    "iter_scores",
]

_HOMES = {
    "ImageError": "quality_model.errors",
    "MultiHeadQualityAssessmentModel": "quality_model.networks.model",
    "MultiHeadQualityInference": "quality_model.core.predict",
    "QualityScores": "quality_model.records",
    "Scorer": "quality_model.core.predict",
    "iter_scores": "quality_model.score.stream",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
