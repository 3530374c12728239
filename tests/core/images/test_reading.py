import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from quality_model.core import decoding
from quality_model.errors import ImageError, ParameterError
from quality_model.params import LimitsParams
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
        decoding.resize(decoding.decode(encode(small, "PNG"), limits), 32),
    ):
        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous
        assert pixels.flags.writeable


def test_no_bytes_are_refused_as_empty(limits):
    assert reason_of(lambda: decoding.decode(b"", limits)) == "empty"


@pytest.mark.parametrize("kind", FORMATS)
def test_a_truncated_image_is_refused(small, limits, kind):
    data = encode(small, kind)
    assert reason_of(lambda: decoding.decode(data[: len(data) // 2], limits)) in {
        "truncated",
        "broken",
        "not_an_image",
    }


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_truncated_photograph_is_called_truncated(small, limits, kind):
    data = encode(small, kind)
    assert reason_of(lambda: decoding.decode(data[: len(data) // 2], limits)) == "truncated"


@pytest.mark.parametrize(
    "data", [b"<!DOCTYPE html><html>Not found</html>", b"\0" * 1000, b"PK\x03\x04" + bytes(60), b"\xff\xd8"]
)
def test_what_is_no_image_is_refused(limits, data):
    assert reason_of(lambda: decoding.decode(data, limits)) in {"not_an_image", "broken", "truncated"}


def test_html_named_jpg_is_not_an_image(limits, tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"<!DOCTYPE html><html><body>404</body></html>")
    assert reason_of(lambda: decoding.decode(decoding.read_bytes(path, limits), limits)) == "not_an_image"


@pytest.mark.parametrize("kind", ["ICO", "PDF", "JPEG2000", "TGA"])
def test_a_format_that_is_not_allowed_is_not_an_image(small, limits, kind):
    assert reason_of(lambda: decoding.decode(encode(small, kind), limits)) == "not_an_image"


def test_a_format_taken_from_the_list_is_no_longer_read(small, limits):
    only_jpeg = limits.model_copy(update={"formats": ("JPEG",)})
    decoding.decode(encode(small, "JPEG"), only_jpeg)
    assert reason_of(lambda: decoding.decode(encode(small, "PNG"), only_jpeg)) == "not_an_image"


def test_a_format_that_pillow_does_not_know_is_a_wrong_parameter(small, limits):
    misspelt = limits.model_copy(update={"formats": ("JPG",)})
    with pytest.raises(ParameterError, match="JPG"):
        decoding.decode(encode(small, "JPEG"), misspelt)


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


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_range(limits, kind):
    values = np.linspace(0, 65535, 600).astype(np.uint16).reshape(20, 30)
    decoded = decoding.decode(encode(Image.fromarray(values), kind), limits)
    np.testing.assert_array_equal(decoded[:, :, 0], (values / 257.0).round().astype(np.uint8))


def test_16_bit_colour_keeps_its_range(limits):
    shades = [0, 128, 255]
    row = b"".join(struct.pack(">HHH", shade * 257, 65535 - shade * 257, 0) for shade in shades)
    header = struct.pack(">IIBBBBB", 3, 1, 16, 2, 0, 0, 0)
    data = png([(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")])
    assert decoding.decode(data, limits)[0].tolist() == [[0, 255, 0], [128, 127, 0], [255, 0, 0]]


def test_float_tiff_from_0_to_1_keeps_its_range(limits):
    values = np.linspace(0, 1, 600, dtype=np.float32).reshape(20, 30)
    decoded = decoding.decode(encode(Image.fromarray(values), "TIFF"), limits)
    assert decoded[0, 0, 0] == 0
    assert decoded[-1, -1, 0] == 255


def test_palettes_give_their_colours(limits):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    assert decoding.decode(encode(image, "PNG"), limits)[0, 0].tolist() == [10, 200, 30]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_are_white(limits, mode):
    image = Image.new(mode, (4, 4), 0)
    assert decoding.decode(encode(image, "PNG"), limits).min() == 255


def test_half_transparent_black_is_grey(limits):
    decoded = decoding.decode(encode(Image.new("RGBA", (4, 4), (0, 0, 0, 128)), "PNG"), limits)
    assert np.abs(decoded.astype(int) - 127).max() <= 1


def test_a_transparent_palette_entry_is_white(limits):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    assert decoding.decode(encode(image, "PNG", transparency=1), limits).min() == 255


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
    assert (decoding.resize(decoding.decode(data, limits), 224) == [1, 2, 3]).all()


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
    square = decoding.resize(small, 48)
    assert square.shape == (48, 48, 3)
    assert decoding.resize(square, 48) is square


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_mutation_of_an_image_raises_anything_but_an_image_error(small, limits, data):
    image = bytearray(encode(small, data.draw(st.sampled_from(FORMATS))))
    for _ in range(data.draw(st.integers(1, 8))):
        image[data.draw(st.integers(0, len(image) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(image)))
    small_limits: LimitsParams = limits.model_copy(update={"max_pixels": 1_000_000})
    try:
        decoded = decoding.decode(bytes(image[:cut]), small_limits)
    except ImageError as error:
        assert error.reason in {
            *("not_an_image", "too_many_pixels", "truncated", "broken"),
            *("unsupported", "unknown_range", "not_finite"),
        }
    else:
        assert decoded.ndim == 3 and decoded.shape[2] == 3
