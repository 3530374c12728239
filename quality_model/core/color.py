"""Color management: which conversion brings the pixels of an image to sRGB.

An image is in the color space of its ICC profile. A PNG without one is in that of its sRGB
chunk, else of its gAMA and cHRM chunks, in this order of precedence (PNG specification, 4.3);
cHRM without gAMA is ignored, as browsers do, and so is cICP, which Pillow does not read. What
states nothing is sRGB. A profile that is damaged or belongs to another kind of pixels is
ignored: the pixels are good, so the image is.
"""

import io
import struct
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
from PIL import Image, ImageCms

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


def srgb_conversion(image: Image.Image) -> Conversion | None:
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
    """Whether a grid of colors stays as it is: so do those of every sRGB profile, whoever wrote it."""
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

    curve = struct.pack(">4sIIHxx", b"curv", 0, 1, round(exponent * 256))
    tags = {
        b"desc": struct.pack(">4sII5s", b"desc", 0, 5, b"PNG\0\0") + bytes(78 + 3),
        b"cprt": struct.pack(">4sI4s", b"text", 0, b"\0\0\0\0"),
        b"wtpt": struct.pack(">4sI", b"XYZ ", 0) + fixed(_D50),
        **{name + b"XYZ": struct.pack(">4sI", b"XYZ ", 0) + fixed(columns[:, n]) for n, name in _CHANNELS},
        **{name + b"TRC": curve for _, name in _CHANNELS},
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


_CHANNELS: Final = ((0, b"r"), (1, b"g"), (2, b"b"))
