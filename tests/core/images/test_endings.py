"""A file that lacks nothing but its end is read; one that lacks pixels is truncated."""

import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from quality_model.core import decoding
from quality_model.core.decoding import Pixels
from quality_model.errors import ImageError
from quality_model.params import LimitsParams
from tests.core.images.encoding import encode, reason_of
from tests.core.images.profiles import rgb_profile

JPEGS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "optimised": {"optimize": True, "quality": 95, "subsampling": 0},
    "restart markers": {"restart_marker_blocks": 3},
    "a progressive one with restart markers": {"progressive": True, "restart_marker_blocks": 5},
}


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_that_lacks_only_its_end_marker_is_read(small, limits, kind, mode):
    data = encode(Image.fromarray(small).convert(mode), "JPEG", **JPEGS[kind])
    whole = decoding.decode(data, limits)
    for cut in (1, 2):
        np.testing.assert_array_equal(decoding.decode(data[:-cut], limits), whole)


@pytest.mark.parametrize("image", ["photograph", "one color", "noise"])
@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_cut_in_its_last_scan_is_truncated_unless_no_pixel_is_lost(
    small: Pixels, limits: LimitsParams, kind: str, image: str
) -> None:
    pixels = {
        "photograph": small,
        "one color": np.full_like(small, 90),
        "noise": np.random.default_rng(1).integers(0, 256, small.shape, dtype=np.uint8),
    }[image]
    data = encode(pixels, "JPEG", **JPEGS[kind])
    whole = decoding.decode(data, limits)
    truncated = 0
    for cut in range(3, 70, 3):
        try:
            decoded = decoding.decode(data[:-cut], limits)
        except ImageError as error:
            truncated += error.reason == "truncated"
        else:
            np.testing.assert_array_equal(decoded, whole)
    assert truncated > (6 if image == "one color" else 18)


@pytest.mark.parametrize("kind", ["progressive", "a progressive one with restart markers"])
def test_a_progressive_jpeg_that_ends_between_two_scans_is_truncated(small, limits, kind):
    data = encode(small, "JPEG", **JPEGS[kind])
    scans = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    assert len(scans) > 5
    for at in scans[1:]:
        for end in (at, at + 1, at + 2, at + 5):
            assert reason_of(lambda end=end: decoding.decode(data[:end], limits)) == "truncated"


@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_that_was_not_written_to_its_end_is_truncated_though_zeros_fill_it_up(small, limits, kind):
    data = encode(small, "JPEG", **JPEGS[kind])
    whole = decoding.decode(data, limits)
    np.testing.assert_array_equal(decoding.decode(data[:-2] + bytes(9000), limits), whole)
    for share in (0.6, 0.9, 0.97):
        cut = data[: int(len(data) * share)]
        assert reason_of(lambda cut=cut: decoding.decode(cut + bytes(9000), limits)) == "truncated"


def test_a_large_jpeg_without_its_end_marker_in_adobe_rgb_is_read_too(photo, limits):
    data = encode(photo, "JPEG", icc_profile=rgb_profile("Adobe RGB"))
    np.testing.assert_array_equal(decoding.decode(data[:-2], limits), decoding.decode(data, limits))


@pytest.mark.parametrize(("kind", "num_bytes"), [("PNG", 12), ("GIF", 1)])
def test_a_file_without_its_end_chunk_or_trailer_is_read(small, limits, kind, num_bytes):
    data = encode(small, kind)
    whole = decoding.decode(data, limits)
    for cut in range(1, num_bytes + 1):
        np.testing.assert_array_equal(decoding.decode(data[:-cut], limits), whole)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize(
    "tail", [b"garbage" * 50, b"\0" * 4096, b"\xff\xd9\xff", b"mp4 \xff\xda\0\x0c\xff\xc0\0\x11 " * 9]
)
def test_bytes_behind_the_end_change_nothing(small, limits, kind, tail):
    data = encode(small, kind)
    np.testing.assert_array_equal(decoding.decode(data + tail, limits), decoding.decode(data, limits))


def test_two_threads_may_read_such_files_at_once(small: Pixels, limits: LimitsParams) -> None:
    data = encode(small, "JPEG")
    whole = decoding.decode(data, limits)

    def is_whole(cut: int) -> bool:
        if cut == 2:
            return bool((decoding.decode(data[:-cut], limits) == whole).all())
        return reason_of(lambda: decoding.decode(data[:-cut], limits)) != "truncated"

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(is_whole, [2, len(data) // 2] * 10)) == [True, False] * 10


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_takes_a_few_bytes_a_pixel_beside_the_result(limits: LimitsParams, mode: str) -> None:
    """What is measured is what NumPy and Python allocate: the decoded image itself is Pillow's."""
    image = Image.new(mode, (3000, 2000), 7 if mode == "P" else None)
    data = encode(image, "PNG", **({"transparency": 7} if mode == "P" else {}))
    decoding.decode(data, limits)
    tracemalloc.start()
    decoding.decode(data, limits)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3000 * 2000 * 3 + 16 * 2**20


@pytest.mark.parametrize("mode", ["RGBA", "LA", "La", "PA", "RGBa", "P"])
def test_a_large_transparent_image_is_put_over_white_in_strips_as_in_one(photo: Pixels, mode: str) -> None:
    alpha = np.linspace(0, 255, photo[:, :, 0].size).astype(np.uint8).reshape(photo.shape[:2])
    image = Image.fromarray(np.dstack([photo, alpha])).resize((1200, 1000), Image.Resampling.NEAREST)
    image = image.convert({"La": "LA", "PA": "P"}.get(mode, mode)).convert(mode)
    if mode == "P":
        image.info["transparency"] = 3
    opaque = image.convert("LA").convert("RGBA") if mode == "La" else image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    expected = np.asarray(Image.alpha_composite(white, opaque).convert("RGB"))
    np.testing.assert_array_equal(decoding.from_image(image), expected)
