"""Great Expectations over the images table and the training dataset: tables and statistics, never pixels."""

from quality_model.data.checks.dataset_checks import validate_training_set
from quality_model.data.checks.image_checks import validate_images
from quality_model.data.checks.scores import validate_scores

__all__ = ["validate_images", "validate_scores", "validate_training_set"]
