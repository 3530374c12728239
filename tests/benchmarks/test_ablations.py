"""The ablations: each takes away what it names, and nothing else is left of it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.ablations import ABLATIONS, auc
from quality_model.core.decoding import Pixels
from quality_model.degrade import PROFILES, SampleRandomness
from quality_model.train.variation import vary
from tests.evaluate.conftest import write_training_set


def test_few_scenes_are_all_that_is_trained_on_and_no_other_split_loses_any(
    tmp_path: Path, photo: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.ablations.FEW_SCENES", 4)
    training_set = write_training_set(tmp_path, photo)
    before = {split: training_set.indices(split) for split in ("train", "validation", "test")}
    with ABLATIONS["few-scenes"].around():
        train = training_set.indices("train")
        assert np.array_equal(training_set.indices("test"), before["test"])
        assert np.array_equal(training_set.indices("validation"), before["validation"])
    assert {*train} <= {*before["train"]}
    assert training_set.manifest["group"].iloc[train].nunique() == 4
    assert np.array_equal(training_set.indices("train"), before["train"])


def test_whole_views_are_shrunk_and_tiles_are_not_shrunk_to_grey() -> None:
    rows, columns = np.indices((320, 400))
    board = np.repeat((255 * ((rows + columns) % 2)).astype(np.uint8)[..., None], 3, axis=2)
    contrast = {}
    for name in ("whole-views", "tiles"):
        with ABLATIONS[name].around():
            shown = [vary(board, 64, 96, SampleRandomness(1, str(n)).stream("variation")) for n in range(30)]
        contrast[name] = [float(view.std()) for view in shown]
    assert max(contrast["whole-views"]) < 30
    assert max(contrast["tiles"]) > 120


def test_scenes_as_they_are_have_no_frame_and_no_variation_of_the_profile(photo: Pixels) -> None:
    def varied() -> int:
        drawn = [
            PROFILES["calibrated"].degrade(photo[:64, :64], SampleRandomness(1, str(n))) for n in range(60)
        ]
        return sum("scene" in sample.delivery or "frame" in sample.delivery for sample in drawn)

    assert varied() > 10
    with ABLATIONS["plain-scenes"].around():
        assert varied() == 0


def test_the_area_under_the_curve_compares_clear_degradations_with_none() -> None:
    table = pd.DataFrame({"noise_label": [0, 0, 0.1, 0.2, 0.9], "noise_score": [0.1, 0.5, 0.0, 0.3, 0.8]})
    assert auc(table, "noise") == 0.75  # the faint one counts on neither side
