"""Which samples belong together: by severity, brightness, detail and source.

The edges are fixed and not quantiles of the split, so that a slice means the same for every
training dataset and a model can be compared with an earlier one.

- ``severity``: label of the samples that have the degradation, in quarters.
- ``brightness``: mean of the grey sample, in thirds.
- ``detail``: standard deviation of the grey sample. Photographs lie around 0.2; below 0.15 are
  fog, sky and studio backgrounds, above 0.25 hard light and much structure. Blur lowers it and
  noise raises it, so these are slices of what the model sees, not of the scene.
- ``source``: what stands before the first ``/`` of the group, where groups have one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

Mask = npt.NDArray[np.bool_]

SEVERITY_EDGES: Final = (0.25, 0.5, 0.75)
BRIGHTNESS_EDGES: Final = (0.33, 0.66)
DETAIL_EDGES: Final = (0.15, 0.25)

SEVERITY_BANDS: Final = ("0-0.25", "0.25-0.5", "0.5-0.75", "0.75-1")
BRIGHTNESS_BANDS: Final = ("dark", "middle", "bright")
DETAIL_BANDS: Final = ("plain", "middle", "detailed")

ALL_SOURCES: Final = "all"
FEWEST_SAMPLES: Final = 5
"""A slice with fewer gives its number of samples and no measures."""


def slice_masks(table: pd.DataFrame, head: str) -> dict[str, dict[str, Mask]]:
    """The rows of each slice of a head, by dimension and name.

    Args:
        table: ``group``, ``{head}_kind``, ``{head}_label`` and, where they are known,
            ``mean_brightness`` and ``brightness_std``, each in [0, 1]. A dimension whose
            column is missing has no slices.
    """
    present = table[f"{head}_kind"].notna().to_numpy(dtype=bool)
    severity = _bands(table[f"{head}_label"], SEVERITY_EDGES, SEVERITY_BANDS)
    return {
        "severity": {name: mask & present for name, mask in severity.items()},
        "brightness": _bands(table.get("mean_brightness"), BRIGHTNESS_EDGES, BRIGHTNESS_BANDS),
        "detail": _bands(table.get("brightness_std"), DETAIL_EDGES, DETAIL_BANDS),
        "source": _sources(table["group"]),
    }


def _bands(values: pd.Series | None, edges: Sequence[float], names: Sequence[str]) -> dict[str, Mask]:
    """Which values lie in which band; a value on an edge lies in the lower one."""
    if values is None:
        return {}
    places = np.searchsorted(edges, values.to_numpy(dtype=np.float64), side="left")
    return {name: np.asarray(places == place) for place, name in enumerate(names)}


def _sources(groups: pd.Series) -> dict[str, Mask]:
    parts = [str(group).partition("/") for group in groups]
    if not any(slash for _, slash, _ in parts):
        return {ALL_SOURCES: np.ones(len(groups), dtype=bool)}
    names = np.array([source for source, _, _ in parts])
    return {str(name): np.asarray(names == name) for name in np.unique(names)}
