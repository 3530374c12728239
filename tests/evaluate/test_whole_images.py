"""Images as thresholds, intervals and evidence see them: whole, with all views, look-alikes, degraded."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from quality_model.core import storage
from quality_model.core.decoding import Pixels
from quality_model.core.views import SQUEEZED, ViewRecipe
from quality_model.data.dataset import TrainingSet
from quality_model.data.images_table import TABLE_NAME, ImagesWriter
from quality_model.degrade import PROFILES, SampleRandomness
from quality_model.evaluate.whole_images import (
    MOST_PER_IMAGE,
    ScoredImages,
    degrade_image,
    pixel_slices,
    score_whole_images,
)
from quality_model.params import Params
from quality_model.records import HEADS, CleanImage, Split
from tests.train.conftest import write_dataset

SIZE_PX = 32
VIEWS = ViewRecipe(max_tiles=2, tile_px=32)


class ReadsBrightness(nn.Module):
    """Every score is the mean of the view's red."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"all_scores": x[:, 0].mean(dim=(1, 2))[:, None].repeat(1, len(HEADS))}


@pytest.fixture
def photographs(photo: Pixels) -> list[Pixels]:
    return [np.ascontiguousarray(photo[at : at + 80, at : at + 120]) for at in (0, 20, 40)]


@pytest.fixture
def images(tmp_path: Path, photographs: list[Pixels]) -> Path:
    """An images table of three photographs of two groups."""
    folder = tmp_path / "images"
    folder.mkdir()
    with ImagesWriter(folder / TABLE_NAME) as writer:
        for number, pixels in enumerate(photographs):
            encoded = io.BytesIO()
            Image.fromarray(pixels).save(encoded, format="PNG")
            name = f"p{number}"
            writer.write(CleanImage(name, f"g{number % 2}", "here", name, encoded.getvalue(), 120, 80, None))
    storage.seal(folder, [TABLE_NAME], rows=len(photographs))
    return folder


def dataset(folder: Path, names: list[str]) -> TrainingSet:
    """A clean and a degraded sample of each image, all for the test."""
    rows = [(name, is_clean) for name in names for is_clean in (True, False)]
    kinds = {f"{head}_kind": [None if clean else "x" for _, clean in rows] for head in HEADS}
    columns: dict[str, Any] = {
        "sample_id": [f"{name}#{clean}" for name, clean in rows],
        "image_id": [name for name, _ in rows],
        "group": [f"g{int(name[1:]) % 2}" for name, _ in rows],
        "split": ["test"] * len(rows),
        "profile": ["calibrated"] * len(rows),
        "is_clean": [clean for _, clean in rows],
        **kinds,
    }
    shape = (len(rows), SIZE_PX, SIZE_PX, 3)
    return write_dataset(folder, np.full(shape, 51, np.uint8), np.zeros((len(rows), 4), np.float32), columns)


def scored(params: Params, data: TrainingSet, images: Path | None, **changes: Any) -> ScoredImages | None:
    split: Split = "test"
    options: dict[str, Any] = {"images": images, "limits": params.limits, "seed": 1, **changes}
    options |= {"device": torch.device("cpu")}
    return score_whole_images(ReadsBrightness(), data, split, [VIEWS, SQUEEZED], **options)


def test_each_clean_image_of_the_split_is_scored_as_it_is_and_as_a_look_alike_by_every_recipe(
    params: Params, images: Path, photographs: list[Pixels], tmp_path: Path
) -> None:
    found = scored(params, dataset(tmp_path / "data", ["p0", "p2"]), images)
    assert found is not None
    clean = found.clean
    assert (found.of_images, [*clean.groups]) == (True, ["g0"] * 4)
    assert [one.shape for one in clean.scores] == [(4, len(HEADS))] * 2
    of_views, squeezed = (scores[:, 0] for scores in clean.scores)
    assert squeezed[0] == pytest.approx(photographs[0][..., 0].mean() / 255, abs=0.01)
    assert abs(of_views[0] - squeezed[0]) > 0.001  # tiles count too
    masks = clean.slice_masks()
    assert masks["as it is"].tolist() == [True, False, True, False]
    assert masks["look-alike"].tolist() == [False, True, False, True]
    kinds = [name for name in masks if name.startswith("look-alike: ")]
    assert sum(masks[kind].sum() for kind in kinds) == 2


def test_each_image_is_also_degraded_with_labels_as_often_as_few_images_need(
    params: Params, images: Path, tmp_path: Path
) -> None:
    data = dataset(tmp_path / "data", ["p0", "p2"])
    found, again, other = (scored(params, data, images, seed=seed) for seed in (1, 1, 2))
    assert found is not None and again is not None and other is not None
    assert found.degraded.scores.shape == found.degraded.labels.shape == (2 * MOST_PER_IMAGE, len(HEADS))
    assert {*found.degraded.groups} == {"g0"}
    assert (found.degraded.labels > 0.2).any(axis=0).all()
    assert np.array_equal(found.degraded.labels, again.degraded.labels)
    assert not np.array_equal(found.degraded.labels, other.degraded.labels)


def test_what_is_degraded_is_at_most_two_tiles_wide_or_the_one_view_that_is_scored(photo: Pixels) -> None:
    profile, randomness = PROFILES["calibrated"], SampleRandomness(1, "a")
    sides = {
        recipe.squeezed: degrade_image(photo, profile, randomness, 96, recipe).image.shape
        for recipe in (VIEWS, SQUEEZED)
    }
    assert sides == {False: (192, 192, 3), True: (96, 96, 3)}


def test_groups_that_a_model_has_seen_do_not_count(params: Params, images: Path, tmp_path: Path) -> None:
    found = scored(params, dataset(tmp_path / "data", ["p0", "p1"]), images, excluded_groups=["g0"])
    assert found is not None
    assert {*found.clean.groups, *found.degraded.groups} == {"g1"}


def test_images_that_are_not_those_of_the_dataset_are_not_scored(
    params: Params, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for folder, names in ((None, ["p0"]), (tmp_path / "none", ["p0"]), (images, ["p0", "p9"])):
        caplog.clear()
        assert scored(params, dataset(tmp_path / f"data{len(names)}", names), folder) is None
        assert "is not the images table of the dataset" in caplog.text


@pytest.mark.parametrize(
    ("colour", "slices"),
    [
        ((20, 20, 20), ["night", "black and white"]),
        ((250, 250, 250), ["high-key", "black and white"]),
        ((120, 124, 128), ["low saturation"]),
        ((200, 60, 60), []),
    ],
)
def test_what_an_image_shows_decides_about_its_slices(
    colour: tuple[int, int, int], slices: list[str]
) -> None:
    assert pixel_slices(np.full((40, 60, 3), colour, np.uint8)) == slices
