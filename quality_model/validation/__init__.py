"""Great Expectations over the tables: pictures, training set, scores.

The only part that imports great_expectations, which takes seconds, and does so when a
table is validated. Pixels are never looked at: tables and per-sample statistics only.
"""

from quality_model.validation.pictures import validate_pictures
from quality_model.validation.scores import validate_scores
from quality_model.validation.training_set import validate_training_set

__all__ = ["validate_pictures", "validate_scores", "validate_training_set"]
