"""From encoded bytes to a row of the pictures table."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from queue import SimpleQueue

from quality_model import images
from quality_model.errors import PictureError
from quality_model.params import LimitsParams
from quality_model.records import CleanPicture
from quality_model.workers import Workers


def fetch_picture(
    picture_id: str, group: str, origin: str, read: Callable[[], bytes], limits: LimitsParams
) -> CleanPicture:
    """Fetch an image's bytes, which `decoded` decodes. Arguments and errors as of `read_picture`."""
    data = b""
    reason = None
    try:
        data = read()
        images.check_bytes(data, limits)
    except PictureError as error:
        reason = error.reason
        if error.reason == "too_many_bytes":
            data = b""
    sha256 = hashlib.sha256(data).hexdigest() if data else ""
    return CleanPicture(picture_id, group, origin, sha256, data, None, None, reason)


def decoded(pictures: Iterator[CleanPicture], limits: LimitsParams) -> Iterator[CleanPicture]:
    """Decode images once each, to know that they decode and how large they are.

    Where they are foreign, a decoder may crash or hang: it runs in a worker process, with a time limit.
    """
    fetched: SimpleQueue[bytes | None] = SimpleQueue()  # so that all fetching is done here
    decode = partial(_size_or_reason, limits=limits)
    with Workers(
        decode, given_up=lambda fate: fate, count=1, window=1, hung_after_s=limits.max_seconds
    ) as workers:
        outcomes = workers.map(iter(fetched.get, None))
        try:
            for picture in pictures:
                if picture.reason is None:
                    fetched.put(picture.data)
                    picture = _with_outcome(picture, next(outcomes))
                yield picture
        finally:
            fetched.put(None)


def read_picture(
    picture_id: str, group: str, origin: str, read: Callable[[], bytes], limits: LimitsParams
) -> CleanPicture:
    """Fetch the bytes of an image of ours and decode them once, in this process.

    Args:
        picture_id: Unique in its source.
        group: What the picture was cut from.
        origin: Where the bytes come from.
        read: Gives the encoded bytes; may raise PictureError.
        limits: What a picture may be.

    Returns:
        The row. A picture that cannot be read has a reason, its bytes where there are any
        (none where they are too many to keep), and neither width nor height. Where there
        are no bytes, ``sha256`` is empty.
    """
    picture = fetch_picture(picture_id, group, origin, read, limits)
    if picture.reason is not None:
        return picture
    return _with_outcome(picture, _size_or_reason(picture.data, limits=limits))


def _with_outcome(picture: CleanPicture, outcome: tuple[int, int] | str) -> CleanPicture:
    """The row of an image, given its width and height, or why it does not decode."""
    if isinstance(outcome, str):
        return replace(picture, reason=outcome)
    return replace(picture, width=outcome[0], height=outcome[1])


def _size_or_reason(data: bytes, *, limits: LimitsParams) -> tuple[int, int] | str:
    try:
        height, width = images.decode(data, limits).shape[:2]
    except PictureError as error:
        return error.reason
    return width, height
