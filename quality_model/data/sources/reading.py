"""From encoded bytes to a row of the images table."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial

from quality_model.core import decoding
from quality_model.core.processes import Failure, WorkerProcesses
from quality_model.errors import ImageError
from quality_model.params import LimitsParams
from quality_model.records import CleanImage


def fetch_image(
    image_id: str, group: str, origin: str, read: Callable[[], bytes], limits: LimitsParams
) -> CleanImage:
    """Fetch an image's bytes, which `decoded` decodes. Arguments and errors as of `read_image`."""
    data = b""
    reason = None
    try:
        data = read()
        decoding.check_bytes(data, limits)
    except ImageError as error:
        reason = error.reason
        if error.reason == "too_many_bytes":
            data = b""
    sha256 = hashlib.sha256(data).hexdigest() if data else ""
    return CleanImage(image_id, group, origin, sha256, data, None, None, reason)


def decoded(images: Iterator[CleanImage], limits: LimitsParams) -> Iterator[CleanImage]:
    """Decode images once each, to know that they decode and how large they are.

    Where they are foreign, a decoder may crash or hang: it runs in a worker process, with a time limit.
    """
    decode = partial(_size_or_reason, limits=limits)
    workers = WorkerProcesses(count=1, window=1, timeout_s=limits.max_seconds)
    fetched: deque[CleanImage] = deque()

    def encoded() -> Iterator[bytes]:
        for image in images:
            fetched.append(image)
            yield b"" if image.reason else image.data

    with closing(workers.run(decode, encoded())) as outcomes:
        for outcome in outcomes:
            image = fetched.popleft()
            if image.reason is None:
                image = _with_outcome(image, outcome.kind if isinstance(outcome, Failure) else outcome)
            yield image


def read_image(
    image_id: str, group: str, origin: str, read: Callable[[], bytes], limits: LimitsParams
) -> CleanImage:
    """Fetch the bytes of an image of ours and decode them once, in this process.

    Args:
        image_id: Unique in its source.
        group: What the image was cut from.
        origin: Where the bytes come from.
        read: Gives the encoded bytes; may raise ImageError.
        limits: What an image may be.

    Returns:
        The row. An image that cannot be read has a reason, its bytes where there are any
        (none where they are too many to keep), and neither width nor height. Where there
        are no bytes, ``sha256`` is empty.
    """
    image = fetch_image(image_id, group, origin, read, limits)
    if image.reason is not None:
        return image
    return _with_outcome(image, _size_or_reason(image.data, limits=limits))


def _with_outcome(image: CleanImage, outcome: tuple[int, int] | str) -> CleanImage:
    """The row of an image, given its width and height, or why it does not decode."""
    if isinstance(outcome, str):
        return replace(image, reason=outcome)
    return replace(image, width=outcome[0], height=outcome[1])


def _size_or_reason(data: bytes, *, limits: LimitsParams) -> tuple[int, int] | str:
    try:
        height, width = decoding.decode(data, limits).shape[:2]
    except ImageError as error:
        return error.reason
    return width, height
