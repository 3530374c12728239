"""Images of more than 8 bits are read by their range, or refused: none turns black in silence."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from quality_model.core import decoding
from quality_model.core.decoding import Pixels
from quality_model.errors import ImageError
from quality_model.params import LimitsParams
from tests.core.images.encoding import encode, png, reason_of

RAMP = np.linspace(0, 1, 4096).reshape(64, 64)
"""Grey levels from black to white, float (64, 64)."""

MAX, SAMPLE_FORMAT, S_MIN, S_MAX = 281, 339, 340, 341
SIGNED = {SAMPLE_FORMAT: (3, 2)}


def ramp(white: float, dtype: object) -> np.ndarray:
    values = RAMP * white
    return (values if np.dtype(dtype).kind == "f" else values.round()).astype(dtype)


def tiff(values: np.ndarray, tags: dict[int, tuple[int, object]] | None = None, **fields: int) -> bytes:
    """A TIFF of an array, with tags by number, type (3 short, 11 float) and value.

    ``fields`` (``tag_262=0``) replace numbers in the directory that Pillow wrote.
    """
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for number, (kind, value) in (tags or {}).items():
        directory.tagtype[number] = kind
        directory[number] = value
    data = bytearray(encode(Image.fromarray(values), "TIFF", tiffinfo=directory))
    start = int.from_bytes(data[4:8], "little") + 2
    for at in range(start, start + 12 * int.from_bytes(data[start - 2 : start], "little"), 12):
        if (name := f"tag_{int.from_bytes(data[at : at + 2], 'little')}") in fields:
            data[at + 8 : at + 12] = struct.pack("<I", fields[name])
    return bytes(data)


def png_of_16_bits(values: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", 64, 64, 16, 0 if values.ndim == 2 else 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png([(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")])


def assert_ramp(pixels: Pixels, tolerance: int = 1) -> None:
    assert np.abs(pixels - (RAMP * 255)[:, :, None]).max() <= tolerance + 0.5
    assert (pixels[-1, -1] == 255).all()


def expected_white(values: np.ndarray) -> float | None:
    """The documented rule: floats of 0 to 1; uint16 of 0 to 65535; whole numbers up to 255, or up to 65535.

    What would be nearly black is refused.
    """
    low, high, is_float = float(values.min()), float(values.max()), values.dtype.kind == "f"
    is_whole = not is_float or bool((values == values.round()).all())
    if is_float and low >= -0.05 and 1 / 16 <= high <= 1.05:
        return 1.0
    whites = (65535,) if values.dtype.newbyteorder("=") == np.uint16 else (255, 65535)
    return next((w for w in whites if is_whole and low >= 0 and w / 16 <= high <= w), None)


@settings(max_examples=150, deadline=None)
@given(
    dtype=st.sampled_from(["<u2", ">u2", "<i4", "<f4", "<f8", "<f2", "<i8", "<i2"]),
    white=st.sampled_from(
        [0.01, 0.05, 0.07, 1, 1.04, 1.2, 3, 15, 16, 40, 255, 256, 1000, 4095, 4096, 3e4, 65535, 7e4, 2e9]
    ),
    black=st.sampled_from([0.0, 0.0, 0.0, -0.02, -0.5, 0.2]),
    is_whole=st.booleans(),
)
def test_samples_of_no_stated_range_follow_one_rule_in_arrays_files_and_open_images(
    limits: LimitsParams, dtype: str, white: float, black: float, is_whole: bool
) -> None:
    values = (RAMP * (1 - black) + black) * white
    limit = 6e4 if dtype == "<f2" else np.iinfo(dtype).max if np.dtype(dtype).kind != "f" else np.inf
    values = (
        (values.round() if is_whole else values).clip(0 if dtype[1] == "u" else -limit, limit).astype(dtype)
    )
    readers = [lambda: decoding.from_array(values)]
    if dtype in ("<u2", ">u2", "<i4", "<f4"):
        readers += [
            lambda: decoding.decode(tiff(values), limits),
            lambda: decoding.from_image(Image.fromarray(values)),
        ]
    scale = expected_white(values) if values.any() else 1.0
    for read in readers:
        if not np.isfinite(values).all():
            assert reason_of(read) == "not_finite"
        elif scale is None:
            assert reason_of(read) == "unknown_range"
        else:
            levels = (values.astype(float) * (255 / scale)).round().clip(0, 255)
            np.testing.assert_array_equal(read(), levels.astype(np.uint8)[:, :, None].repeat(3, axis=2))


def test_an_array_of_colors_follows_the_rule_of_grey() -> None:
    values = ramp(65535, np.uint16)
    assert (decoding.from_array(np.dstack([values, values * 0, values]))[-1, -1] == [255, 0, 255]).all()


STATED = {
    "float 0..255": tiff(ramp(255, "f4"), {S_MIN: (11, 0.0), S_MAX: (11, 255.0)}),
    "float -3..6": tiff(ramp(9, "f4") - 3, {S_MIN: (11, -3.0), S_MAX: (11, 6.0)}),
    "float 0...01": tiff(ramp(0.01, "f4"), {S_MAX: (11, 0.01)}),
    "float 0..1 with statistics": tiff(ramp(0.9999, "f4"), {S_MIN: (11, 0.2), S_MAX: (11, 0.9)}),
    "12 in 16": tiff(ramp(4095, "u2"), {MAX: (3, 4095)}),
    "12 in 16 signed tag": tiff(ramp(4095, "u2"), {S_MAX: (3, 4095)}),
    "10 in 32": tiff(ramp(1023, "i4"), {MAX: (3, 1023)}),
    "signed 16": tiff(ramp(32767, "u2"), SIGNED),
    "12 bits in a PNG": png_of_16_bits(ramp(4095, "u2"), (b"sBIT", b"\x0c")),
    "12 bits shifted": png_of_16_bits(ramp(4095, "u2") * 16, (b"sBIT", b"\x0c")),
    "12 bits repeated": png_of_16_bits(ramp(4095, "u2") * 16 + ramp(4095, "u2") // 256, (b"sBIT", b"\x0c")),
}


@pytest.mark.parametrize("name", STATED)
def test_grey_of_a_stated_range_goes_from_black_to_white(limits: LimitsParams, name: str) -> None:
    assert_ramp(decoding.decode(STATED[name], limits), 6)


def test_12_bits_of_a_tiff_are_white_at_4095(limits: LimitsParams) -> None:
    first, second = ramp(4095, int).reshape(-1, 2).T
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1).astype(np.uint8)
    assert_ramp(decoding.decode(tiff(packed.reshape(64, 96), tag_256=64, tag_258=12), limits))


@pytest.mark.parametrize("maxval", [255, 1023, 4095, 16383, 65535])
def test_the_maxval_of_a_pgm_is_white(limits: LimitsParams, maxval: int) -> None:
    values = ramp(maxval, ">u2" if maxval > 255 else np.uint8)
    head = f"P5 64 64 {maxval}\n".encode()
    assert_ramp(decoding.decode(head + values.tobytes(), limits))
    assert decoding.decode(head + (values // 40).astype(values.dtype).tobytes(), limits).max() == 6


@pytest.mark.parametrize(
    "data",
    [
        tiff(ramp(255, "f4"), {S_MAX: (11, 200.0)}),
        tiff((ramp(32767, "i4") - 9000).astype("i2").view("u2"), SIGNED),
        tiff(ramp(127, np.uint8), SIGNED),
        png_of_16_bits(ramp(4095, "u2")),
        png_of_16_bits(ramp(4095, "u2")[:, :, None].repeat(3, axis=2)),
    ],
    ids=["beyond what is stated", "signed 16 below zero", "signed 8", "12 in 16", "color of 12 in 16"],
)
def test_a_range_that_cannot_be_right_is_refused(limits: LimitsParams, data: bytes) -> None:
    assert reason_of(lambda: decoding.decode(data, limits)) == "unknown_range"


def test_the_refusal_says_what_the_samples_are_and_what_to_do(limits: LimitsParams) -> None:
    with pytest.raises(ImageError, match=r"float32 samples from 0 to 40, .* SMinSampleValue"):
        decoding.decode(tiff(ramp(40, "f4")), limits)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_finite_numbers_are_refused(limits: LimitsParams, value: float) -> None:
    values = ramp(1, "f4")
    values[40, 7] = value
    assert reason_of(lambda: decoding.decode(tiff(values), limits)) == "not_finite"


def test_a_dark_png_whose_samples_are_stretched_as_png_demands_stays_dark(limits: LimitsParams) -> None:
    data = png_of_16_bits(ramp(4095, "u2") // 4 * 16, (b"sBIT", b"\x0c"))
    assert decoding.decode(data, limits).max() == 64


def test_the_transparent_grey_of_a_16_bit_png_is_white(limits: LimitsParams) -> None:
    values = np.full((64, 64), 30000)
    values[:32] = 20000
    decoded = decoding.decode(png_of_16_bits(values, (b"tRNS", struct.pack(">H", 20000))), limits)
    assert (decoded[:32] == 255).all() and (decoded[32:] == 117).all()


def test_16_bit_color_keeps_its_range(limits: LimitsParams) -> None:
    values = np.stack([RAMP * 65535, 65535 - RAMP * 65535, RAMP * 0], axis=2)
    expected = np.stack([RAMP * 255, 255 - RAMP * 255, RAMP * 0], axis=2)
    assert np.abs(decoding.decode(png_of_16_bits(values), limits) - expected).max() <= 1


@pytest.mark.parametrize("values", [ramp(65535, "u2"), ramp(1, "f4")], ids=["uint16", "float"])
def test_grey_where_zero_is_white_is_inverted(limits: LimitsParams, values: np.ndarray) -> None:
    inverted = decoding.decode(tiff(values, tag_262=0), limits)
    np.testing.assert_array_equal(inverted, 255 - decoding.decode(tiff(values), limits))


@pytest.mark.parametrize(("bits", "kind"), [(32, 3), (64, 3), (32, 1)])
def test_a_tiff_of_color_samples_that_are_not_read_is_unsupported(
    limits: LimitsParams, bits: int, kind: int
) -> None:
    data = tiff(np.zeros((64, 64, 3), np.uint8), {SAMPLE_FORMAT: (3, (kind,) * 3)})
    data = data.replace(struct.pack("<3H", 8, 8, 8), struct.pack("<3H", bits, bits, bits))
    assert reason_of(lambda: decoding.decode(data, limits)) == "unsupported"
    assert reason_of(lambda: decoding.decode(data[:60], limits)) in ("not_an_image", "broken", "truncated")


def test_a_large_deep_image_is_read_in_strips_as_in_one(limits: LimitsParams) -> None:
    values = np.arange(1100 * 1000).reshape(1100, 1000).astype(np.uint16)
    decoded = decoding.decode(encode(values, "TIFF"), limits)
    np.testing.assert_array_equal(decoded[:, :, 1], (values / 257).round().astype(np.uint8))
