import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from PIL import Image

from quality_model.core import decoding
from quality_model.errors import ImageError
from tests.core.images.encoding import FORMATS, encode, png, reason_of


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (2**31 - 1, 2**31 - 1), (200_000_000, 1)])
def test_a_decompression_bomb_is_refused_by_its_header(limits, width, height):
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    data = png([(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")])
    assert reason_of(lambda: decoding.decode(data, limits)) == "too_many_pixels"


def test_pixels_are_counted_against_the_limit(small, limits):
    data = encode(small, "PNG")
    decoding.decode(data, limits.model_copy(update={"max_pixels": 2400}))
    fewer = limits.model_copy(update={"max_pixels": 2399})
    assert reason_of(lambda: decoding.decode(data, fewer)) == "too_many_pixels"


def _first_of_two(small, kind):
    """Two images in one file, the second one larger."""
    return encode(small, kind, save_all=True, append_images=[Image.new("RGB", (90, 70))])


@pytest.mark.parametrize("kind", [*FORMATS, "two in MPO", "two in GIF", "two in TIFF"])
def test_the_limit_is_ours_where_pillow_would_refuse_sooner(small, limits, monkeypatch, kind):
    data = encode(small, kind) if kind in FORMATS else _first_of_two(small, kind.removeprefix("two in "))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert decoding.decode(data, limits).shape == small.shape
    fewer = limits.model_copy(update={"max_pixels": 2399})
    with pytest.raises(ImageError, match="60 x 40, at most 2399"):
        decoding.decode(data, fewer)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_a_header_beyond_pillows_own_limit_is_held_against_ours(limits):
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    data = png([(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")])
    with pytest.raises(ImageError, match="20000 x 20000, at most 399999999"):
        decoding.decode(data, limits.model_copy(update={"max_pixels": 399_999_999}))


def test_threads_leave_pillows_limit_and_the_warnings_as_they_were(small, limits, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    before = list(warnings.filters)
    data = encode(small, "PNG")
    each = [limits.model_copy(update={"max_pixels": 2400 + number % 3}) for number in range(400)]
    with ThreadPoolExecutor(8) as pool:
        assert all((pixels == small).all() for pixels in pool.map(partial(decoding.decode, data), each))
    assert Image.MAX_IMAGE_PIXELS == 100
    assert warnings.filters == before


def test_a_text_chunk_that_unpacks_to_gigabytes_is_refused(limits):
    text = b"Comment\0\0" + zlib.compress(bytes(70_000_000))
    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"zTXt", text), (b"IDAT", zlib.compress(b"\0\0")), (b"IEND", b"")]
    assert reason_of(lambda: decoding.decode(png(chunks), limits)) == "broken"


def test_too_many_bytes_are_refused_before_they_are_decoded(small, limits):
    data = encode(small, "PNG")
    tight = limits.model_copy(update={"max_bytes": len(data) - 1})
    assert reason_of(lambda: decoding.decode(data, tight)) == "too_many_bytes"


def test_a_file_larger_than_the_limit_is_not_read_whole(limits, tmp_path):
    path = tmp_path / "huge.png"
    with path.open("wb") as handle:
        handle.truncate(2**40)
    tight = limits.model_copy(update={"max_bytes": 1000})
    assert reason_of(lambda: decoding.read_bytes(path, tight)) == "too_many_bytes"
