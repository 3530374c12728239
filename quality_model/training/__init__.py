"""Training: the recipe, the record of each epoch, and the state from which a run goes on."""

from quality_model.training.loop import TrainedModel, train
from quality_model.training.report import EpochReport
from quality_model.training.state import clear_checkpoints, training_code_sha256

__all__ = ["EpochReport", "TrainedModel", "clear_checkpoints", "train", "training_code_sha256"]
