"""Great Expectations over images table, training dataset and the aggregates of scores; never over pixels.

Only this package imports great_expectations, when a table is validated: that takes seconds.
"""

from quality_model.data.checks.dataset_checks import validate_training_set
from quality_model.data.checks.image_checks import validate_images

__all__ = ["validate_images", "validate_training_set"]
