"""Pictures as bytes, and why reading refuses them."""

import io
import struct
import zlib
from collections.abc import Callable

import pytest
from PIL import Image

from quality_model.errors import PictureError
from quality_model.images import Pixels

FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"]


def encode(picture: Image.Image | Pixels, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    picture.save(stream, kind, **options)
    return stream.getvalue()


def reason_of(call: Callable[[], object]) -> str:
    with pytest.raises(PictureError) as caught:
        call()
    assert caught.value.detail
    return caught.value.reason


def png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
