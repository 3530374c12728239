"""What must not move the scores of a clean photograph: its size, how it is stored, what is around it."""

from collections.abc import Sequence

import numpy as np
import pytest

from benchmarks.invariance import CHANGES, main, movements, photographs, scores_of
from quality_model import Scorer
from quality_model.core.decoding import Pixels


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer("bundled")


@pytest.fixture(scope="module")
def images() -> Sequence[Pixels]:
    """Photographs that no bundled weights of `small` were trained on."""
    return photographs()


def test_scores_of_clean_photographs_are_low_and_flag_nothing_but_a_cat_that_is_sharp_at_its_eyes_alone(
    scorer: Scorer, images: Sequence[Pixels]
) -> None:
    """It has .27 of blur, just above the threshold: docs/blind-spots.md names shallow focus."""
    scores = scores_of(scorer, images)
    assert scores.max() < 0.3
    assert (scores > 0.2).sum() == 1
    assert [found.flags for found in scorer.predict_batch(images) if found.flags] == [("blurriness",)]


@pytest.mark.parametrize(
    ("names", "least_share", "most"),
    [
        (("3/4 of the size", "JPEG 95"), 0.97, 0.1),
        (("black frame", "white frame", "black bars"), 0.98, 0.1),
        (("strip 2:1", "strip 3:1", "strip 4:1"), 0.85, 0.25),
    ],
    ids=["size and storage", "frames and bars", "aspect ratios"],
)
def test_size_storage_frames_and_aspect_ratio_hardly_move_the_scores_of_clean_photographs(
    names: Sequence[str], least_share: float, most: float, scorer: Scorer, images: Sequence[Pixels]
) -> None:
    """The aim is .05 everywhere; docs/results.md says how far the weights are from it."""
    moved = np.concatenate([movements(scorer, images, CHANGES[name]) for name in names])
    assert np.mean(moved <= 0.05) >= least_share
    assert moved.max() <= most


def test_the_table_of_the_benchmark_has_every_change_and_the_labels(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([]) == 0
    rows = [
        line.split(" | ")[0].strip("| ") for line in capsys.readouterr().out.splitlines() if " | " in line
    ]
    assert rows[2:] == [*CHANGES, "degraded, against the label"]
    assert main(["no/such/folder"]) == 2
    assert "holds no images" in capsys.readouterr().err
