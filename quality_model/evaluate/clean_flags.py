"""Thresholds of the heads, and how many clean images they flag.

A head flags an image whose score is above its threshold. A false alarm costs a good image,
so thresholds are set by their share on clean images: on the validation split, as they are
a choice, and checked on the test split. A clean image is there as it is and in the samples that
no degradation fell to, which are recompressed or rescaled; each counts.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from quality_model.records import HEADS, Head


def calibrate_thresholds(scores: npt.ArrayLike, share: float) -> dict[Head, float] | None:
    """The smallest threshold of each head that flags at most ``share`` of clean images.

    Args:
        scores: (n, 4) scores of clean images, in the order of `HEADS`.
        share: In [0, 1]. With few images it is kept below rather than above: at most
            floor(share * n) of them are flagged, which is none below 1 / share images.

    Returns:
        By head, in [0, 1]; None without images.
    """
    values = np.sort(np.asarray(scores, dtype=np.float64).reshape(-1, len(HEADS)), axis=0)
    if len(values) == 0:
        return None
    allowed = min(int(share * len(values) + 1e-9), len(values) - 1)  # 0.02 * 50 is 1, not 0.99...
    return {head: float(values[-1 - allowed, position]) for position, head in enumerate(HEADS)}


def flagged_shares(scores: npt.ArrayLike, thresholds: Mapping[Head, float]) -> dict[Head, float | None]:
    """The share of images that each head flags; None without images or without a threshold.

    Args:
        scores: (n, 4), in the order of `HEADS`.
        thresholds: By head.
    """
    values = np.asarray(scores, dtype=np.float64).reshape(-1, len(HEADS))
    return {
        head: float((values[:, position] > thresholds[head]).mean())
        if len(values) and head in thresholds
        else None
        for position, head in enumerate(HEADS)
    }


def clean_flags(scores: npt.ArrayLike, thresholds: Mapping[Head, float] | None) -> dict[str, dict[str, Any]]:
    """``threshold``, ``flagged_share`` and ``num_images`` by head, for the evaluation.

    Args:
        scores: (n, 4) scores of clean images, in the order of `HEADS`.
        thresholds: The model's; None if it has none, and then nothing is known of its flags.
    """
    values = np.asarray(scores, dtype=np.float64).reshape(-1, len(HEADS))
    known = thresholds or {}
    shares = flagged_shares(values, known)
    return {
        head: {
            "threshold": known.get(head),
            "flagged_share": shares[head],
            "num_images": len(values),
        }
        for head in HEADS
    }
