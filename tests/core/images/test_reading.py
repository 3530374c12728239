"""Encoded bytes, files and open images become 8-bit pixels, or are refused with an error code."""

import io
import os
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quality_model.core import decoding, views
from quality_model.errors import ImageError, ParameterError
from tests.core.images.encoding import FORMATS, encode, png, reason_of
from tests.users import ordinary_user


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_decode_to_the_same_pixels(small, limits, kind):
    np.testing.assert_array_equal(decoding.decode(encode(small, kind), limits), small)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_lossy_formats_decode_close_to_the_original(small, limits, kind):
    decoded = decoding.decode(encode(small, kind), limits)
    assert decoded.shape == small.shape
    assert np.abs(decoded.astype(int) - small).mean() < 12


def test_a_decoded_image_is_contiguous_and_writable(small, limits):
    for pixels in (
        decoding.decode(encode(small, "PNG"), limits),
        views.squeezed(decoding.decode(encode(small, "PNG"), limits), 32),
    ):
        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous
        assert pixels.flags.writeable


@pytest.mark.parametrize("kind", FORMATS)
def test_a_truncated_image_is_refused(small, limits, kind):
    data = encode(small, kind)
    code = reason_of(lambda: decoding.decode(data[: len(data) // 2], limits))
    assert code == "truncated" if kind in ("JPEG", "PNG") else code in ("truncated", "broken", "not_an_image")


@pytest.mark.parametrize(
    "data",
    [b"", b"<!DOCTYPE html><html>Not found</html>", b"\0" * 1000, b"PK\x03\x04" + bytes(60), b"\xff\xd8"],
)
def test_what_is_no_image_is_refused(limits, data):
    assert reason_of(lambda: decoding.decode(data, limits)) in {
        "empty",
        "not_an_image",
        "broken",
        "truncated",
    }


@pytest.mark.parametrize("kind", ["ICO", "PDF", "SGI", "TGA"])
def test_a_format_that_is_not_allowed_is_not_an_image(small, limits, kind):
    assert reason_of(lambda: decoding.decode(encode(small, kind), limits)) == "not_an_image"


def test_only_the_formats_of_the_list_are_read_and_pillow_must_know_them(small, limits):
    only_jpeg = limits.model_copy(update={"formats": ("JPEG",)})
    decoding.decode(encode(small, "JPEG"), only_jpeg)
    assert reason_of(lambda: decoding.decode(encode(small, "PNG"), only_jpeg)) == "not_an_image"
    with pytest.raises(ParameterError, match="JPG"):
        decoding.decode(encode(small, "JPEG"), limits.model_copy(update={"formats": ("JPG",)}))


def test_a_png_with_a_wrong_checksum_is_refused(small, limits):
    data = bytearray(encode(small, "PNG"))
    data[data.index(b"IDAT") + 40] ^= 0xFF
    assert reason_of(lambda: decoding.decode(bytes(data), limits)) in {"broken", "truncated"}


def test_cmyk_becomes_rgb(small, limits):
    for kind in ("JPEG", "TIFF"):
        decoded = decoding.decode(encode(Image.fromarray(small).convert("CMYK"), kind, quality=95), limits)
        assert np.abs(decoded.astype(int) - small).mean() < 6


def test_grey_gives_three_equal_channels(small, limits):
    decoded = decoding.decode(encode(Image.fromarray(small).convert("L"), "PNG"), limits)
    assert decoded.shape == small.shape
    assert (decoded == decoded[:, :, :1]).all()


def test_palettes_give_their_colours_and_a_transparent_entry_is_white(limits):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    assert decoding.decode(encode(image, "PNG"), limits)[0, 0].tolist() == [10, 200, 30]
    assert decoding.decode(encode(image, "PNG", transparency=1), limits).min() == 255


@pytest.mark.parametrize(
    ("mode", "color", "grey"), [("RGBA", 0, 255), ("LA", 0, 255), ("RGBA", (0, 0, 0, 128), 127)]
)
def test_transparency_is_put_over_white(limits, mode, color, grey):
    decoded = decoding.decode(encode(Image.new(mode, (4, 4), color), "PNG"), limits)
    assert np.abs(decoded.astype(int) - grey).max() <= (grey != 255)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(limits, kind):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)
    red, _, blue = decoding.decode(data, limits)[8, 8]
    assert red > 240 and blue < 15


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_image_upright(small, limits, orientation):
    turns = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, 1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decoding.decode(encode(small, "PNG", exif=exif), limits)
    np.testing.assert_array_equal(decoded, turns[orientation](small))


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0garbage garbage",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\x03",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
    ],
)
def test_damaged_exif_does_not_cost_the_image(small, limits, exif):
    assert decoding.decode(encode(small, "JPEG", exif=exif), limits).shape == small.shape


def test_one_pixel_is_an_image(limits):
    data = encode(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG")
    assert decoding.decode(data, limits).tolist() == [[[1, 2, 3]]]
    assert (views.squeezed(decoding.decode(data, limits), 224) == [1, 2, 3]).all()


def test_files_that_cannot_be_read_say_why(limits, tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    reasons = {
        name: reason_of(lambda name=name: decoding.read_bytes(tmp_path / name, limits))
        for name in ("none.jpg", "empty.jpg", "loop.jpg", "pipe.jpg", ".", "nul\0.jpg", "x" * 300)
    }
    assert reasons == {
        "none.jpg": "missing",
        "empty.jpg": "empty",
        "loop.jpg": "unreadable",
        "pipe.jpg": "not_a_file",
        ".": "not_a_file",
        "nul\0.jpg": "unreadable",
        "x" * 300: "unreadable",
    }


def test_a_file_that_may_not_be_read_says_so(small, limits, tmp_path):
    path = tmp_path / "secret.png"
    path.write_bytes(encode(small, "PNG"))
    path.chmod(0)
    with ordinary_user():
        assert reason_of(lambda: decoding.read_bytes(path, limits)) == "no_permission"


def test_a_name_that_is_not_utf8_is_read(small, limits, tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    path.write_bytes(encode(small, "PNG"))
    assert decoding.decode(decoding.read_bytes(path, limits), limits).shape == small.shape


@pytest.mark.parametrize(
    "mode", ["1", "L", "La", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", "LAB", "I;16", "F"]
)
def test_every_mode_of_an_open_image_becomes_rgb(mode):
    pixels = decoding.from_image(Image.new(mode, (5, 4)))
    assert pixels.shape == (4, 5, 3)
    assert pixels.dtype == np.uint8


def test_an_open_image_with_a_truncated_file_is_refused(small):
    data = encode(small, "PNG")
    image = Image.open(io.BytesIO(data[: len(data) // 2]))
    assert reason_of(lambda: decoding.from_image(image)) == "truncated"


def test_arrays_of_pixels_are_taken_as_they_are(small):
    assert decoding.from_array(small) is small
    assert decoding.from_array(small[:, :, 0]).shape == small.shape


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.complex64),
        np.zeros((4, 4), bool),
        np.zeros((4, 4), "M8[s]"),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
    ],
    ids=["complex", "booleans", "dates", "four channels", "no rows", "one axis", "a batch"],
)
def test_arrays_of_another_kind_are_refused(array):
    assert reason_of(lambda: decoding.from_array(array)) == "bad_array"


def test_resizing_gives_a_square_and_leaves_one_of_that_size_alone(small):
    square = views.squeezed(small, 48)
    assert square.shape == (48, 48, 3)
    assert views.squeezed(square, 48) is square


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (2**31 - 1, 2**31 - 1), (200_000_000, 1)])
def test_a_decompression_bomb_is_refused_by_its_header(limits, width, height):
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    data = png([(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")])
    assert reason_of(lambda: decoding.decode(data, limits)) == "too_many_pixels"
    if width == 20_000:
        with pytest.raises(ImageError, match="20000 x 20000, at most 399999999"):
            decoding.decode(data, limits.model_copy(update={"max_pixels": 399_999_999}))


def _first_of_two(small, kind):
    """Two images in one file, the second one larger."""
    return encode(small, kind, save_all=True, append_images=[Image.new("RGB", (90, 70))])


@pytest.mark.parametrize("kind", [*FORMATS, "two in MPO", "two in GIF", "two in TIFF"])
def test_the_limit_is_ours_where_pillow_would_refuse_sooner(small, limits, monkeypatch, kind):
    data = encode(small, kind) if kind in FORMATS else _first_of_two(small, kind.removeprefix("two in "))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert decoding.decode(data, limits.model_copy(update={"max_pixels": 2400})).shape == small.shape
    fewer = limits.model_copy(update={"max_pixels": 2399})
    with pytest.raises(ImageError, match="60 x 40, at most 2399"):
        decoding.decode(data, fewer)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_threads_leave_pillows_limit_and_the_warnings_as_they_were(small, limits, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    before = list(warnings.filters)
    data = encode(small, "PNG")
    each = [limits.model_copy(update={"max_pixels": 2400 + number % 3}) for number in range(100)]
    with ThreadPoolExecutor(8) as pool:
        assert all((pixels == small).all() for pixels in pool.map(partial(decoding.decode, data), each))
    assert Image.MAX_IMAGE_PIXELS == 100
    assert warnings.filters == before


def test_a_text_chunk_that_unpacks_to_gigabytes_is_refused(limits):
    text = b"Comment\0\0" + zlib.compress(bytes(70_000_000))
    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"zTXt", text), (b"IDAT", zlib.compress(b"\0\0")), (b"IEND", b"")]
    assert reason_of(lambda: decoding.decode(png(chunks), limits)) == "broken"


def test_too_many_bytes_are_refused_and_not_read_whole(small, limits, tmp_path):
    data = encode(small, "PNG")
    tight = limits.model_copy(update={"max_bytes": len(data) - 1})
    assert reason_of(lambda: decoding.decode(data, tight)) == "too_many_bytes"
    with (tmp_path / "huge.png").open("wb") as handle:
        handle.truncate(2**40)
    assert reason_of(lambda: decoding.read_bytes(tmp_path / "huge.png", tight)) == "too_many_bytes"
