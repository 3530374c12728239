"""Measures beside the scores: images whose values are known in closed form."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from quality_model.core.decoding import Pixels, decode_image
from quality_model.core.figures import markdown_table
from quality_model.core.measures import COSTLY, MEASURED_PX, MEASURES, MeasuredImage, chosen_sets, measure
from quality_model.core.views import SQUEEZED, ViewRecipe
from quality_model.params import LimitsParams
from quality_model.score.reading import read_image

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "results-format.md"


def encoded(pixels: npt.NDArray[Any], suffix: str = "PNG", **options: Any) -> bytes:
    sink = io.BytesIO()
    rgb = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    Image.fromarray(rgb.astype(np.uint8)).save(sink, suffix, **options)
    return sink.getvalue()


@pytest.fixture
def measured(limits: LimitsParams) -> Any:
    """Every measure of an encoded image, or of the PNG file of some pixels."""

    def measured(image: bytes | npt.NDArray[Any]) -> dict[str, Any]:
        data = image if isinstance(image, bytes) else encoded(image)
        decoded = decode_image(data, limits, shortest_px=MEASURED_PX)
        return dict(measure(MeasuredImage.of(decoded, len(data)), chosen_sets(["all"])))

    return measured


FLAT = np.full((80, 160), 102)
HALVES = np.repeat(np.array([0, 255]), 64)[None].repeat(96, axis=0)
CHECKERBOARD = np.indices((128, 128)).sum(axis=0) % 2 * 255
LEVELS = np.arange(256).repeat(16).reshape(64, 64)
BLOCKS = np.random.default_rng(1).integers(0, 256, (16, 16)).repeat(8, axis=0).repeat(8, axis=1)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (
            FLAT,
            {
                "aspect_ratio": 2,
                "entropy": 0,
                "median_luminance": 0.4,
                "clipped_dark": 0,
                "clipped_bright": 0,
            },
        ),
        (FLAT, {"border_variance": 0, "border_left_px": 160, "border_top_px": 80, "blocking": 0}),
        (HALVES, {"entropy": 1, "clipped_dark": 0.5, "clipped_bright": 0.5, "median_luminance": 0}),
        (HALVES, {"border_variance": 0.25, "border_left_px": 64, "border_right_px": 64, "border_top_px": 0}),
        (HALVES, {"blocking": 0, "aspect_ratio": 4 / 3}),
        (CHECKERBOARD, {"entropy": 1, "clipped_bright": 0.5, "border_variance": 0.25, "blocking": 0}),
        (CHECKERBOARD, {"border_left_px": 0, "border_bottom_px": 0}),
        (LEVELS, {"entropy": 8, "clipped_dark": 3 / 256, "clipped_bright": 3 / 256}),
        (BLOCKS, {"blocking": 1}),
        (BLOCKS[3:, 5:], {"blocking": 1}),
        (FLAT[:63], {"blocking": None}),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else "",
)
def test_a_made_image_has_the_values_that_its_definition_gives(measured, image, expected):
    values = measured(image)
    assert {name: values[name] for name in expected} == pytest.approx(expected)


def test_borders_of_known_width_are_found_on_each_side_whatever_the_image_was_turned_from(measured, photo):
    framed = np.zeros((300, 400, 3), np.uint8)
    framed[30:260, 20:390] = photo[100:330, 100:470]
    sides = {"left": 20, "right": 10, "top": 30, "bottom": 40}
    assert {side: measured(framed)[f"border_{side}_px"] for side in sides} == sides
    exif = Image.Exif()
    exif[274] = 3  # upside down
    turned = measured(encoded(framed, exif=exif))
    assert [turned[f"border_{side}_px"] for side in sides] == [10, 20, 40, 30]


def test_bits_per_pixel_are_those_of_the_file_and_plain_images_need_fewest_when_they_are_encoded_again(
    measured, photo
):
    data = encoded(photo, "JPEG", quality=60)
    assert measured(data)["bits_per_pixel"] == 8 * len(data) / 512**2
    own = encoded(photo, "JPEG", quality=75, subsampling="4:2:0")
    assert measured(photo)["reencoded_bits_per_pixel"] == 8 * len(own) / 512**2
    smooth = np.asarray(Image.fromarray(photo).resize((64, 64)).resize((512, 512)))
    order = [measured(one)["reencoded_bits_per_pixel"] for one in (FLAT.repeat(4, axis=0), smooth, photo)]
    assert order == sorted(order)


def test_the_quality_of_a_jpeg_file_is_the_one_it_was_saved_at_and_other_formats_have_none(measured, photo):
    crop = photo[:64, :64]
    found = [measured(encoded(crop, "JPEG", quality=quality))["jpeg_quality"] for quality in range(1, 101)]
    assert found == list(range(1, 101))
    assert measured(encoded(crop, "WEBP"))["jpeg_quality"] is None
    halved = [
        value // 2 for value in Image.open(io.BytesIO(encoded(crop, "JPEG", quality=50))).quantization[0]
    ]
    assert measured(encoded(crop, "JPEG", qtables=[halved, halved]))["jpeg_quality"] == 75


def test_blocking_rises_as_the_quality_of_a_jpeg_file_falls_and_survives_a_crop_saved_as_png(measured, photo):
    files = [encoded(photo, "JPEG", quality=quality) for quality in (95, 75, 50, 20, 5)]
    found = [measured(data)["blocking"] for data in files]
    assert found == sorted(found)
    assert measured(photo)["blocking"] < 0.05 < 0.25 < found[3]
    cropped = np.asarray(Image.open(io.BytesIO(files[3])))[5:, 3:]
    assert measured(cropped)["blocking"] == pytest.approx(found[3], abs=0.03)


def distance(one: int, other: int) -> int:
    """Bits in which two hashes of 64 bits differ."""
    return ((one ^ other) & (2**64 - 1)).bit_count()


def test_copies_have_near_hashes_and_unrelated_images_far_ones(measured, photo):
    import skimage.data

    original = measured(photo)["phash"]
    image = Image.fromarray(photo)
    copies = [
        encoded(photo, "JPEG", quality=20),
        encoded(np.asarray(image.resize((200, 200)))),
        encoded(np.asarray(image.resize((900, 700))), "JPEG", quality=60),
        encoded(photo, "WEBP", quality=50),
    ]
    assert max(distance(original, measured(copy)["phash"]) for copy in copies) <= 6
    others = [
        skimage.data.coffee(),
        skimage.data.chelsea(),
        skimage.data.camera(),
        photo[:, ::-1],
        255 - photo,
    ]
    assert min(distance(original, measured(np.asarray(other))["phash"]) for other in others) >= 20


def test_the_bits_of_the_hash_are_those_of_its_definition(measured):
    assert measured(FLAT)["phash"] == -(2**63)  # the first bit alone: there is no frequency but the lowest
    rows = 128 + 100 * np.cos(np.pi * (np.arange(32) + 0.5) * 2 / 32)
    wave = measured(np.repeat(rows[:, None], 32, axis=1))["phash"]
    assert wave & (1 << 63) and wave & (1 << (63 - 8 * 2))  # frequency 2 downwards, 0 across


@pytest.mark.parametrize("suffix", ["JPEG", "PNG"])
def test_values_depend_neither_on_the_views_nor_on_the_other_measures(photo, limits, suffix):
    large = encoded(np.asarray(Image.fromarray(photo).resize((1700, 1600))), suffix)

    def read(recipe: ViewRecipe, choice: Any) -> dict[str, Any]:
        reading = read_image(
            large, image_size_px=224, recipe=recipe, limits=limits, engine=None, measure=chosen_sets(choice)
        )
        return dict(reading.measures or {})

    every = read(ViewRecipe(), ["all"])
    assert read(SQUEEZED, ["all"]) == every
    assert read(ViewRecipe(max_short_side_px=512), ["all"]) == every
    alone = [read(ViewRecipe(), [name]) for name in chosen_sets(["all"])]
    assert {name: value for values in alone for name, value in values.items()} == every
    assert every["blocking"] is None  # halved: there is no grid of 8 px


def test_the_size_of_borders_is_that_of_the_whole_image_where_it_is_measured_smaller(measured, photo):
    framed = np.zeros((1600, 1800, 3), np.uint8)
    framed[200:, 100:] = Image.fromarray(photo).resize((1700, 1400))
    values = measured(framed)
    assert (values["border_left_px"], values["border_top_px"], values["aspect_ratio"]) == (100, 200, 1.125)


def test_an_image_of_one_pixel_and_one_of_a_row_have_measures(measured):
    assert measured(np.full((1, 1), 255))["clipped_bright"] == 1
    assert measured(np.full((1, 40), 7))["border_left_px"] == 40


def test_choices_name_sets_in_the_order_of_the_columns():
    every = tuple(dict.fromkeys(each.set for each in MEASURES))
    assert chosen_sets(["all"]) == every
    assert chosen_sets(["none"]) == ()
    assert chosen_sets(["cheap"]) == tuple(name for name in every if name not in COSTLY)
    assert chosen_sets(["reencoding", "cheap", "file"]) == tuple(name for name in every if name != "blocking")


@pytest.mark.parametrize("seed", range(8))
def test_every_measure_of_any_image_is_in_its_range(measured, seed) -> None:
    random = np.random.default_rng(seed)
    noise: Pixels = random.integers(0, 256, (*random.integers(1, 200, 2), 3)).astype(np.uint8)
    values = measured(encoded(noise, ("PNG", "JPEG")[seed % 2]))
    assert list(values) == [each.name for each in MEASURES]
    for each in MEASURES:
        value = values[each.name]
        assert value is None or each.low <= value <= (np.inf if each.high is None else each.high), each.name


def documented() -> str:
    """The table of measures, from their records."""

    def limits(low: float, high: float | None) -> str:
        return f"{low:g} or more" if high is None else f"{low:g} to {high:g}"

    rows = [
        (
            f"`{each.name}`",
            f"`{each.set}`" + (", costly" if each.set in COSTLY else ""),
            each.unit,
            "every int64" if each.dtype == "int64" else limits(each.low, each.high),
            each.meaning,
            each.source,
        )
        for each in MEASURES
    ]
    return markdown_table(("measure", "set", "unit", "range", "definition", "source"), rows)


def test_the_documented_table_is_that_of_the_records():
    assert documented() in DOCUMENT.read_text()
