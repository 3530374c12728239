"""Slices by severity, brightness, detail and source."""

import numpy as np
import pandas as pd
import pytest

from quality_model.evaluate.slices import slice_masks


def table(**changes: object) -> pd.DataFrame:
    columns: dict[str, object] = {
        "group": ["a", "a", "b", "c", "d"],
        "noise_kind": [None, "poisson", "poisson", "gaussian", "gaussian"],
        "noise_label": [0.0, 0.25, 0.26, 0.8, 1.0],
        "mean_brightness": [0.1, 0.33, 0.34, 0.66, 0.9],
        "brightness_std": [0.0, 0.14, 0.2, 0.25, 0.3],
    }
    return pd.DataFrame(columns | changes)


def rows(masks: dict[str, np.ndarray]) -> dict[str, list[int]]:
    return {name: np.flatnonzero(mask).tolist() for name, mask in masks.items()}


def test_severity_bands_hold_the_degraded_samples_and_an_edge_belongs_to_the_lower_band() -> None:
    bands = rows(slice_masks(table(), "noise")["severity"])
    assert bands == {"0-0.25": [1], "0.25-0.5": [2], "0.5-0.75": [], "0.75-1": [3, 4]}


def test_brightness_and_detail_divide_all_samples_among_their_bands() -> None:
    masks = slice_masks(table(), "noise")
    assert rows(masks["brightness"]) == {"dark": [0, 1], "middle": [2, 3], "bright": [4]}
    assert rows(masks["detail"]) == {"plain": [0, 1], "middle": [2, 3], "detailed": [4]}


def test_groups_without_a_source_are_one_slice_and_others_are_told_apart() -> None:
    assert rows(slice_masks(table(), "noise")["source"]) == {"all": [0, 1, 2, 3, 4]}
    named = table(group=["photos/1", "photos/1", "scans/2/x", "photos/3", "scans/9"])
    assert rows(slice_masks(named, "noise")["source"]) == {"photos": [0, 1, 3], "scans": [2, 4]}


@pytest.mark.parametrize("dimension", ["brightness", "detail"])
def test_a_manifest_without_the_statistic_has_no_such_slices(dimension: str) -> None:
    bare = table().drop(columns=["mean_brightness", "brightness_std"])
    assert slice_masks(bare, "noise")[dimension] == {}
