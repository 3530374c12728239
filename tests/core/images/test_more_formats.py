"""AVIF, JPEG 2000 and HEIC, and what hostile files of them come to."""

import base64
import zlib

import numpy as np
import pytest
from PIL import Image

from quality_model.core import decoding
from quality_model.errors import ImageError
from tests.core.images.encoding import encode, reason_of

HEIC = zlib.decompress(
    base64.b64decode(
        "eNpjYGCQSSupLMhIzUxmAILczDRDEDs3MzGNgYGxNje1JJEBAhQzUnKKoGyGgszkEgY0oJSZkw82xMWBgREIgYBxIYQGgiw"
        "gVs7MzEsD80CiokBOKhOUl1GWbAhi8hVkluTClfzNLCgqANJ3MwuS84F0GVCZMyMzSGgCWJHcB4Y/f3/8YGDgZ04A6pBwYO"
        "Rh/P8fpIAZpIIZhOR2MTkkAiW1nBgZ0WQWKDSyTnv1ZNnOHRwZBgpAIWYQwaCYBFTO5sJ4sPhAJ9AS4eT8nKK85JwKoCgvA"
        "1sDUEgks7ggFeozByjWSM5JLICyQY43gNIgwPT///8PIBqIBQoyKzJBgswcHBxASiKzIBcWyMBwY21kYmZtAbKLclMSQYGc"
        "psG4nvOBpbLK/v/f7tr///lUz/nLl5sH6/8G3/3+/ePz/783bg+UuKaz2eITR9CEh7msET3FssbuF4XrTE6KZk25LXXAY4G"
        "5YPLHTkH3AqPbfdFRh+p2Lvns2G+q1Ljzed3+WUsf1OaVW78TAwDISH/2"
    )
)
"""64 x 48 px, the left half (200, 60, 30), the right half (20, 80, 190); coded by x265."""


def two_halves() -> np.ndarray:
    image = np.empty((48, 64, 3), np.uint8)
    image[:, :32], image[:, 32:] = (200, 60, 30), (20, 80, 190)
    return image


MADE = {
    "AVIF": encode(two_halves(), "AVIF", quality=90),
    "JPEG2000": encode(two_halves(), "JPEG2000"),
    "HEIF": HEIC,
}


@pytest.mark.parametrize("kind", MADE)
def test_the_pixels_are_those_that_were_encoded_and_the_row_names_the_format(limits, kind):
    decoded = decoding.decode_image(MADE[kind], limits)
    assert (decoded.format, decoded.width, decoded.height) == (kind, 64, 48)
    middle = np.abs(decoded.pixels.astype(int) - two_halves())[:, [*range(24), *range(40, 64)]]
    assert middle.max() <= 8


def test_a_turned_avif_stands_upright(limits):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = decoding.decode(encode(two_halves(), "AVIF", exif=exif), limits)
    assert pixels.shape == (64, 48, 3)
    assert np.abs(pixels[10].astype(int) - (200, 60, 30)).max() <= 12


@pytest.mark.parametrize("kind", MADE)
def test_more_pixels_than_the_limit_are_refused(limits, kind):
    fewer = limits.model_copy(update={"max_pixels": 64 * 48 - 1})
    with pytest.raises(ImageError, match=r"64 x 48, at most 3071") as refused:
        decoding.decode(MADE[kind], fewer)
    assert refused.value.reason == "too_many_pixels"


@pytest.mark.parametrize("kind", MADE)
def test_a_format_that_the_limits_do_not_name_is_no_image(limits, kind):
    others = tuple(name for name in limits.formats if name != kind)
    assert reason_of(lambda: decoding.decode(MADE[kind], limits.model_copy(update={"formats": others}))) in (
        "not_an_image"
    )


@pytest.mark.parametrize("kind", MADE)
def test_a_file_that_was_cut_or_damaged_anywhere_gives_pixels_or_an_error_code_and_never_crashes(
    limits, kind
):
    data, random = MADE[kind], np.random.default_rng(5)
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        assert reason_of(lambda share=share: decoding.decode(data[: int(len(data) * share)], limits)) in (
            *("truncated", "broken", "not_an_image", "too_many_pixels"),
        )
    for _ in range(150):
        damaged = bytearray(data)
        for place in random.integers(0, len(data), 3):
            damaged[place] ^= int(random.integers(1, 256))
        try:
            pixels = decoding.decode(bytes(damaged), limits)
        except ImageError as error:
            assert error.reason in ("truncated", "broken", "not_an_image", "too_many_pixels", "unknown_range")
        else:
            assert pixels.dtype == np.uint8 and pixels.size <= 3 * limits.max_pixels


def test_without_its_extra_a_heic_says_what_to_install_and_other_formats_are_read(limits, monkeypatch):
    monkeypatch.setattr(decoding, "find_spec", lambda name: None)
    decoding._readers.cache_clear()
    try:
        with pytest.raises(ImageError, match=r'pip install "quality-model\[formats\]"') as refused:
            decoding.decode(HEIC, limits)
        assert refused.value.reason == "unsupported"
        assert decoding.decode(MADE["AVIF"], limits).shape == (48, 64, 3)
    finally:
        decoding._readers.cache_clear()
