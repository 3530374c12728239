"""Great Expectations over the tables: images, training dataset, scores.

The only part that imports great_expectations, which takes seconds, and does so when a
table is validated. Pixels are never looked at: tables and per-sample statistics only.
"""

from quality_model.data.checks.images import validate_images
from quality_model.data.checks.training_set import validate_training_set

__all__ = ["validate_images", "validate_training_set"]
