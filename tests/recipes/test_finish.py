"""`recipes/bundled_model.py finish`, on a few scenes: what is chosen there is stored with the model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from quality_model.core.decoding import Pixels
from quality_model.core.model_files import StoredModel, read_model
from quality_model.networks.model import MultiHeadQualityAssessmentModel, save_model
from quality_model.records import HEADS

ROOT = Path(__file__).parents[2]
CORNERS = [(0, 0), (0, 200), (200, 0), (200, 200)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, photo: Pixels) -> tuple[StoredModel, str]:
    """The model that is made of one with random weights, and what the recipe prints."""
    place = tmp_path_factory.mktemp("finish")
    (place / "held_out").mkdir()
    for number, (top, left) in enumerate(CORNERS):
        Image.fromarray(photo[top : top + 300, left : left + 312]).save(place / "held_out" / f"{number}.png")
    torch.manual_seed(3)
    network = MultiHeadQualityAssessmentModel(architecture="small").eval()
    save_model(place / "trained", network, image_size_px=64, facts={"best_epoch": 7})
    command = [sys.executable, "recipes/bundled_model.py", "finish", "trained", "held_out", "finished"]
    arguments = [*command[:3], *(str(place / name) for name in command[3:])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return read_model(place / "finished"), done.stdout


def test_the_finished_model_has_views_thresholds_and_intervals_beside_what_it_had(
    finished: tuple[StoredModel, str],
) -> None:
    stored, _ = finished
    assert stored.facts.best_epoch == 7
    assert not stored.views.squeezed
    for thresholds in (stored.facts.thresholds, stored.facts.thresholds_whole):
        assert thresholds is not None and [*thresholds] == [*HEADS]
    intervals = stored.facts.intervals
    assert intervals is not None and [*intervals.heads] == [*HEADS]
    assert intervals.num_images == 2 * len(CORNERS)


def test_it_prints_what_intervals_from_half_of_the_scenes_cover_of_the_other_half(
    finished: tuple[StoredModel, str],
) -> None:
    lines = [line for line in finished[1].splitlines() if line.startswith("intervals: ")]
    assert [line.split()[1] for line in lines] == [*HEADS]
    assert all(" cover 1.000; " in line for line in lines)  # of too few images they promise everything
