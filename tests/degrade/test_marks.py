"""Watermarks of every sort: seen where there is contrast, whole, and the same for the same stream."""

from dataclasses import replace

import numpy as np
import pytest

from quality_model.core.decoding import Pixels
from quality_model.degrade import marks
from quality_model.degrade.marks import KINDS, Mark
from quality_model.degrade.randomness import Stream
from quality_model.degrade.severity import SCALES

SIDE_PX = 96
SCALE = SIDE_PX / 224
SINGLE = [kind for kind in KINDS if kind != "text_tiled"]
DRAWS = range(40)


def draw(kind: str, number: int, side_px: int = SIDE_PX, scale: float = SCALE) -> Mark:
    return marks.draw(kind, side_px, scale, Stream(f"{kind} {number}"))


def flat(*colour: int) -> Pixels:
    return np.full((SIDE_PX, SIDE_PX, 3), colour, dtype=np.uint8)


def extent(mark: Mark) -> tuple[int, int, int, int]:
    """First and last covered row, first and last covered column."""
    rows, columns = (np.flatnonzero(mark.coverage.any(axis=axis)) for axis in (1, 0))
    return int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])


def label(before: Pixels, after: Pixels) -> float:
    """The severity of the RMS colour difference, by another library."""
    from skimage.color import deltaE_cie76, rgb2lab

    return SCALES["watermark"].severity(
        float(np.sqrt(np.square(deltaE_cie76(rgb2lab(before), rgb2lab(after))).mean()))
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_mark_has_the_size_of_the_image_and_changes_a_plain_one(kind: str) -> None:
    for number in DRAWS:
        mark = draw(kind, number)
        assert mark.colour.shape == (SIDE_PX, SIDE_PX, 3)
        assert mark.coverage.shape == (SIDE_PX, SIDE_PX)
        assert mark.coverage.any()
        images = (flat(30, 90, 30), flat(220, 200, 220))
        assert any(not np.array_equal(marks.stamp(plain, mark, 1.0), plain) for plain in images)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_changes_where_the_mark_is_not_or_when_it_cannot_be_seen(kind: str, photo: Pixels) -> None:
    image = photo[:SIDE_PX, :SIDE_PX]
    before = image.copy()
    for number in range(5):
        mark = draw(kind, number)
        bare = mark.coverage == 0
        assert np.array_equal(marks.stamp(image, mark, 1.0)[bare], image[bare])
        assert np.array_equal(marks.stamp(image, mark, 0.0), image)
    assert np.array_equal(image, before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mark_of_the_colour_of_the_image_has_a_label_of_0(kind: str) -> None:
    grey = flat(128, 128, 128)
    for number in range(5):
        mark = draw(kind, number)
        vanishing = replace(mark, colour=grey)
        assert label(grey, marks.stamp(grey, vanishing, 0.7)) == 0.0
        assert label(flat(0, 0, 0), marks.stamp(flat(0, 0, 0), vanishing, 0.7)) > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_a_stronger_opacity_has_a_higher_label(kind: str, photo: Pixels) -> None:
    image = photo[:SIDE_PX, 180 : 180 + SIDE_PX]
    mark = draw(kind, 3)

    labels = [label(image, marks.stamp(image, mark, opacity)) for opacity in (0.0, 0.2, 0.5, 1.0)]
    assert labels[0] == 0.0
    assert np.all(np.diff(labels) > 0)


def test_a_mark_covering_more_has_a_higher_label_at_the_same_contrast() -> None:
    black, white = flat(0, 0, 0), flat(255, 255, 255)
    labels = []
    for rows in (2, 8, 32, 96):
        coverage = np.zeros((SIDE_PX, SIDE_PX), dtype=np.uint8)
        coverage[:rows] = 255
        labels.append(label(black, marks.stamp(black, Mark(white, coverage, {}), 0.1)))
    assert np.all(np.diff(labels) > 0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_stream_draws_the_same_mark_and_another_one_another(kind: str) -> None:
    one, again, other = draw(kind, 1), draw(kind, 1), draw(kind, 2)

    assert np.array_equal(one.coverage, again.coverage)
    assert np.array_equal(one.colour, again.colour)
    assert one.facts == again.facts
    assert not np.array_equal(one.coverage, other.coverage)


@pytest.mark.parametrize(
    ("kind", "largest_share"),
    [("text_diagonal", 0.92), ("text_centred", 0.92), ("text_corner", 0.6), ("logo", 0.6)],
)
def test_a_single_mark_lies_wholly_on_the_image(kind: str, largest_share: float) -> None:
    """What was cut at a border would reach up to it; these keep their distance or their size."""
    for number in DRAWS:
        top, bottom, left, right = extent(draw(kind, number))
        assert max(bottom - top, right - left) + 1 <= largest_share * SIDE_PX + 1
        if kind in ("text_diagonal", "text_centred"):
            assert min(top, left) > 0
            assert max(bottom, right) < SIDE_PX - 1


@pytest.mark.parametrize("kind", ["text_diagonal", "text_centred", "text_corner"])
def test_text_has_as_much_ink_as_on_an_image_with_room_to_spare(kind: str) -> None:
    fitting = 0
    for number in DRAWS:
        here, spacious = draw(kind, number), draw(kind, number, side_px=6 * SIDE_PX)
        top, bottom, left, right = extent(spacious)
        share = 0.6 if kind == "text_corner" else 0.92
        if max(bottom - top, right - left) + 4 <= share * SIDE_PX:
            fitting += 1
            assert here.coverage.sum(dtype=int) == spacious.coverage.sum(dtype=int)
    assert fitting >= 5


def test_tiles_cover_every_part_of_the_image() -> None:
    """Of a text that fits several times, each quarter shows some."""
    half = SIDE_PX // 2
    for number in DRAWS:
        mark = draw("text_tiled", number, scale=0.3)
        quarters = [mark.coverage[y : y + half, x : x + half].any() for y in (0, half) for x in (0, half)]
        assert sum(quarters) >= 3


@pytest.mark.parametrize("opacity", [0.1, 0.5, 1.0])
def test_a_stamp_is_the_blend_that_the_formula_says(photo: Pixels, opacity: float) -> None:
    image = photo[:SIDE_PX, :SIDE_PX]
    mark = draw("logo", 4)

    share = opacity * mark.coverage[..., None] / 255
    expected = image * (1 - share) + mark.colour * share
    assert np.abs(marks.stamp(image, mark, opacity) - expected).max() <= 0.51
