"""Training: the recipe, the record of each epoch, and the state from which a run resumes."""

from quality_model.train.epochs import EpochReport
from quality_model.train.loop import TrainedModel, train

__all__ = ["EpochReport", "TrainedModel", "train"]
