"""The one way from encoded bytes to the pixels that training and scoring use.

Decoding treats every input as hostile: formats, bytes and pixels are limited before pixels
are unpacked, and whatever goes wrong becomes a `ImageError` with a stable reason code.
"""

import hashlib
import io
import math
import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
from PIL import ExifTags, Image, JpegImagePlugin, TiffImagePlugin, UnidentifiedImageError

from quality_model.core.objects import read_image
from quality_model.core.pixels import SIGNIFICANT_BITS, is_deep_color, srgb_pixels
from quality_model.core.pixels import Pixels as Pixels
from quality_model.core.pixels import from_array as from_array
from quality_model.core.stores import is_in_store
from quality_model.errors import ImageError, ParameterError, install_command
from quality_model.params import LimitsParams

SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".mpo", ".ppm", ".pgm"}
    | {".avif", ".jp2", ".j2k", ".heic", ".heif"}
)
"""File names that count as images when a folder is listed."""


def read_bytes(path: Path, limits: LimitsParams) -> bytes:
    """Read an image file without decoding it.

    Raises:
        ImageError: ``missing``, ``not_a_file`` (a folder, pipe or device),
            ``no_permission``, ``empty``, ``too_many_bytes`` or ``unreadable``; of an object store see
            `objects.read_image`.
    """
    if is_in_store(path):
        data = read_image(path, limits.max_bytes)
        check_bytes(data, limits)
        return data
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        raise ImageError("missing", "there is no such file") from None
    except PermissionError:
        raise ImageError("no_permission", "the file may not be read") from None
    except (OSError, ValueError) as error:
        raise ImageError("unreadable", str(getattr(error, "strerror", None) or error)) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ImageError("not_a_file", "it is a folder, a pipe or a device")
    with os.fdopen(descriptor, "rb") as handle:
        try:
            data = handle.read(limits.max_bytes + 1)
        except OSError as error:
            raise ImageError("unreadable", str(error.strerror or error)) from None
    check_bytes(data, limits)
    return data


def check_bytes(data: bytes, limits: LimitsParams) -> None:
    """Refuse encoded bytes that are none (``empty``) or too many (``too_many_bytes``)."""
    if not data:
        raise ImageError("empty", "it has no bytes")
    if len(data) > limits.max_bytes:
        raise ImageError("too_many_bytes", f"more than {limits.max_bytes} bytes")


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """Pixels, the format they were stored in, as Pillow names it (``JPEG``), and the size of the image.

    ``luminance_table`` is the quantisation table of a JPEG file's first component, (64,) row by row, or None.
    """

    pixels: Pixels
    format: str
    width: int
    height: int
    luminance_table: tuple[int, ...] | None = None


def decode(data: bytes, limits: LimitsParams, *, shortest_px: int | None = None) -> Pixels:
    """The pixels of `decode_image`."""
    return decode_image(data, limits, shortest_px=shortest_px).pixels


def decode_image(data: bytes, limits: LimitsParams, *, shortest_px: int | None = None) -> DecodedImage:
    """Decode to 8-bit sRGB as a viewer would show it: upright, first frame, transparency over white.

    Args:
        data: Encoded image.
        limits: Largest size and the formats that are read.
        shortest_px: Short side that is enough: a JPEG that is at least twice as large is decoded at a half, a
            quarter or an eighth of its size, by its frequencies, which takes less time and memory.

    Raises:
        ImageError: ``empty``, ``too_many_bytes``, ``not_an_image``, ``too_many_pixels``,
            ``truncated``, ``unsupported``, ``unknown_range``, ``not_finite`` or ``broken``.
        ParameterError: ``limits.formats`` names a format that Pillow does not read.
    """
    check_bytes(data, limits)
    readers = _readers(limits.formats)
    with _pillow.lenient(limits.max_pixels):
        try:
            return _decode(data, readers, limits, shortest_px)
        except ImageError:
            raise
        except UnidentifiedImageError:
            if "TIFF" in readers and _is_unsupported_tiff(data):
                raise ImageError("unsupported", "a TIFF whose kind of samples is not read") from None
            if "HEIF" in limits.formats and "HEIF" not in readers and _HEIC.match(data):
                raise ImageError("unsupported", f"HEIC is read with: {install_command('formats')}") from None
            raise ImageError("not_an_image", "no allowed format recognises these bytes") from None
        except Image.DecompressionBombError as error:
            raise ImageError("too_many_pixels", str(error)) from None
        except MemoryError:
            raise ImageError("too_many_pixels", "not enough memory to decode") from None
        except Exception as error:  # decoders raise nearly anything on hostile bytes
            raise _undecodable(error) from None


def _decode(
    data: bytes, readers: tuple[str, ...], limits: LimitsParams, shortest_px: int | None
) -> DecodedImage:
    with Image.open(io.BytesIO(data), formats=readers) as image:
        if image.width * image.height > limits.max_pixels:
            raise ImageError(
                "too_many_pixels", f"{image.width} x {image.height}, at most {limits.max_pixels}"
            )
        if image.format in ("JPEG", "MPO") and _lacks_end_marker(data):
            completed = _with_end_marker(data)
            if completed is None:
                raise ImageError("truncated", "the file ends before its pixels do")
            return _decode(completed, readers, limits, shortest_px)
        if image.format == "PNG" and image.mode == "I;16":
            image.info[SIGNIFICANT_BITS] = _significant_bits(data)
        deep_color = is_deep_color(image)
        size = image.size
        if shortest_px is not None and image.format == "JPEG":
            shrink = shortest_px / min(size)
            image.draft(None, (math.ceil(size[0] * shrink), math.ceil(size[1] * shrink)))
        image.load()
        if image.width * image.height > limits.max_pixels:  # a HEIC's header and its pixels may differ
            raise ImageError("too_many_pixels", f"more than {limits.max_pixels} once it is decoded")
        pixels = _upright(srgb_pixels(image, deep_color=deep_color), image)
        width, height = size if (pixels.shape[0] > pixels.shape[1]) == (size[1] > size[0]) else size[::-1]
        return DecodedImage(pixels, image.format or "", width, height, _luminance_table(image))


def _luminance_table(image: Image.Image) -> tuple[int, ...] | None:
    """Damaged headers may name a table that the file does not define."""
    if not isinstance(image, JpegImagePlugin.JpegImageFile) or not image.layer:
        return None
    table = image.quantization.get(image.layer[0][3])
    return None if table is None else tuple(table)


def from_image(image: Image.Image) -> Pixels:
    """8-bit sRGB pixels of an open PIL image, turned upright.

    Raises:
        ImageError: ``truncated`` or ``broken``: its file was opened but does not decode;
            ``unknown_range`` or ``not_finite``: see `pixels.srgb_pixels`.
    """
    try:
        deep_color = is_deep_color(image)
        image.load()
        return _upright(srgb_pixels(image, deep_color=deep_color), image)
    except ImageError:
        raise
    except Exception as error:
        raise _undecodable(error) from None


def _upright(rgb: Pixels, image: Image.Image) -> Pixels:
    """Turn pixels as the image's EXIF orientation says; where EXIF is damaged they stay as they are."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # the pixels are good, so the image is
        return rgb
    if orientation in (5, 6, 7, 8):
        rgb = rgb.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        rgb = rgb[:, ::-1]
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    return np.ascontiguousarray(rgb)


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
        """Let Pillow decode images of ``max_pixels``, without warnings."""
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
    """Pillow's readers for some formats, without HEIF's where its package is not installed.

    MPO has none of its own: JPEG's reads its first image.
    """
    readers = tuple(dict.fromkeys("JPEG" if name == "MPO" else name for name in formats))
    Image.init()
    if "HEIF" in readers:
        if find_spec("pi_heif") is None:
            readers = tuple(name for name in readers if name != "HEIF")
        else:
            from pi_heif import register_heif_opener

            register_heif_opener()
    if unknown := [name for name in readers if name not in Image.OPEN]:
        raise ParameterError(
            f"limits.formats names {', '.join(unknown)}, which Pillow does not read.",
            f"It reads: {', '.join(sorted(Image.OPEN))}.",
        )
    return readers


def _undecodable(error: Exception) -> ImageError:
    reason = "truncated" if "truncated" in str(error).lower() else "broken"
    return ImageError(reason, f"{type(error).__name__}: {error}")


def _is_unsupported_tiff(data: bytes) -> bool:
    """Whether the header of a TIFF is whole, but describes samples that Pillow does not read."""
    try:
        TiffImagePlugin.TiffImageFile(io.BytesIO(data)).close()
    except SyntaxError as error:
        return "unknown pixel mode" in str(error)
    except Exception:
        return False
    return False


def _significant_bits(data: bytes) -> int:
    """What the sBIT chunk of a grey PNG says; 0 without one."""
    at = data.find(b"\0\0\0\1sBIT", 0, max(0, data.find(b"IDAT")))
    return data[at + 8] if at >= 0 else 0


_HEIC: Final = re.compile(rb".{4}ftyp(?:hei[cxms]|hevc|mif1|msf1)", re.DOTALL)
"""How a HEIC begins: the brands of ISO/IEC 23008-12, annex B."""

_END: Final = b"\xff\xd9"
_CODED_DATA: Final = (*(bits * 64 for bits in (b"\0", b"\xff\0", b"\x55", b"\xaa")), bytes(range(1, 250, 3)))


def _with_end_marker(data: bytes) -> bytes | None:
    """A JPEG that lacks nothing but its end marker, with one; None for any other bytes.

    Zeros at the end fill up a file that was not written to its end. They count as coded data
    only where a byte of that is needed: one that is zero, or that stands behind 0xFF.
    """
    coded = data.rstrip(b"\0").removesuffix(b"\xff")
    if not _has_every_scan(coded):
        return None
    for surplus in range(min(3, len(data) - len(coded) + 1)):
        end = len(coded) + surplus
        if _is_complete(data[:end]):
            return data[:end] + _END
    return None


def _is_complete(data: bytes) -> bool:
    """Whether a JPEG without end marker has all coded data.

    The JPEG library takes what is missing at a marker for zeros. So nothing is missing if the
    pixels do not depend on what is put before the end marker: coded data, or, in a file that has
    restart markers, the next of them and coded data.
    """
    fillers = [b"", *_CODED_DATA]
    if any(code == _RESTART_INTERVAL and any(segment) for code, segment in _markers(data)):
        restarts = _RESTART.findall(data, data.rfind(b"\xff\xda"))
        restart = bytes([0xFF, 0xD0 + (restarts[-1][1] + 1) % 8 if restarts else 0xD0])
        fillers += [restart + coded for coded in _CODED_DATA]
    digests = set()
    for filler in fillers:
        with Image.open(io.BytesIO(data + filler + _END), formats=("JPEG",)) as image:
            digests.add(hashlib.sha256(image.tobytes()).digest())
        if len(digests) > 1:
            return False
    return True


def _lacks_end_marker(data: bytes) -> bool:
    """Whether a JPEG has no end marker behind its coded data; other data behind may look like markers."""
    return data.rfind(_END) < data.rfind(b"\xff\xda") and all(code != _END[1] for code, _ in _markers(data))


def _has_every_scan(data: bytes) -> bool:
    """Whether the headers of a JPEG's scans announce every coefficient of every component to the last bit."""
    missing: dict[int, set[int]] | None = None
    for code, segment in _markers(data):
        if code in _FRAMES and len(segment) >= 6:
            missing = {name: set(range(64)) for name in segment[6::3]}
        elif code == _SCAN and missing is not None and len(segment) >= 4:
            first, last, bits = segment[-3:]
            for name in segment[1:-3:2]:
                if bits & 15 == 0:
                    missing.get(name, set()).difference_update(range(first, last + 1))
    return missing is not None and not any(missing.values())


def _markers(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The code and the segment of each marker up to the end marker, restart markers left out."""
    at = 2
    while data[:2] == b"\xff\xd8" and (found := _MARKER.search(data, at)):
        code, at = found[0][-1], found.end()
        if code == _END[1]:
            yield code, b""
            return
        segment = data[at + 2 : at + int.from_bytes(data[at : at + 2], "big")]
        yield code, segment
        at += 2 + len(segment)


_MARKER: Final = re.compile(rb"\xff+[^\x00\xff\xd0-\xd8]", re.DOTALL)
_RESTART: Final = re.compile(rb"\xff[\xd0-\xd7]")
_FRAMES: Final = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
_SCAN: Final = 0xDA
_RESTART_INTERVAL: Final = 0xDD
