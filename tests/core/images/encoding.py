"""Images as bytes, and why reading refuses them."""

import io
import struct
import zlib
from collections.abc import Callable

import pytest
from PIL import Image

from quality_model.core.decoding import Pixels
from quality_model.errors import ImageError

FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"]


def encode(image: Image.Image | Pixels, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(stream, kind, **options)
    return stream.getvalue()


def reason_of(call: Callable[[], object]) -> str:
    with pytest.raises(ImageError) as caught:
        call()
    assert caught.value.detail
    return caught.value.reason


def png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
