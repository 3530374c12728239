"""Scores how badly an image suffers from colour cast, blur, watermark and noise.

Importing this package imports nothing heavy and changes nothing; the names below
are resolved on first use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quality_model.core.predict import MultiHeadQualityInference as MultiHeadQualityInference
    from quality_model.networks.model import (
        MultiHeadQualityAssessmentModel as MultiHeadQualityAssessmentModel,
    )
    from quality_model.records import QualityScores as QualityScores

__version__ = "0.1.0"
__all__ = [
    "MultiHeadQualityAssessmentModel",
    "MultiHeadQualityInference",
    "QualityScores",
    "__version__",
]

_HOMES = {
    "MultiHeadQualityAssessmentModel": "quality_model.networks.model",
    "MultiHeadQualityInference": "quality_model.core.predict",
    "QualityScores": "quality_model.records",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
