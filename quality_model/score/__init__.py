"""Batch scoring: a collection of images in, Parquet shards of scores and reasons out.

The listing of inputs is fixed in a plan when a job starts; each shard of the plan becomes
one output file with its own marker, so that an interrupted job goes on at the first
unfinished shard. Every input is one row: four scores, or the reason why there are none.
"""

from quality_model.score.collection import Kind
from quality_model.score.identity import ModelIdentity, Scorer
from quality_model.score.job import score
from quality_model.score.plan import planned_engine
from quality_model.score.summary import ScoreSummary

__all__ = ["Kind", "ModelIdentity", "ScoreSummary", "Scorer", "planned_engine", "score"]
