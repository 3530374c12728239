"""What a model does on samples that it has not seen: scores, measures, images."""

from quality_model.evaluate.measures import Evaluation, evaluate, require_size, write_evaluation
from quality_model.evaluate.predictions import predict_scores, predictions_table

__all__ = [
    "Evaluation",
    "evaluate",
    "predict_scores",
    "predictions_table",
    "require_size",
    "write_evaluation",
]
