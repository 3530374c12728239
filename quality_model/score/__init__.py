"""Batch scoring: a collection of images in, a dataset of scores out.

The inputs are fixed in a plan when a job starts. Each part of the plan becomes one Parquet file with its own
completion marker, so that an interrupted job resumes at the first unfinished part. Every input is one row:
four scores, or the error code that says why there are none.

The names below are resolved on first use: the worker processes import `reading` alone, without PyArrow.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quality_model.score.inputs import Kind as Kind
    from quality_model.score.job import Scorer as Scorer
    from quality_model.score.job import score as score
    from quality_model.score.job import score_collection as score_collection
    from quality_model.score.rows import ScoringModel as ScoringModel
    from quality_model.score.summary import ScoreSummary as ScoreSummary

__all__ = ["Kind", "ScoreSummary", "Scorer", "ScoringModel", "score", "score_collection"]

_HOMES = {
    "Kind": "inputs",
    "ScoreSummary": "summary",
    "Scorer": "job",
    "ScoringModel": "rows",
    "score": "job",
    "score_collection": "job",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
