"""A model's scores of training-set samples, beside their labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from quality_model.errors import CheckpointError
from quality_model.records import HEADS, OVERALL_WEIGHTS

STATISTICS: Final = ("mean_brightness", "brightness_std")
"""Columns of the manifest that slices are cut by, each in [0, 1]."""

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from quality_model.data.dataset import TrainingSet


def predict_scores(
    model: torch.nn.Module,
    training_set: TrainingSet,
    indices: npt.ArrayLike,
    *,
    batch_size: int,
    device: torch.device,
) -> npt.NDArray[np.float32]:
    """Score samples in float32, reading the memory map one batch at a time.

    Args:
        model: On ``device``; its forward returns ``all_scores``. It is put into evaluation
            mode for the time being.
        training_set: Holds the pixels.
        indices: (n,) rows of the training dataset, scored in this order.
        batch_size: Samples per forward pass.
        device: Where the model is.

    Returns:
        float32 (n, 4), each in [0, 1], columns in the order of `records.HEADS`.

    Raises:
        CheckpointError: A score is not finite: the weights are damaged.
    """
    return _score(model, training_set.images, np.asarray(indices, dtype=np.int64), batch_size, device)


def predict_pixels(
    model: torch.nn.Module, pixels: npt.NDArray[np.uint8], *, batch_size: int, device: torch.device
) -> npt.NDArray[np.float64]:
    """Score images, uint8 (n, S, S, 3), as `predict_scores` does; float64 (n, 4)."""
    return _score(model, pixels, np.arange(len(pixels)), batch_size, device).astype(np.float64)


def _score(
    model: torch.nn.Module,
    images: npt.NDArray[np.uint8],
    rows: npt.NDArray[np.int64],
    batch_size: int,
    device: torch.device,
) -> npt.NDArray[np.float32]:
    import torch

    from quality_model.networks.model import to_model_input

    scores = np.empty((len(rows), len(HEADS)), dtype=np.float32)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(rows), batch_size):
                batch = to_model_input(images[rows[start : start + batch_size]], device)
                scores[start : start + batch_size] = model(batch)["all_scores"].float().cpu().numpy()
    finally:
        model.train(was_training)
    if not np.isfinite(scores).all():
        bad = int((~np.isfinite(scores).all(axis=1)).sum())
        raise CheckpointError(
            f"The model gives scores that are not finite for {bad} of {len(rows)} samples.",
            "Its weights are damaged: use another checkpoint, or train again.",
        )
    return scores


def predictions_table(
    training_set: TrainingSet, indices: npt.ArrayLike, scores: npt.NDArray[np.float32]
) -> pd.DataFrame:
    """Scores beside labels, a row per sample.

    Args:
        training_set: Holds labels and manifest.
        indices: (n,) rows of the training dataset.
        scores: float32 (n, 4), of the same rows.

    Returns:
        ``sample_id``, ``group``, ``row`` (in the training dataset), ``is_clean``; for each head
        ``{head}_kind`` (None where the degradation is absent), ``{head}_label``,
        ``{head}_score``; ``overall_label``, ``overall_score`` (1 best); and ``mean_brightness``
        and ``brightness_std`` where the manifest has them.
    """
    import pandas as pd

    rows = np.asarray(indices, dtype=np.int64)
    manifest = training_set.manifest.iloc[rows]
    labels = np.asarray(training_set.labels[rows], dtype=np.float64)
    weights = np.array([OVERALL_WEIGHTS[head] for head in HEADS])
    columns: dict[str, object] = {
        "sample_id": manifest["sample_id"].to_numpy(),
        "group": manifest["group"].to_numpy(),
        "row": rows,
        "is_clean": training_set.is_untouched[rows],
    }
    for position, head in enumerate(HEADS):
        kinds = manifest[f"{head}_kind"]
        columns[f"{head}_kind"] = kinds.astype(object).where(kinds.notna(), None).to_numpy()
        columns[f"{head}_label"] = labels[:, position]
        columns[f"{head}_score"] = scores[:, position].astype(np.float64)
    columns["overall_label"] = 1.0 - labels @ weights
    columns["overall_score"] = 1.0 - scores.astype(np.float64) @ weights
    columns |= {name: manifest[name].to_numpy(np.float64) for name in STATISTICS if name in manifest}
    return pd.DataFrame(columns)
