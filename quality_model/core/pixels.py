"""From an image that Pillow decoded, or an array, to 8-bit sRGB pixels.

Samples of more than 8 bits need a range: which value is white. It is read from the file
(`_stated_range`) or follows from dtype and values (`_assumed_range`). Where neither says it, the
image is refused with the error code ``unknown_range``: it never turns black in silence.

An image is in the color space of its ICC profile. A PNG without one is in that of its sRGB
chunk, else of its gAMA and cHRM chunks, in this order of precedence (PNG specification, 4.3);
cHRM without gAMA is ignored, as browsers do, and so is cICP, which Pillow does not read. What
states nothing is sRGB. A profile that is damaged or belongs to another kind of pixels is
ignored, because the pixels are good.
"""

import io
import struct
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, TiffImagePlugin

from quality_model.errors import ImageError

Pixels = npt.NDArray[np.uint8]
"""uint8 (height, width, 3), RGB, 0 to 255."""

_STRIP_PIXELS: Final = 2**20
"""Pixels that are converted at a time: what conversions need beside the result stays small."""

_OVERSHOOT: Final = 0.05
"""How far floats of 0 to 1 may leave it, as they do where they were resampled; they are clipped."""

_NEARLY_BLACK: Final = 1 / 16
"""Where the brightest sample is a smaller share of an assumed white, it has another one (12 bits in 16)."""

_REMEDY: Final = "store it as 8-bit, as floats of 0 to 1, or as TIFF with SMinSampleValue and SMaxSampleValue"

_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_MIN_SAMPLE, _MAX_SAMPLE, _S_MIN_SAMPLE, _S_MAX_SAMPLE = 280, 281, 340, 341
"""Tags of TIFF 6.0."""

SIGNIFICANT_BITS: Final = "significant_bits"
"""Key of an image's info: what sBIT of a grey PNG says, which Pillow does not read."""


class _Range(NamedTuple):
    black: float
    white: float


class _Samples(NamedTuple):
    """What is known about samples of more than 8 bits."""

    dtype: np.dtype[Any]
    low: float
    high: float
    is_whole: bool

    def __str__(self) -> str:
        return f"{self.dtype.name} samples from {self.low:g} to {self.high:g}"


def is_deep_color(image: Image.Image) -> bool:
    """Whether an image that is not loaded yet has color samples of 16 bits, of which Pillow keeps 8."""
    rawmodes = [str(tile[3]) for tile in getattr(image, "tile", [])]
    return image.mode in ("RGB", "RGBA", "CMYK") and any(";16" in rawmode for rawmode in rawmodes)


def srgb_pixels(image: Image.Image, *, deep_color: bool = False) -> Pixels:
    """Pixels of a loaded image in sRGB, transparency over white; not turned upright yet.

    Args:
        image: Of any mode.
        deep_color: See `is_deep_color`.

    Raises:
        ImageError: ``unknown_range`` or ``not_finite``.
    """
    _require_readable_range(image)
    scale = _range_of(image) if _is_deep(image.mode) else None
    invert = scale is not None and _tag(image, _PHOTOMETRIC) == 0  # Pillow inverts up to 8 bits only
    conversion = _srgb_conversion(image)
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    for top, strip in _strips(image):
        alpha = None
        if scale is not None:
            values = np.asarray(strip)
            grey = _scaled(values, scale)
            if isinstance(transparent := image.info.get("transparency"), int):
                alpha = Image.fromarray(np.where(values == transparent, np.uint8(0), np.uint8(255)))
            strip = Image.fromarray(255 - grey if invert else grey)
        elif _has_alpha(strip):
            strip = (strip.convert("LA") if strip.mode == "La" else strip).convert("RGBA")
            alpha = strip.getchannel("A")
        if conversion is not None:
            strip = conversion(strip)
        elif strip.mode != "RGB":
            strip = strip.convert("RGB")
        if alpha is not None:
            strip.putalpha(alpha)
            white = Image.new("RGBA", strip.size, (255, 255, 255, 255))
            strip = Image.alpha_composite(white, strip).convert("RGB")
        rgb[top : top + strip.height] = np.asarray(strip)
    if deep_color and rgb.size and rgb.max() < 255 * _NEARLY_BLACK:
        raise ImageError("unknown_range", f"16-bit color samples below 4096, and 65535 is white: {_REMEDY}")
    return rgb


def from_array(array: npt.NDArray[Any]) -> Pixels:
    """Check an array of pixels, and bring it to 8 bits.

    Args:
        array: (height, width, 3) RGB or (height, width) grey: uint8, which is taken as it is, or
            any other integer or float by the rule for samples of images.

    Raises:
        ImageError: ``bad_array``: another shape or dtype; ``unknown_range``; ``not_finite``.
    """
    if (
        array.dtype.kind not in "uif"
        or 0 in array.shape
        or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3))
    ):
        raise ImageError(
            "bad_array",
            f"dtype {array.dtype}, shape {array.shape}; expected numbers (height, width, 3), best uint8",
        )
    if array.dtype != np.uint8:
        array = _scaled(array, _assumed_range(_samples([array])))
    return np.repeat(array[:, :, None], 3, axis=2) if array.ndim == 2 else array


def _is_deep(mode: str) -> bool:
    return mode.startswith("I;16") or mode in ("I", "F")


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "La", "PA", "RGBa") or "transparency" in image.info


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Parts of the image from top to bottom, each with the number of its first row."""
    rows = max(1, _STRIP_PIXELS // max(1, image.width))
    if rows >= image.height:
        yield 0, image
        return
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _scaled(values: npt.NDArray[Any], scale: _Range) -> Pixels:
    levels = (values.astype(np.float64) - scale.black) * (255 / (scale.white - scale.black))
    return np.clip(levels.round(), 0, 255).astype(np.uint8)


def _range_of(image: Image.Image) -> _Range:
    """What is black and white in a grey image of more than 8 bits."""
    samples = _samples(np.asarray(strip) for _, strip in _strips(image))
    if not samples.low and not samples.high:
        return _Range(0.0, 1.0)
    stated = _stated_range(image, samples)
    if stated is None:
        return _assumed_range(samples)
    if samples.low < stated.black or samples.high > stated.white:
        raise ImageError(
            "unknown_range", f"{samples}, but the file states {stated.black:g} to {stated.white:g}: {_REMEDY}"
        )
    return stated


def _samples(parts: Iterable[npt.NDArray[Any]]) -> _Samples:
    """Raises ImageError ``not_finite`` where a sample is NaN or infinite."""
    low, high, is_whole, dtype = float("inf"), float("-inf"), True, np.dtype(np.uint8)
    for part in parts:
        dtype, lowest, highest = part.dtype, float(part.min()), float(part.max())
        if not (np.isfinite(lowest) and np.isfinite(highest)):
            raise ImageError("not_finite", f"{dtype.name} samples with NaN or infinity among them")
        low, high = min(low, lowest), max(high, highest)
        is_whole = is_whole and (dtype.kind != "f" or bool((part == np.rint(part)).all()))
    return _Samples(dtype, low, high, is_whole)


def _assumed_range(samples: _Samples) -> _Range:
    """The range that follows from dtype and values where no file states one.

    In this order: floats of 0 to 1 are of 0 to 1; uint16 is of 0 to 65535; other whole numbers
    are of 0 to 255 up to 255, and of 0 to 65535 up to 65535. What would be nearly black in its
    range, and everything else, is refused; all zeros are black in any range.
    """
    low, high = samples.low, samples.high
    if not low and not high:
        return _Range(0.0, 1.0)
    if samples.dtype.kind == "f" and low >= -_OVERSHOOT and _NEARLY_BLACK <= high <= 1 + _OVERSHOOT:
        return _Range(0.0, 1.0)
    if samples.is_whole and low >= 0:
        is_uint16 = (samples.dtype.kind, samples.dtype.itemsize) == ("u", 2)  # of either byte order
        for white in (65535,) if is_uint16 else (255, 65535):
            if white * _NEARLY_BLACK <= high <= white:
                return _Range(0.0, float(white))
    raise ImageError("unknown_range", f"{samples}, and nothing says which value is white: {_REMEDY}")


def _stated_range(image: Image.Image, samples: _Samples) -> _Range | None:
    """The range that the file states, if it does."""
    if image.format == "PPM" and image.mode == "I":
        return _Range(0.0, 65535.0)  # to which Pillow scales from maxval
    if (bits := image.info.get(SIGNIFICANT_BITS)) and 8 <= bits < 16 and samples.high < 2**bits:
        return None if _is_scaled(image, bits) else _Range(0.0, 2.0**bits - 1)
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return None
    low, high = _tag(image, _S_MIN_SAMPLE), _tag(image, _S_MAX_SAMPLE)
    if image.mode == "F":
        if high is None or high <= (low or 0.0):
            return None
        is_unit = samples.low >= -_OVERSHOOT and _NEARLY_BLACK <= samples.high <= 1 + _OVERSHOOT
        return None if is_unit and high <= 1 + _OVERSHOOT else _Range(low or 0.0, high)
    if low is not None and high is not None and low < 0 < high:
        return _Range(low, high)
    # Some writers put the largest value that occurs: the next number of bits has room for either.
    high = high or _tag(image, _MAX_SAMPLE)
    if high and high > 0:
        return _Range(0.0, 2.0 ** int(high).bit_length() - 1)
    if (bits := _tag(image, _BITS)) and bits < 16:
        return _Range(0.0, 2.0**bits - 1)
    if bits == 16 and _tag(image, _SAMPLE_FORMAT) == 2 and samples.high >= 2**15 * _NEARLY_BLACK:
        return _Range(0.0, 2.0**15 - 1)
    return None


def _is_scaled(image: Image.Image, bits: int) -> bool:
    """Whether samples with so many significant bits are stretched to 16, as PNG demands."""
    values = np.asarray(image).astype(np.uint16)
    significant = values >> (16 - bits)
    shifted = significant << (16 - bits)
    repeated = shifted | (significant >> (2 * bits - 16))
    return bool((values == shifted).all() or (values == repeated).all())


def _require_readable_range(image: Image.Image) -> None:
    """Refuse what Pillow reads as 8-bit pixels of full range, but the file says are not."""
    if _is_deep(image.mode) or not isinstance(image, TiffImagePlugin.TiffImageFile):
        return
    bits, white = _tag(image, _BITS), _tag(image, _S_MAX_SAMPLE) or _tag(image, _MAX_SAMPLE)
    if bits == 8 and _tag(image, _SAMPLE_FORMAT) == 2:
        raise ImageError("unknown_range", f"signed 8-bit samples: {_REMEDY}")
    if bits == 16 and white and 0 < int(white) < 2**15:
        raise ImageError("unknown_range", f"16-bit color samples up to {white:g}, not 65535: {_REMEDY}")


def _tag(image: Image.Image, number: int) -> float | None:
    """The value of a TIFF tag, of several (one for each sample) the largest; None if there is none."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return None
    value: Any = image.tag_v2.get(number)
    try:
        number_of = max(map(float, value)) if isinstance(value, tuple) else float(value)
    except (TypeError, ValueError, ArithmeticError):
        return None
    return number_of if np.isfinite(number_of) else None


_MAX_PROFILE_BYTES: Final = 8 * 2**20
"""Real profiles, those of printing presses included, have up to some 3 MB."""

_MODES: Final = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""By the color space of a profile, the mode of the pixels that it describes."""

_GREY_MODES: Final = frozenset({"1", "L", "LA", "La", "I", "F"})
_SRGB_CHROMATICITY: Final = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
"""x and y of white, red, green and blue, in the order of PNG's cHRM."""

_SRGB_GAMMA: Final = 1 / 2.2
_GAMMA_TOLERANCE: Final = 0.05
"""libpng's PNG_GAMMA_THRESHOLD: closer exponents are the same. Writers of sRGB put 0.45455 down."""

_BRADFORD: Final = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_D50: Final = np.array([0.9642, 1.0, 0.8249])
_UNCHANGED: Final = 1
"""A conversion that moves no color by more levels than this is none."""

_LEAST_WHITE: Final = 224


class Conversion(NamedTuple):
    """Pixels of ``mode`` become sRGB pixels by ``transform``."""

    mode: str
    transform: ImageCms.ImageCmsTransform

    def __call__(self, image: Image.Image) -> Image.Image:
        """An RGB image of an opaque one, whose mode is made the expected one first."""
        converted = ImageCms.applyTransform(image.convert(self.mode), self.transform)
        assert converted is not None
        return converted


def _srgb_conversion(image: Image.Image) -> Conversion | None:
    """The conversion of an image to sRGB; None where its pixels are sRGB, or nothing usable is stated."""
    profile = image.info.get("icc_profile") or _png_profile(image.info)
    if not isinstance(profile, bytes) or not 128 < len(profile) <= _MAX_PROFILE_BYTES:
        return None
    mode = _MODES.get(profile[16:20].decode("latin-1").strip())
    is_grey = image.mode in _GREY_MODES or image.mode.startswith("I;16")
    fits = {"RGB": image.mode not in ("CMYK", "LAB", "HSV"), "L": is_grey, "CMYK": image.mode == "CMYK"}
    if mode is None or not fits[mode]:
        return None
    return _conversion(profile, mode)


@lru_cache(maxsize=16)
def _conversion(profile: bytes, mode: str) -> Conversion | None:
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            renderingIntent=ImageCms.Intent.PERCEPTUAL,
        )
        conversion = Conversion(mode, transform)
        return None if _is_damaged(conversion) or _changes_nothing(conversion) else conversion
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _is_damaged(conversion: Conversion) -> bool:
    """Whether white is not white afterwards, as it is with every profile of a screen or a press."""
    white = Image.new(conversion.mode, (1, 1), 0 if conversion.mode == "CMYK" else "white")
    return bool(np.asarray(conversion(white)).min() < _LEAST_WHITE)


def _changes_nothing(conversion: Conversion) -> bool:
    """Whether a grid of colors stays as it is: so do those of every sRGB profile of any writer."""
    if conversion.mode == "CMYK":
        return False
    grid = np.arange(256, dtype=np.uint8)[None]
    if conversion.mode == "RGB":
        steps = np.linspace(0, 255, 18).astype(np.uint8)
        grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    before = Image.fromarray(grid)
    moved = np.asarray(before.convert("RGB"), dtype=int) - np.asarray(conversion(before), dtype=int)
    return bool(np.abs(moved).max() <= _UNCHANGED)


def _png_profile(info: dict[Any, Any]) -> bytes | None:
    """A profile for a PNG's gAMA and cHRM, unless they say sRGB or make no sense."""
    gamma = info.get("gamma")
    if "srgb" in info or not isinstance(gamma, float) or not 0.1 <= gamma <= 10.0:
        return None
    chromaticity = info.get("chromaticity") or _SRGB_CHROMATICITY
    is_srgb = np.allclose(chromaticity, _SRGB_CHROMATICITY, rtol=0.0, atol=0.005)
    if is_srgb and abs(gamma / _SRGB_GAMMA - 1) < _GAMMA_TOLERANCE:
        return None
    try:
        return _matrix_profile(1 / gamma, np.array(chromaticity, dtype=np.float64).reshape(4, 2))
    except (ValueError, struct.error, np.linalg.LinAlgError):
        return None


def _matrix_profile(exponent: float, chromaticity: Any) -> bytes:
    """An ICC profile (version 2, matrix and curves) for primaries and one exponent.

    Args:
        exponent: Linear light is the encoded value to this power.
        chromaticity: float (4, 2): x and y of white, red, green and blue.
    """
    xyz = np.stack([chromaticity[:, 0], chromaticity[:, 1], 1 - chromaticity.sum(1)]) / chromaticity[:, 1]
    if not np.isfinite(xyz).all():
        raise ValueError("a chromaticity has y = 0")
    white, primaries = xyz[:, 0], xyz[:, 1:]
    cones = (_BRADFORD @ _D50) / (_BRADFORD @ white)
    adapted = np.linalg.solve(_BRADFORD, cones[:, None] * _BRADFORD)
    columns = adapted @ (primaries * np.linalg.solve(primaries, white))

    def fixed(values: Any) -> bytes:
        return struct.pack(">3i", *(round(float(value) * 65536) for value in values))

    channels = list(enumerate((b"r", b"g", b"b")))
    curve = struct.pack(">4sIIHxx", b"curv", 0, 1, round(exponent * 256))
    tags = {
        b"desc": struct.pack(">4sII5s", b"desc", 0, 5, b"PNG\0\0") + bytes(78 + 3),
        b"cprt": struct.pack(">4sI4s", b"text", 0, b"\0\0\0\0"),
        b"wtpt": struct.pack(">4sI", b"XYZ ", 0) + fixed(_D50),
        **{name + b"XYZ": struct.pack(">4sI", b"XYZ ", 0) + fixed(columns[:, n]) for n, name in channels},
        **{name + b"TRC": curve for _, name in channels},
    }
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = struct.pack(
        ">I4sI4s4s4s12s4s28s12s48s",
        *(start + len(body), b"", 0x02400000, b"mntr", b"RGB ", b"XYZ ", bytes(12), b"acsp", bytes(28)),
        *(fixed(_D50), bytes(48)),
    )
    return header + struct.pack(">I", len(tags)) + table + body
