"""What training keeps beside the weights of a model."""

from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from quality_model.params import Finite, Share
from quality_model.records import HEADS, Head


class HeadIntervals(BaseModel):
    """How far a head's score may be from the severity, by the bin that the score is in."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    edges: list[Finite]
    """where the next bin begins, rising"""
    half_widths: Annotated[list[Share], Field(min_length=1)]
    """of the interval around a score, one for each bin: one more than edges"""


class Intervals(BaseModel):
    """Prediction intervals around scores (`evaluate.predictions.calibrate_intervals`)."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    confidence: Share
    """share of images of the calibration's kind whose severity is within"""
    num_images: int
    """that they are calibrated on"""
    heads: dict[Head, HeadIntervals]

    def of(self, scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The ends of each score's interval, float32 (2, n, 4) in [0, 1], of scores float32 (n, 4)."""
        widths = np.empty_like(scores)
        for at, head in enumerate(HEADS):
            found = self.heads[head]
            places = np.searchsorted(found.edges, scores[:, at], side="right")
            widths[:, at] = np.array(found.half_widths)[places]
        return np.clip(np.stack([scores - widths, scores + widths]), 0.0, 1.0)


class ModelFacts(BaseModel):
    """What training kept beside the weights. What a model's files do not say is None.

    Keys that this version does not know are kept, and nothing reads them. A known key of another type is
    refused.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="allow")

    thresholds: dict[Head, Finite] | None = None
    """scores above which a head flags an image"""
    thresholds_whole: dict[Head, Finite] | None = None
    """the same for scores of the image squeezed to a square alone, where the model has other views"""
    thresholds_clean_samples: int | None = None
    """clean images that they are calibrated on"""
    thresholds_of_images: bool | None = None
    """whether those are whole images and look-alikes, with all views; else clean samples of the dataset"""
    intervals: Intervals | None = None
    """around scores of all the model's views"""
    seen_groups: list[str] | None = None
    """digests of the groups of images that the weights have seen (`data` has their definition), sorted"""
    settings: dict[str, Any] | None = None
    """the parameters that the weights depend on, by dotted key; plain JSON values"""
    data_sha256: str | None = None
    """of the training dataset"""
    data_rows: int | None = None
    """its samples"""
    data_groups: int | None = None
    """its groups"""
    dvc_data_hash: str | None = None
    """by which dvc.lock knows it"""
    params_sha256: str | None = None
    """of the settings"""
    version: str | None = None
    """of a bundled model: the first digits of the hash of the trained weights"""
    run_id: str | None = None
    """the MLflow run of the training"""
    trained_sha256: str | None = None
    """of a bundled model: hash of the trained weights, before half precision"""
    model_sha256: str | None = None
    """of a bundled model: hash of the trained model's folder"""
    package_version: str | None = None
    code_sha256: str | None = None
    git_commit: str | None = None
    git_dirty: str | None = None
    """``true`` or ``false``"""
    project_commit: str | None = None
    project_dirty: str | None = None
    image_licence: str | None = None
    training_fingerprint: str | None = None
    torch_version: str | None = None
    device: str | None = None
    precision: str | None = None
    memory_format: str | None = None
    compiled: bool | None = None
    best_epoch: int | None = None
    epochs_run: int | None = None
    stopped_early: bool | None = None
    num_train: int | None = None
    num_validation: int | None = None
    validation_loss: Finite | None = None
    validation_mse: dict[Head, Finite] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values of what is known."""
        values = {name: value for name, value in self if value is not None}
        return values | ({"intervals": self.intervals.model_dump(mode="json")} if self.intervals else {})
