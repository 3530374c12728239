import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from quality_model.core import decoding, views
from quality_model.core.decoding import Pixels
from quality_model.core.views import SQUEEZED, HeadRule, ViewRecipe
from quality_model.params import WITHOUT_PROJECT
from quality_model.records import HEADS

LIMITS = WITHOUT_PROJECT.limits


def noise(height: int, width: int) -> Pixels:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@settings(max_examples=200, deadline=None)
@given(short=st.integers(240, 3000), ratio=st.floats(1.0, 4.0), upright=st.booleans())
def test_the_whole_view_keeps_ratio_and_area_of_any_image_up_to_four_to_one(
    short: int, ratio: float, upright: bool
) -> None:
    size = (short, round(short * ratio)) if upright else (round(short * ratio), short)
    width, height = views.whole_size(*size, 224)
    assert width % 16 == height % 16 == 0
    assert width / height == pytest.approx(size[0] / size[1], rel=0.05)
    assert width * height == pytest.approx(224**2, rel=0.35)


@settings(max_examples=200, deadline=None)
@given(width=st.integers(1, 2000), height=st.integers(1, 2000))
def test_no_view_enlarges_an_image_that_is_large_enough_for_the_network(width: int, height: int) -> None:
    seen = views.cut(np.zeros((height, width, 3), np.uint8), 224, ViewRecipe())
    assert seen.whole.shape[1] <= max(width, 32)
    assert seen.whole.shape[0] <= max(height, 32)
    assert min(min(view.shape[:2]) for view in seen.all) >= 32
    assert len(seen.tiles) <= ViewRecipe().max_tiles


def test_an_image_that_the_whole_view_shows_as_it_is_has_no_tiles() -> None:
    small = noise(224, 224)
    seen = views.cut(small, 224, ViewRecipe())
    assert seen.tiles == []
    assert np.array_equal(seen.whole, small)


def test_tiles_are_parts_of_the_image_at_its_own_resolution_in_places_that_the_boxes_name() -> None:
    image, recipe = noise(500, 700), ViewRecipe(max_tiles=9)
    seen = views.cut(image, 224, recipe)
    assert len(seen.tiles) > 2
    for tile, (left, top, side) in zip(seen.tiles, views.tile_boxes(image, 224, recipe), strict=True):
        assert np.array_equal(tile, image[top : top + side, left : left + side])


def test_a_large_image_is_shrunk_to_the_size_of_use_before_tiles_are_cut() -> None:
    image = np.asarray(Image.fromarray(noise(30, 40)).resize((1600, 1200), Image.Resampling.NEAREST))
    seen = views.cut(np.array(image), 224, ViewRecipe(max_short_side_px=300, max_tiles=9))
    assert {tile.shape for tile in seen.tiles} == {(224, 224, 3)}


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (180, 40, 60)])
@pytest.mark.parametrize(("across", "down"), [(0, 60), (80, 0), (25, 25)])
def test_bars_and_frames_are_left_out_of_all_views_jpeg_included(
    across: int, down: int, colour: tuple[int, int, int]
) -> None:
    scene = np.asarray(Image.fromarray(noise(40, 56)).resize((560, 400), Image.Resampling.BICUBIC))
    framed = np.full((400 + 2 * down, 560 + 2 * across, 3), colour, np.uint8)
    framed[down : down + 400, across : across + 560] = scene
    for found, expected in zip(
        views.cut(framed, 224, ViewRecipe()).all, views.cut(scene, 224, ViewRecipe()).all, strict=True
    ):
        assert np.array_equal(found, expected)
    stored = io.BytesIO()
    Image.fromarray(framed).save(stored, "JPEG", quality=90)
    height, width = views.without_borders(decoding.decode(stored.getvalue(), LIMITS)).shape[:2]
    assert 0 <= height - 400 <= 16 and 0 <= width - 560 <= 16  # a block of JPEG on each side


def test_plain_ground_is_no_border_where_little_would_be_left_and_neither_is_a_bar_with_lettering() -> None:
    plain = np.full((300, 400, 3), 250, np.uint8)
    assert np.array_equal(views.without_borders(plain), plain)
    plain[140:160, 180:220] = noise(20, 40)
    assert np.array_equal(views.without_borders(plain), plain)
    bars = np.zeros((300, 400, 3), np.uint8)
    bars[50:250] = noise(200, 400)
    bars[20:24, 30:36] = 200  # a mark on the upper bar
    assert views.without_borders(bars).shape == (230, 400, 3)


def test_of_many_tiles_the_one_with_most_detail_is_always_there() -> None:
    image = np.full((900, 1200, 3), 128, np.uint8)
    image[600:900, 900:1200] = noise(300, 300)
    seen = views.cut(image, 224, ViewRecipe(max_short_side_px=900, max_tiles=2))
    assert len(seen.tiles) == 2
    assert max(tile.std() for tile in seen.tiles) > 50


def test_the_original_design_sees_the_image_squeezed_to_a_square() -> None:
    image = noise(300, 500)
    seen = views.cut(image, 224, SQUEEZED)
    expected = Image.fromarray(image).resize((224, 224), Image.Resampling.LANCZOS)
    assert np.array_equal(seen.whole, np.asarray(expected))
    assert seen.tiles == []


def test_the_score_of_an_image_is_the_aggregate_that_the_recipe_states() -> None:
    scores = np.array([[0.4] * 4, [0.0] * 4, [0.2] * 4, [0.9] * 4], np.float32)
    rules = [
        HeadRule(tiles=0.0, whole=0.0),
        HeadRule(tiles=0.5, whole=0.5),
        HeadRule(tiles=1.0, whole=0.0, highest=True),
        HeadRule(tiles=0.5, whole=0.0, highest=True),
    ]
    recipe = ViewRecipe(heads=dict(zip(HEADS, rules, strict=True)))
    assert views.aggregate(scores, recipe).tolist() == pytest.approx([0.0, 0.3, 0.9, 0.4])
    assert views.aggregate(scores[:1], recipe).tolist() == pytest.approx([0.4] * 4)


def test_views_of_one_shape_are_scored_in_one_call_and_every_image_gets_its_own_scores() -> None:
    calls: list[int] = []

    def score(batch: Pixels) -> np.ndarray:  # type: ignore[type-arg]
        calls.append(len(batch))
        return np.repeat(batch.mean(axis=(1, 2, 3))[:, None] / 255, 4, axis=1).astype(np.float32)

    images = [[np.full((32, 32, 3), level, np.uint8)] for level in (0, 51, 255)]
    images.append([np.full((32, 48, 3), 102, np.uint8)])
    found = views.score_images(score, images, ViewRecipe())
    assert found[:, 0].tolist() == pytest.approx([0.0, 0.2, 1.0, 0.4])
    assert sorted(calls) == [1, 3]


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_decoded_at_a_part_of_its_size_and_keeps_its_own_size_in_the_record(
    orientation: int,
) -> None:
    image = Image.fromarray(noise(60, 100)).resize((2000, 1200), Image.Resampling.BICUBIC)
    exif, data = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    image.save(data, "JPEG", quality=92, exif=exif)
    whole = decoding.decode_image(data.getvalue(), LIMITS)
    part = decoding.decode_image(data.getvalue(), LIMITS, shortest_px=500)
    size = (2000, 1200) if orientation == 1 else (1200, 2000)
    assert (part.width, part.height) == (whole.width, whole.height) == size
    assert part.pixels.shape[1::-1] == tuple(side // 2 for side in size)
    shrunk = views.resized(whole.pixels, size[0] // 2, size[1] // 2)
    assert np.abs(part.pixels.astype(int) - shrunk).mean() < 2.0
