"""Images of more than 8 bits are read by their range, or refused: none turns black in silence."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from quality_model.core import decoding
from quality_model.core.decoding import Pixels
from quality_model.params import LimitsParams
from tests.core.images.encoding import encode, png, reason_of

RAMP = np.linspace(0, 1, 4096).reshape(64, 64)
"""Grey levels from black to white, float (64, 64)."""

S_MIN, S_MAX, MAX = 340, 341, 281


def tiff(values: np.ndarray, tags: dict[int, tuple[int, float]] | None = None) -> bytes:
    """A TIFF of an array, with some tags: by number, type (3 short, 11 float) and value."""
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for number, (kind, value) in (tags or {}).items():
        directory.tagtype[number] = kind
        directory[number] = value
    return encode(Image.fromarray(values), "TIFF", tiffinfo=directory)


def assert_ramp(pixels: Pixels, tolerance: int = 1) -> None:
    assert np.abs(pixels - (RAMP * 255)[:, :, None]).max() <= tolerance + 0.5
    assert (pixels[-1, -1] == 255).all()


@pytest.mark.parametrize(
    "data",
    [
        tiff(RAMP.astype(np.float32)),
        tiff((RAMP * 1.001).astype(np.float32)),
        tiff((RAMP * 1.04 - 0.02).clip(-0.004, 1.004).astype(np.float32)),
        tiff((RAMP * 255).round().astype(np.float32)),
        tiff((RAMP * 65535).round().astype(np.float32)),
        tiff((RAMP * 255).astype(np.int32)),
        tiff((RAMP * 65535).astype(np.int32)),
        tiff((RAMP * 65535).astype(np.uint16)),
        tiff((RAMP * 65535).astype(">u2")),
        tiff((RAMP * 255).astype(np.float32), {S_MIN: (11, 0.0), S_MAX: (11, 255.0)}),
        tiff((RAMP * 9 - 3).astype(np.float32), {S_MIN: (11, -3.0), S_MAX: (11, 6.0)}),
        tiff((RAMP * 0.01).astype(np.float32), {S_MAX: (11, 0.01)}),
        tiff((RAMP * 0.9999).astype(np.float32), {S_MIN: (11, 0.2), S_MAX: (11, 0.9)}),
        tiff((RAMP * 4095).astype(np.uint16), {MAX: (3, 4095)}),
        tiff((RAMP * 4095).astype(np.uint16), {S_MAX: (3, 4095)}),
        tiff((RAMP * 1023).astype(np.int32), {MAX: (3, 1023)}),
    ],
    ids=[
        *("float 0..1", "float 0..1.001", "float resampled", "float 0..255 whole", "float 0..65535 whole"),
        *(
            "int32 0..255",
            "int32 0..65535",
            "uint16",
            "uint16 big-endian",
            "float 0..255 stated",
            "float -3..6 stated",
        ),
        *("float 0...01 stated", "float 0..1 with statistics", "12 in 16", "12 in 16 signed tag", "10 in 32"),
    ],
)
def test_grey_of_a_known_range_goes_from_black_to_white(limits: LimitsParams, data: bytes) -> None:
    assert_ramp(decoding.decode(data, limits), 6)


@pytest.mark.parametrize(
    "data",
    [
        tiff((RAMP * 255).astype(np.float32)),
        tiff((RAMP * 1.2).astype(np.float32)),
        tiff((RAMP * 40).astype(np.float32)),
        tiff((RAMP * 0.05).astype(np.float32)),
        tiff((RAMP - 0.5).astype(np.float32)),
        tiff((RAMP * 1e30).astype(np.float32)),
        tiff((RAMP * 4095).round().astype(np.float32)),
        tiff((RAMP * 255).astype(np.float32), {S_MAX: (11, 200.0)}),
        tiff((RAMP * 1000).astype(np.int32)),
        tiff((RAMP * 1.99).astype(np.int32)),
        tiff((RAMP * 2e9).astype(np.int32)),
        tiff((RAMP * 255 - 100).astype(np.int32)),
        tiff((RAMP * 4095).astype(np.uint16)),
        tiff((RAMP * 255).astype(np.uint16)),
        tiff((RAMP * 255).astype(">u2")),
    ],
    ids=[
        *("float 0..255", "float 0..1.2", "float 0..40", "float 0...05", "float -.5...5", "float 0..1e30"),
        *("float 0..4095 whole", "beyond what is stated", "int32 0..1000", "int32 0..1", "int32 0..2e9"),
        *("int32 -100..155", "12 in 16", "8 in 16", "8 in 16 big-endian"),
    ],
)
def test_grey_of_an_unknown_range_is_refused(limits: LimitsParams, data: bytes) -> None:
    assert reason_of(lambda: decoding.decode(data, limits)) == "unknown_range"


def test_the_refusal_says_what_the_samples_are_and_what_to_do(limits: LimitsParams) -> None:
    with pytest.raises(Exception, match=r"float32 samples from 0 to 40, .* SMinSampleValue"):
        decoding.decode(tiff((RAMP * 40).astype(np.float32)), limits)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_finite_numbers_are_refused(limits: LimitsParams, value: float) -> None:
    values = RAMP.astype(np.float32)
    values[40, 7] = value
    assert reason_of(lambda: decoding.decode(tiff(values), limits)) == "not_finite"


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_zeros_are_black_in_every_range(limits: LimitsParams, dtype: type) -> None:
    assert decoding.decode(tiff(np.zeros((4, 4), dtype)), limits).max() == 0


@pytest.mark.parametrize("maxval", [255, 1023, 4095, 16383, 65535])
def test_the_maxval_of_a_pgm_is_white(limits: LimitsParams, maxval: int) -> None:
    values = (RAMP * maxval).round().astype(">u2" if maxval > 255 else np.uint8)
    data = f"P5 64 64 {maxval}\n".encode() + values.tobytes()
    assert_ramp(decoding.decode(data, limits))
    dark = f"P5 64 64 {maxval}\n".encode() + (values // 40).astype(values.dtype).tobytes()
    assert decoding.decode(dark, limits).max() == 6


def grey_png(values: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", 64, 64, 16, 0, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png([(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")])


def test_12_bits_in_a_16_bit_png_are_read_by_what_sbit_says(limits: LimitsParams) -> None:
    values = (RAMP * 4095).round().astype(np.uint16)
    assert_ramp(decoding.decode(grey_png(values, (b"sBIT", b"\x0c")), limits))
    assert_ramp(decoding.decode(grey_png(values * 16, (b"sBIT", b"\x0c")), limits))
    assert_ramp(decoding.decode(grey_png(values * 16 + values // 256, (b"sBIT", b"\x0c")), limits))
    assert reason_of(lambda: decoding.decode(grey_png(values), limits)) == "unknown_range"


def test_a_dark_png_whose_samples_are_stretched_as_png_demands_stays_dark(limits: LimitsParams) -> None:
    values = (RAMP * 4095).round().astype(np.uint16) // 4
    decoded = decoding.decode(grey_png(values * 16, (b"sBIT", b"\x0c")), limits)
    assert decoded.max() == 64


def test_the_transparent_grey_of_a_16_bit_png_is_white(limits: LimitsParams) -> None:
    values = np.full((64, 64), 30000)
    values[:32] = 20000
    decoded = decoding.decode(grey_png(values, (b"tRNS", struct.pack(">H", 20000))), limits)
    assert (decoded[:32] == 255).all() and (decoded[32:] == 117).all()


def test_16_bit_color_with_12_bits_in_it_is_refused(limits: LimitsParams) -> None:
    header = struct.pack(">IIBBBBB", 64, 64, 16, 2, 0, 0, 0)
    values = (RAMP[:, :, None].repeat(3, axis=2) * 4095).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    data = png([(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")])
    assert reason_of(lambda: decoding.decode(data, limits)) == "unknown_range"


def raw_tiff(values: np.ndarray, bits: int, sample_format: int, photometric: int) -> bytes:
    """A TIFF as other programs write it: one strip, uncompressed, little-endian."""
    samples = 1 if values.ndim == 2 else values.shape[2]
    tags = [
        *(
            (256, 3, 1, values.shape[1]),
            (257, 3, 1, values.shape[0]),
            (258, 3, samples, bits),
            (259, 3, 1, 1),
        ),
        *((262, 3, 1, photometric), (273, 4, 1, 0), (277, 3, 1, samples), (278, 4, 1, values.shape[0])),
        *((279, 4, 1, values.nbytes), (339, 3, samples, sample_format)),
    ]
    start = 8 + 2 + 12 * len(tags) + 4
    extra = {258: struct.pack(f"<{samples}H", *[bits] * samples)}
    extra[339] = struct.pack(f"<{samples}H", *[sample_format] * samples)
    body, directory = b"", struct.pack("<H", len(tags))
    for number, kind, count, value in tags:
        if count > 2:
            field = struct.pack("<I", start + len(body))
            body += extra[number]
        elif number == 273:
            field = struct.pack("<I", start + 2 * 2 * samples * (samples > 2))
        else:
            field = struct.pack("<HH" if kind == 3 else "<I", value, *([0] if kind == 3 else []))
        directory += struct.pack("<HHI", number, kind, count) + field
    return b"II*\0\x08\0\0\0" + directory + bytes(4) + body + values.tobytes()


def test_12_bits_of_a_tiff_are_white_at_4095(limits: LimitsParams) -> None:
    values = (RAMP * 4095).round().astype(int).reshape(-1, 2)
    first, second = values[:, 0], values[:, 1]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1).astype(np.uint8)
    data = raw_tiff(packed.reshape(64, 96), 12, 1, 1).replace(
        struct.pack("<HHII", 256, 3, 1, 96), struct.pack("<HHII", 256, 3, 1, 64), 1
    )
    assert_ramp(decoding.decode(data, limits))


def test_signed_16_bit_goes_to_32767(limits: LimitsParams) -> None:
    assert_ramp(decoding.decode(raw_tiff((RAMP * 32767).astype("<i2"), 16, 2, 1), limits))
    negative = raw_tiff((RAMP * 32767 - 9000).astype("<i2"), 16, 2, 1)
    assert reason_of(lambda: decoding.decode(negative, limits)) == "unknown_range"


def test_signed_8_bit_is_refused(limits: LimitsParams) -> None:
    data = raw_tiff((RAMP * 127).astype(np.int8), 8, 2, 1)
    assert reason_of(lambda: decoding.decode(data, limits)) == "unknown_range"


@pytest.mark.parametrize(
    ("values", "bits", "kind"),
    [((RAMP * 65535).astype("<u2"), 16, 1), (RAMP.astype("<f4"), 32, 3)],
    ids=["uint16", "float"],
)
def test_grey_where_zero_is_white_is_inverted(limits, values, bits, kind):
    np.testing.assert_array_equal(
        decoding.decode(raw_tiff(values, bits, kind, 0), limits),
        255 - decoding.decode(raw_tiff(values, bits, kind, 1), limits),
    )


@pytest.mark.parametrize(("dtype", "bits", "kind"), [("<f4", 32, 3), ("<f8", 64, 3), ("<u4", 32, 1)])
def test_a_tiff_of_color_samples_that_are_not_read_is_unsupported(limits, dtype, bits, kind):
    data = raw_tiff(RAMP[:, :, None].repeat(3, axis=2).astype(dtype), bits, kind, 2)
    assert reason_of(lambda: decoding.decode(data, limits)) == "unsupported"
    assert reason_of(lambda: decoding.decode(data[:60], limits)) in ("not_an_image", "broken", "truncated")


@pytest.mark.parametrize(
    "values",
    [
        RAMP,
        RAMP.astype(np.float16),
        RAMP * 65535 // 1,
        (RAMP * 65535).astype(np.uint16),
        (RAMP * 65535).astype(">u2"),
        (RAMP * 255).astype(int),
    ],
    ids=["float64", "float16", "float64 whole", "uint16", "uint16 big-endian", "int64"],
)
def test_arrays_follow_the_same_rule(values: np.ndarray) -> None:
    assert_ramp(decoding.from_array(values), 2)
    colored = np.dstack([values, values * 0, values])
    assert (decoding.from_array(colored)[-1, -1] == [255, 0, 255]).all()


@pytest.mark.parametrize(
    ("values", "code"),
    [
        (RAMP * 255, "unknown_range"),
        (RAMP * 3, "unknown_range"),
        ((RAMP * 4095).astype(np.uint16), "unknown_range"),
        ((RAMP * 255).astype("<u2"), "unknown_range"),
        ((RAMP * 255).astype(">u2"), "unknown_range"),
        ((RAMP * 255 - 9).astype(np.int16), "unknown_range"),
        (RAMP * np.nan, "not_finite"),
    ],
    ids=["float 0..255", "float 0..3", "12 in 16", "8 in 16", "8 in 16 big-endian", "negative", "NaN"],
)
def test_arrays_of_an_unknown_range_are_refused(values: np.ndarray, code: str) -> None:
    assert reason_of(lambda: decoding.from_array(values)) == code


def test_an_open_image_follows_the_same_rule() -> None:
    assert_ramp(decoding.from_image(Image.fromarray((RAMP * 255).astype(np.int32))))
    assert_ramp(decoding.from_image(Image.fromarray((RAMP * 65535).astype(np.uint16))))
    assert (
        reason_of(lambda: decoding.from_image(Image.fromarray((RAMP * 99).astype(np.float32))))
        == "unknown_range"
    )


def test_a_large_deep_image_is_read_in_strips_as_in_one(limits, monkeypatch):
    values = np.linspace(0, 65535, 300 * 7).astype(np.uint16).reshape(300, 7)
    data = encode(values, "PNG")
    whole = decoding.decode(data, limits)
    monkeypatch.setattr("quality_model.core.pixels._STRIP_PIXELS", 50)
    np.testing.assert_array_equal(decoding.decode(data, limits), whole)
