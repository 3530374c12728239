"""The share of clean images that each head flags: of all, and of slices."""

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from quality_model.evaluate.clean_images import CleanScores
from quality_model.evaluate.evidence import CleanFlags, FlaggedShare
from quality_model.evaluate.metrics import Bootstrap
from quality_model.records import HEADS, Head

FEWEST_IMAGES: Final = 20
"""A slice of clean images with fewer has no share of flags."""


def clean_samples(clean: pd.DataFrame) -> CleanScores:
    """The scores of the clean samples among predictions (`predictions.predictions_table`)."""
    scores = clean[[f"{head}_score" for head in HEADS]].to_numpy()
    return CleanScores(False, [scores], [*clean["group"]])


def measure_flags(
    bootstrap: Bootstrap, clean: CleanScores, thresholds: Mapping[Head, float] | None, head: Head
) -> CleanFlags:
    """The share of clean images that a head flags; not defined without images or a threshold.

    A slice of fewer than `FEWEST_IMAGES` is left out. An image counts as it is, and as a look-alike. Of
    the dataset's samples those count to which nothing was added, recompressed and rescaled ones too.
    """
    threshold, groups = (thresholds or {}).get(head), np.array(clean.groups)
    scores = clean.scores[0][:, HEADS.index(head)].astype(np.float64)
    flagged = scores > (np.inf if threshold is None else threshold)

    def of(mask: npt.NDArray[np.bool_]) -> FlaggedShare:
        own = () if threshold is None else flagged[mask]
        share = bootstrap.share(own, groups[mask])
        return FlaggedShare(num_images=int(mask.sum()), flagged_share=share)

    slices = {name: of(mask) for name, mask in clean.slice_masks().items() if mask.sum() >= FEWEST_IMAGES}
    every = of(np.ones(len(scores), dtype=bool))
    return CleanFlags(**dict(every), threshold=threshold, slices=slices)
