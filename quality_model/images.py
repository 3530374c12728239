"""The one way from encoded bytes to the pixels that training and scoring use.

Decoding treats every input as hostile: formats, bytes and pixels are limited before pixels
are unpacked, and whatever goes wrong becomes a `PictureError` with a stable reason code.
"""

import io
import os
import stat
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from quality_model.errors import PictureError
from quality_model.params import LimitsParams

Pixels = npt.NDArray[np.uint8]
"""uint8 (height, width, 3), RGB, 0 to 255."""

SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".mpo", ".ppm", ".pgm"}
)
"""File names that count as pictures when a folder is listed."""


def read_bytes(path: Path, limits: LimitsParams) -> bytes:
    """Read a picture file without decoding it.

    Raises:
        PictureError: ``missing``, ``not_a_file`` (a folder, pipe or device),
            ``no_permission``, ``empty``, ``too_many_bytes`` or ``unreadable``.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        raise PictureError("missing", "there is no such file") from None
    except PermissionError:
        raise PictureError("no_permission", "the file may not be read") from None
    except (OSError, ValueError) as error:
        raise PictureError("unreadable", str(getattr(error, "strerror", None) or error)) from None
    with os.fdopen(descriptor, "rb") as handle:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise PictureError("not_a_file", "it is a folder, a pipe or a device")
        try:
            data = handle.read(limits.max_bytes + 1)
        except OSError as error:
            raise PictureError("unreadable", str(error.strerror or error)) from None
    check_bytes(data, limits)
    return data


def check_bytes(data: bytes, limits: LimitsParams) -> None:
    """Refuse encoded bytes that are none (``empty``) or too many (``too_many_bytes``)."""
    if not data:
        raise PictureError("empty", "the file has no bytes")
    if len(data) > limits.max_bytes:
        raise PictureError("too_many_bytes", f"more than {limits.max_bytes} bytes")


def decode(data: bytes, limits: LimitsParams) -> Pixels:
    """Decode to RGB as a viewer would show it: upright, first frame, transparency over white.

    Args:
        data: Encoded picture.
        limits: Largest size and the formats that are read.

    Returns:
        uint8 (height, width, 3), 0 to 255. 16-bit greys are scaled to 8 bits.

    Raises:
        PictureError: ``empty``, ``too_many_bytes``, ``not_a_picture``, ``too_many_pixels``,
            ``truncated`` or ``broken``.
    """
    check_bytes(data, limits)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data), formats=limits.formats) as image:
                if image.width * image.height > limits.max_pixels:
                    raise PictureError(
                        "too_many_pixels", f"{image.width} x {image.height}, at most {limits.max_pixels}"
                    )
                image.load()
                return _to_rgb(ImageOps.exif_transpose(image))
        except PictureError:
            raise
        except UnidentifiedImageError:
            raise PictureError("not_a_picture", "no allowed format recognises these bytes") from None
        except Image.DecompressionBombError as error:
            raise PictureError("too_many_pixels", str(error)) from None
        except MemoryError:
            raise PictureError("too_many_pixels", "not enough memory to decode") from None
        except Exception as error:  # decoders raise nearly anything on hostile bytes
            reason = "truncated" if "truncated" in str(error).lower() else "broken"
            raise PictureError(reason, f"{type(error).__name__}: {error}") from None


def resize(pixels: Pixels, size_px: int) -> Pixels:
    """Resize to a square with the LANCZOS filter, as the original design does.

    Args:
        pixels: uint8 (height, width, 3).
        size_px: Side of the result.

    Returns:
        uint8 (size_px, size_px, 3).
    """
    if pixels.shape[:2] == (size_px, size_px):
        return pixels
    image = Image.fromarray(pixels).resize((size_px, size_px), Image.Resampling.LANCZOS)
    return np.asarray(image)


def decode_resized(data: bytes, size_px: int, limits: LimitsParams) -> Pixels:
    """`decode`, then `resize`: what training and scoring both see."""
    return resize(decode(data, limits), size_px)


def from_image(image: Image.Image) -> Pixels:
    """RGB pixels of a PIL image that is already in memory, turned upright."""
    return _to_rgb(ImageOps.exif_transpose(image))


def from_array(array: npt.NDArray[Any]) -> Pixels:
    """Check an array of pixels.

    Args:
        array: uint8 (height, width, 3) RGB or (height, width) grey, 0 to 255.

    Raises:
        PictureError: ``bad_array``: another shape or dtype.
    """
    if (
        array.dtype != np.uint8
        or 0 in array.shape
        or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3))
    ):
        raise PictureError(
            "bad_array", f"dtype {array.dtype}, shape {array.shape}; expected uint8 (height, width, 3)"
        )
    return np.repeat(array[:, :, None], 3, axis=2) if array.ndim == 2 else array


def _to_rgb(image: Image.Image) -> Pixels:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _grey16_to_rgb(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, rgba)
    return np.array(image.convert("RGB"))


def _grey16_to_rgb(image: Image.Image) -> Pixels:
    """Grey of more than 8 bits: 16-bit values over 257; floats in [0, 1] times 255."""
    values = np.asarray(image).astype(np.float64)
    scaled = values * 255.0 if image.mode == "F" and values.max(initial=0.0) <= 1.0 else values / 257.0
    grey = np.clip(np.nan_to_num(scaled).round(), 0, 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)
