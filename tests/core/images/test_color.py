"""Images in other color spaces are shown, and so scored, in the colors that they mean."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from quality_model.core import decoding
from quality_model.core.decoding import Pixels
from quality_model.params import LimitsParams
from tests.core.images.encoding import encode, png
from tests.core.images.profiles import SPACES, cmyk_profile, encoded_in, grey_profile, rgb_profile

COLORS = np.array(
    [
        [[255, 255, 255], [128, 128, 128], [40, 40, 40], [200, 120, 90], [90, 130, 80]],
        [[70, 90, 160], [220, 200, 60], [150, 60, 110], [60, 150, 170], [230, 180, 160]],
    ],
    np.uint8,
)
"""Ten colors, (2, 5, 3) sRGB."""


_COLORANTS = struct.pack(">3i", *(round(value * 65536) for value in SPACES["Adobe RGB"][1][1]))


def srgb_of(light: np.ndarray) -> np.ndarray:
    """Levels of sRGB, 0 to 255, of linear light in [0, 1]."""
    return (np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055) * 255).round()


def off(pixels: Pixels, expected: np.ndarray) -> int:
    return int(np.abs(pixels.astype(int) - expected).max())


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("name", SPACES)
def test_the_same_colors_in_another_space_decode_to_the_same_pixels(limits, name, kind):
    stored = encoded_in(name, COLORS)
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(stored, kind, icc_profile=rgb_profile(name), **options)
    assert off(decoding.decode(data, limits), COLORS) <= 2
    assert off(decoding.from_image(Image.open(io.BytesIO(data))), COLORS) <= 2
    assert name == "sRGB" or off(decoding.decode(encode(stored, kind, **options), limits), COLORS) > 8


def test_a_jpeg_in_adobe_rgb_looks_like_the_srgb_one(photo, limits):
    plain = decoding.decode(encode(photo, "JPEG", quality=98, subsampling=0), limits)
    options = {"quality": 98, "subsampling": 0, "icc_profile": rgb_profile("Adobe RGB")}
    data = encode(encoded_in("Adobe RGB", photo), "JPEG", **options)
    assert np.abs(decoding.decode(data, limits).astype(int) - plain).mean() < 1.5


def test_channels_that_are_swapped_by_a_profile_are_swapped_back(limits):
    data = encode(COLORS[..., [1, 0, 2]], "PNG", icc_profile=rgb_profile("sRGB", "grb"))
    assert off(decoding.decode(data, limits), COLORS) <= 2


@pytest.mark.parametrize(
    "profile", [rgb_profile("sRGB"), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()]
)
def test_an_srgb_profile_changes_no_pixel(small, limits, profile):
    np.testing.assert_array_equal(decoding.decode(encode(small, "PNG", icc_profile=profile), limits), small)


@pytest.mark.parametrize(
    "profile",
    [
        b"garbage" * 40,
        rgb_profile("Adobe RGB")[:200],
        rgb_profile("Adobe RGB")[:128] + bytes(300),
        rgb_profile("Adobe RGB").replace(_COLORANTS, bytes(12)),
        grey_profile(1.8),
    ],
    ids=["garbage", "cut", "no tags", "without green", "of grey images"],
)
def test_a_profile_that_is_of_no_use_is_ignored(small, limits, profile):
    np.testing.assert_array_equal(decoding.decode(encode(small, "PNG", icc_profile=profile), limits), small)


def test_the_profile_of_a_grey_image_of_8_or_16_bits_is_applied(limits):
    ramp, profile = np.arange(256, dtype=np.uint8).reshape(16, 16), grey_profile(1.8)
    decoded = decoding.decode(encode(ramp, "TIFF", icc_profile=profile), limits)
    assert off(decoded, srgb_of((ramp / 255) ** (461 / 256))[:, :, None]) <= 2
    of_16_bits = decoding.decode(encode(ramp.astype(np.uint16) * 257, "TIFF", icc_profile=profile), limits)
    np.testing.assert_array_equal(of_16_bits, decoded)


def test_colors_are_converted_before_transparency_is_put_over_white(limits):
    stored = np.dstack([encoded_in("Adobe RGB", COLORS), np.full((2, 5), 128, np.uint8)])
    decoded = decoding.decode(encode(stored, "PNG", icc_profile=rgb_profile("Adobe RGB")), limits)
    assert off(decoded, (COLORS * (128 / 255) + 255 * (127 / 255)).round()) <= 2


def test_the_profile_of_a_palette_image_is_applied(limits):
    stored = Image.fromarray(encoded_in("Display P3", COLORS)).quantize(16, dither=Image.Dither.NONE)
    exact = np.asarray(stored.convert("RGB"))
    with_profile = decoding.decode(encode(stored, "PNG", icc_profile=rgb_profile("Display P3")), limits)
    of_rgb = decoding.decode(encode(exact, "PNG", icc_profile=rgb_profile("Display P3")), limits)
    np.testing.assert_array_equal(with_profile, of_rgb)


def test_a_turned_image_is_converted_as_well(limits):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(encoded_in("ProPhoto", COLORS), "PNG", icc_profile=rgb_profile("ProPhoto"), exif=exif)
    assert off(decoding.decode(data, limits), np.rot90(COLORS, -1)) <= 2


CHRM_ADOBE = struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)
CHRM_SRGB = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)


def gamma_png(pixels: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    return png([(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")])


def gama(value: float) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", round(value * 100_000))


def test_gamma_and_chromaticities_of_a_png_are_applied(limits: LimitsParams) -> None:
    data = gamma_png(encoded_in("Adobe RGB", COLORS), gama(256 / 563), (b"cHRM", CHRM_ADOBE))
    assert off(decoding.decode(data, limits), COLORS) <= 2


def test_gamma_alone_is_applied_with_the_primaries_of_srgb(limits: LimitsParams) -> None:
    light = np.arange(256, dtype=np.uint8).reshape(16, 16)[:, :, None].repeat(3, axis=2)
    assert off(decoding.decode(gamma_png(light, gama(1.0)), limits), srgb_of(light / 255)) <= 2


@pytest.mark.parametrize(
    "chunks",
    [
        [gama(0.45455)],
        [gama(0.45455), (b"cHRM", CHRM_SRGB)],
        [(b"sRGB", b"\0"), gama(1.0)],
        [gama(0.0)],
        [gama(900.0)],
        [gama(1.0), (b"cHRM", bytes(32))],
        [(b"cHRM", CHRM_ADOBE)],
    ],
    ids=["that of sRGB", "sRGB in full", "sRGB goes first", "zero", "absurd", "no colors", "no gamma"],
)
def test_a_gamma_that_says_srgb_or_nothing_of_use_changes_no_pixel(small, limits, chunks):
    np.testing.assert_array_equal(decoding.decode(gamma_png(small, *chunks), limits), small)


def test_a_profile_goes_before_gamma(limits: LimitsParams) -> None:
    profile = b"icc\0\0" + zlib.compress(rgb_profile("Adobe RGB"))
    data = gamma_png(encoded_in("Adobe RGB", COLORS), gama(1.0), (b"iCCP", profile))
    assert off(decoding.decode(data, limits), COLORS) <= 2


def test_cmyk_is_converted_by_its_profile(limits: LimitsParams) -> None:
    stored = Image.fromarray(COLORS).convert("CMYK")
    plain = decoding.decode(encode(stored, "TIFF"), limits)
    converted = decoding.decode(encode(stored, "TIFF", icc_profile=cmyk_profile()), limits)
    assert off(converted[:1, :1], np.array([255, 255, 255])) <= 2
    assert off(converted, plain) > 8
    of_jpeg = decoding.decode(encode(stored.resize((80, 32), 0), "JPEG", icc_profile=cmyk_profile()), limits)
    assert off(of_jpeg[3:5, 3:5], converted[0, 0]) <= 4
