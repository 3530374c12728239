"""Tracked runs: parameters, metrics, data, images and the model of each training, kept by MLflow."""

from quality_model.release.tracking.baselines import log_baselines
from quality_model.release.tracking.provenance import code_tags, data_tags
from quality_model.release.tracking.run import DataFacts, Run, deliver, resume_run, run_exists, start_run

__all__ = [
    "DataFacts",
    "Run",
    "code_tags",
    "data_tags",
    "deliver",
    "log_baselines",
    "resume_run",
    "run_exists",
    "start_run",
]
