"""The one way from encoded bytes to the pixels that training and scoring use.

Decoding treats every input as hostile: formats, bytes and pixels are limited before pixels
are unpacked, and whatever goes wrong becomes a `PictureError` with a stable reason code.
"""

import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from quality_model.errors import ParameterError, PictureError
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
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise PictureError("not_a_file", "it is a folder, a pipe or a device")
    with os.fdopen(descriptor, "rb") as handle:
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
        ParameterError: ``limits.formats`` names a format that Pillow does not read.
    """
    check_bytes(data, limits)
    readers = _readers(limits.formats)
    with _pillow.lenient(limits.max_pixels):
        try:
            with Image.open(io.BytesIO(data), formats=readers) as image:
                if image.width * image.height > limits.max_pixels:
                    raise PictureError(
                        "too_many_pixels", f"{image.width} x {image.height}, at most {limits.max_pixels}"
                    )
                image.load()
                return _to_rgb(_upright(image))
        except PictureError:
            raise
        except UnidentifiedImageError:
            raise PictureError("not_a_picture", "no allowed format recognises these bytes") from None
        except Image.DecompressionBombError as error:
            raise PictureError("too_many_pixels", str(error)) from None
        except MemoryError:
            raise PictureError("too_many_pixels", "not enough memory to decode") from None
        except Exception as error:  # decoders raise nearly anything on hostile bytes
            raise _undecodable(error) from None


def format_name(data: bytes, limits: LimitsParams) -> str:
    """Pillow's name of the format of encoded bytes that `decode` accepts, such as ``JPEG``."""
    with (
        _pillow.lenient(limits.max_pixels),
        Image.open(io.BytesIO(data), formats=_readers(limits.formats)) as image,
    ):
        return str(image.format)


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
    return np.array(Image.fromarray(pixels).resize((size_px, size_px), Image.Resampling.LANCZOS))


def from_image(image: Image.Image) -> Pixels:
    """RGB pixels of an open PIL image, turned upright.

    Raises:
        PictureError: ``truncated`` or ``broken``: its file was opened but does not decode.
    """
    try:
        image.load()
        return _to_rgb(_upright(image))
    except Exception as error:
        raise _undecodable(error) from None


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


class _Pillow:
    """What Pillow keeps once for the process and decoding has to change: its limit and the warnings.

    The first of the decodings that run at a time changes them and the last one restores them,
    so that threads neither undo each other's change nor leave it behind. Where our limit is
    below Pillow's, Pillow's stays.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: list[int] = []
        self._before: int | None = None
        self._warnings = warnings.catch_warnings()

    @contextmanager
    def lenient(self, max_pixels: int) -> Iterator[None]:
        """Let Pillow decode pictures of ``max_pixels``, without warnings."""
        with self._lock:
            if not self._running:
                self._before = Image.MAX_IMAGE_PIXELS
                self._warnings = warnings.catch_warnings()
                self._warnings.__enter__()
                warnings.simplefilter("ignore")
            self._running.append(max_pixels)
            self._set_limit()
        try:
            yield
        finally:
            with self._lock:
                self._running.remove(max_pixels)
                self._set_limit()
                if not self._running:
                    self._warnings.__exit__(None, None, None)

    def _set_limit(self) -> None:
        if self._before is not None:
            # Not None: WebP's canvas is allocated on opening, before `decode` sees the header. Pillow
            # refuses above twice its limit, hence the half.
            Image.MAX_IMAGE_PIXELS = max([self._before, *(-(-limit // 2) for limit in self._running)])


_pillow = _Pillow()


@lru_cache(maxsize=8)
def _readers(formats: tuple[str, ...]) -> tuple[str, ...]:
    """Pillow's readers for some formats. MPO has none of its own: JPEG's reads its first picture."""
    readers = tuple(dict.fromkeys("JPEG" if name == "MPO" else name for name in formats))
    Image.init()
    if unknown := [name for name in readers if name not in Image.OPEN]:
        raise ParameterError(
            f"limits.formats names {', '.join(unknown)}, which Pillow does not read.",
            f"It reads: {', '.join(sorted(Image.OPEN))}.",
        )
    return readers


def _upright(image: Image.Image) -> Image.Image:
    """Turn a picture as its EXIF orientation says; one whose EXIF is damaged stays as it is."""
    try:
        if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
            return image  # where exif_transpose would copy it
        return ImageOps.exif_transpose(image)
    except Exception:  # the pixels are good, so the picture is
        return image


def _undecodable(error: Exception) -> PictureError:
    reason = "truncated" if "truncated" in str(error).lower() else "broken"
    return PictureError(reason, f"{type(error).__name__}: {error}")


def _to_rgb(image: Image.Image) -> Pixels:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _grey16_to_rgb(image)
    if image.mode == "La":  # premultiplied alpha, which converts to nothing but LA
        image = image.convert("LA")
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, rgba)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _grey16_to_rgb(image: Image.Image) -> Pixels:
    """Grey of more than 8 bits: 16-bit values over 257; floats in [0, 1] times 255."""
    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    scaled = values * 255.0 if image.mode == "F" and values.max(initial=0.0) <= 1.0 else values / 257.0
    grey = np.clip(scaled.round(), 0, 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)
